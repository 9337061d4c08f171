//! The gate: from an operation to a permitted operation.

use crate::Access;

/// An operation that can say what it needs.
pub trait Gated {
    /// Every access that carrying out the operation uses; the empty set for housekeeping such as FORGET.
    fn accesses(&self) -> Access;
}

/// An operation that has passed the gate. Only [`Policy::permit`] makes one.
#[derive(Debug)]
#[must_use = "a permitted operation that is not carried out leaves its request unanswered"]
pub struct Permitted<Op>(Op);

impl<Op> Permitted<Op> {
    /// The operation, to be carried out now.
    pub fn into_inner(self) -> Op {
        self.0
    }
}

/// Why the gate said no.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reason {
    /// The share is read-only and the operation changes something: EROFS to the guest.
    ReadOnly,
    /// The policy does not grant this access: EPERM to the guest.
    NotGranted,
}

/// A refused operation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Denied {
    /// The accesses that are not granted; never empty.
    pub missing: Access,
    /// Why.
    pub reason: Reason,
}

/// What one guest may do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Policy {
    granted: Access,
}

impl Policy {
    /// Everything.
    pub const fn full() -> Self {
        Self { granted: Access::all() }
    }

    /// Everything that changes nothing.
    pub const fn read_only() -> Self {
        Self { granted: Access::all().difference(Access::MUTATIONS) }
    }

    /// Whether this policy lets nothing be changed.
    pub const fn is_read_only(self) -> bool {
        !self.granted.intersects(Access::MUTATIONS)
    }

    /// Lets an operation through if every access that it needs is granted.
    ///
    /// # Errors
    /// [`Denied`] names what is missing; the operation is dropped and nothing has been done.
    pub fn permit<Op: Gated>(self, operation: Op) -> Result<Permitted<Op>, Denied> {
        let missing = operation.accesses().difference(self.granted);
        if missing.is_empty() {
            return Ok(Permitted(operation));
        }
        let reason = if self.is_read_only() && missing.intersects(Access::MUTATIONS) {
            Reason::ReadOnly
        } else {
            Reason::NotGranted
        };
        Err(Denied { missing, reason })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Needs(Access);
    impl Gated for Needs {
        fn accesses(&self) -> Access {
            self.0
        }
    }

    #[test]
    fn full_permits_every_access() {
        let _permitted = Policy::full().permit(Needs(Access::all())).unwrap();
    }

    #[test]
    fn read_only_denies_each_mutation_with_its_reason() {
        for access in Access::MUTATIONS.iter() {
            let denied = Policy::read_only().permit(Needs(access | Access::STAT)).err().unwrap();
            assert_eq!(denied, Denied { missing: access, reason: Reason::ReadOnly });
        }
    }

    #[test]
    fn read_only_permits_all_that_changes_nothing() {
        let _permitted = Policy::read_only().permit(Needs(Access::all() - Access::MUTATIONS)).unwrap();
    }

    #[test]
    fn housekeeping_needs_nothing() {
        let _permitted = Policy::read_only().permit(Needs(Access::empty())).unwrap();
    }
}
