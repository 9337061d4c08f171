//! The pass over all inodes of an image.

use super::summary::TreeSummary;
use crate::limits;
use crate::tree_error::shown;
use pinhole_erofs::{BLOCK_SIZE, Image, Inode, Kind, Nid, Place, ReadError, Source};
use std::collections::HashMap;
use std::ops::ControlFlow;

/// Reads everything in an image and adds what is wrong to `problems`.
pub(super) fn run<S: Source>(image: &Image<S>, problems: &mut Vec<String>) -> TreeSummary {
    let root = image.superblock().root;
    let mut pass = Pass {
        image,
        problems,
        summary: TreeSummary::default(),
        links: HashMap::new(),
        steps: 0,
        places: Vec::new(),
    };
    pass.places.push(Found { nid: root, name: Vec::new(), parent: 0 });
    pass.summary.directories = 1;
    let mut next = 0;
    while let Some(found) = pass.places.get(next) {
        let nid = found.nid;
        if pass.is_over() {
            return pass.summary;
        }
        pass.directory(next, nid);
        next += 1;
    }
    pass.check_links();
    if pass.problems.is_empty() && pass.summary.inodes() != image.superblock().inodes {
        let (found, said) = (pass.summary.inodes(), image.superblock().inodes);
        pass.problems.push(format!("superblock: {said} inodes by its field, but the tree has {found}"));
    }
    pass.summary
}

/// A directory that was found, with its place in the tree.
struct Found {
    nid: Nid,
    name: Vec<u8>,
    /// The position of its parent among the directories. The root is its own.
    parent: usize,
}

/// Names of an inode that is not a directory.
#[derive(Clone, Copy)]
struct Links {
    counted: u32,
    /// As the inode says.
    expected: u32,
    /// The position of the directory of the first name.
    parent: usize,
}

struct Pass<'a, S> {
    image: &'a Image<S>,
    problems: &'a mut Vec<String>,
    summary: TreeSummary,
    /// By nid. Directories are in it too.
    links: HashMap<u64, Links>,
    /// Names and extents that were read.
    steps: u64,
    /// The directories, in the order in which they are read.
    places: Vec<Found>,
}

impl<S: Source> Pass<'_, S> {
    /// Returns whether there are too many problems or steps to go on.
    fn is_over(&mut self) -> bool {
        if self.steps > limits::INSPECT_STEPS_MAX {
            let most = limits::INSPECT_STEPS_MAX;
            self.problems.push(format!("image: over {most} names and extents; its structures overlap"));
            return true;
        }
        if self.problems.len() >= limits::PROBLEMS_MAX {
            self.problems.push("image: more problems were not looked for".to_owned());
            return true;
        }
        false
    }

    /// Reads the directory at a position.
    fn directory(&mut self, at: usize, nid: Nid) {
        let mut entries = Vec::new();
        let listed = self.image.inode(nid).and_then(|inode| {
            self.attributes(&inode)?;
            self.image.read_dir(&inode, 0, &mut |entry| {
                if !matches!(entry.name, b"." | b"..") {
                    entries.push((entry.nid, entry.kind, entry.name.to_vec()));
                }
                if entries.len() > limits::NAMES_MAX {
                    ControlFlow::Break(())
                } else {
                    ControlFlow::Continue(())
                }
            })
        });
        if let Err(error) = listed {
            self.problem(at, b"", &error.to_string());
        }
        if let Some(pair) =
            entries.windows(2).find(|pair| matches!(pair, [first, second] if first.2 >= second.2))
        {
            let name = pair.last().map(|(_, _, name)| name.clone()).unwrap_or_default();
            self.problem(at, &name, "its name is not behind the name before it, so it is not found");
        }
        for (nid, kind, name) in entries {
            self.steps += 1;
            self.summary.names += 1;
            self.entry(at, nid, kind, name);
            if self.problems.len() >= limits::PROBLEMS_MAX || self.steps > limits::INSPECT_STEPS_MAX {
                return;
            }
        }
    }

    /// Reads what a name in a directory leads to.
    fn entry(&mut self, parent: usize, nid: Nid, kind: Kind, name: Vec<u8>) {
        if let Some(links) = self.links.get_mut(&nid.0).filter(|_| kind != Kind::Directory) {
            links.counted = links.counted.saturating_add(1);
            return;
        }
        let inode = match self.image.inode(nid) {
            Ok(inode) => inode,
            Err(error) => return self.problem(parent, &name, &error.to_string()),
        };
        if inode.kind != kind {
            let what = format!("its directory says {kind:?}, its inode {:?}", inode.kind);
            return self.problem(parent, &name, &what);
        }
        let links = Links { counted: 1, expected: inode.nlink, parent };
        let is_root = nid == self.image.superblock().root;
        if self.links.insert(nid.0, links).is_some() || is_root {
            return self.problem(parent, &name, "the directory has a second name");
        }
        self.count(kind);
        if kind == Kind::Directory {
            self.places.push(Found { nid, name, parent });
            return;
        }
        if let Err(error) = self.content(&inode) {
            self.problem(parent, &name, &error.to_string());
        }
    }

    fn count(&mut self, kind: Kind) {
        let counter = match kind {
            Kind::Regular => &mut self.summary.files,
            Kind::Directory => &mut self.summary.directories,
            Kind::Symlink => &mut self.summary.symlinks,
            Kind::CharacterDevice => &mut self.summary.character_devices,
            Kind::BlockDevice => &mut self.summary.block_devices,
            Kind::Fifo => &mut self.summary.fifos,
            Kind::Socket => &mut self.summary.sockets,
        };
        *counter = counter.saturating_add(1);
    }

    /// Reads the attributes, the target and the extents of an inode.
    fn content(&mut self, inode: &Inode) -> Result<(), ReadError> {
        self.attributes(inode)?;
        match inode.kind {
            Kind::Symlink => self.image.read_link(inode, &mut Vec::new()),
            Kind::Regular => self.extents(inode),
            Kind::Directory | Kind::CharacterDevice | Kind::BlockDevice | Kind::Fifo | Kind::Socket => Ok(()),
        }
    }

    /// Reads all extended attributes of an inode.
    fn attributes(&self, inode: &Inode) -> Result<(), ReadError> {
        let mut names = Vec::new();
        self.image.xattrs(inode, &mut |name, _len| {
            names.push(name.to_vec());
            ControlFlow::Continue(())
        })?;
        let mut value = Vec::new();
        names.iter().try_for_each(|name| {
            value.clear();
            self.image.get_xattr(inode, name, &mut value).map(drop)
        })
    }

    /// Reads all extents of a file, and decides as the daemon whether it can be mapped.
    fn extents(&mut self, inode: &Inode) -> Result<(), ReadError> {
        self.summary.file_bytes = self.summary.file_bytes.saturating_add(inode.size);
        let mut at = 0;
        while at < inode.size && self.steps <= limits::INSPECT_STEPS_MAX {
            let extent = self.image.extent(inode, at)?;
            let is_aligned = match extent.place {
                Place::Hole => false,
                Place::Image { offset } => offset % BLOCK_SIZE == 0,
                Place::Device { .. } => true,
            };
            if is_aligned && extent.length == inode.size {
                self.summary.mappable_files += 1;
                self.summary.mappable_bytes = self.summary.mappable_bytes.saturating_add(inode.size);
            }
            self.steps += 1;
            at = at.saturating_add(extent.length.max(1));
        }
        Ok(())
    }

    /// Compares the number of names of each inode with the inode. That of a directory depends on
    /// the program that made the image.
    fn check_links(&mut self) {
        let directories: std::collections::HashSet<_> = self.places.iter().map(|found| found.nid.0).collect();
        let wrong = self
            .links
            .iter()
            .filter(|(nid, links)| links.counted != links.expected && !directories.contains(nid));
        let mut wrong: Vec<_> = wrong.map(|(nid, links)| (*nid, *links)).collect();
        wrong.sort_unstable_by_key(|(nid, _)| *nid);
        for (nid, links) in wrong.into_iter().take(limits::PROBLEMS_MAX) {
            let what = format!(
                "the inode with nid {nid} has {} names, but {} by its link count",
                links.counted, links.expected
            );
            self.problem(links.parent, b"", &what);
        }
    }

    fn problem(&mut self, directory: usize, name: &[u8], what: &str) {
        let mut names = vec![name];
        let mut at = directory;
        while let Some(found) = self.places.get(at).filter(|found| found.parent != at) {
            names.push(&found.name);
            at = found.parent;
        }
        names.reverse();
        let path = names.join(&b'/');
        self.problems.push(format!("/{}: {what}", shown(path.strip_suffix(b"/").unwrap_or(&path))));
    }
}
