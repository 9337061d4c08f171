//! If the host's disk refuses written data, which open files report the error?
//!
//! The rule of Linux is that each open file reports the error once, at its next fsync, even if the
//! data was written through another one. The tests check it for all guests and for the host.

use pinhole_tests::linux::{O_DIRECT, O_DSYNC, O_RDWR};
use std::fs::{self, File};
use std::io;
use std::os::unix::fs::{FileExt as _, OpenOptionsExt as _};
use std::path::Path;
use std::process::Command;
use std::sync::OnceLock;
use std::time::Duration;

use pinhole_protocol::{
    Errno, Flush, Fsync, FsyncFlags, Handle, LockOwner, Lookup, Name, NodeId, Open, OpenFlags, Operation,
    SyncFs, Write, WriteFlags,
};
use pinhole_tests::daemon::{Daemon, Serving, pinhole_program};
use pinhole_tests::disk_faults::FailingDisk;
use pinhole_tests::frontend::frame::u64_at;
use pinhole_tests::frontend::{Descriptor, Frontend};
use pinhole_tests::mounted::unmount_when_unused;
use pinhole_tests::program::{Program, pinhole};
use rustix::mount::UnmountFlags;

/// Length of the test file in blocks.
const BLOCKS: u8 = 4;
/// Length of a block in bytes.
const BLOCK: u64 = 4096;

/// Test client with a daemon of its own. All of its requests are about the file `data`.
struct Guest {
    frontend: Frontend,
    node: NodeId,
    _daemon: Serving,
}

impl Guest {
    fn new(share: &Path, arguments: &[&str]) -> Self {
        let daemon = Daemon::pinhole(share).unwrap();
        let daemon = arguments.iter().fold(daemon, |daemon, argument| daemon.argument(*argument));
        let daemon = daemon.start().unwrap();
        let mut frontend = Frontend::connect(daemon.socket()).unwrap();
        frontend.init().unwrap();
        let mut guest = Self { frontend, node: NodeId::ROOT, _daemon: daemon };
        let name = Name::parse(c"data").unwrap();
        let found = guest.request(&Operation::Lookup(Lookup { name: name.into() }), &[]).unwrap();
        guest.node = NodeId(u64_at(&found, 0).unwrap());
        guest
    }

    fn request(&mut self, operation: &Operation<'_>, data: &[u8]) -> Result<Vec<u8>, Errno> {
        let reply = self.frontend.request(1, self.node, operation, data).unwrap();
        match reply.error().unwrap() {
            Some(errno) => Err(errno),
            None => Ok(reply.success().unwrap().to_vec()),
        }
    }

    fn open(&mut self) -> Handle {
        self.open_with(0)
    }

    fn open_with(&mut self, flags: u32) -> Handle {
        let open = Open { flags: OpenFlags::from_bits_retain(O_RDWR | flags), kill_suidgid: false };
        Handle(u64_at(&self.request(&Operation::Open(open), &[]).unwrap(), 0).unwrap())
    }

    /// Overwrites the start of the first block. Returns the error of the reply.
    fn write(&mut self, handle: Handle, flags: OpenFlags) -> Option<Errno> {
        let write_flags = WriteFlags::empty();
        let write = Write { handle, offset: 0, size: 4, write_flags, lock_owner: None, flags };
        self.request(&Operation::Write(write), b"lost").err()
    }

    /// Writes the second block with O_DIRECT and O_SYNC. Returns the error of the reply. The data
    /// is aligned to a page in the guest's memory, because the host requires that for O_DIRECT.
    fn write_direct(&mut self, handle: Handle) -> Option<Errno> {
        let (write_flags, flags) = (WriteFlags::empty(), OpenFlags::DIRECT | OpenFlags::SYNC);
        let write = Write { handle, offset: BLOCK, size: 4096, write_flags, lock_owner: None, flags };
        let message = self.frontend.encode(self.node, &Operation::Write(write), &[7; 4096]);
        let (header, block) = message.split_last_chunk::<4096>().unwrap();
        let place = self.frontend.queue(1).unwrap().0.place().buffers;
        self.frontend.poke(place, header).unwrap();
        self.frontend.poke(place + BLOCK, block).unwrap();
        let at = |address, len: usize, flags, next| Descriptor {
            address,
            len: u32::try_from(len).unwrap(),
            flags,
            next,
        };
        let chain = [
            at(place, header.len(), Descriptor::NEXT, 1),
            at(place + BLOCK, block.len(), Descriptor::NEXT, 2),
            at(place + 2 * BLOCK, 24, Descriptor::WRITE, 0),
        ];
        self.frontend.raw_chain(1, &chain).unwrap();
        let error = self.frontend.peek(place + 2 * BLOCK + 4, 4).unwrap();
        let error = i32::from_le_bytes(error.try_into().unwrap());
        (error != 0).then(|| Errno::from_raw(-error))
    }

    fn fsync(&mut self, handle: Handle) -> Option<Errno> {
        self.request(&Operation::Fsync(Fsync { handle, flags: FsyncFlags::empty() }), &[]).err()
    }

    fn data_sync(&mut self, handle: Handle) -> Option<Errno> {
        self.request(&Operation::Fsync(Fsync { handle, flags: FsyncFlags::DATASYNC }), &[]).err()
    }

    fn flush(&mut self, handle: Handle) -> Option<Errno> {
        self.request(&Operation::Flush(Flush { handle, lock_owner: LockOwner(1) }), &[]).err()
    }

    fn sync_fs(&mut self) -> Option<Errno> {
        self.request(&Operation::SyncFs(SyncFs), &[]).err()
    }
}

/// Starts a disk with the file `data`. The disk works until `refuse` is called.
fn disk() -> FailingDisk {
    let disk = FailingDisk::start().unwrap();
    disk.make_file("data", BLOCKS).unwrap();
    disk
}

fn errno(outcome: io::Result<()>) -> Option<Errno> {
    outcome.err().map(|error| Errno::from_raw(error.raw_os_error().unwrap()))
}

/// Returns the error of an fsync by a host process.
fn fsync_on_host(file: &File) -> Option<Errno> {
    errno(file.sync_all())
}

/// Returns the error that Linux reports for such a disk without a daemon. Also checks that Linux
/// reports it once for each open file, even if nothing was written through it.
fn expected_error() -> Option<Errno> {
    static ERROR: OnceLock<Option<Errno>> = OnceLock::new();
    *ERROR.get_or_init(|| {
        let disk = disk();
        let open = || File::options().read(true).write(true).open(disk.folder().join("data")).unwrap();
        let (writer, beside) = (open(), open());
        disk.refuse("data", BLOCKS).unwrap();
        writer.write_all_at(b"lost", 0).unwrap();
        let reported = [&writer, &writer, &beside, &beside].map(fsync_on_host);
        let [error, ..] = reported;
        assert!(matches!(error, Some(Errno::EIO | Errno::ENOSPC)), "{reported:?}");
        assert_eq!(reported, [error, None, error, None]);
        error
    })
}

#[test]
fn writeback_error_is_reported_once_per_open_file() {
    let disk = disk();
    let (mut one, mut other) =
        (Guest::new(disk.folder(), &[]), Guest::new(disk.folder(), &["--cache=never"]));
    let (writer, beside, elsewhere) = (one.open(), one.open(), other.open());
    let host = File::options().read(true).write(true).open(disk.folder().join("data")).unwrap();
    disk.refuse("data", BLOCKS).unwrap();
    // Neither a write nor a close reports the error.
    assert_eq!(one.write(writer, OpenFlags::empty()), None);
    assert_eq!(one.flush(writer), None);
    assert_eq!([one.fsync(writer), one.fsync(writer)], [expected_error(), None]);
    assert_eq!([one.data_sync(beside), one.fsync(beside)], [expected_error(), None]);
    assert_eq!([other.fsync(elsewhere), other.data_sync(elsewhere)], [expected_error(), None]);
    assert_eq!([fsync_on_host(&host), fsync_on_host(&host)], [expected_error(), None]);
    // A file that is opened after the error was reported does not report it.
    let late = other.open();
    assert_eq!(other.fsync(late), None);
    // Once the disk works again, no error remains.
    disk.repair().unwrap();
    assert_eq!(other.write(late, OpenFlags::empty()), None);
    assert_eq!([other.fsync(late), one.fsync(writer), fsync_on_host(&host)], [None; 3]);
}

#[test]
fn synchronous_write_reports_its_error_at_once() {
    let disk = disk();
    let (mut one, mut other) =
        (Guest::new(disk.folder(), &["--cache=never"]), Guest::new(disk.folder(), &[]));
    let (writer, beside, elsewhere) = (one.open(), one.open(), other.open());
    disk.refuse("data", BLOCKS).unwrap();
    for flags in [OpenFlags::DSYNC, OpenFlags::SYNC] {
        assert_eq!(one.write(writer, flags), expected_error());
        assert_eq!(one.fsync(writer), None);
        assert_eq!([one.fsync(beside), one.fsync(beside)], [expected_error(), None]);
        assert_eq!([other.fsync(elsewhere), other.fsync(elsewhere)], [expected_error(), None]);
    }
}

/// For a file handle with O_DIRECT, the daemon has two open file descriptions on the host. Each of
/// them gets the error from the host.
#[test]
fn direct_io_handle_reports_a_writeback_error_once() {
    let disk = disk();
    let mut guest = Guest::new(disk.folder(), &["--cache=never", "--allow-direct-io"]);
    let writer = guest.open();
    let [one, other, third] = [(); 3].map(|()| guest.open_with(O_DIRECT));
    disk.refuse("data", BLOCKS).unwrap();
    assert_eq!(guest.write(writer, OpenFlags::empty()), None);
    assert_eq!(guest.fsync(writer), expected_error());
    // The disk works again. The first call of each file handle reports the earlier error.
    disk.repair().unwrap();
    assert_eq!(
        [guest.write_direct(one), guest.fsync(one), guest.write_direct(one)],
        [expected_error(), None, None]
    );
    assert_eq!(
        [guest.fsync(other), guest.write_direct(other), guest.data_sync(other)],
        [expected_error(), None, None]
    );
    assert_eq!(
        [guest.data_sync(third), guest.fsync(third), guest.write_direct(third)],
        [expected_error(), None, None]
    );
}

#[test]
fn syncfs_reports_an_error_once_per_guest() {
    let disk = disk();
    let (mut one, mut other) = (Guest::new(disk.folder(), &[]), Guest::new(disk.folder(), &[]));
    let writer = one.open();
    disk.refuse("data", BLOCKS).unwrap();
    assert_eq!(one.write(writer, OpenFlags::empty()), None);
    assert_eq!([one.sync_fs(), one.sync_fs()], [expected_error(), None]);
    assert_eq!([other.sync_fs(), other.sync_fs()], [expected_error(), None]);
    // The error of the mount is separate from the error of the file.
    assert_eq!([one.fsync(writer), one.fsync(writer)], [expected_error(), None]);
}

/// The programs use a mount by `pinhole mount`, so the guest's kernel has its own page cache and
/// its own writeback errors.
#[test]
fn programs_get_a_writeback_error_once_per_open_file() {
    for mode in [
        &["--cache=strict"][..],
        &["--cache=never"],
        &["--cache=auto"],
        &["--cache=exclusive"],
        &["--cache=always"],
        &["--cache=auto", "--writeback"],
    ] {
        let disk = disk();
        let folder = tempfile::tempdir().unwrap();
        let mut command = pinhole(["mount"]).unwrap();
        let mut program = Program::start(command.args(mode).arg(disk.folder()).arg(folder.path())).unwrap();
        program.wait_for("Mounted ").unwrap();
        let path = folder.path().join("data");
        let open = || File::options().read(true).write(true).open(&path).unwrap();
        let (writer, beside) = (open(), open());
        let synced =
            File::options().read(true).write(true).custom_flags(O_DSYNC.cast_signed()).open(&path).unwrap();
        disk.refuse("data", BLOCKS).unwrap();
        writer.write_all_at(b"lost", 0).unwrap();
        let reported = [&writer, &beside].map(|file| [fsync_on_host(file), fsync_on_host(file)]);
        // A write with O_DSYNC reports the error itself, even if it goes through the page cache.
        let written = errno(synced.write_all_at(b"lost", 0));
        let reported_by_synced = [written, fsync_on_host(&synced)];
        drop((writer, beside, synced));
        unmount_when_unused(folder.path()).unwrap();
        assert!(program.wait(Duration::from_secs(10)).unwrap().is_some(), "{}", program.stderr());
        assert_eq!(reported, [[expected_error(), None]; 2], "{mode:?}");
        assert_eq!(reported_by_synced, [expected_error(), None], "{mode:?}");
    }
}

/// A file system that writes back at close (NFS, SMB, FUSE) reports errors at that time.
///
/// Here, the daemon under test serves the mount `share` of another `pinhole mount`, which cannot
/// call `dup`. So FLUSH fails there with EIO, and with it each close of a file on that mount.
#[test]
fn close_reports_errors_of_file_systems_that_write_at_close() {
    let folder = tempfile::tempdir().unwrap();
    let [disk, inner, share] = ["disk", "inner", "share"].map(|name| folder.path().join(name));
    for place in [&disk, &inner, &share] {
        fs::create_dir(place).unwrap();
    }
    fs::write(disk.join("data"), "data").unwrap();
    let mut command = pinhole(["mount"]).unwrap();
    let _inner = Mounted::start(command.arg(&disk).arg(&inner), &inner);
    let mut command = Command::new(env!("CARGO_BIN_EXE_deny_syscall"));
    command.arg("dup").arg(pinhole_program().unwrap()).arg("mount").arg(&inner).arg(&share);
    let _share = Mounted::start(&mut command, &share);
    let mut guest = Guest::new(&share, &[]);
    let file = guest.open();
    assert_eq!(guest.write(file, OpenFlags::empty()), None);
    assert_eq!(guest.flush(file), Some(Errno::EIO));
}

/// Running `pinhole mount`. `drop` unmounts it.
struct Mounted<'p>(&'p Path, Program);

impl<'p> Mounted<'p> {
    fn start(command: &mut Command, place: &'p Path) -> Self {
        let mut program = Program::start(command).unwrap();
        program.wait_for("Mounted ").unwrap();
        Self(place, program)
    }
}

impl Drop for Mounted<'_> {
    fn drop(&mut self) {
        rustix::mount::unmount(self.0, UnmountFlags::DETACH).unwrap_or_default();
        drop(self.1.wait(Duration::from_secs(10)));
    }
}
