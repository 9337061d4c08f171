//! The guest's side of one request: memory for the reply, and checks of every reply.

use pinhole::filesystem::FileSystem;
use pinhole::io_vectors::IoVectors;
use pinhole::session::{Body, Incoming, Next, Pacing, Scratch, Session, Sink};
use pinhole_protocol::{Errno, OUT_HEADER_LEN, client};
use vm_memory::VolatileSlice;

/// A request that the session has returned, with its reply if there is one.
#[derive(Debug, Default)]
struct Returned {
    /// Header of the reply. `None` means no reply.
    header: Option<[u8; OUT_HEADER_LEN]>,
    body: Vec<u8>,
    /// Length in bytes of a body that is in the memory for the reply.
    in_place: Option<usize>,
}

/// Plain memory for a reply.
struct Memory<'a> {
    /// Space for the whole reply in bytes.
    room: usize,
    /// Space for the body.
    data: VolatileSlice<'a>,
}

impl Sink for Memory<'_> {
    type Receipt = Returned;

    fn room(&self) -> usize {
        self.room
    }

    fn data(&self, len: usize) -> IoVectors<'_> {
        IoVectors::from(self.data).first(len)
    }

    fn send(self, header: &[u8; OUT_HEADER_LEN], body: Body<'_>) -> Returned {
        let (body, in_place) = match body {
            Body::Bytes(bytes) => (bytes.to_vec(), None),
            Body::InPlace(len) => (Vec::new(), Some(len)),
        };
        Returned { header: Some(*header), body, in_place }
    }
}

/// The body or the error of a reply, or `None` if the request was returned without a reply.
pub type Reply = Option<Result<Vec<u8>, Errno>>;

/// Sends one message with `room` bytes for the reply, including its header. Checks that the session
/// completes the request, and that the reply is well-formed.
pub fn send<F: FileSystem>(
    session: &Session<F>,
    (message, payload): (&[u8], &[u8]),
    room: usize,
    scratch: &mut Scratch,
) -> Reply {
    let mut memory = vec![0xa5; room.saturating_sub(OUT_HEADER_LEN)];
    let mut payload = payload.to_vec();
    let returned = {
        let from = IoVectors::from(VolatileSlice::from(payload.as_mut_slice()));
        let sink = Memory { room, data: VolatileSlice::from(memory.as_mut_slice()) };
        let incoming = Incoming { message, payload: from };
        match session.serve(incoming, sink, Pacing::PATIENT, scratch) {
            Next::Done(returned) => returned,
            next => panic!("a patient request must be completed: {next:?}"),
        }
    };
    let header = returned.header?;
    let body = returned.in_place.map_or(returned.body, |len| {
        memory.get(..len).expect("the body in place must fit the room").to_vec()
    });
    let reply = [header.as_slice(), &body].concat();
    assert!(reply.len() <= room, "{} bytes, but room for {room}", reply.len());
    // Decoding also checks the length and the range of the error.
    let (header, body) = client::decode_out_header(&reply).expect("a complete reply");
    let unique = header.unique.0.to_le_bytes();
    assert_eq!(Some(&unique[..]), message.get(8..16), "the reply must have the number of the request");
    Some(match header.error {
        None => Ok(body.to_vec()),
        Some(errno) => {
            assert!(body.is_empty(), "{errno} with a body");
            Err(errno)
        }
    })
}
