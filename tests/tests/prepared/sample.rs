//! A small image with one file of each kind, a daemon that serves it, and a guest at the wire.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::Write as _;
use std::path::{Path, PathBuf};

use pinhole_erofs::Time;
use pinhole_erofs::write::{Content, DataExtent, InodeIndex, NewDevice, NewFile, NewInode, Tree, write};
use pinhole_protocol::client::{decode_attr, decode_entry};
use pinhole_protocol::{Attr, Entry, Errno, GetAttr, Handle, LookupName, NodeId, OpenFlags, Operation, Read};
use pinhole_tests::daemon::{Daemon, Serving};
use pinhole_tests::frontend::{Frontend, FrontendError, Setup};
use tempfile::TempDir;

/// Block of an image in bytes.
pub(crate) const BLOCK: usize = 4096;

/// Blocks of the data file. The last 2 MiB are the hole at its end.
const DATA_BLOCKS: usize = 8 + 512;

/// Name of the data file, which the tree's device has as its tag: its fs-verity digest.
pub(crate) const DATA: &str = "17d2f5a61b8d49caf23e4716e76feb02648a22cff3324008941ff7b5c675a603";

/// Length of `file` in bytes.
pub(crate) const FILE_LEN: usize = 3 * BLOCK + 100;

/// Length of `sparse` in bytes: a hole, a block of data, and a hole.
pub(crate) const SPARSE_LEN: usize = 1 << 20;

/// Offset of the data of `sparse`.
pub(crate) const SPARSE_DATA: usize = 1 << 19;

/// Entries of `many`.
pub(crate) const MANY: u32 = 3000;

/// Time of every inode.
pub(crate) const TIME: Time = Time { seconds: 1_600_000_000, nanoseconds: 123_456_789 };

/// Folder with an image and its data file.
#[derive(Debug)]
pub(crate) struct ImageFolder(TempDir);

impl ImageFolder {
    /// Makes the sample. Images with other `salt` differ only in the owner of the root.
    pub(crate) fn new(salt: u32) -> Self {
        let folder = Self(tempfile::Builder::new().prefix("pinhole-image-").tempdir().unwrap());
        fs::write(folder.image(), image(salt)).unwrap();
        let mut data = File::create(folder.data()).unwrap();
        data.write_all(&data_bytes()).unwrap();
        data.set_len((DATA_BLOCKS * BLOCK) as u64).unwrap();
        folder
    }

    pub(crate) fn folder(&self) -> &Path {
        self.0.path()
    }

    pub(crate) fn image(&self) -> PathBuf {
        self.folder().join("image")
    }

    pub(crate) fn data(&self) -> PathBuf {
        self.folder().join(format!("{DATA}.data"))
    }

    /// Starts a daemon for the image.
    pub(crate) fn serve(&self, arguments: &[&str]) -> Serving {
        let daemon = Daemon::of_image(self.image()).unwrap().confined_to(self.folder());
        let daemon = arguments.iter().fold(daemon, |daemon, argument| daemon.argument(*argument));
        daemon.start().unwrap()
    }
}

/// Returns the bytes of the sample's image.
pub(crate) fn image(salt: u32) -> Vec<u8> {
    let mut bytes = Vec::new();
    write(&tree(salt), [9; 16], &mut bytes).unwrap();
    bytes
}

/// Returns the first bytes of the data file: no two words of four bytes are equal.
pub(crate) fn data_bytes() -> Vec<u8> {
    (0..8 * 1024_u32).flat_map(u32::to_le_bytes).collect()
}

/// Returns the bytes of `file`.
pub(crate) fn file_bytes() -> Vec<u8> {
    data_bytes()[..FILE_LEN].to_vec()
}

fn tree(salt: u32) -> Tree {
    let mut tag = [0; 64];
    tag.copy_from_slice(DATA.as_bytes());
    let mut maker = TreeMaker(vec![inode(Content::Directory(BTreeMap::new()))]);
    let extent = |offset: usize, start: usize, length: usize| DataExtent {
        offset: offset as u64,
        device: 0,
        start: start as u64,
        length: length as u64,
    };
    let file = NewFile { size: FILE_LEN as u64, extents: vec![extent(0, 0, FILE_LEN)] };
    let file = maker.add(Content::File(file));
    maker.0[1].xattrs = vec![
        (b"user.comment".to_vec(), b"text".to_vec()),
        (b"trusted.secret".to_vec(), b"hidden".to_vec()),
        (b"security.capability".to_vec(), vec![7; 20]),
    ];
    let sparse = NewFile { size: SPARSE_LEN as u64, extents: vec![extent(SPARSE_DATA, 4 * BLOCK, BLOCK)] };
    let inner = NewFile { size: 10, extents: vec![extent(0, 5 * BLOCK, 10)] };
    let inner = maker.add(Content::File(inner));
    let many = (0..MANY).map(|number| (format!("name-{number:05}").into_bytes(), inner)).collect();
    let many = maker.add(Content::Directory(many));
    let dir = maker.add(names([("inner", inner), ("again", file)]));
    let entries = [
        ("file", file),
        ("sparse", maker.add(Content::File(sparse))),
        ("empty", maker.add(Content::File(NewFile::default()))),
        ("link", maker.add(Content::Symlink(b"dir/inner".to_vec()))),
        ("null", maker.add(Content::CharacterDevice(0x103))),
        ("fifo", maker.add(Content::Fifo)),
        ("many", many),
        ("dir", dir),
    ];
    maker.0[0].content = names(entries);
    maker.0[0].uid = salt;
    Tree { inodes: maker.0, devices: vec![NewDevice { tag, blocks: DATA_BLOCKS as u64 }] }
}

/// Returns an image with this number of directories, and of empty files in each.
pub(crate) fn many_inodes(directories: u32, files: u32) -> Vec<u8> {
    let mut maker = TreeMaker(vec![inode(Content::Directory(BTreeMap::new()))]);
    let mut top = BTreeMap::new();
    for directory in 0..directories {
        let mut names = BTreeMap::new();
        for file in 0..files {
            let index = maker.add(Content::File(NewFile::default()));
            names.insert(format!("file-{file:05}").into_bytes(), index);
        }
        top.insert(format!("directory-{directory:05}").into_bytes(), maker.add(Content::Directory(names)));
    }
    maker.0[0].content = Content::Directory(top);
    let mut bytes = Vec::new();
    write(&Tree { inodes: maker.0, devices: Vec::new() }, [8; 16], &mut bytes).unwrap();
    bytes
}

struct TreeMaker(Vec<NewInode>);

impl TreeMaker {
    fn add(&mut self, content: Content) -> InodeIndex {
        self.0.push(inode(content));
        InodeIndex(u32::try_from(self.0.len() - 1).unwrap())
    }
}

fn inode(content: Content) -> NewInode {
    let permissions = if matches!(content, Content::Directory(_)) { 0o755 } else { 0o640 };
    NewInode { permissions, uid: 1000, gid: 100, mtime: TIME, xattrs: Vec::new(), content }
}

fn names<const N: usize>(names: [(&str, InodeIndex); N]) -> Content {
    Content::Directory(names.into_iter().map(|(name, index)| (name.as_bytes().to_vec(), index)).collect())
}

/// Guest at the wire with its daemon.
#[derive(Debug)]
pub(crate) struct Guest {
    pub(crate) frontend: Frontend,
    pub(crate) daemon: Serving,
}

impl Guest {
    /// Connects to a daemon and sends INIT.
    pub(crate) fn new(daemon: Serving) -> Self {
        let mut guest = Self::before_init(daemon);
        guest.frontend.init().unwrap();
        guest
    }

    /// Connects to a daemon.
    pub(crate) fn before_init(daemon: Serving) -> Self {
        let setup = Setup { queues: 2, ..Setup::default() };
        Self { frontend: Frontend::connect_with(daemon.socket(), setup).unwrap(), daemon }
    }

    /// Serves the sample to a guest that has sent INIT.
    pub(crate) fn of(folder: &ImageFolder, arguments: &[&str]) -> Self {
        Self::new(folder.serve(arguments))
    }

    /// Sends a request and returns the body of its reply.
    pub(crate) fn ask(&mut self, node: NodeId, operation: &Operation<'_>) -> Result<Vec<u8>, Errno> {
        self.ask_with(node, operation, &[])
    }

    /// As [`Guest::ask`], with the data of a WRITE.
    pub(crate) fn ask_with(
        &mut self,
        node: NodeId,
        operation: &Operation<'_>,
        payload: &[u8],
    ) -> Result<Vec<u8>, Errno> {
        let replied = self.frontend.request(1, node, operation, payload);
        let reply =
            replied.unwrap_or_else(|error: FrontendError| panic!("{error}\n{}", self.daemon.stderr()));
        match reply.error().unwrap() {
            Some(errno) => Err(errno),
            None => Ok(reply.success().unwrap().to_vec()),
        }
    }

    pub(crate) fn look_up(&mut self, directory: NodeId, name: LookupName<'_>) -> Result<Entry, Errno> {
        let lookup = Operation::Lookup(pinhole_protocol::Lookup { name });
        self.ask(directory, &lookup).map(|body| decode_entry(&body).unwrap().0)
    }

    /// Follows names from the root.
    pub(crate) fn entry(&mut self, path: &str) -> Result<Entry, Errno> {
        let mut directory = NodeId::ROOT;
        let mut found = Err(Errno::ENOENT);
        for name in path.split('/') {
            let name = std::ffi::CString::new(name).unwrap();
            let entry = self.look_up(directory, LookupName::parse(&name).unwrap())?;
            directory = entry.node;
            found = Ok(entry);
        }
        found
    }

    /// Returns the node at the end of a path, which exists.
    pub(crate) fn node(&mut self, path: &str) -> NodeId {
        self.entry(path).unwrap().node
    }

    pub(crate) fn attributes(&mut self, node: NodeId) -> Result<Attr, Errno> {
        let get = Operation::GetAttr(GetAttr { handle: None });
        self.ask(node, &get).map(|body| decode_attr(&body).unwrap().0)
    }

    /// Reads a file, with a handle that the guest never got.
    pub(crate) fn read(&mut self, node: NodeId, offset: usize, size: usize) -> Result<Vec<u8>, Errno> {
        let (offset, size) = (offset as u64, u32::try_from(size).unwrap());
        let flags = OpenFlags::empty();
        self.ask(node, &Operation::Read(Read { handle: Handle(0), offset, size, lock_owner: None, flags }))
    }
}
