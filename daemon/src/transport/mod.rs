//! The transports, by which requests reach the session: vhost-user virtqueues, and /dev/fuse.

pub mod chain;
mod deferred;
pub mod dev_fuse;
pub mod vhost_user;
