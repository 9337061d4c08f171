//! Is data still there if the power fails immediately after a sync call has returned?
//!
//! The tests run on ext4, XFS and btrfs. The disk keeps a log of its writes and flushes. To
//! simulate a power loss at some moment, the harness replays the log without the writes that were
//! not flushed at that moment.

use pinhole_tests::linux::O_RDWR;
use std::ffi::CString;
use std::fs;
use std::io;
use std::path::Path;
use std::time::Duration;

use pinhole_protocol::{
    Fsync, FsyncFlags, Handle, Link, Lookup, Name, NodeId, Open, OpenFlags, Operation, Rename, RenameFlags,
    SetupMapping, Unlink, Write, WriteFlags,
};
use pinhole_tests::daemon::{Daemon, Serving};
use pinhole_tests::dax_vmm::{self, Rules, Window};
use pinhole_tests::disk_faults::{FileSystem, LoggedDisk, Moment, Recording};
use pinhole_tests::frontend::frame::u64_at;
use pinhole_tests::frontend::{Frontend, Setup};
use pinhole_tests::guest::Guest;

/// Tags and arguments of the guest's shares.
const MODES: [(&str, &[&str]); 5] = [
    ("strict", &["--cache=strict"]),
    ("auto", &["--cache=auto"]),
    ("exclusive", &["--cache=exclusive"]),
    ("writeback", &["--cache=auto", "--writeback"]),
    ("exclusive-writeback", &["--cache=exclusive", "--writeback"]),
];

/// Ways to make written data durable. `O_DIRECT` and `O_APPEND` are here because such writes take
/// another path in the guest's kernel.
const WAYS: [&str; 10] = [
    "O_SYNC",
    "O_DSYNC",
    "O_DSYNC+O_DIRECT",
    "O_DSYNC+O_APPEND",
    "RWF_SYNC",
    "RWF_DSYNC",
    "fsync",
    "fdatasync",
    "msync",
    "syncfs",
];

/// Length of an old file in bytes. `durable.py` has the same three numbers.
const OLD_LEN: usize = 16384;
/// Offset in bytes of the data that is written to an old file.
const OFFSET: usize = 4000;
/// Length of the written data in bytes.
const LEN: usize = 6000;

/// Step of the guest: one file that is written and made durable in one way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Step {
    share: &'static str,
    way: &'static str,
    /// `old` if the file exists before the step, and `new` if the step creates it.
    file: &'static str,
}

impl Step {
    fn all() -> Vec<Self> {
        let of_share = |share| {
            let data =
                WAYS.into_iter().flat_map(move |way| ["new", "old"].map(|file| Self { share, way, file }));
            // An fsync of the directory makes `rename` and `unlink` durable. `nothing` writes
            // without any sync. Its data must be lost, which shows that the simulated power loss
            // works.
            let others = [("rename", "new"), ("unlink", "old"), ("nothing", "new"), ("nothing", "old")];
            data.chain(others.map(|(way, file)| Self { share, way, file }))
        };
        MODES.into_iter().flat_map(|(share, _)| of_share(share)).collect()
    }

    /// Returns the name of the file.
    fn name(self) -> String {
        format!("{}-{}-{}", self.share, self.way, self.file)
    }

    /// Returns the data that the step writes.
    fn data(self) -> Vec<u8> {
        let text = format!("{} {} {} ", self.share, self.way, self.file);
        text.bytes().cycle().take(LEN).collect()
    }

    /// Returns the required content of the file after the step, or `None` if it must not exist.
    fn expected_content(self) -> Option<Vec<u8>> {
        match (self.way, self.file) {
            ("unlink", _) => None,
            ("O_DSYNC+O_APPEND", "old") => Some([vec![b'o'; OLD_LEN], self.data()].concat()),
            (_, "old") => {
                let mut whole = vec![b'o'; OLD_LEN];
                whole[OFFSET..OFFSET + LEN].copy_from_slice(&self.data());
                Some(whole)
            }
            _ => Some(self.data()),
        }
    }
}

/// Starts a daemon that serves the folder, with this tag.
fn serve(folder: &Path, tag: &str, arguments: &[&str]) -> Serving {
    let daemon = Daemon::pinhole(folder).unwrap().argument(format!("--tag={tag}"));
    arguments.iter().fold(daemon, |daemon, argument| daemon.argument(*argument)).start().unwrap()
}

/// Returns the file's content, or `None` if it does not exist.
fn content(path: &Path) -> Option<Vec<u8>> {
    match fs::read(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => None,
        read => Some(read.unwrap()),
    }
}

/// Runs all steps in one guest, which has a share in each mode. Returns the moment after each step.
fn perform_steps(disk: &LoggedDisk, steps: &[Step]) -> Vec<Moment> {
    let control = tempfile::tempdir().unwrap();
    let mut daemons = vec![("control", serve(control.path(), "control", &["--cache=never"]))];
    daemons.extend(MODES.map(|(tag, arguments)| (tag, serve(&disk.folder(), tag, arguments))));
    let lines = steps.iter().enumerate();
    let lines = lines.map(|(number, step)| format!("{number} {} {} {}\n", step.share, step.way, step.file));
    let guest = Guest::uml().userland().file("steps", 0o644, lines.collect::<String>()).file(
        "durable.py",
        0o644,
        include_str!("durable.py"),
    );
    let guest = daemons.iter().fold(guest, |guest, (tag, daemon)| guest.share(daemon.socket(), tag));
    let mut running = guest.start("python3 /extra/durable.py").unwrap();
    let acknowledged = (0..steps.len()).map(|number| {
        running.wait_for_output(&format!("acknowledged {number}.")).unwrap();
        let moment = disk.now().unwrap();
        fs::write(control.path().join(number.to_string()), "").unwrap();
        moment
    });
    let acknowledged = acknowledged.collect();
    let finished = running.wait().unwrap();
    assert_eq!(finished.exit_code, 0, "{}", finished.text());
    for (tag, mut daemon) in daemons {
        let ended = daemon.wait_at_most(Duration::from_secs(10)).unwrap();
        assert!(ended.is_some_and(|status| status.success()), "{tag}: {ended:?}: {}", daemon.stderr());
    }
    acknowledged
}

/// Returns the content of the step's file after a power loss at the moment `at`.
fn content_after_power_loss(history: &Recording, step: Step, at: Moment) -> Option<Vec<u8>> {
    let recovered = history.after_power_loss(at).unwrap_or_else(|error| panic!("{step:?}: {error}"));
    let content = content(&recovered.folder().join(step.name()));
    recovered.end().unwrap();
    content
}

/// Checks that the result of each step survives a power loss immediately after it.
fn check_steps_survive_power_loss(kind: FileSystem) {
    let disk = LoggedDisk::start(kind).unwrap();
    let steps = Step::all();
    for step in steps.iter().filter(|step| step.file == "old") {
        fs::write(disk.folder().join(step.name()), vec![b'o'; OLD_LEN]).unwrap();
    }
    rustix::fs::syncfs(fs::File::open(disk.folder()).unwrap()).unwrap();
    let acknowledged = perform_steps(&disk, &steps);
    let history = disk.end().unwrap();
    let mut wrong = Vec::new();
    for (step, at) in steps.into_iter().zip(acknowledged) {
        let survived = content_after_power_loss(&history, step, at) == step.expected_content();
        if survived != (step.way != "nothing") {
            wrong.push(format!("{}: {}", step.name(), if survived { "there" } else { "lost" }));
        }
    }
    assert!(wrong.is_empty(), "{}: {wrong:#?}", kind.name());
}

#[test]
fn acknowledged_syncs_survive_power_loss_on_ext4() {
    check_steps_survive_power_loss(FileSystem::Ext4);
}

#[test]
fn acknowledged_syncs_survive_power_loss_on_xfs() {
    check_steps_survive_power_loss(FileSystem::Xfs);
}

#[test]
fn acknowledged_syncs_survive_power_loss_on_btrfs() {
    check_steps_survive_power_loss(FileSystem::Btrfs);
}

/// Test client that sends single requests, so that the test controls every look-up and open.
struct Client(Frontend);

impl Client {
    fn connect(daemon: &Serving) -> Self {
        let mut guest = Frontend::connect(daemon.socket()).unwrap();
        guest.init().unwrap();
        Self(guest)
    }

    fn request(&mut self, node: NodeId, operation: &Operation<'_>, data: &[u8]) -> Vec<u8> {
        let reply = self.0.request(1, node, operation, data).unwrap();
        reply.success().unwrap_or_else(|error| panic!("{operation:?}: {error}")).to_vec()
    }

    fn look_up(&mut self, parent: NodeId, name: &str) -> NodeId {
        let name = CString::new(name).unwrap();
        let name = Name::parse(&name).unwrap();
        let found = self.request(parent, &Operation::Lookup(Lookup { name: name.into() }), &[]);
        NodeId(u64_at(&found, 0).unwrap())
    }

    fn open(&mut self, node: NodeId) -> Handle {
        let open = Open { flags: OpenFlags::from_bits_retain(O_RDWR), kill_suidgid: false };
        Handle(u64_at(&self.request(node, &Operation::Open(open), &[]), 0).unwrap())
    }

    fn fsync(&mut self, node: NodeId, handle: Handle, flags: FsyncFlags) {
        self.request(node, &Operation::Fsync(Fsync { handle, flags }), &[]);
    }

    fn write(&mut self, node: NodeId, handle: Handle, flags: OpenFlags) {
        let size = u32::try_from(NEW.len()).unwrap();
        let write_flags = WriteFlags::empty();
        let write = Write { handle, offset: 0, size, write_flags, lock_owner: None, flags };
        self.request(node, &Operation::Write(write), NEW);
    }
}

/// Data that must survive.
const NEW: &[u8] = b"what must not be lost";

/// Way to remove the first name of the file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum NameRemoval {
    Rename,
    Unlink,
}

/// Way to make the data durable.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum SyncWay {
    Fsync,
    DataSync,
    DsyncWrite,
    SyncWrite,
}

/// Gives a file in `folder` a second name and removes the first one. Then opens the second name,
/// writes and makes the data durable. If `held` is set, the guest has the file open by its first
/// name all the time.
fn write_by_second_name(
    guest: &mut Client,
    folder: &str,
    (removal, sync, held): (NameRemoval, SyncWay, bool),
) {
    let folder = guest.look_up(NodeId::ROOT, folder);
    let below = guest.look_up(folder, "below");
    let file = guest.look_up(folder, "first");
    if held {
        guest.open(file);
    }
    let [first, other, second] = [c"first", c"other", c"second"].map(|name| Name::parse(name).unwrap());
    guest.request(below, &Operation::Link(Link { target: file, name: second }), &[]);
    match removal {
        NameRemoval::Unlink => guest.request(folder, &Operation::Unlink(Unlink { name: first }), &[]),
        NameRemoval::Rename => {
            let flags = RenameFlags::empty();
            let rename = Rename { name: other, new_directory: folder, new_name: first, flags };
            guest.request(folder, &Operation::Rename(rename), &[])
        }
    };
    let found = guest.look_up(below, "second");
    let handle = guest.open(found);
    let flags = match sync {
        SyncWay::Fsync | SyncWay::DataSync => OpenFlags::empty(),
        SyncWay::DsyncWrite => OpenFlags::DSYNC,
        SyncWay::SyncWrite => OpenFlags::SYNC,
    };
    guest.write(found, handle, flags);
    let flags = match sync {
        SyncWay::Fsync => FsyncFlags::empty(),
        SyncWay::DataSync => FsyncFlags::DATASYNC,
        SyncWay::DsyncWrite | SyncWay::SyncWrite => return,
    };
    guest.fsync(found, handle, flags);
}

/// At an fsync, btrfs logs a file under the name by which it was opened. A daemon opens a file by
/// the name that was looked up first.
#[test]
fn synced_data_survives_after_the_first_name_is_removed() {
    for kind in FileSystem::ALL {
        let disk = LoggedDisk::start(kind).unwrap();
        let mut cases = Vec::new();
        for handles in ["never", "mandatory"] {
            let arguments = ["--cache=never", &format!("--inode-file-handles={handles}")];
            let daemon = serve(&disk.folder(), "names", &arguments);
            let mut guest = Client::connect(&daemon);
            for removal in [NameRemoval::Unlink, NameRemoval::Rename] {
                for sync in [SyncWay::Fsync, SyncWay::DataSync, SyncWay::DsyncWrite, SyncWay::SyncWrite] {
                    for held in [false, true] {
                        let folder = format!("{handles}-{removal:?}-{sync:?}-{held}");
                        rustix::fs::syncfs(fs::File::open(disk.folder()).unwrap()).unwrap();
                        // The sync above makes all earlier names durable, so only the sync under
                        // test can make the second name durable.
                        fs::create_dir_all(disk.folder().join(&folder).join("below")).unwrap();
                        fs::write(disk.folder().join(&folder).join("first"), "old").unwrap();
                        fs::write(disk.folder().join(&folder).join("other"), "other").unwrap();
                        write_by_second_name(&mut guest, &folder, (removal, sync, held));
                        cases.push((folder, disk.now().unwrap()));
                    }
                }
            }
        }
        let history = disk.end().unwrap();
        cases.retain(|(folder, at)| {
            let recovered = history.after_power_loss(*at).unwrap();
            let survived = content(&recovered.folder().join(folder).join("below/second"));
            recovered.end().unwrap();
            survived.as_deref() != Some(NEW)
        });
        assert!(cases.is_empty(), "lost on {}: {cases:#?}", kind.name());
    }
}

/// Length of a slot of a DAX window in bytes, and of each file that is mapped there.
const SLOT: usize = 2 << 20;
/// Offset of the stored data in its slot in bytes. The data crosses the border of two pages.
const STORED_AT: usize = 5 * 4096 - 10;

/// Ways to make data durable that was stored through a window, with the flags of the FSYNC. The
/// first way sends no FSYNC, and its data must be lost. Otherwise, the other ways would prove
/// nothing. It runs first because a later sync could write its data too.
const WAYS_FOR_STORES: [(&str, Option<FsyncFlags>); 3] = [
    ("nothing", None),
    ("fsync", Some(FsyncFlags::empty())),
    // Linux sends this also for msync.
    ("datasync", Some(FsyncFlags::DATASYNC)),
];

/// Maps a file into a slot of the window, stores [`NEW`] there, and sends an FSYNC with `flags`.
fn map_store_and_sync(
    (guest, window): (&mut Client, &Window),
    (slot, name): (usize, &str),
    flags: Option<FsyncFlags>,
) {
    let node = guest.look_up(NodeId::ROOT, name);
    let handle = guest.open(node);
    let window_offset = (slot * SLOT) as u64;
    let (file_offset, length, read, write) = (0, SLOT as u64, true, true);
    // Linux sends no valid file handle in SETUPMAPPING.
    let map = SetupMapping { handle: Handle(u64::MAX), file_offset, length, read, write, window_offset };
    guest.request(node, &Operation::SetupMapping(map), &[]);
    window.store(window_offset + STORED_AT as u64, NEW).unwrap();
    if let Some(flags) = flags {
        guest.fsync(node, handle, flags);
    }
}

/// A store to the window sends no request to the daemon. The data becomes durable only by an fsync
/// of the file on the host.
#[test]
fn fsynced_dax_stores_survive_power_loss() {
    for kind in FileSystem::ALL {
        let disk = LoggedDisk::start(kind).unwrap();
        let path = |name: &str| disk.folder().join(name);
        for (way, _) in WAYS_FOR_STORES {
            fs::write(path(&format!("{way}-old")), vec![b'o'; SLOT]).unwrap();
        }
        rustix::fs::syncfs(fs::File::open(disk.folder()).unwrap()).unwrap();
        let arguments = ["--cache=strict", "--dax-window=16M", "--dax=always"];
        let daemon = serve(&disk.folder(), "window", &arguments);
        let (mut guest, window) =
            dax_vmm::connect(daemon.socket(), Setup::default(), Rules::mapping()).unwrap();
        guest.init().unwrap();
        let mut guest = Client(guest);
        let ways = WAYS_FOR_STORES.into_iter().flat_map(|way| [(way, "old", b'o'), (way, "new", 0)]);
        let mut cases = Vec::new();
        for (slot, ((way, flags), file, was)) in ways.enumerate() {
            let name = format!("{way}-{file}");
            if file == "new" {
                // Neither the length of the file nor any block is on the disk yet.
                fs::File::create(path(&name)).unwrap().set_len(SLOT as u64).unwrap();
            }
            map_store_and_sync((&mut guest, &window), (slot, &name), flags);
            cases.push((name, flags.is_some(), was, disk.now().unwrap()));
        }
        assert_eq!(window.faults(), Vec::<String>::new());
        // While the mappings exist, the disk cannot be unmounted.
        drop((guest, window, daemon));
        let history = disk.end().unwrap();
        for (name, survives, was, at) in cases {
            let recovered = history.after_power_loss(at).unwrap();
            let found = content(&recovered.folder().join(&name));
            recovered.end().unwrap();
            let mut whole = vec![was; SLOT];
            whole[STORED_AT..STORED_AT + NEW.len()].copy_from_slice(NEW);
            assert_eq!(found == Some(whole), survives, "{name} on {}", kind.name());
        }
    }
}
