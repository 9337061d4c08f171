//! Invariants for any sequence of requests, with node ids and file handles of earlier replies or
//! invented ones:
//!
//! 1. Every request is returned exactly once, with one reply. FORGET, BATCH_FORGET, INTERRUPT and
//!    messages without a header are returned without a reply.
//! 2. A reply has the length that its header declares, fits the room that the guest gave, and has
//!    the number of the request. An error is from 1 to 4,095 and has no body.
//! 3. Every reply decodes as a reply to its operation. Its contents, names, attributes, ids and
//!    errors are those of the same operation on a model of the same tree, also before INIT and
//!    after DESTROY.
//! 4. An id always means the same node.
//! 5. At the end, session and model hold the same nodes, handles and tree.
#![no_main]

use libfuzzer_sys::fuzz_target;
use pinhole_fuzz::oracle::Model;
use pinhole_fuzz::run::{Agreement, Run};
use std::sync::Arc;

fuzz_target!(|input: &[u8]| {
    let subject = Arc::new(Model::default());
    let mut run = Run::new(Arc::clone(&subject), Arc::clone(subject.wake_event()), Agreement::Exact);
    run.script(input);
    assert_eq!(subject.held(), run.model().held());
    assert_eq!(subject.listing(), run.model().listing());
});
