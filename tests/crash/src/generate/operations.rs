//! The operations of generated programs. They use few names, so that two operations often meet: a
//! file with data, attributes and several blocks, another file, a directory with a file, an empty
//! directory, and a name in each directory that does not exist.

use std::collections::BTreeSet;

use crate::program::{Operation, Target};

/// What exists at the start of each generated program.
pub(super) const SETUP: &str = "write a 0 16384 o; setxattr a user.k old; write b 0 4096 p; mkdir d; \
                                write d/a 0 4096 q; mkdir e";

/// Operations. Lengths and offsets are chosen so that some end within a block.
pub(super) const OPERATIONS: [&str; 45] = [
    "create c",
    "create d/c",
    "mkdir f",
    "mkdir d/f",
    "write c 0 6000 x",
    "write a 4000 6000 x",
    "write d/a 0 4096 x",
    "append a 3000 x",
    "write a 0 4096 x direct",
    "write c 0 4096 x direct",
    "write a 4096 4096 x mapped",
    "truncate a 5000",
    "truncate a 0",
    "truncate a 20000",
    "fallocate a reserve 16384 8192",
    "fallocate a keep-size 16384 8192",
    "fallocate a punch 4096 4096",
    "fallocate a zero 4096 4096",
    "fallocate a zero-keep-size 12288 8192",
    "fallocate a collapse 4096 4096",
    "fallocate a insert 4096 4096",
    "link a c",
    "link a d/c",
    "symlink a c",
    "symlink b d/c",
    "unlink a",
    "unlink d/a",
    "rmdir e",
    "rename a c",
    "rename a b",
    "rename a d/a",
    "rename a d/c",
    "rename d/a c",
    "rename d/a d/c",
    "rename d f",
    "rename d e",
    "exchange a b",
    "exchange a d/a",
    "exchange d e",
    "setxattr a user.k new",
    "setxattr b user.k new",
    "removexattr a user.k",
    "tmpfile c 4096 x",
    "tmpfile d/c 4096 x",
    "chmod a 600",
];

/// Writes that are durable when they return. No persistence operation follows them.
pub(super) const DURABLE: [&str; 15] = [
    "write c 0 6000 x o_sync",
    "write c 0 6000 x o_dsync",
    "write c 0 6000 x rwf_sync",
    "write c 0 6000 x rwf_dsync",
    "write c 0 4096 x direct+o_dsync",
    "write a 4000 6000 x o_sync",
    "write a 4000 6000 x o_dsync",
    "write a 4000 6000 x rwf_sync",
    "write a 4000 6000 x rwf_dsync",
    "write a 4096 4096 x direct+o_dsync",
    "append a 3000 x o_sync",
    "append a 3000 x o_dsync",
    "append a 3000 x rwf_sync",
    "append a 3000 x rwf_dsync",
    "write d/a 2000 4000 x rwf_dsync",
];

/// Returns the folder that contains a path.
pub(super) fn parent(path: &str) -> &str {
    path.rsplit_once('/').map_or(".", |(folder, _)| folder)
}

/// Returns the persistence operations that make sense after some operations: of each file that they
/// name and that may exist, of each directory whose names they change, and of everything.
pub(super) fn persistence(operations: &[&Operation]) -> Vec<Operation> {
    let mut targets = BTreeSet::new();
    for operation in operations {
        for path in operation.paths() {
            targets.insert((path.to_owned(), false));
            targets.insert((parent(path).to_owned(), true));
        }
    }
    let mut found = Vec::new();
    for (path, is_folder) in targets {
        let target = Target::Path(path);
        found.push(Operation::Sync(target.clone()));
        if !is_folder {
            found.push(Operation::DataSync(target));
        }
    }
    found.push(Operation::SyncFs);
    found
}
