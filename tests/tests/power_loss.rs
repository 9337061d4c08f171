//! What is left when the power fails right after a guest was told that its data is on disk? On ext4, XFS and btrfs, on a disk
//! that keeps a log of its writes and flushes: what had not been flushed at that moment is lost.
#![cfg(test)]

use std::ffi::CString;
use std::fs;
use std::io;
use std::path::Path;
use std::time::Duration;

use pinhole_protocol::{
    Fsync, FsyncFlags, Handle, Link, Lookup, Name, NodeId, Open, OpenFlags, Operation, Rename, RenameFlags,
    Unlink, Write, WriteFlags,
};
use pinhole_tests::daemon::{Daemon, Serving};
use pinhole_tests::frontend::Frontend;
use pinhole_tests::frontend::frame::u64_at;
use pinhole_tests::guest::Guest;
use pinhole_tests::power::{FileSystem, LoggedDisk, Moment, Recording};

/// How the guest's shares are served.
const MODES: [(&str, &[&str]); 5] = [
    ("strict", &["--cache=strict"]),
    ("auto", &["--cache=auto"]),
    ("exclusive", &["--cache=exclusive"]),
    ("writeback", &["--cache=auto", "--writeback"]),
    ("exclusive-writeback", &["--cache=exclusive", "--writeback"]),
];

/// Ways to say that what is written shall be durable. Past the guest's cache too, where one handle is not like the others.
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

/// What `guest_scripts/durable.py` has as well.
const OLD_LEN: usize = 16384;
const OFFSET: usize = 4000;
const LEN: usize = 6000;

/// One thing that the guest does, and is told that it is done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Step {
    share: &'static str,
    way: &'static str,
    /// `new`, or `old`: the file is there before.
    file: &'static str,
}

impl Step {
    fn all() -> Vec<Self> {
        let of_share = |share| {
            let data =
                WAYS.into_iter().flat_map(move |way| ["new", "old"].map(|file| Self { share, way, file }));
            // What a directory's fsync is for; and a file that nobody syncs, without which the rest would prove nothing.
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

    /// What the file shall hold; `None` where it shall be gone.
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

/// A daemon that serves the folder under its tag.
fn serve(folder: &Path, tag: &str, arguments: &[&str]) -> Serving {
    let daemon = Daemon::pinhole(folder).unwrap().argument(format!("--tag={tag}"));
    arguments.iter().fold(daemon, |daemon, argument| daemon.argument(*argument)).start().unwrap()
}

/// The file's content, or `None` where there is no such file.
fn content(path: &Path) -> Option<Vec<u8>> {
    match fs::read(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => None,
        read => Some(read.unwrap()),
    }
}

/// Lets one guest with a share in each mode do all steps, and gives back when each was acknowledged.
fn perform(disk: &LoggedDisk, steps: &[Step]) -> Vec<Moment> {
    let control = tempfile::tempdir().unwrap();
    let mut daemons = vec![("control", serve(control.path(), "control", &["--cache=never"]))];
    daemons.extend(MODES.map(|(tag, arguments)| (tag, serve(&disk.folder(), tag, arguments))));
    let lines = steps.iter().enumerate();
    let lines = lines.map(|(number, step)| format!("{number} {} {} {}\n", step.share, step.way, step.file));
    let guest = Guest::uml().userland().file("steps", 0o644, lines.collect::<String>()).file(
        "durable.py",
        0o644,
        include_str!("guest_scripts/durable.py"),
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

/// What of the step is left after a loss of power.
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
fn what_a_guest_was_told_is_on_disk_survives_a_loss_of_power_on_ext4() {
    every_acknowledged_step_survives(FileSystem::Ext4);
}

#[test]
fn what_a_guest_was_told_is_on_disk_survives_a_loss_of_power_on_xfs() {
    every_acknowledged_step_survives(FileSystem::Xfs);
}

#[test]
fn what_a_guest_was_told_is_on_disk_survives_a_loss_of_power_on_btrfs() {
    every_acknowledged_step_survives(FileSystem::Btrfs);
}

/// A guest at the wire, which alone decides what is looked up, opened and kept open.
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
        let found = self.ask(parent, &Operation::Lookup(Lookup { name }), &[]);
        NodeId(u64_at(&found, 0).unwrap())
    }

    fn open(&mut self, node: NodeId) -> Handle {
        let open = Open { flags: OpenFlags::from_bits_retain(O_RDWR), kill_suidgid: false };
        Handle(u64_at(&self.ask(node, &Operation::Open(open), &[]), 0).unwrap())
    }

    fn write(&mut self, node: NodeId, handle: Handle, flags: OpenFlags) {
        let size = u32::try_from(NEW.len()).unwrap();
        let write_flags = WriteFlags::empty();
        let write = Write { handle, offset: 0, size, write_flags, lock_owner: None, flags };
        self.ask(node, &Operation::Write(write), NEW);
    }
}

const O_RDWR: u32 = 2;
const NEW: &[u8] = b"what must not be lost";

/// How the first name is taken from the file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Taking {
    Rename,
    Unlink,
}

/// How its data is made durable.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Asking {
    Fsync,
    DataSync,
    DsyncWrite,
    SyncWrite,
}

/// In `folder` of the disk: a file gets a second name, the first is taken from it, and what is then written through the
/// second is made durable. `first` is open all the while where `held`.
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
    guest.ask(found, &Operation::Fsync(Fsync { handle, flags }), &[]);
}

/// btrfs logs a file with the name by which it was opened, which for a daemon is the one that was looked up first.
#[test]
fn what_is_written_under_a_second_name_survives_when_the_first_has_been_taken_from_the_file() {
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
                        // What the disk does not know yet has no other name there than the fsync's.
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
