//! Requests that wait for the front-end: SETUPMAPPING, REMOVEMAPPING, and INIT of a guest that wants to map.
//!
//! Unlike those in the pool ([`super::pool`]) they hold no thread and no memory while they wait. The front-end may have to
//! change the guest's memory before it can answer (QEMU sends ADD_MEM_REG around its answer), and who changes that waits
//! for all who use it. One thread answers them when their outcome is there or their time is over.

use super::request::Taken;
use super::ring::Deferral;
use super::split_ring::Done;
use crate::handoff::handoff;
use crate::host::FileSystem;
use crate::session::{Parked, Scratch, Session, Window};
use pinhole_policy::host_calls::Threads;
use pinhole_protocol::Errno;
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};

/// A request that waits for the front-end.
#[derive(Debug)]
pub(super) struct Stay {
    pub(super) parked: Parked,
    /// What it says, and where the answer goes.
    pub(super) taken: Taken,
    /// Index of its first descriptor.
    pub(super) head: u16,
    /// Its way back; it has stepped aside.
    pub(super) deferral: Deferral,
}

/// Those of one connection.
#[derive(Debug)]
pub(super) struct Parking {
    shared: Arc<Shared>,
    thread: Mutex<Option<JoinHandle<()>>>,
}

#[derive(Debug)]
struct Shared {
    window: Arc<Window>,
    places: Mutex<Places>,
}

#[derive(Debug, Default)]
struct Places {
    stays: Vec<Stay>,
    over: bool,
}

impl Parking {
    /// Starts the thread that answers them.
    ///
    /// # Errors
    /// Where the host has no thread left, or it cannot be made fit to serve.
    pub(super) fn start<F: FileSystem + 'static>(
        session: &Arc<Session<F>>,
        window: &Arc<Window>,
    ) -> io::Result<Self> {
        let shared = Arc::new(Shared { window: Arc::clone(window), places: Mutex::default() });
        let (fit, is_fit) = handoff(1);
        let (own, session) = (Arc::clone(&shared), Arc::clone(session));
        let thread = thread::Builder::new().name("window-answers".to_owned()).spawn(move || {
            let prepared = session.enter_thread(Threads::OFFLOAD);
            let failed = prepared.is_err();
            if fit.offer(prepared).is_ok() && !failed {
                own.answer_all(&session);
            }
        })?;
        is_fit.take().ok_or(io::ErrorKind::BrokenPipe)??;
        Ok(Self { shared, thread: Mutex::new(Some(thread)) })
    }

    /// Takes a request in.
    pub(super) fn park(&self, stay: Stay) {
        self.shared.lock().stays.push(stay);
        self.shared.window.wake();
    }

    /// Ends the thread; by then no request may be left. Not for it to call: a request that waits holds its ring, and that
    /// its worker, and that this.
    pub(super) fn end(&self) {
        self.shared.lock().over = true;
        self.shared.window.wake();
        let thread = self.thread.lock().unwrap_or_else(PoisonError::into_inner).take();
        if thread.is_some_and(|thread| thread.join().is_err()) {
            tracing::error!("the thread that answers for the window ended by a panic");
        }
    }
}

impl Drop for Parking {
    fn drop(&mut self) {
        self.end();
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Places> {
        // Nothing is left half done under this lock.
        self.places.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn answer_all<F: FileSystem>(&self, session: &Session<F>) {
        let mut scratch = Scratch::default();
        loop {
            let seen = self.window.events();
            let ready = self.take_ready();
            for (stay, result) in ready {
                stay.answer(session, result, &mut scratch);
            }
            let until = {
                let places = self.lock();
                if places.over {
                    return;
                }
                places.stays.iter().map(|stay| stay.parked.pending().deadline()).min()
            };
            self.window.wait(seen, until);
        }
    }

    fn take_ready(&self) -> Vec<(Stay, Result<(), Errno>)> {
        let mut places = self.lock();
        let mut ready = Vec::new();
        for stay in std::mem::take(&mut places.stays) {
            match self.window.outcome(stay.parked.pending()) {
                Some(result) => ready.push((stay, result)),
                None => places.stays.push(stay),
            }
        }
        ready
    }
}

impl Stay {
    fn answer<F: FileSystem>(self, session: &Session<F>, result: Result<(), Errno>, scratch: &mut Scratch) {
        let Self { parked, taken, head, mut deferral } = self;
        let memory = deferral.come_back();
        let len = taken.settle((session, memory.view()), &parked, result, scratch);
        deferral.give_back(&memory, Done { head, len });
        drop((memory, deferral));
    }
}
