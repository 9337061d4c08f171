//! Plays programs on a recorded disk, and reads what is left of each after every crash state.

use std::fs::{self, File};
use std::io::{self, Write as _};
use std::path::Path;

use pinhole_tests::disk_faults::FileSystem;

use crate::disk::image::Image;
use crate::disk::log::{Entry, Log, Moment};
use crate::disk::mounts::{Purpose, Work};
use crate::disk::recorded::RecordedDisk;
use crate::disk::replay::ReplayDisk;
use crate::disk::states::{Bounds, CrashState, states};
use crate::drive::calls::{Calls, Syncs};
use crate::drive::subject::Subject;
use crate::program::Program;
use crate::snapshot::Snapshot;

/// Persistence operation that has returned.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Acknowledged {
    /// Number of steps up to then, this one included. 0 is the start.
    pub(crate) steps: usize,
    /// Moment of the disk.
    pub(crate) moment: Moment,
}

/// Program that was played.
#[derive(Clone, Debug)]
pub(crate) struct Played {
    /// The start and the persistence operations.
    pub(crate) acknowledged: Vec<Acknowledged>,
    /// Moment after a final sync of the file system.
    end: Moment,
    /// For each step its error, as text. `None` if it succeeded.
    pub(crate) outcomes: Vec<Option<String>>,
}

/// Disk with the log of some programs.
#[derive(Debug)]
pub(crate) struct Recording {
    image: Image,
    log: Log,
    /// The programs in their order.
    pub(crate) played: Vec<Played>,
}

/// What is left of a program after a loss of power.
#[derive(Clone, Debug)]
pub(crate) struct Left {
    /// Content of the disk.
    pub(crate) state: CrashState,
    /// The program's folder, or the reason why the file system cannot be read.
    pub(crate) found: Result<Snapshot, String>,
}

/// Returns the name of a program's folder.
fn folder_name(index: usize) -> String {
    format!("p{index}")
}

/// Plays programs one after another on one disk, each in its own folder. A sync of the file system
/// lies between two programs, so that no program makes data of another one durable.
///
/// # Errors
/// Fails if the disk or the subject does not start or end.
pub(crate) fn play(
    (kind, image): (FileSystem, &Image),
    subject: &Subject,
    programs: &[Program],
    work: &Work,
) -> io::Result<Recording> {
    let disk = RecordedDisk::start(kind, image.clone(), work)?;
    let folder = disk.folder().to_path_buf();
    let guests = programs.iter().flat_map(|program| &program.steps).map(|step| step.guest).max();
    let mut served = subject.serve(&folder, work, guests.unwrap_or(1))?;
    let mut played = Vec::new();
    for (index, program) in programs.iter().enumerate() {
        let name = folder_name(index);
        prepare(&folder, &name, program)?;
        let root = File::open(&folder)?;
        rustix::fs::syncfs(&root)?;
        let mut acknowledged = vec![Acknowledged { steps: 0, moment: disk.now() }];
        let mut outcomes = Vec::new();
        let driver = served.driver();
        driver.begin(&name)?;
        for (index, step) in program.steps.iter().enumerate() {
            let outcome = driver.step(step);
            if outcome.is_ok() && step.operation.is_persistence() {
                acknowledged.push(Acknowledged { steps: index + 1, moment: disk.now() });
            }
            outcomes.push(outcome.err().map(|error| error.to_string()));
        }
        driver.finish();
        rustix::fs::syncfs(&root)?;
        played.push(Played { acknowledged, end: disk.now(), outcomes });
    }
    served.end()?;
    Ok(Recording { image: image.clone(), log: disk.end()?, played })
}

/// Makes the folder of a program with everything that its setup makes.
fn prepare(root: &Path, name: &str, program: &Program) -> io::Result<()> {
    fs::create_dir(root.join(name))?;
    let mut calls = Calls::new(vec![root.join(name)], Syncs::Pass);
    for operation in &program.setup {
        calls
            .carry_out(1, operation)
            .map_err(|error| io::Error::other(format!("setup `{operation}` failed: {error}")))?;
    }
    Ok(())
}

/// Content of a recorded disk that moves forward and backward in the log.
struct Cursor<'r> {
    image: Image,
    log: &'r Log,
    at: Moment,
    /// For each applied entry since the last [`Cursor::forget`], the bytes that it replaced.
    replaced: Vec<Option<(u64, Vec<u8>)>>,
}

impl Cursor<'_> {
    /// Moves to a moment. It is not before the moment of the last [`Cursor::forget`].
    fn go_to(&mut self, moment: Moment) {
        while self.at > moment {
            self.undo();
            self.at.0 -= 1;
        }
        while self.at < moment {
            self.apply(self.at.0);
            self.at.0 += 1;
        }
    }

    /// Applies the entry with an index.
    fn apply(&mut self, index: usize) {
        for entry in self.log.between(Moment(index), Moment(index + 1)) {
            let replaced = match entry {
                Entry::Write { at, bytes } => Some((*at, self.image.get(*at, bytes.len()).to_vec())),
                Entry::Flush => None,
            };
            self.replaced.push(replaced);
            self.image.apply(entry);
        }
    }

    fn undo(&mut self) {
        if let Some((at, bytes)) = self.replaced.pop().flatten() {
            self.image.write(at, &bytes);
        }
    }

    /// Declares that the cursor will not move before the current moment.
    fn forget(&mut self) {
        self.replaced.clear();
    }
}

/// Mounts the crash states of each program, at most as many as the bounds say, and reads the
/// program's folder. Returns a list for each program.
///
/// # Errors
/// Fails if the host cannot hold a state.
pub(crate) fn crash(
    recording: &Recording,
    disk: &mut ReplayDisk,
    bounds: Bounds,
) -> io::Result<Vec<Vec<Left>>> {
    let mut cursor =
        Cursor { image: recording.image.clone(), log: &recording.log, at: Moment(0), replaced: Vec::new() };
    let mut all = Vec::new();
    for (index, played) in recording.played.iter().enumerate() {
        let start = played.acknowledged.first().map_or(Moment(0), |first| first.moment);
        cursor.go_to(recording.log.durable_at(start));
        cursor.forget();
        let moments: Vec<Moment> = played.acknowledged.iter().map(|point| point.moment).collect();
        let mut left: Vec<Left> = Vec::new();
        for state in states(&recording.log, &(start..=played.end), &moments, bounds) {
            cursor.go_to(state.prefix);
            for write in &state.later {
                cursor.apply(*write);
            }
            // One state of each program is also written to.
            let purpose = if left.len() + 1 == moments.len() { Purpose::Write } else { Purpose::Read };
            let found = read(disk, &cursor.image, &folder_name(index), purpose)?;
            for _write in &state.later {
                cursor.undo();
            }
            left.push(Left { state, found });
        }
        cursor.go_to(recording.log.durable_at(start));
        all.push(left);
    }
    Ok(all)
}

/// Mounts a crash state and reads a folder. The inner error is the reason why it cannot be read, or
/// not be written for [`Purpose::Write`].
fn read(
    disk: &mut ReplayDisk,
    image: &Image,
    folder: &str,
    purpose: Purpose,
) -> io::Result<Result<Snapshot, String>> {
    disk.fill(image)?;
    let mut read = || {
        let left = disk.mount(purpose)?;
        let snapshot = Snapshot::read(&left.folder().join(folder))?;
        if purpose == Purpose::Write {
            write(left.folder())
                .map_err(|error| io::Error::other(format!("cannot be written after the mount: {error}")))?;
        }
        Ok(snapshot)
    };
    Ok(read().map_err(|error: io::Error| error.to_string()))
}

/// Writes, syncs and removes a file.
fn write(folder: &Path) -> io::Result<()> {
    let path = folder.join("written-after-the-crash");
    let mut file = File::create_new(&path)?;
    file.write_all(b"data")?;
    file.sync_all()?;
    fs::remove_file(path)
}
