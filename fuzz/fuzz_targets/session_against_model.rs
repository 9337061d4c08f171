//! Invariants, for any sequence of requests whose node ids and handles come from earlier answers or from nowhere:
//!
//! 1. every request is given back exactly once: with one answer, or, for FORGET, BATCH_FORGET, INTERRUPT and what
//!    has no header, with none;
//! 2. an answer's length is its header's, it fits the room that the guest left, repeats the request's number, and
//!    an error is from 1 to 4,095 and has no body;
//! 3. every answer decodes as its operation's and says what the same operation on a model of the same tree says:
//!    contents, names, attributes, ids, errors, before INIT and after DESTROY too;
//! 4. an id means one node for good;
//! 5. no slot is dropped, and at the end subject and model hold the same nodes, handles and tree.
#![no_main]

use libfuzzer_sys::fuzz_target;
use pinhole_fuzz::oracle::Model;
use pinhole_fuzz::run::{Agreement, Run};
use std::sync::Arc;

fuzz_target!(|input: &[u8]| {
    let subject = Arc::new(Model::default());
    let mut run = Run::new(Arc::clone(&subject), Agreement::Exact);
    run.script(input);
    assert_eq!(subject.held(), run.model().held());
    assert_eq!(subject.listing(), run.model().listing());
});
