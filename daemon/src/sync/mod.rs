//! Synchronization between threads: locks, an event counter, a bounded channel, a budget of
//! descriptors, and the clock.

pub(crate) mod budget;
pub(crate) mod channel;
pub(crate) mod clock;
pub mod event;
pub(crate) mod lock;
