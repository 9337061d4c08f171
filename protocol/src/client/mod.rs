//! The guest's side of the protocol: encodes requests and decodes replies.
//!
//! Tests, fuzzers and the front-end of the tests use this module; the daemon never does. The module
//! is in this crate so that each layout is defined once for both directions.

mod reply;
mod request;

pub use reply::{
    Dirents, OutHeader, ReplyError, decode_attr, decode_created, decode_entry, decode_init, decode_ioctl,
    decode_lock, decode_open, decode_out_header, decode_statfs, decode_statx, decode_u32, decode_u64,
    dirents, dirents_plus,
};
pub use request::{encode_extensions, encode_request, forget_records, header, mapping_records};
