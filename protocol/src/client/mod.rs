//! The guest's side of the wire: requests encoded, replies decoded.
//!
//! Tests, fuzzers and the front-end that plays a guest speak through this; the daemon never does. It is here, beside
//! the other direction, so that each layout is written down once.

mod reply;
mod request;

pub use reply::{
    Dirents, OutHeader, ReplyError, decode_attr, decode_created, decode_entry, decode_init, decode_ioctl,
    decode_lock, decode_open, decode_out_header, decode_statfs, decode_statx, decode_u32, decode_u64,
    dirents, dirents_plus,
};
pub use request::{encode_extensions, encode_request, forget_records, header, mapping_records};
