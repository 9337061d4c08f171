//! The outcome of an operation that a guest requests.

use crate::{Access, Policy, Refusal};
use serde::Serialize;

/// The outcome of an operation.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Standing {
    /// The operation is granted and carried out.
    Served,
    /// The operation (FSYNC) succeeds without a host call, because the guest can have no unwritten
    /// data.
    NothingToDo,
    /// The operation is granted, but this version does not carry it out.
    NotServed,
    /// The operation is not granted.
    Denied,
}

impl Standing {
    /// Returns the outcome of a single operation. `granted` says whether the operation is granted
    /// at the place in question.
    pub(crate) fn of(policy: &Policy, access: Access, granted: bool) -> Self {
        if granted {
            return if Access::NOT_SERVED.contains(access) { Self::NotServed } else { Self::Served };
        }
        if access == Access::FSYNC && policy.has_nothing_unwritten() {
            Self::NothingToDo
        } else {
            Self::Denied
        }
    }

    /// Returns whether the operation succeeds for the guest.
    pub const fn is_success(self) -> bool {
        matches!(self, Self::Served | Self::NothingToDo)
    }

    /// Returns the name of the errno, or `None` for a success. `refusal` counts only if the
    /// operation is denied.
    pub(crate) const fn errno_name(self, refusal: Refusal) -> Option<&'static str> {
        match self {
            Self::Served | Self::NothingToDo => None,
            // The guest remembers ENOSYS for every file and stops asking. That is right for an
            // operation that is never served, and wrong for a refusal.
            Self::NotServed => Some("ENOSYS"),
            Self::Denied => Some(refusal.errno_name()),
        }
    }
}
