//! Invariants, for any bytes as a message, any length said to follow and either dialect:
//!
//! 1. decoding ends, without a panic, in a request, in a request with an error, or in no header at all;
//! 2. there is no header exactly where there are fewer than 40 bytes;
//! 3. an error becomes an errno from 1 to 4,095, never a number that the guest's kernel has no word for;
//! 4. iterators over records end after as many records as the bytes can hold;
//! 5. a decoded operation, written again as a guest writes it, decodes to the same operation.
#![no_main]

use libfuzzer_sys::fuzz_target;
use pinhole_fuzz::script::split;
use pinhole_protocol::client::encode_request;
use pinhole_protocol::{DecodeError, Dialect, HEADER_LEN, Operation, Request};

// An input is one byte of switches, two of a length that is said to follow, and the message with the data of its
// WRITE. The message's own length is put right unless a switch says no, or little behind that check would be reached.
const SETXATTR_EXT: u8 = 1;
const KEEP_DECLARED_LEN: u8 = 2;

fuzz_target!(|input: &[u8]| {
    let Some((&[switches, low, high], message)) = input.split_first_chunk() else { return };
    let dialect = Dialect { setxattr_ext: switches & SETXATTR_EXT != 0 };
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
                Err(error) => refused(error),
                Ok(operation) => decoded(&request, &operation, &message, dialect),
            }
        }
    }
});

fn refused(error: DecodeError) {
    assert!((1..=4095).contains(&error.errno().raw()), "{error}");
    assert!(!error.to_string().is_empty());
}

fn decoded(request: &Request<'_>, operation: &Operation<'_>, message: &[u8], dialect: Dialect) {
    match operation {
        Operation::BatchForget(batch) => assert!(batch.iter().count() <= message.len() / 16),
        Operation::RemoveMapping(remove) => assert!(remove.iter().count() <= message.len() / 16),
        _ => {}
    }
    // The data of a WRITE is no part of the message: zeros stand for it here.
    let payload = match operation {
        Operation::Write(write) => vec![0; usize::try_from(write.size).expect("64 bits")],
        _ => Vec::new(),
    };
    let mut again = Vec::new();
    encode_request(&request.header, operation, &payload, dialect, &mut again);
    again.truncate(again.len() - payload.len());
    let second = Request::decode(&again, payload.len(), dialect).expect("it has a header");
    assert_eq!(second.header, request.header);
    assert_eq!(second.operation, Ok(*operation));
}
