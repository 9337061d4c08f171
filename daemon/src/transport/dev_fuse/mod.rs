//! The transport of `pinhole mount`: serves a session on `/dev/fuse` of the same host.
//!
//! The kernel passes one whole request with each read and takes one whole reply with each write. So
//! there are no queues, no guest memory and no device configuration here. The caller is the host's
//! own kernel and is trusted to frame its messages. DAX, SYNCFS, several queues and reconnection do
//! not exist here. Source: the kernel's `fs/fuse/dev.c` and
//! `Documentation/filesystems/fuse/fuse.rst`.

mod device;
mod fuse_thread;
mod mount;
mod own_mount;
mod service;

pub use fuse_thread::FuseError;
pub use mount::{MOUNT_OPTIONS, MountError, MountRequest, Mounted};
pub use service::{Service, StopMount};
