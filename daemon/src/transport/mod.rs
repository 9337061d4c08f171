//! How requests reach the session: vhost-user virtqueues, or /dev/fuse.

pub mod chain;
mod sink;
pub mod vhost_user;
