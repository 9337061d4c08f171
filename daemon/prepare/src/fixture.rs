//! Tar files with any header, and sources that are read into a tree, for tests.

use crate::data_file::{Align, DataFile, DataWriter};
use crate::error::PrepareError;
use crate::output::{Folder, TemporaryNames};
use crate::progress::Progress;
use crate::tar::{self, TarKind};
use crate::tree::{Body, FileData, LayerTree, Leaf, NodeIndex, ROOT};
use crate::verity::VerityDigest;
use std::fs::File;
use std::os::unix::fs::FileExt as _;
use std::path::Path;

/// A tar file that is being made.
#[derive(Clone, Debug, Default)]
pub(crate) struct TarFixture(pub(crate) Vec<u8>);

impl TarFixture {
    /// Adds an entry. Its header may be changed before the checksum is computed.
    pub(crate) fn entry(
        mut self,
        kind: u8,
        name: &[u8],
        data: &[u8],
        change: impl FnOnce(&mut [u8; 512]),
    ) -> Self {
        let mut header = [0; 512];
        put(&mut header, 0, name);
        put(&mut header, 100, b"0000644\0");
        put(&mut header, 108, b"0000012\0");
        put(&mut header, 116, b"0000013\0");
        put(&mut header, 124, format!("{:011o}\0", data.len()).as_bytes());
        put(&mut header, 136, b"00000000017\0");
        put(&mut header, 156, &[kind]);
        put(&mut header, 257, b"ustar\x0000");
        change(&mut header);
        put(&mut header, 148, b"        ");
        let sum: u32 = header.iter().map(|byte| u32::from(*byte)).sum();
        put(&mut header, 148, format!("{sum:06o}\0 ").as_bytes());
        self.0.extend_from_slice(&header);
        self.0.extend_from_slice(data);
        self.0.resize(self.0.len().next_multiple_of(512), 0);
        self
    }

    pub(crate) fn file(self, name: &str, data: &[u8]) -> Self {
        self.entry(b'0', name.as_bytes(), data, |_header| {})
    }

    pub(crate) fn link(self, kind: u8, name: &str, target: &str) -> Self {
        self.entry(kind, name.as_bytes(), b"", |header| put(header, 157, target.as_bytes()))
    }

    pub(crate) fn pax(self, records: &[(&str, &[u8])]) -> Self {
        let record = |key: &str, value: &[u8]| {
            let rest = key.len() + value.len() + 3;
            let len = (1..10).find(|digits| (rest + digits).to_string().len() == *digits).unwrap() + rest;
            [format!("{len} {key}=").as_bytes(), value, b"\n"].concat()
        };
        let data: Vec<u8> = records.iter().flat_map(|(key, value)| record(key, value)).collect();
        self.entry(b'x', b"././@PaxHeader", &data, |_header| {})
    }

    /// Adds the end of an archive.
    pub(crate) fn end(mut self) -> Vec<u8> {
        self.0.resize(self.0.len() + 1024, 0);
        self.0
    }
}

/// Writes bytes into a header.
pub(crate) fn put(header: &mut [u8; 512], at: usize, bytes: &[u8]) {
    header[at..at + bytes.len()].copy_from_slice(bytes);
}

/// Progress that nothing reads.
#[derive(Debug)]
pub(crate) struct Unseen;

impl Progress for Unseen {
    fn expect(&mut self, _bytes: u64) {}
    fn advance(&mut self, _bytes: u64) {}
}

/// A layer that was read.
#[derive(Debug)]
pub(crate) struct Layer {
    pub(crate) tree: LayerTree,
    pub(crate) digest: Option<VerityDigest>,
    data: Option<(tempfile::TempDir, File)>,
}

impl Layer {
    /// Returns an inode.
    pub(crate) fn find(&self, path: &str) -> Option<NodeIndex> {
        path.split('/').filter(|name| !name.is_empty()).try_fold(ROOT, |at, name| {
            self.tree.directory(at)?.children.get(name.as_bytes()).map(|child| child.node)
        })
    }

    pub(crate) fn leaf(&self, path: &str) -> &Leaf {
        match &self.tree.node(self.find(path).unwrap_or_else(|| panic!("{path}"))).unwrap().body {
            Body::Leaf(leaf) => leaf,
            Body::Directory(_) => panic!("{path} is a directory"),
        }
    }

    pub(crate) fn file(&self, path: &str) -> &FileData {
        let Leaf::File(data) = self.leaf(path) else { panic!("{path} is not a file") };
        data
    }

    /// Returns the content of a file.
    pub(crate) fn content(&self, path: &str) -> Vec<u8> {
        let data = self.file(path);
        let mut content = vec![0; usize::try_from(data.size).unwrap()];
        for region in &data.regions {
            let offset = usize::try_from(region.offset).unwrap();
            let len = usize::try_from(region.len).unwrap();
            let file = &self.data.as_ref().unwrap().1;
            file.read_exact_at(&mut content[offset..offset + len], region.start).unwrap();
        }
        content
    }
}

/// Reads a source into a tree of one layer.
pub(crate) fn layer(
    read: impl FnOnce(&mut LayerTree, &mut DataWriter) -> Result<(), PrepareError>,
) -> Result<Layer, PrepareError> {
    let folder = tempfile::tempdir().unwrap();
    let names = TemporaryNames::default();
    let opened = Folder::open(folder.path(), &names).unwrap();
    let mut tree = LayerTree::new();
    let mut data = DataWriter::create(&opened, Align::Page, tree.layer())?;
    read(&mut tree, &mut data)?;
    let file = data.finish()?;
    let digest = file.as_ref().map(|file| file.digest);
    let data = file.map(|file| (publish(file, folder.path(), &names), folder));
    Ok(Layer { tree, digest, data: data.map(|(file, folder)| (folder, file)) })
}

fn publish(file: DataFile, folder: &Path, names: &TemporaryNames) -> File {
    let path = folder.join(DataFile::name_of(file.digest));
    file.publish(&mut names.hold().unwrap()).unwrap();
    File::open(path).unwrap()
}

/// Reads a tar file.
pub(crate) fn tar_layer(bytes: &[u8], kind: TarKind) -> Result<Layer, PrepareError> {
    layer(|tree, data| tar::read("a.tar", &mut &*bytes, kind, (tree, data)))
}
