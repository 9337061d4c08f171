//! Invariants for any bytes as a message, any declared payload length, and either dialect:
//!
//! 1. Decoding does not panic. The result is a request, a request with an error, or no header.
//! 2. Decoding fails without a header exactly if the message has fewer than 40 bytes.
//! 3. The errno of an error is from 1 to 4,095, the range that the guest's kernel accepts.
//! 4. Iterators over records return no more records than the bytes can hold.
//! 5. A decoded operation that is encoded again, as a guest does, decodes to the same operation.
#![no_main]

use libfuzzer_sys::fuzz_target;
use pinhole_fuzz::script::split;
use pinhole_protocol::client::encode_request;
use pinhole_protocol::{DecodeError, Dialect, HEADER_LEN, Operation, Request};

// An input is one byte of switches, two bytes of a declared payload length, and the message with
// the data of its WRITE. The length field of the message is corrected unless a switch forbids it.
// Otherwise few inputs would get past the check of that field.
/// Switch: SETXATTR has its extended layout.
const SETXATTR_EXT: u8 = 1;
/// Switch: the length field of the message stays as it is.
const KEEP_DECLARED_LEN: u8 = 2;
/// Switch: LOOKUP may have the name "." or "..".
const LOOKUP_DOTS: u8 = 4;

fuzz_target!(|input: &[u8]| {
    let Some((&[switches, low, high], message)) = input.split_first_chunk() else { return };
    let dialect =
        Dialect { setxattr_ext: switches & SETXATTR_EXT != 0, lookup_dots: switches & LOOKUP_DOTS != 0 };
    let (message, payload) = split(message);
    let payload_len = payload.len() + usize::from(u16::from_le_bytes([low, high]));
    let whole = u32::try_from(message.len() + payload_len).expect("inputs are shorter than 4 GiB");
    let mut message = message.to_vec();
    if switches & KEEP_DECLARED_LEN == 0
        && let Some(len) = message.first_chunk_mut()
    {
        *len = whole.to_le_bytes();
    }
    match Request::decode(&message, payload_len, dialect) {
        Err(error) => assert!(message.len() < HEADER_LEN && error.len == message.len(), "{error}"),
        Ok(request) => {
            assert!(message.len() >= HEADER_LEN);
            match request.operation {
                Err(error) => check_error(error),
                Ok(operation) => check_operation(&request, &operation, &message, dialect),
            }
        }
    }
});

/// Checks invariant 3.
fn check_error(error: DecodeError) {
    assert!((1..=4095).contains(&error.errno().raw()), "{error}");
    assert!(!error.to_string().is_empty());
}

/// Checks invariants 4 and 5.
fn check_operation(request: &Request<'_>, operation: &Operation<'_>, message: &[u8], dialect: Dialect) {
    match operation {
        Operation::BatchForget(batch) => assert!(batch.iter().count() <= message.len() / 16),
        Operation::RemoveMapping(remove) => assert!(remove.iter().count() <= message.len() / 16),
        _ => {}
    }
    // The data of a WRITE is not part of the message. Zeros replace it here.
    let payload = match operation {
        Operation::Write(write) => vec![0; usize::try_from(write.size).expect("usize has 64 bits")],
        _ => Vec::new(),
    };
    let mut again = Vec::new();
    encode_request(&request.header, operation, &payload, dialect, &mut again);
    again.truncate(again.len() - payload.len());
    let second = Request::decode(&again, payload.len(), dialect).expect("it has a header");
    assert_eq!(second.header, request.header);
    assert_eq!(second.operation, Ok(*operation));
}
