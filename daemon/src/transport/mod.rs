//! How requests reach the session: vhost-user virtqueues, or /dev/fuse.

pub mod chain;
pub mod dev_fuse;
mod parking;
mod sink;
pub mod vhost_user;
