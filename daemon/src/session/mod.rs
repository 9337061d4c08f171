//! One guest's session with the share: the negotiated features, and the path of each request from
//! decoding to reply.

mod dax;
mod deferred;
mod dispatch;
mod effort;
mod ioctl;
mod locks;
mod options;
mod requirements;
mod serve;
mod slot;
mod state;
mod throttle;
mod waiters;

pub use crate::filesystem::{Pace, Repeat, StopCheck};
pub use deferred::Deferred;
pub use effort::Effort;
pub use options::{LockMode, Options};
pub use serve::{Incoming, Next, Pacing, Scratch, Session};
pub use slot::{Body, ReplySlot, Sink, SlotCounters};
