//! Does any queue wait while the host frees the blocks of a large file?
//!
//! No test here measures a time. The daemon's descriptors and threads show where the work is done.

use pinhole_tests::daemon::Serving;
use pinhole_tests::frontend::client::{Client, SharedFolder};
use pinhole_tests::frontend::frame::Frame;
use pinhole_tests::frontend::frame::opcode::{
    CREATE, FORGET, OPEN_FILE, RELEASE, RENAME, SETATTR, UNLINK, WRITE,
};
use pinhole_tests::frontend::{EVENT_IDX, INDIRECT, Setup, eventually};
use pinhole_tests::linux::{ENTRY_LEN, FATTR_SIZE, O_RDWR, O_TRUNC, ROOT};
use rustix::fs::{FallocateFlags, fallocate};
use std::fs::{self, File};
use std::path::{Path, PathBuf};

/// Length of the large file in bytes. The daemon treats files of 32 MiB and more as large.
const LARGE: u64 = 40 << 20;
/// Set-up with space for a thousand requests in each queue.
const WIDE: Setup = Setup { queues: 2, queue_size: 1024, features: INDIRECT | EVENT_IDX };

/// Share with the files `small` and `large`, its daemon and a guest.
struct LargeFileScene {
    guest: Client,
    daemon: Serving,
    share: SharedFolder,
}

impl LargeFileScene {
    fn new(arguments: &[&str]) -> Self {
        let share = SharedFolder::new().unwrap();
        fs::write(share.host("small"), "small").unwrap();
        let large = File::create(share.host("large")).unwrap();
        fallocate(&large, FallocateFlags::empty(), 0, LARGE).unwrap();
        drop(large);
        let daemon = share.serve(arguments).unwrap();
        let guest = Client::connect(daemon.socket(), WIDE).unwrap().0;
        Self { guest, daemon, share }
    }

    /// Returns whether the daemon has a descriptor of a deleted file with this name.
    fn holds_deleted(&self, name: &str) -> bool {
        let fds = fs::read_dir(format!("/proc/{}/fd", self.daemon.serving_id())).unwrap();
        let named = |fd: fs::DirEntry| fs::read_link(fd.path()).unwrap_or_default();
        let wanted = format!("/{name} (deleted)");
        fds.map(|fd| named(fd.unwrap())).any(|path| path.to_string_lossy().ends_with(&wanted))
    }

    /// Sends a FORGET with all lookups of a node, as a guest does when it drops the inode.
    fn forget(&mut self, node: u64) {
        let forget = Frame::new(FORGET, node).u64(1 << 20).message();
        self.guest.guest.raw(0, &forget, 0).unwrap();
    }

    /// Returns how often the host's scheduler has put a thread of the offload pool on a processor.
    fn pool_runs(&self) -> u64 {
        let tasks = fs::read_dir(format!("/proc/{}/task", self.daemon.serving_id())).unwrap();
        let read = |task: &Path, name: &str| fs::read_to_string(task.join(name)).unwrap_or_default();
        let pool = tasks.map(|task| task.unwrap().path()).filter(|task| read(task, "comm").trim() == "pool");
        // The third number of `schedstat` counts how often the thread was put on a processor.
        let runs = |task: PathBuf| read(&task, "schedstat").split_whitespace().nth(2)?.parse::<u64>().ok();
        pool.filter_map(runs).sum()
    }

    /// Sends the request `truncation` and checks that a thread of the offload pool carries it out.
    /// The pool has no other work.
    fn check_pool_handles(&mut self, truncation: Frame, room: usize) {
        let before = self.pool_runs();
        assert_eq!(self.guest.errno(truncation, room).unwrap(), 0);
        assert!(self.pool_runs() > before, "no thread of the pool ran");
    }
}

fn unlink(name: &str) -> Frame {
    Frame::new(UNLINK, ROOT).name(name)
}

/// Returns a SETATTR that changes only the size.
fn truncate(node: u64, size: u64) -> Frame {
    let frame = Frame::new(SETATTR, node).u32(FATTR_SIZE).u32(0).u64(0).u64(size);
    // The rest of `fuse_setattr_in`: lock owner, three times, three parts of nanoseconds, mode,
    // ids.
    frame.u64(0).u64(0).u64(0).u64(0).u32(0).u32(0).u32(0).u32(0).u32(0).u32(0).u32(0).u32(0)
}

fn open(node: u64, flags: u32) -> Frame {
    Frame::new(OPEN_FILE, node).u32(flags).u32(0)
}

#[test]
fn unlinked_large_file_keeps_its_blocks_until_it_is_forgotten() {
    for handles in ["prefer", "never"] {
        let mut scene = LargeFileScene::new(&[&format!("--inode-file-handles={handles}")]);
        let (large, small) = (scene.guest.look_up("large").unwrap(), scene.guest.look_up("small").unwrap());
        assert_eq!(scene.guest.errno(unlink("large"), 0).unwrap(), 0);
        assert!(scene.holds_deleted("large"), "UNLINK freed the blocks ({handles})");
        assert_eq!(scene.guest.errno(unlink("small"), 0).unwrap(), 0);
        scene.forget(large);
        scene.forget(small);
        eventually("the daemon closes all deleted files", || {
            !scene.holds_deleted("large") && !scene.holds_deleted("small")
        });
    }
}

#[test]
fn replaced_large_file_keeps_its_blocks_until_it_is_forgotten() {
    let mut scene = LargeFileScene::new(&[]);
    let large = scene.guest.look_up("large").unwrap();
    scene.guest.look_up("small").unwrap();
    let rename = Frame::new(RENAME, ROOT).u64(ROOT).name("small").name("large");
    assert_eq!(scene.guest.errno(rename, 0).unwrap(), 0);
    assert!(scene.holds_deleted("large"), "RENAME freed the blocks");
    scene.forget(large);
    eventually("no deleted file is held", || !scene.holds_deleted("large"));
}

#[test]
fn file_that_the_guest_wrote_large_is_kept_too() {
    let mut scene = LargeFileScene::new(&[]);
    let create = Frame::new(CREATE, ROOT).u32(O_RDWR).u32(0o644).u32(0).u32(0).name("grown");
    let body = scene.guest.body(create, ENTRY_LEN + 16).unwrap();
    let (node, handle) = (
        pinhole_tests::frontend::frame::u64_at(&body, 0).unwrap(),
        pinhole_tests::frontend::frame::u64_at(&body, ENTRY_LEN).unwrap(),
    );
    // The file is sparse, so it has few blocks. The daemon treats it as large because of the end
    // offset of this write.
    let write = Frame::new(WRITE, node).u64(handle).u64(LARGE).u32(4).u32(0).u64(0).u32(O_RDWR).u32(0);
    assert_eq!(scene.guest.errno(write.bytes(b"last"), 8).unwrap(), 0);
    let release = Frame::new(RELEASE, node).u64(handle).u32(O_RDWR).u32(0).u64(0);
    assert_eq!(scene.guest.errno(release, 0).unwrap(), 0);
    assert_eq!(scene.guest.errno(unlink("grown"), 0).unwrap(), 0);
    assert!(scene.holds_deleted("grown"), "UNLINK freed the blocks");
    scene.forget(node);
    eventually("no deleted file is held", || !scene.holds_deleted("grown"));
}

#[test]
fn truncation_of_a_large_file_runs_in_the_pool() {
    let mut scene = LargeFileScene::new(&[]);
    let large = scene.guest.look_up("large").unwrap();
    scene.check_pool_handles(truncate(large, 5), 104);
    assert_eq!(fs::read(scene.share.host("large")).unwrap(), [0; 5]);
}

#[test]
fn truncating_open_of_large_file_runs_in_the_pool() {
    for handles in ["prefer", "never"] {
        let mut scene = LargeFileScene::new(&[&format!("--inode-file-handles={handles}")]);
        let large = scene.guest.look_up("large").unwrap();
        scene.check_pool_handles(open(large, O_RDWR | O_TRUNC), 16);
        assert_eq!(scene.share.host("large").metadata().unwrap().len(), 0);
    }
}

#[test]
fn truncation_by_file_handle_runs_in_the_pool() {
    let mut scene = LargeFileScene::new(&[]);
    let (node, handle) = scene.guest.open("large", O_RDWR).unwrap();
    // `1 << 6` is FATTR_FH: the request names the file by its handle.
    let truncation = Frame::new(SETATTR, node).u32(FATTR_SIZE | 1 << 6).u32(0).u64(handle).u64(0);
    let truncation =
        truncation.u64(0).u64(0).u64(0).u64(0).u32(0).u32(0).u32(0).u32(0).u32(0).u32(0).u32(0).u32(0);
    scene.check_pool_handles(truncation, 104);
    assert_eq!(scene.share.host("large").metadata().unwrap().len(), 0);
}
