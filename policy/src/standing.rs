//! What a guest is told that asks for an operation, whether or not it is granted.

use crate::{Access, Policy, Refusal};
use serde::Serialize;

/// What becomes of an operation.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Standing {
    /// It is granted and carried out.
    Served,
    /// It is answered with success and the host is not asked: nothing can be unwritten.
    NothingToDo,
    /// It is granted, and nobody carries it out yet.
    NotServed,
    /// It is not granted.
    Denied,
}

impl Standing {
    /// Of a single operation where it is granted, or is not.
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

    /// Whether the guest is told that it is done.
    pub const fn is_success(self) -> bool {
        matches!(self, Self::Served | Self::NothingToDo)
    }

    /// The errno's name, where `refusal` is that of a denial.
    pub(crate) const fn errno_name(self, refusal: Refusal) -> Option<&'static str> {
        match self {
            Self::Served | Self::NothingToDo => None,
            // For ever, which is true of every file. Refusals never are.
            Self::NotServed => Some("ENOSYS"),
            Self::Denied => Some(refusal.errno_name()),
        }
    }
}
