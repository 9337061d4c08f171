//! A share with a file, guests that lock it, and the host's own list of locks.

use pinhole_tests::daemon::Serving;
use pinhole_tests::frontend::client::{Client, Opened, SharedFolder};
use pinhole_tests::frontend::locks::{HostLock, Lock, READ, WRITE, host_locks};
use pinhole_tests::frontend::{EVENT_IDX, INDIRECT, Setup};
use std::fs::{self, File};

pub(crate) const NOTHING: Vec<HostLock> = Vec::new();
/// Set-up with enough descriptors for a thousand requests.
pub(crate) const WIDE: Setup = Setup { queues: 2, queue_size: 1024, features: INDIRECT | EVENT_IDX };

/// Share with a `file`, and guests, each with its own daemon.
pub(crate) struct Scene {
    pub(crate) guests: Vec<Client>,
    pub(crate) daemons: Vec<Serving>,
    pub(crate) share: SharedFolder,
}

impl Scene {
    /// Starts this number of guests and their daemons.
    pub(crate) fn new(guests: usize) -> Self {
        Self::with(guests, &[])
    }

    /// As [`Scene::new`], with arguments of each daemon.
    pub(crate) fn with(guests: usize, arguments: &[&str]) -> Self {
        let mut scene = Self { guests: Vec::new(), daemons: Vec::new(), share: SharedFolder::new().unwrap() };
        fs::write(scene.share.host("file"), [7; 4096]).unwrap();
        for _ in 0..guests {
            let daemon = scene.share.serve(arguments).unwrap();
            scene.guests.push(Client::connect(daemon.socket(), WIDE).unwrap().0);
            scene.daemons.push(daemon);
        }
        scene
    }

    /// Returns the guest at `index`.
    pub(crate) fn guest(&mut self, index: usize) -> &mut Client {
        &mut self.guests[index]
    }

    /// Opens the file in the guest at `index`.
    pub(crate) fn open(&mut self, index: usize, flags: u32) -> Opened {
        self.guests[index].open("file", flags).unwrap()
    }

    /// Returns the locks of the file on the host.
    pub(crate) fn on_host(&self) -> Vec<HostLock> {
        host_locks(&self.share.host("file")).unwrap()
    }

    /// Opens the file as a host process, which this test is.
    pub(crate) fn file(&self) -> File {
        File::options().read(true).write(true).open(self.share.host("file")).unwrap()
    }
}

/// Returns a POSIX lock for writing.
pub(crate) fn write(owner: u64, start: u64, end: u64) -> Lock {
    Lock::posix(WRITE, owner, start, end)
}

/// Returns a POSIX lock for reading.
pub(crate) fn read(owner: u64, start: u64, end: u64) -> Lock {
    Lock::posix(READ, owner, start, end)
}

/// Returns the host's lock for a POSIX lock of a guest. Open file description locks exclude other
/// daemons and host processes.
pub(crate) fn posix(write: bool, start: u64, end: u64) -> HostLock {
    HostLock { family: "OFDLCK".to_owned(), start, end, write }
}
