//! The vhost-user transport: device 26 on a Unix socket, with one queue thread per queue.
//!
//! `connection` accepts and ends connections. `backend` is the device as the crate
//! vhost-user-backend calls it. `ring` starts and stops the service of each queue on its
//! `queue_thread`. The loop in `queue` takes requests from the `split_ring` and passes each
//! `request` through [`super::chain`] to [`crate::session`] and back. `offload` serves requests
//! that would hold up the queue. `deferred` has the requests that wait for the front-end, to which
//! `back_channel` talks, or for a lock.

mod back_channel;
mod backend;
mod connection;
mod deferred;
mod in_flight;
mod leases;
mod listener;
mod offload;
mod options;
mod queue;
mod queue_thread;
mod regions;
mod request;
mod ring;
mod sleep;
mod socket_name;
mod split_ring;
mod stop;

use std::io;
use std::path::PathBuf;

pub use connection::serve;
pub use listener::{ListenAt, SocketListener};
pub use options::{DeviceOptions, RequestQueues, RequestQueuesError, Tag, TagError};
pub use sleep::PollBudget;
pub use socket_name::SocketName;
pub use stop::Stop;

/// Reason why the daemon cannot serve.
#[derive(Debug, thiserror::Error)]
#[expect(missing_docs, reason = "each field is what its message says")]
pub enum ServeError {
    /// Another process listens at the path.
    #[error("{path} is in use: another daemon listens there: stop it, or give another --socket-path", path = .path.display())]
    InUse { path: PathBuf },
    /// A file at the path is not a socket.
    #[error("{path} exists and is not a socket: remove it, or give another --socket-path", path = .path.display())]
    NotASocket { path: PathBuf },
    /// The socket could not be made.
    #[error("{path}: cannot listen here: {source}; give a --socket-path that this user may create", path = .path.display())]
    Bind { path: PathBuf, source: io::Error },
    /// The socket could not be given to the group.
    #[error(
        "--socket-group: cannot give {path} to group {group}: {source}; give a group of this user",
        path = .path.display()
    )]
    Group { path: PathBuf, group: u32, source: io::Error },
    /// The descriptor could not be taken.
    #[error("--fd {number}: {source}; pass a listening Unix stream socket as this descriptor")]
    Descriptor { number: i32, source: io::Error },
    /// The descriptor is not a listening Unix stream socket.
    #[error("--fd {number} is not a listening Unix stream socket: pass one as this descriptor")]
    NotListening { number: i32 },
    /// Waiting for a connection failed.
    #[error("host: cannot accept a connection: {0}; raise --rlimit-nofile")]
    Accept(io::Error),
    /// vhost-user-backend could not be set up.
    #[error("host: cannot set up the device: {0}; raise the limits on threads and open files")]
    Backend(vhost_user_backend::Error),
    /// A thread could not be started.
    #[error(
        "host: cannot start the thread that answers deferred requests: {0}; raise the limit on threads (TasksMax, \
         RLIMIT_NPROC)"
    )]
    Offload(io::Error),
    /// The event for a stop could not be made.
    #[error("host: cannot make an event: {0}; raise --rlimit-nofile")]
    Event(io::Error),
}
