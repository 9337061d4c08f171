//! The back channel for the DAX window: `SHMEM_MAP` and `SHMEM_UNMAP` of shared memory region 0.
//!
//! The vhost crate sends a message and waits for its reply under a mutex, without a time limit. So
//! one thread does only that, and every other thread waits for it with a time limit.

use crate::log_budget::Source;
use crate::window::{MapMessage, ShmemFrontEnd, Window};
use pinhole_dax_cache::Failure;
use std::io;
use std::os::fd::BorrowedFd;
use std::sync::Arc;
use std::thread;
use vhost::vhost_user::message::{VhostUserMMap, VhostUserMMapFlags};
use vhost::vhost_user::{Backend, Error as ProtocolError, VhostUserFrontendReqHandler as _};

/// Limits log lines about errors of back channels.
static LOG: Source = Source::new();

/// Front-end at the other end of the back channel.
struct FrontEnd(Backend);

/// Starts the thread that serves the window through `backend`, until another back channel replaces
/// it or the connection ends. Without the thread there is no window.
pub(super) fn start(window: &Arc<Window>, backend: Backend) {
    let Some(channel) = window.connect() else {
        if let Some(suppressed) = LOG.pass() {
            tracing::error!(
                suppressed,
                "no DAX window: too many back channels on which a front-end does not reply"
            );
        }
        return;
    };
    let thread = thread::Builder::new().name("window".to_owned());
    if let Err(error) = thread.spawn(move || channel.serve(&FrontEnd(backend))) {
        if let Some(suppressed) = LOG.pass() {
            tracing::error!(%error, suppressed, "no DAX window: cannot start its thread");
        }
        window.disconnect();
    }
}

fn request(window_offset: u64, len: u64) -> VhostUserMMap {
    VhostUserMMap { shmid: 0, shm_offset: window_offset, len, ..VhostUserMMap::default() }
}

/// Returns the kind of an error. A refusal is a reply. After any other error the channel cannot be
/// used.
fn failure(error: &io::Error) -> Failure {
    let source = error.get_ref().and_then(|source| source.downcast_ref());
    if matches!(source, Some(ProtocolError::FrontendInternalError)) {
        return Failure::Refused;
    }
    if let Some(suppressed) = LOG.pass() {
        tracing::warn!(%error, suppressed, "the back channel is broken");
    }
    Failure::Gone
}

impl ShmemFrontEnd for FrontEnd {
    fn map(&self, message: &MapMessage, file: BorrowedFd<'_>) -> Result<(), Failure> {
        let flags = if message.writable { VhostUserMMapFlags::WRITABLE } else { VhostUserMMapFlags::empty() };
        let place = request(message.window_offset, message.len);
        let request = VhostUserMMap { fd_offset: message.file_offset, flags: flags.bits(), ..place };
        self.0.shmem_map(&request, &file).map(drop).map_err(|error| failure(&error))
    }

    fn unmap(&self, window_offset: u64, len: u64) -> Result<(), Failure> {
        self.0.shmem_unmap(&request(window_offset, len)).map(drop).map_err(|error| failure(&error))
    }
}
