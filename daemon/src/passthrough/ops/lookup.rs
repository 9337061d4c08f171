//! LOOKUP and FORGET.

use crate::filesystem::{Answer, Call};
use crate::passthrough::Passthrough;
use crate::passthrough::inodes::node::NodeRef;
use pinhole_protocol::{Entry, Lookup};

impl Passthrough {
    pub(in crate::passthrough) fn lookup(
        &self,
        parent: &NodeRef,
        call: &Call<'_, Lookup<'_>>,
    ) -> Answer<Entry> {
        self.inodes.look_up_for(&call.caller, parent, call.operation.name)
    }
}
