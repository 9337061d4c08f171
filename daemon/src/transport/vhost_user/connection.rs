//! The life of connections: wait for one, serve it to its end, forget its guest.

use super::backend::Device;
use super::listener::SocketListener;
use super::offload::{OffloadService, PoolLimits};
use super::options::DeviceOptions;
use super::queue_thread::QueueThread;
use super::{ServeError, Stop};
use crate::filesystem::FileSystem;
use crate::log_budget::Source;
use crate::session::Session;
use crate::sys::memory;
use rustix::event::{PollFd, PollFlags};
use std::sync::Arc;
use vhost::vhost_user::{Error as ProtocolError, Listener as VhostListener};
use vhost_user_backend::Error as BackendError;

/// Limits log lines about connections. A guest that can restart its VMM can cause them too.
static CONNECTED: Source = Source::of_news();
static DISCONNECTED: Source = Source::of_news();
static NOT_SERVED: Source = Source::new();

/// Serves connections on `listener`: only the first, or with `options.keep_listening` one after
/// another until `stop`. However a connection ends, its queues are stopped and its guest is
/// forgotten before the next one begins, or before this returns.
///
/// # Errors
/// An error that keeps the daemon from serving at all. An error of a front-end ends only its
/// connection.
pub fn serve<F: FileSystem + 'static>(
    listener: &SocketListener,
    session: &Arc<Session<F>>,
    options: &DeviceOptions,
    stop: &Stop,
) -> Result<(), ServeError> {
    let mut accepting = VhostListener::from(listener.socket()?);
    let threads = QueueThread::for_queues(options.queues(), &options.threads);
    while wait_for_connection(listener, stop)? {
        match serve_one((&mut accepting, &threads), session, options, stop) {
            // The host may be out of descriptors or threads for a moment. The daemon must stay
            // alive.
            Err(error) if options.keep_listening => {
                if let Some(suppressed) = NOT_SERVED.pass() {
                    tracing::error!(%error, suppressed, "a connection was not served");
                }
                pause(stop);
            }
            ended => ended?,
        }
        if !options.keep_listening {
            break;
        }
    }
    Ok(())
}

/// Waits for a connection. Returns false if it is time to stop.
fn wait_for_connection(listener: &SocketListener, stop: &Stop) -> Result<bool, ServeError> {
    loop {
        let mut polled = [PollFd::new(listener, PollFlags::IN), PollFd::new(stop.event(), PollFlags::IN)];
        match rustix::event::poll(&mut polled, None) {
            Ok(_) if stop.requested() => return Ok(false),
            Ok(_) => return Ok(true),
            Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(ServeError::Accept(error.into())),
        }
    }
}

/// Waits a second, or until it is time to stop.
fn pause(stop: &Stop) {
    let mut polled = [PollFd::new(stop.event(), PollFlags::IN)];
    let second = rustix::event::Timespec { tv_sec: 1, tv_nsec: 0 };
    if let Err(error) = rustix::event::poll(&mut polled, Some(&second)) {
        tracing::debug!(%error, "a pause was cut short");
    }
}

fn serve_one<F: FileSystem + 'static>(
    (accepting, threads): (&mut VhostListener, &[Arc<QueueThread>]),
    session: &Arc<Session<F>>,
    options: &DeviceOptions,
    stop: &Stop,
) -> Result<(), ServeError> {
    let limits = PoolLimits { threads: options.pool_threads, requests: options.pool_requests_max };
    // The service has a thread before the front-end is accepted, so every request can be served.
    let offload =
        OffloadService::start(session, limits, options.threads.clone()).map_err(ServeError::Offload)?;
    let served = Device::connect(session, options, &offload, threads).and_then(|(device, mut daemon)| {
        daemon.start(accepting)?;
        if let Some(suppressed) = CONNECTED.pass() {
            tracing::info!(suppressed, "front-end connected");
        }
        if let Some(handle) = daemon.shutdown_handle() {
            stop.watch(handle);
        }
        let ended = daemon.wait();
        stop.unwatch();
        report(ended);
        device.stop();
        Ok(())
    });
    if let Some(window) = session.window() {
        window.disconnect();
    }
    offload.end();
    drop(offload);
    // A guest that knew millions of files leaves much free memory.
    memory::give_back_free_memory();
    served.map_err(ServeError::Backend)
}

/// Logs how a connection ended. The socket of a VMM that ends closes, perhaps within a message.
fn report(ended: Result<(), BackendError>) {
    match ended {
        Ok(())
        | Err(BackendError::HandleRequest(ProtocolError::Disconnected | ProtocolError::PartialMessage)) => {
            if let Some(suppressed) = DISCONNECTED.pass() {
                tracing::info!(suppressed, "front-end disconnected");
            }
        }
        Err(error) => {
            if let Some(suppressed) = DISCONNECTED.pass() {
                tracing::warn!(%error, suppressed, "connection ended");
            }
        }
    }
}
