//! A tar file as one layer: its entries in their order, the data of files written while it is read.
//!
//! Known are the old form, ustar, PAX and GNU, with long names, sparse files of GNU form and
//! extended attributes of star, GNU tar and libarchive. What an image cannot have, or what this
//! file does not know, is refused with the name of the entry.

mod header;
mod pax;
mod stream;

use crate::attributes::{Attributes, device_number};
use crate::data_file::{DataWriter, regions};
use crate::error::{ArchiveError, PrepareError};
use crate::limits;
use crate::tree::{FileData, LayerTree, Leaf, split_path};
use crate::tree_error::{TreeError, shown, within};
use header::{BadHeader, Header};
use pax::Pax;
use pinhole_erofs::Time;
use std::io::Read;
use std::ops::Range;
use stream::TarStream;

/// How a tar file is read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum TarKind {
    /// A tar file of its own. Its end must be there, and names have no other meaning.
    Archive,
    /// A layer of an OCI image, whose bytes have a digest. `.wh.` before a name removes it.
    OciLayer,
}

/// Reads a tar file into the tree and its data into the data file.
pub(crate) fn read(
    archive: &str,
    source: &mut dyn Read,
    kind: TarKind,
    (tree, data): (&mut LayerTree, &mut DataWriter),
) -> Result<(), PrepareError> {
    let stream = TarStream::new(archive, source);
    let mut reader =
        TarReader { stream, kind, tree, data, global: Pax::default(), next: Extensions::default() };
    while let Some(block) = reader.stream.block()? {
        if block.iter().all(|byte| *byte == 0) {
            reader.next.end(&reader.stream)?;
            return reader.stream.finish();
        }
        reader.entry(&block)?;
    }
    match kind {
        TarKind::OciLayer => Ok(reader.next.end(&reader.stream)?),
        TarKind::Archive => Err(reader.stream.cut().into()),
    }
}

struct TarReader<'a> {
    stream: TarStream<'a>,
    kind: TarKind,
    tree: &'a mut LayerTree,
    data: &'a mut DataWriter,
    /// Records of global PAX headers.
    global: Pax,
    next: Extensions,
}

/// What headers before an entry say about it.
#[derive(Default)]
struct Extensions {
    long_name: Option<Vec<u8>>,
    long_link: Option<Vec<u8>>,
    pax: Option<Pax>,
}

impl Extensions {
    /// Checks that the entry that the headers are about is not missing.
    fn end(&self, stream: &TarStream<'_>) -> Result<(), ArchiveError> {
        let is_empty = self.long_name.is_none() && self.long_link.is_none() && self.pax.is_none();
        if is_empty { Ok(()) } else { Err(stream.cut()) }
    }
}

/// An entry with all its headers.
struct TarEntry {
    path: Vec<u8>,
    link: Vec<u8>,
    /// The type flag.
    kind: u8,
    /// Bytes of data that follow the header.
    size: u64,
    attributes: Attributes,
    device: (u32, u32),
    /// The map of a sparse file, and the size of the file.
    sparse: Option<(Vec<Range<u64>>, u64)>,
}

impl TarReader<'_> {
    /// Reads the entry of a header.
    fn entry(&mut self, block: &[u8; header::BLOCK_LEN]) -> Result<(), PrepareError> {
        let begin = self.stream.offset().saturating_sub(header::BLOCK_LEN as u64);
        let header = Header::new(block).map_err(|BadHeader(why)| ArchiveError::NotTar {
            archive: self.stream.archive.to_owned(),
            offset: begin,
            why,
        })?;
        let path = header.path();
        let bad = |BadHeader(why): BadHeader| {
            refused(self.stream.archive, &path, &format!("its header {why}"), REPACK)
        };
        match header.kind() {
            b'L' => {
                let size = header.size().map_err(bad)?;
                self.next.long_name = Some(self.text(&path, size)?);
            }
            b'K' => {
                let size = header.size().map_err(bad)?;
                self.next.long_link = Some(self.text(&path, size)?);
            }
            b'x' | b'X' => {
                let size = header.size().map_err(bad)?;
                let mut pax = self.next.pax.take().unwrap_or_else(|| self.global.clone());
                self.pax(&path, size, &mut pax)?;
                self.next.pax = Some(pax);
            }
            b'g' => {
                let size = header.size().map_err(bad)?;
                let mut global = std::mem::take(&mut self.global);
                self.pax(&path, size, &mut global)?;
                self.global = global;
            }
            _ => {
                let entry = self.described(&header)?;
                self.put(entry)?;
            }
        }
        Ok(())
    }

    /// Reads the data of a header with a long name or link.
    fn text(&mut self, header: &[u8], size: u64) -> Result<Vec<u8>, PrepareError> {
        let mut text = self.bytes(header, size, limits::PATH_LEN_MAX + 1)?;
        if let Some(end) = text.iter().position(|byte| *byte == 0) {
            text.truncate(end);
        }
        Ok(text)
    }

    fn pax(&mut self, header: &[u8], size: u64, pax: &mut Pax) -> Result<(), PrepareError> {
        let bytes = self.bytes(header, size, limits::PAX_LEN_MAX)?;
        pax.add(&bytes).map_err(|bad| refused(self.stream.archive, header, &bad.0, REPACK).into())
    }

    /// Reads the data of a header that describes the next entry.
    fn bytes(&mut self, header: &[u8], size: u64, most: usize) -> Result<Vec<u8>, PrepareError> {
        let len = usize::try_from(size).unwrap_or(usize::MAX);
        self.in_tree(header, within("the header", "bytes", len, most))?;
        let mut bytes = Vec::with_capacity(len);
        self.stream.copy(size, |part| {
            bytes.extend_from_slice(part);
            Ok(())
        })?;
        self.stream.skip_padding(size)?;
        Ok(bytes)
    }

    /// Returns the entry that a header and the headers before it describe.
    fn described(&mut self, header: &Header<'_>) -> Result<TarEntry, PrepareError> {
        let Extensions { long_name, long_link, pax } = std::mem::take(&mut self.next);
        let pax = pax.unwrap_or_else(|| self.global.clone());
        let path = pax.path.or(long_name).unwrap_or_else(|| header.path());
        let archive = self.stream.archive;
        let bad = |BadHeader(why): BadHeader| refused(archive, &path, &format!("its header {why}"), REPACK);
        if let Some(key) = pax.sparse {
            let what = format!("a sparse file in PAX form (\"{key}\")");
            return Err(refused(
                archive,
                &path,
                &what,
                "pack it with `tar --format=gnu` or without --sparse",
            )
            .into());
        }
        if let Some(key) = pax.acl {
            let what = format!("an ACL as text (\"{key}\")");
            let remedy = "pack it with `tar --xattrs --xattrs-include='*'` instead of --acls";
            return Err(refused(archive, &path, &what, remedy).into());
        }
        let time = |seconds| Time { seconds, nanoseconds: 0 };
        let mut attributes = Attributes {
            permissions: u16::try_from(header.mode().map_err(bad)? & 0o7777).unwrap_or_default(),
            uid: pax.uid.map_or_else(|| header.uid().map_err(bad), Ok)?,
            gid: pax.gid.map_or_else(|| header.gid().map_err(bad), Ok)?,
            mtime: pax.mtime.map_or_else(|| header.mtime().map(time).map_err(bad), Ok)?,
            xattrs: Vec::new(),
        };
        for (name, value) in &pax.xattrs {
            self.in_tree(&path, attributes.add_xattr(name, value))?;
        }
        // Old archives, and those of BSD, mark a directory by a slash only.
        let kind = match header.kind() {
            0 | b'0' if path.ends_with(b"/") => b'5',
            0 | b'7' => b'0',
            kind => kind,
        };
        let size = pax.size.map_or_else(|| header.size().map_err(bad), Ok)?;
        let device = if matches!(kind, b'3' | b'4') { header.device().map_err(bad)? } else { (0, 0) };
        let link = pax.link_path.or(long_link).unwrap_or_else(|| header.link_name().to_vec());
        let sparse = if kind == b'S' { Some(self.sparse_map(header, &path)?) } else { None };
        Ok(TarEntry { path, link, kind, size, attributes, device, sparse })
    }

    /// Reads the map of a GNU sparse entry, of which further blocks may follow the header.
    fn sparse_map(
        &mut self,
        header: &Header<'_>,
        path: &[u8],
    ) -> Result<(Vec<Range<u64>>, u64), PrepareError> {
        let archive = self.stream.archive;
        let bad = |BadHeader(why): BadHeader| refused(archive, path, &format!("its header {why}"), REPACK);
        let (mut regions, mut continues, size) = header.sparse().map_err(bad)?;
        while continues {
            let block = self.stream.block()?.ok_or_else(|| self.stream.cut())?;
            let (more, further) = header::further_regions(&block).map_err(bad)?;
            regions.extend(more);
            continues = further;
            self.in_tree(path, within("the file", "regions of data", regions.len(), limits::REGIONS_MAX))?;
        }
        let is_ascending = regions.is_sorted_by(|first, second| first.end <= second.start);
        if !is_ascending || regions.last().is_some_and(|last| last.end > size) {
            let what = "a sparse file whose regions are not in order or not within its size";
            return Err(refused(archive, path, what, REPACK).into());
        }
        Ok((regions, size))
    }

    /// Puts an entry into the tree.
    fn put(&mut self, mut entry: TarEntry) -> Result<(), PrepareError> {
        let path = std::mem::take(&mut entry.path);
        let names = self.in_tree(&path, split_path(&path))?;
        if self.kind == TarKind::OciLayer && self.whiteout(&path, &names)? {
            // A whiteout is a regular file. Its data means nothing.
            self.stream.copy(entry.size, |_data| Ok(()))?;
            return self.stream.skip_padding(entry.size);
        }
        let attributes = std::mem::take(&mut entry.attributes);
        let done = match entry.kind {
            b'0' | b'S' => {
                let data = self.file(&path, &entry)?;
                self.tree.put_leaf(&names, attributes, Leaf::File(data))
            }
            b'1' => {
                let target = self.in_tree(&path, split_path(&entry.link))?;
                self.tree.put_link(&names, &target)
            }
            b'2' => self.tree.put_leaf(&names, attributes, Leaf::Symlink(self.target(&path, &entry)?)),
            b'3' | b'4' => {
                let number = self.device(&path, &entry)?;
                let leaf = if entry.kind == b'3' {
                    Leaf::CharacterDevice(number)
                } else {
                    Leaf::BlockDevice(number)
                };
                self.tree.put_leaf(&names, attributes, leaf)
            }
            b'5' => self.tree.put_directory(&names, attributes),
            b'6' => self.tree.put_leaf(&names, attributes, Leaf::Fifo),
            kind => {
                let what = format!("an entry of type '{}'", kind.escape_ascii());
                let remedy = "only files, links, directories, devices and FIFOs are accepted";
                return Err(refused(self.stream.archive, &path, &what, remedy).into());
            }
        };
        self.in_tree(&path, done)?;
        if matches!(entry.kind, b'0' | b'S') { Ok(()) } else { self.check_no_data(&path, &entry) }
    }

    /// Applies a name that begins with `.wh.`. Returns whether the name is one.
    fn whiteout(&mut self, path: &[u8], names: &[&[u8]]) -> Result<bool, PrepareError> {
        let Some((last, above)) = names.split_last() else { return Ok(false) };
        let Some(hidden) = last.strip_prefix(b".wh.") else { return Ok(false) };
        let done = match hidden {
            b".wh..opq" => self.tree.remove_lower_below(above),
            b"" | b"." | b".." => Err(TreeError::Name { name: shown(last), why: "hides no name" }),
            _ if hidden.starts_with(b".wh.") => {
                let remedy = "only .wh.NAME and .wh..wh..opq are accepted";
                return Err(refused(self.stream.archive, path, "metadata of AUFS", remedy).into());
            }
            _ => self.tree.remove_lower(&[above, &[hidden]].concat()),
        };
        self.in_tree(path, done)?;
        Ok(true)
    }

    /// Checks that an entry that cannot have data has none. GNU tar gives hard links a size too.
    fn check_no_data(&self, path: &[u8], entry: &TarEntry) -> Result<(), PrepareError> {
        if entry.size == 0 || entry.kind == b'1' {
            return Ok(());
        }
        let what =
            format!("an entry of type '{}' with {} bytes of data", entry.kind.escape_ascii(), entry.size);
        Err(refused(self.stream.archive, path, &what, "only regular files have data; pack it again").into())
    }

    /// Copies the data of a file.
    fn file(&mut self, path: &[u8], entry: &TarEntry) -> Result<FileData, PrepareError> {
        let whole = 0..entry.size;
        let (map, size) = match &entry.sparse {
            Some((map, size)) => (map.as_slice(), *size),
            None => (std::slice::from_ref(&whole), entry.size),
        };
        let stored: u64 = map.iter().map(|range| range.end - range.start).sum();
        if stored != entry.size || size > limits::FILE_LEN_MAX {
            let what = format!("a file of {size} bytes with {} bytes of data in the archive", entry.size);
            return Err(refused(self.stream.archive, path, &what, REPACK).into());
        }
        let placed = self.data.place(size, &regions(size, map))?;
        let mut ranges = map.iter().filter(|range| !range.is_empty()).peekable();
        for region in &placed.regions {
            let end = region.offset.saturating_add(region.len);
            while let Some(range) = ranges.next_if(|range| range.start < end) {
                self.data.seek(region.start.saturating_add(range.start - region.offset))?;
                self.stream.copy(range.end - range.start, |part| Ok(self.data.write(part)?))?;
            }
            self.data.seek(region.start.saturating_add(region.len))?;
        }
        self.stream.skip_padding(entry.size)?;
        Ok(placed)
    }

    fn target(&self, path: &[u8], entry: &TarEntry) -> Result<Vec<u8>, PrepareError> {
        if entry.link.is_empty() || entry.link.contains(&0) {
            let what = "a symlink whose target is empty or has a NUL";
            return Err(refused(self.stream.archive, path, what, REPACK).into());
        }
        Ok(entry.link.clone())
    }

    fn device(&self, path: &[u8], entry: &TarEntry) -> Result<u32, PrepareError> {
        const MAJOR_MAX: u32 = (1 << 12) - 1;
        const MINOR_MAX: u32 = (1 << 20) - 1;
        let (major, minor) = entry.device;
        if major > MAJOR_MAX || minor > MINOR_MAX {
            let what = format!("a device with the number {major}:{minor}");
            let remedy = "at most 4095:1048575 is accepted";
            return Err(refused(self.stream.archive, path, &what, remedy).into());
        }
        Ok(device_number(major, minor))
    }

    /// Adds archive and entry to an error of the tree.
    fn in_tree<T>(&self, entry: &[u8], done: Result<T, TreeError>) -> Result<T, PrepareError> {
        done.map_err(|source| {
            let (archive, entry) = (self.stream.archive.to_owned(), shown(entry));
            ArchiveError::Entry { archive, entry, source }.into()
        })
    }
}

/// What to do about an entry that is damaged.
const REPACK: &str = "pack it again with GNU tar";

fn refused(archive: &str, entry: &[u8], what: &str, remedy: &'static str) -> ArchiveError {
    ArchiveError::Refused { archive: archive.to_owned(), entry: shown(entry), what: what.to_owned(), remedy }
}

#[cfg(test)]
#[path = "tests.rs"]
mod tests;
