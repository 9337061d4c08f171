//! LOOKUP and FORGET.

use crate::filesystem::{Answer, Call};
use crate::passthrough::Passthrough;
use crate::passthrough::inodes::NodeRef;
use pinhole_protocol::{Entry, Forget, Lookup, NodeId};

impl Passthrough {
    pub(super) fn lookup(&self, parent: &NodeRef, call: &Call<'_, Lookup<'_>>) -> Answer<Entry> {
        self.inodes.look_up_for_caller(&call.caller, parent, call.operation.name)
    }

    /// Closes a node that the guest has forgotten.
    pub(super) fn forget(&self, node: NodeId, forget: Forget) {
        if let Some(node) = self.inodes.forget(node, forget.count) {
            self.deferred_close.close_node(node);
        }
    }
}
