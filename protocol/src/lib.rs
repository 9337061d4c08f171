//! The FUSE wire format, version 7.45: decodes requests and encodes replies.
//!
//! [`Request::decode`] turns the bytes of one message into a [`Request`]. [`Reply::encode_into`]
//! turns a [`Reply`] into the bytes of its body, and [`out_header`] makes the header before it.
//!
//! A message is the bytes of one request, as the guest wrote them.
//!
//! The crate only translates between bytes and values. It does no I/O, reads no clock, keeps no
//! state between messages and holds no reference into guest memory: the caller copies a message
//! out of guest memory once and decodes the copy. The source is the kernel's `linux/fuse.h`. Its
//! spelling stays inside the private module `abi`.
#![forbid(unsafe_code)]
#![cfg_attr(not(test), deny(clippy::arithmetic_side_effects))]

mod abi;
pub mod client;
mod decode;
mod dirent;
mod enums;
mod errno;
mod error;
mod extension;
mod flags;
mod id;
mod init;
mod name;
mod opcode;
mod operation;
mod reply;
mod request;

pub use dirent::{Dirent, DirentBuffer, Full};
pub use enums::{AccessMode, DirentKind, LockKind, NodeKind, SetXattrMode, Whence};
pub use errno::Errno;
pub use error::{DecodeError, HeaderError};
pub use extension::{Extensions, Groups, SecurityContext, SecurityContexts};
pub use flags::{
    AccessMask, FallocateMode, FsyncFlags, InitFlags, IoctlFlags, OpenFlags, OpenReplyFlags, RenameFlags,
    WriteFlags,
};
pub use id::{Handle, LockOwner, NodeId, Unique};
pub use init::{Dialect, InitOffer, InitReply, InitRequest, Negotiated, negotiate};
pub use name::{LookupName, NAME_LEN_MAX, Name, NameError};
pub use opcode::{Opcode, OpcodeFacts};
pub use operation::*;
pub use reply::{
    Attr, Created, Entry, FileLock, OUT_HEADER_LEN, OpenReply, Reply, Statfs, Statx, Timeouts, Timestamp,
    attr_timeout, out_header,
};
pub use request::{HEADER_LEN, Header, MESSAGE_LEN_MAX, Request, WRITE_LEN, copied_len};

/// The wire structs and constants as tables. Tests compare them with the kernel's header.
#[cfg(feature = "test-utils")]
pub mod layout {
    pub use crate::abi::{FieldLayout, STRUCTS, StructLayout, constants};
}
