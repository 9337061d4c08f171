//! The guest's end of one request: memory for the answer, and what must be true of every answer.

use pinhole::host::FileSystem;
use pinhole::io_vectors::IoVectors;
use pinhole::session::{Body, Pace, Scratch, Served, Session, Sink};
use pinhole_protocol::{Errno, OUT_HEADER_LEN, client};
use std::cell::RefCell;
use vm_memory::VolatileSlice;

/// What was given back, as the transport sees it.
#[derive(Debug, Default)]
struct Given {
    times: u32,
    header: Option<[u8; OUT_HEADER_LEN]>,
    body: Vec<u8>,
    in_place: Option<usize>,
}

/// Plain memory, with a count of the answers.
struct Memory<'a> {
    room: usize,
    data: VolatileSlice<'a>,
    given: &'a RefCell<Given>,
}

impl Sink for Memory<'_> {
    fn room(&self) -> usize {
        self.room
    }

    fn data(&self, len: usize) -> IoVectors<'_> {
        IoVectors::from(self.data).first(len)
    }

    fn send(&mut self, header: &[u8; OUT_HEADER_LEN], body: Body<'_>) {
        let mut given = self.given.borrow_mut();
        given.times += 1;
        given.header = Some(*header);
        match body {
            Body::Bytes(bytes) => given.body = bytes.to_vec(),
            Body::InPlace(len) => given.in_place = Some(len),
        }
    }

    fn close(&mut self) {
        self.given.borrow_mut().times += 1;
    }
}

/// What a guest reads of an answer; `None`: given back without one.
pub type Reply = Option<Result<Vec<u8>, Errno>>;

/// Sends one message with `room` bytes for the answer, header included, and checks that exactly one well-formed
/// answer comes back.
pub fn send<F: FileSystem>(
    session: &Session<F>,
    (message, payload): (&[u8], &[u8]),
    room: usize,
    scratch: &mut Scratch,
) -> Reply {
    let mut memory = vec![0xa5; room.saturating_sub(OUT_HEADER_LEN)];
    let mut payload = payload.to_vec();
    let given = RefCell::new(Given::default());
    {
        let from = IoVectors::from(VolatileSlice::from(payload.as_mut_slice()));
        let sink = Memory { room, data: VolatileSlice::from(memory.as_mut_slice()), given: &given };
        let served = session.serve((message, from), sink, Pace::Patient, scratch);
        assert!(matches!(served, Served::Done), "who may wait is answered");
    }
    let given = given.into_inner();
    assert_eq!(given.times, 1, "a request is given back exactly once");
    let header = given.header?;
    let body = given.in_place.map_or(given.body, |len| {
        memory.get(..len).expect("no more bytes in place than there is room").to_vec()
    });
    let reply = [header.as_slice(), &body].concat();
    assert!(reply.len() <= room, "{} bytes where there is room for {room}", reply.len());
    // Checks that the length is the reply's and that the error is one.
    let (header, body) = client::decode_out_header(&reply).expect("a whole answer");
    assert_eq!(Some(&header.unique.0.to_le_bytes()[..]), message.get(8..16), "the request's own number");
    Some(match header.error {
        None => Ok(body.to_vec()),
        Some(errno) => {
            assert!(body.is_empty(), "{errno} with a body");
            Err(errno)
        }
    })
}
