//! Is data still there if the power fails right after its sync was acknowledged?
//!
//! Tests run on ext4, XFS and btrfs, on a disk that keeps a log of its writes and flushes. A loss
//! of power loses all writes that were not flushed at that moment.

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

/// Ways to make written data durable. Some bypass the guest's cache, because one file handle
/// differs from the others there.
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

/// Length of the old file in bytes. `durable.py` has the same number.
const OLD_LEN: usize = 16384;
const OFFSET: usize = 4000;
const LEN: usize = 6000;

/// Step of the guest that is acknowledged.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Step {
    share: &'static str,
    way: &'static str,
    /// `new`, or `old` if the file exists before.
    file: &'static str,
}

impl Step {
    fn all() -> Vec<Self> {
        let of_share = |share| {
            let data =
                WAYS.into_iter().flat_map(move |way| ["new", "old"].map(|file| Self { share, way, file }));
            // Changes that an fsync of the directory makes durable. The file without any fsync
            // shows that the test can fail.
            let others = [("rename", "new"), ("unlink", "old"), ("nothing", "new"), ("nothing", "old")];
            data.chain(others.map(|(way, file)| Self { share, way, file }))
        };
        MODES.into_iter().flat_map(|(share, _)| of_share(share)).collect()
    }

    fn name(self) -> String {
        format!("{}-{}-{}", self.share, self.way, self.file)
    }

    fn data(self) -> Vec<u8> {
        let text = format!("{} {} {} ", self.share, self.way, self.file);
        text.bytes().cycle().take(LEN).collect()
    }

    /// Returns the required content of the file. `None` if it must be gone.
    fn outcome(self) -> Option<Vec<u8>> {
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

/// Starts a daemon that serves the folder under its tag.
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

/// Lets one guest with a share in each mode do all steps. Returns the moment of each
/// acknowledgement.
fn perform(disk: &LoggedDisk, steps: &[Step]) -> Vec<Moment> {
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

/// Returns the content of the step's file after a loss of power.
fn left(history: &Recording, step: Step, at: Moment) -> Option<Vec<u8>> {
    let left = history.after_power_loss(at).unwrap_or_else(|error| panic!("{step:?}: {error}"));
    let content = content(&left.folder().join(step.name()));
    left.end().unwrap();
    content
}

fn every_acknowledged_step_survives(kind: FileSystem) {
    let disk = LoggedDisk::start(kind).unwrap();
    let steps = Step::all();
    for step in steps.iter().filter(|step| step.file == "old") {
        fs::write(disk.folder().join(step.name()), vec![b'o'; OLD_LEN]).unwrap();
    }
    rustix::fs::syncfs(fs::File::open(disk.folder()).unwrap()).unwrap();
    let acknowledged = perform(&disk, &steps);
    let history = disk.end().unwrap();
    let mut wrong = Vec::new();
    for (step, at) in steps.into_iter().zip(acknowledged) {
        let survived = left(&history, step, at) == step.outcome();
        if survived != (step.way != "nothing") {
            wrong.push(format!("{}: {}", step.name(), if survived { "there" } else { "lost" }));
        }
    }
    assert!(wrong.is_empty(), "{}: {wrong:#?}", kind.name());
}

#[test]
fn acknowledged_syncs_survive_power_loss_on_ext4() {
    every_acknowledged_step_survives(FileSystem::Ext4);
}

#[test]
fn acknowledged_syncs_survive_power_loss_on_xfs() {
    every_acknowledged_step_survives(FileSystem::Xfs);
}

#[test]
fn acknowledged_syncs_survive_power_loss_on_btrfs() {
    every_acknowledged_step_survives(FileSystem::Btrfs);
}

/// Guest at the wire, so that the test controls every look-up and open.
struct Wire(Frontend);

impl Wire {
    fn connect(daemon: &Serving) -> Self {
        let mut guest = Frontend::connect(daemon.socket()).unwrap();
        guest.init().unwrap();
        Self(guest)
    }

    fn ask(&mut self, node: NodeId, operation: &Operation<'_>, data: &[u8]) -> Vec<u8> {
        let reply = self.0.request(1, node, operation, data).unwrap();
        reply.success().unwrap_or_else(|error| panic!("{operation:?}: {error}")).to_vec()
    }

    fn look_up(&mut self, parent: NodeId, name: &str) -> NodeId {
        let name = CString::new(name).unwrap();
        let name = Name::parse(&name).unwrap();
        let found = self.ask(parent, &Operation::Lookup(Lookup { name: name.into() }), &[]);
        NodeId(u64_at(&found, 0).unwrap())
    }

    fn open(&mut self, node: NodeId) -> Handle {
        let open = Open { flags: OpenFlags::from_bits_retain(O_RDWR), kill_suidgid: false };
        Handle(u64_at(&self.ask(node, &Operation::Open(open), &[]), 0).unwrap())
    }

    fn fsync(&mut self, node: NodeId, handle: Handle, flags: FsyncFlags) {
        self.ask(node, &Operation::Fsync(Fsync { handle, flags }), &[]);
    }

    fn write(&mut self, node: NodeId, handle: Handle, flags: OpenFlags) {
        let size = u32::try_from(NEW.len()).unwrap();
        let write_flags = WriteFlags::empty();
        let write = Write { handle, offset: 0, size, write_flags, lock_owner: None, flags };
        self.ask(node, &Operation::Write(write), NEW);
    }
}

const NEW: &[u8] = b"what must not be lost";

/// Way to remove the first name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Taking {
    Rename,
    Unlink,
}

/// Way to make the data durable.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Asking {
    Fsync,
    DataSync,
    DsyncWrite,
    SyncWrite,
}

/// Gives a file in `folder` a second name, removes the first one, and makes durable a write through
/// the second one. If `held` is set, `first` is open all the time.
fn write_by_second_name(guest: &mut Wire, folder: &str, (taking, asking, held): (Taking, Asking, bool)) {
    let folder = guest.look_up(NodeId::ROOT, folder);
    let below = guest.look_up(folder, "below");
    let file = guest.look_up(folder, "first");
    if held {
        guest.open(file);
    }
    let [first, other, second] = [c"first", c"other", c"second"].map(|name| Name::parse(name).unwrap());
    guest.ask(below, &Operation::Link(Link { target: file, name: second }), &[]);
    match taking {
        Taking::Unlink => guest.ask(folder, &Operation::Unlink(Unlink { name: first }), &[]),
        Taking::Rename => {
            let flags = RenameFlags::empty();
            let rename = Rename { name: other, new_directory: folder, new_name: first, flags };
            guest.ask(folder, &Operation::Rename(rename), &[])
        }
    };
    let found = guest.look_up(below, "second");
    let handle = guest.open(found);
    let flags = match asking {
        Asking::Fsync | Asking::DataSync => OpenFlags::empty(),
        Asking::DsyncWrite => OpenFlags::DSYNC,
        Asking::SyncWrite => OpenFlags::SYNC,
    };
    guest.write(found, handle, flags);
    let flags = match asking {
        Asking::Fsync => FsyncFlags::empty(),
        Asking::DataSync => FsyncFlags::DATASYNC,
        Asking::DsyncWrite | Asking::SyncWrite => return,
    };
    guest.fsync(found, handle, flags);
}

/// btrfs logs a file under the name by which it was opened. A daemon opens it by the name that was
/// looked up first.
#[test]
fn synced_data_survives_after_the_first_name_is_removed() {
    for kind in FileSystem::ALL {
        let disk = LoggedDisk::start(kind).unwrap();
        let mut cases = Vec::new();
        for handles in ["never", "mandatory"] {
            let arguments = ["--cache=never", &format!("--inode-file-handles={handles}")];
            let daemon = serve(&disk.folder(), "names", &arguments);
            let mut guest = Wire::connect(&daemon);
            for taking in [Taking::Unlink, Taking::Rename] {
                for asking in [Asking::Fsync, Asking::DataSync, Asking::DsyncWrite, Asking::SyncWrite] {
                    for held in [false, true] {
                        let folder = format!("{handles}-{taking:?}-{asking:?}-{held}");
                        rustix::fs::syncfs(fs::File::open(disk.folder()).unwrap()).unwrap();
                        // Makes the other names durable, so that only the fsync can add a name.
                        fs::create_dir_all(disk.folder().join(&folder).join("below")).unwrap();
                        fs::write(disk.folder().join(&folder).join("first"), "old").unwrap();
                        fs::write(disk.folder().join(&folder).join("other"), "other").unwrap();
                        write_by_second_name(&mut guest, &folder, (taking, asking, held));
                        cases.push((folder, disk.now().unwrap()));
                    }
                }
            }
        }
        let history = disk.end().unwrap();
        cases.retain(|(folder, at)| {
            let left = history.after_power_loss(*at).unwrap();
            let survived = content(&left.folder().join(folder).join("below/second"));
            left.end().unwrap();
            survived.as_deref() != Some(NEW)
        });
        assert!(cases.is_empty(), "lost on {}: {cases:#?}", kind.name());
    }
}

/// Length of a slot of a DAX window in bytes, and of each file that is mapped there.
const SLOT: usize = 2 << 20;
/// Offset of the stored data, across the border of two pages.
const STORED_AT: usize = 5 * 4096 - 10;

/// Ways to make durable what was stored through a window. The first one does nothing, and comes
/// before any sync that could write the data: if the data survived, the other ways would prove
/// nothing.
const OF_STORES: [(&str, Option<FsyncFlags>); 3] = [
    ("nothing", None),
    ("fsync", Some(FsyncFlags::empty())),
    // Linux sends this for msync, too.
    ("datasync", Some(FsyncFlags::DATASYNC)),
];

/// Maps a file into a slot of the window, stores there, and syncs it as `flags` say.
fn store_through(
    (guest, window): (&mut Wire, &Window),
    (slot, name): (usize, &str),
    flags: Option<FsyncFlags>,
) {
    let node = guest.look_up(NodeId::ROOT, name);
    let handle = guest.open(node);
    let window_offset = (slot * SLOT) as u64;
    let (file_offset, length, read, write) = (0, SLOT as u64, true, true);
    // Linux sends no file handle here.
    let map = SetupMapping { handle: Handle(u64::MAX), file_offset, length, read, write, window_offset };
    guest.ask(node, &Operation::SetupMapping(map), &[]);
    window.store(window_offset + STORED_AT as u64, NEW).unwrap();
    if let Some(flags) = flags {
        guest.fsync(node, handle, flags);
    }
}

/// A store is no request. Only the host's fsync includes it.
#[test]
fn fsynced_dax_stores_survive_power_loss() {
    for kind in FileSystem::ALL {
        let disk = LoggedDisk::start(kind).unwrap();
        let path = |name: &str| disk.folder().join(name);
        for (way, _) in OF_STORES {
            fs::write(path(&format!("{way}-old")), vec![b'o'; SLOT]).unwrap();
        }
        rustix::fs::syncfs(fs::File::open(disk.folder()).unwrap()).unwrap();
        let arguments = ["--cache=strict", "--dax-window=16M", "--dax=always"];
        let daemon = serve(&disk.folder(), "window", &arguments);
        let (mut guest, window) =
            dax_vmm::connect(daemon.socket(), Setup::default(), Rules::mapping()).unwrap();
        guest.init().unwrap();
        let mut guest = Wire(guest);
        let ways = OF_STORES.into_iter().flat_map(|way| [(way, "old", b'o'), (way, "new", 0)]);
        let mut cases = Vec::new();
        for (slot, ((way, flags), file, was)) in ways.enumerate() {
            let name = format!("{way}-{file}");
            if file == "new" {
                // The disk has neither its length nor any of its blocks yet.
                fs::File::create(path(&name)).unwrap().set_len(SLOT as u64).unwrap();
            }
            store_through((&mut guest, &window), (slot, &name), flags);
            cases.push((name, flags.is_some(), was, disk.now().unwrap()));
        }
        assert_eq!(window.faults(), Vec::<String>::new());
        // The mappings keep the disk in use.
        drop((guest, window, daemon));
        let history = disk.end().unwrap();
        for (name, survives, was, at) in cases {
            let left = history.after_power_loss(at).unwrap();
            let found = content(&left.folder().join(&name));
            left.end().unwrap();
            let mut whole = vec![was; SLOT];
            whole[STORED_AT..STORED_AT + NEW.len()].copy_from_slice(NEW);
            assert_eq!(found == Some(whole), survives, "{name} on {}", kind.name());
        }
    }
}
