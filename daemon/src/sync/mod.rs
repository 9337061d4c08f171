//! Synchronization between threads: an event counter and a bounded channel.

pub(crate) mod budget;
pub(crate) mod channel;
pub mod event;
