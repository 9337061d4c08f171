//! Invariants for any sequence of requests (as in `session_against_model`) to a real directory:
//!
//! 1. Every reply is well-formed, and none is missing.
//! 2. A request succeeds exactly if it succeeds in the model. One exception: a file without a name
//!    that is not open may be gone (ESTALE), because a node holds no descriptor of its inode.
//! 3. Contents, modes and owners are those of the model. So are sizes and link counts, except for
//!    directories.
//! 4. An id always means the same node. The share holds as many nodes and handles as the model.
//! 5. At the end, the directory on the host has the names, modes and contents of the model.
#![no_main]

use libfuzzer_sys::fuzz_target;
use pinhole::passthrough::{GuestCaching, InodeHandles, Passthrough, ShareConfig};
use pinhole::threads::ThreadSetup;
use pinhole_fuzz::run::{Agreement, Run};
use std::collections::BTreeMap;
use std::fs::Permissions;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::Path;
use std::sync::Arc;

// Each input gets its own thread, because a thread that serves has its own umask and working
// directory, as a queue thread does.
fuzz_target!(|input: &[u8]| {
    let checked = std::thread::scope(|scope| scope.spawn(|| check(input)).join());
    checked.expect("a panic has already ended the process");
});

/// Runs one input in a share of its own.
fn check(input: &[u8]) {
    // The share is in memory, because a disk would take most of the time.
    let shared = tempfile::tempdir_in("/dev/shm").expect("a temporary directory");
    std::fs::set_permissions(shared.path(), Permissions::from_mode(0o755))
        .expect("permissions of the directory");
    // Half of the inputs run with inode handles, half without. The guest must see no difference.
    let by_handle = input.len().is_multiple_of(2);
    let config = ShareConfig {
        // Under `auto`, an open of a file that has lost its name first fails with ESTALE.
        cache: GuestCaching::Exclusive,
        announce_submounts: false,
        inode_handles: if by_handle { InodeHandles::Prefer } else { InodeHandles::Never },
        ..ShareConfig::new(shared.path())
    };
    let subject = Arc::new(Passthrough::new(config).expect("a share"));
    let setup = ThreadSetup::unconfined().expect("/proc");
    setup.enter(pinhole_policy::host_calls::Threads::QUEUE).expect("a thread that serves");
    let mut run = Run::new(Arc::clone(&subject), Arc::clone(subject.wake_event()), Agreement::Visible);
    run.script(input);
    let held = subject.held();
    assert_eq!((held.nodes, held.handles), run.model().held());
    assert_eq!(listing(shared.path()), run.model().listing());
}

/// Returns every path below the root with its mode and content, as the model does.
fn listing(root: &Path) -> BTreeMap<Vec<u8>, (u32, Vec<u8>)> {
    let mut paths = BTreeMap::new();
    let mut waiting = vec![root.to_owned()];
    while let Some(directory) = waiting.pop() {
        for entry in std::fs::read_dir(directory).expect("a directory") {
            let path = entry.expect("an entry").path();
            let metadata = path.symlink_metadata().expect("a file");
            let content = if metadata.is_file() {
                std::fs::read(&path).expect("a file")
            } else if metadata.is_symlink() {
                std::fs::read_link(&path).expect("a link").as_os_str().as_bytes().to_vec()
            } else {
                Vec::new()
            };
            if metadata.is_dir() {
                waiting.push(path.clone());
            }
            let below = path.strip_prefix(root).expect("below the root").as_os_str().as_bytes();
            paths.insert([b"/", below].concat(), (metadata.mode(), content));
        }
    }
    paths
}
