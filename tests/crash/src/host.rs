//! What a thread of the suite owns: its folder, an empty file system of one kind, and a disk for
//! crash states.

use std::io;
use std::time::{Duration, Instant};

use pinhole_tests::disk_faults::FileSystem;

use crate::disk::image::{Image, make};
use crate::disk::mounts::Work;
use crate::disk::replay::ReplayDisk;
use crate::disk::states::Bounds;
use crate::drive::subject::Subject;
use crate::program::Program;
use crate::record::{Left, Played, crash, play};

/// Means of a thread. All mounts are in the thread's own mount namespace.
#[derive(Debug)]
pub(crate) struct Host {
    kind: FileSystem,
    image: Image,
    // Dropped in this order.
    replay: ReplayDisk,
    work: Work,
    rate: Rate,
}

/// Crash states and the time for them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Rate {
    /// Number of crash states that were built, mounted and read.
    pub(crate) states: u64,
    /// Time of one thread.
    pub(crate) took: Duration,
}

/// Program that was played with one subject.
#[derive(Clone, Debug)]
pub(crate) struct Run {
    /// What happened.
    pub(crate) played: Played,
    /// What is left after each crash state.
    pub(crate) left: Vec<Left>,
}

impl Host {
    /// Makes the means for one file system.
    ///
    /// # Errors
    /// Fails without root, loop devices, or the part `disks`.
    pub(crate) fn new(kind: FileSystem) -> io::Result<Self> {
        let work = Work::new()?;
        let image = make(kind, &work.join(""))?;
        let replay = ReplayDisk::new(kind, image.len(), &work)?;
        Ok(Self { kind, image, replay, work, rate: Rate::default() })
    }

    /// Returns the file system.
    pub(crate) const fn kind(&self) -> FileSystem {
        self.kind
    }

    /// Plays programs with a subject and reads their crash states. Returns a run for each program.
    ///
    /// # Errors
    /// Fails if the subject does not start or end.
    pub(crate) fn run(
        &mut self,
        subject: &Subject,
        programs: &[Program],
        bounds: Bounds,
    ) -> io::Result<Vec<Run>> {
        let recording = play((self.kind, &self.image), subject, programs, &self.work)?;
        let began = Instant::now();
        let left = crash(&recording, &mut self.replay, bounds)?;
        self.rate.took += began.elapsed();
        self.rate.states += left.iter().map(|left| left.len() as u64).sum::<u64>();
        let runs = recording.played.into_iter().zip(left);
        Ok(runs.map(|(played, left)| Run { played, left }).collect())
    }

    /// Takes the crash states that were counted since the last call.
    pub(crate) const fn take_rate(&mut self) -> Rate {
        std::mem::replace(&mut self.rate, Rate { states: 0, took: Duration::ZERO })
    }
}
