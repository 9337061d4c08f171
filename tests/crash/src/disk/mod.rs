//! Disks of the crash suite: a small disk whose requests are recorded, and the disks that a loss of
//! power would leave ([decision 0017](../../../../docs/decisions/0017-crash-suite.md)).
//!
//! | file | task |
//! |---|---|
//! | `image` | the content of a disk; the disks that `mkfs` makes |
//! | `messages`, `server` | the recorded disk as a file on /dev/fuse |
//! | `recorded` | a file system that is mounted on it |
//! | `log` | its writes and flushes |
//! | `replay` | a disk that takes any content and is mounted |
//! | `states` | the contents that a loss of power may leave |
//! | `mounts`, `loop_device` | mounts and commands; loop devices |

pub(crate) mod image;
pub(crate) mod log;
mod loop_device;
mod messages;
pub(crate) mod mounts;
pub(crate) mod recorded;
pub(crate) mod replay;
mod server;
pub(crate) mod states;
