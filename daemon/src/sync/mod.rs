//! Synchronization between threads: locks, an event counter, a bounded channel, a budget of
//! descriptors, the clock, and the thread that serves queue threads.

pub(crate) mod budget;
pub(crate) mod channel;
pub(crate) mod clock;
pub mod event;
pub(crate) mod lock;
pub(crate) mod relay;
