//! The back channel as the DAX window uses it: `SHMEM_MAP` and `SHMEM_UNMAP` of shared memory region 0.
//!
//! The crate sends a message and waits for its answer under a mutex, without a limit of time; so a thread of its own does
//! nothing else, and nobody waits for that thread without one.

use crate::log_budget::Source;
use crate::session::{Message, Messenger, Window};
use pinhole_dax_cache::Failure;
use std::io;
use std::os::fd::BorrowedFd;
use std::sync::Arc;
use std::thread;
use vhost::vhost_user::message::{VhostUserMMap, VhostUserMMapFlags};
use vhost::vhost_user::{Backend, Error as ProtocolError, VhostUserFrontendReqHandler as _};

/// What goes wrong with back channels, for the log.
static LOG: Source = Source::new();

/// The front-end's end of it.
struct FrontEnd(Backend);

/// Starts the thread that talks through `backend` for the window, until another one takes its place or the connection is
/// over. Without it there is no window.
pub(super) fn attend(window: &Arc<Window>, backend: Backend) {
    let Some(attendance) = window.connect() else {
        if let Some(suppressed) = LOG.pass() {
            tracing::error!(
                suppressed,
                "no DAX window: too many back channels on which a front-end does not answer"
            );
        }
        return;
    };
    let thread = thread::Builder::new().name("window".to_owned());
    if let Err(error) = thread.spawn(move || attendance.attend(&FrontEnd(backend))) {
        if let Some(suppressed) = LOG.pass() {
            tracing::error!(%error, suppressed, "no DAX window: cannot start its thread");
        }
        window.disconnect();
    }
}

fn request(window_offset: u64, len: u64) -> VhostUserMMap {
    VhostUserMMap { shmid: 0, shm_offset: window_offset, len, ..VhostUserMMap::default() }
}

/// A refusal is an answer; after anything else the channel is of no use.
fn failure(error: &io::Error) -> Failure {
    let source = error.get_ref().and_then(|source| source.downcast_ref());
    if matches!(source, Some(ProtocolError::FrontendInternalError)) {
        return Failure::Refused;
    }
    if let Some(suppressed) = LOG.pass() {
        tracing::warn!(%error, suppressed, "the back channel is of no use any more");
    }
    Failure::Gone
}

impl Messenger for FrontEnd {
    fn map(&self, message: &Message, file: BorrowedFd<'_>) -> Result<(), Failure> {
        let flags = if message.writable { VhostUserMMapFlags::WRITABLE } else { VhostUserMMapFlags::empty() };
        let place = request(message.window_offset, message.len);
        let request = VhostUserMMap { fd_offset: message.file_offset, flags: flags.bits(), ..place };
        self.0.shmem_map(&request, &file).map(drop).map_err(|error| failure(&error))
    }

    fn unmap(&self, window_offset: u64, len: u64) -> Result<(), Failure> {
        self.0.shmem_unmap(&request(window_offset, len)).map(drop).map_err(|error| failure(&error))
    }
}
