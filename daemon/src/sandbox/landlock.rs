//! Landlock: only files of the share can be opened, listed or changed by name, whatever else the
//! process could reach. Without a shared directory, no file can. It also forbids the network, and
//! signals and abstract sockets of processes outside.
//!
//! Landlock does not check attributes and their changes (mode, owner, times, extended attributes),
//! nor O_PATH descriptors. The read-only mount and the filters restrict those.

use super::missing::{Layers, MissingFeature};
use super::plan::Plan;
use landlock::{
    ABI, Access as _, AccessFs, AccessNet, BitFlags, Erratum, LandlockStatus, PathBeneath, Ruleset,
    RulesetAttr as _, RulesetCreatedAttr as _, RulesetError, RulesetStatus, Scope,
};
use pinhole_policy::{Facilities, landlock as table};
use std::os::fd::BorrowedFd;

/// The newest version of Landlock that this code knows. The kernel enforces the part that it knows.
const NEWEST: ABI = ABI::V9;

/// Additions to Landlock, each with the version that introduced it. V1 has the rest. Without V2, a
/// policy that allows renames cannot be enforced.
const LATER_ADDITIONS: [(ABI, &str); 4] = [
    (ABI::V3, "truncation"),
    (ABI::V4, "the network"),
    (ABI::V5, "ioctl on devices"),
    (ABI::V6, "signals and abstract sockets"),
];

/// A share's ruleset.
#[derive(Clone, Copy, Debug)]
pub(super) struct Rules {
    handled: BitFlags<AccessFs>,
    granted: BitFlags<AccessFs>,
    opens: bool,
}

impl Rules {
    /// Makes the rules for the rights that the policy grants anywhere. `own_mount`: the share's
    /// mount begins at the share.
    pub(super) fn new(plan: &Plan, own_mount: bool) -> Self {
        // A file that is opened by handle after the kernel has forgotten its name has no path up to
        // the share. New kernels continue from the mount that it was opened through, which helps if
        // that mount is the share's own.
        let found = own_mount && Erratum::current().contains(Erratum::DisconnectedDirectoryHandling);
        let opens = found || !plan.facilities.contains(Facilities::HANDLES);
        let all = AccessFs::from_all(NEWEST);
        let handled =
            if opens { all } else { all & !(AccessFs::ReadFile | AccessFs::WriteFile | AccessFs::Truncate) };
        let rows = table::rows(plan.reach, plan.facilities);
        let rows = rows.filter(|_row| plan.share.is_some());
        let granted = rows.filter_map(|row| right(row.name)).fold(BitFlags::empty(), |all, one| all | one);
        Self { handled, granted: granted & handled, opens }
    }

    /// Returns the part that the rules do not cover, for the status with which the host has
    /// enforced them.
    pub(super) fn missing(&self, status: LandlockStatus) -> Option<MissingFeature> {
        let why = match status {
            LandlockStatus::NotImplemented => "no Landlock: this kernel has none".to_owned(),
            LandlockStatus::NotEnabled => {
                "no Landlock: it is not enabled, or too old for this policy".to_owned()
            }
            LandlockStatus::Available { effective_abi, .. } => {
                let late = LATER_ADDITIONS.iter().filter(|(version, _)| *version > effective_abi);
                let late: Vec<_> = late.map(|(version, what)| format!("{what} ({version:?})")).collect();
                if !late.is_empty() {
                    format!("Landlock is at {effective_abi:?}, without {}", late.join(", "))
                } else if self.opens {
                    return None;
                } else {
                    "Landlock does not restrict opening files, because of inode handles; --inode-file-handles=never"
                        .to_owned()
                        + " or a newer kernel with --sandbox namespace has both"
                }
            }
        };
        Some(MissingFeature::new(Layers::LANDLOCK, why))
    }

    /// Enforces the rules on a thread that then ends. Returns how far the host has enforced them.
    pub(super) fn try_out(&self, share: Option<BorrowedFd<'_>>) -> Result<LandlockStatus, String> {
        std::thread::scope(|scope| {
            let thread = std::thread::Builder::new().name("landlock-trial".to_owned());
            let trial = thread
                .spawn_scoped(scope, || self.enforce(share))
                .map_err(|error| format!("cannot start the thread that tries them: {error}"))?;
            let outcome = trial.join().map_err(|_panic| "the thread that tries them panicked".to_owned())?;
            outcome.map_err(|error| error.to_string())
        })
    }

    /// Enforces the rules on the calling thread, and on those that it starts.
    pub(super) fn enforce(&self, share: Option<BorrowedFd<'_>>) -> Result<LandlockStatus, RulesetError> {
        let mut rules = Ruleset::default()
            .handle_access(self.handled)?
            .handle_access(AccessNet::from_all(NEWEST))?
            .scope(Scope::from_all(NEWEST))?
            .create()?;
        if let Some(share) = share.filter(|_share| !self.granted.is_empty()) {
            rules = rules.add_rule(PathBeneath::new(share, self.granted))?;
        }
        let status = rules.restrict_self()?;
        Ok(match (status.ruleset, status.landlock) {
            // This version lacks a right that the policy needs, so there are no rules at all.
            (RulesetStatus::NotEnforced, LandlockStatus::Available { .. }) => LandlockStatus::NotEnabled,
            (_, landlock) => landlock,
        })
    }
}

/// Returns the right of this name in the kernel's header.
fn right(name: &str) -> Option<AccessFs> {
    Some(match name.strip_prefix("LANDLOCK_ACCESS_FS_")? {
        "READ_FILE" => AccessFs::ReadFile,
        "WRITE_FILE" => AccessFs::WriteFile,
        "READ_DIR" => AccessFs::ReadDir,
        "REMOVE_DIR" => AccessFs::RemoveDir,
        "REMOVE_FILE" => AccessFs::RemoveFile,
        "MAKE_CHAR" => AccessFs::MakeChar,
        "MAKE_DIR" => AccessFs::MakeDir,
        "MAKE_REG" => AccessFs::MakeReg,
        "MAKE_SOCK" => AccessFs::MakeSock,
        "MAKE_FIFO" => AccessFs::MakeFifo,
        "MAKE_BLOCK" => AccessFs::MakeBlock,
        "MAKE_SYM" => AccessFs::MakeSym,
        "REFER" => AccessFs::Refer,
        "TRUNCATE" => AccessFs::Truncate,
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_version_lacks_later_additions() {
        let rules = |opens| Rules { handled: BitFlags::empty(), granted: BitFlags::empty(), opens };
        let missing = |effective_abi| {
            let status = LandlockStatus::Available { effective_abi, kernel_abi: None };
            rules(true).missing(status).map(|feature| feature.to_string()).unwrap_or_default()
        };
        assert_eq!(
            missing(ABI::V2),
            "Landlock is at V2, without truncation (V3), the network (V4), ioctl on devices (V5), \
             signals and abstract sockets (V6)"
        );
        assert_eq!(missing(ABI::V5), "Landlock is at V5, without signals and abstract sockets (V6)");
        assert_eq!([missing(ABI::V6), missing(NEWEST)], ["", ""]);
        let whole = LandlockStatus::Available { effective_abi: NEWEST, kernel_abi: None };
        for (opens, status) in
            [(false, whole), (true, LandlockStatus::NotEnabled), (true, LandlockStatus::NotImplemented)]
        {
            let feature = rules(opens).missing(status).unwrap();
            let refused = feature.check(Layers::LANDLOCK).unwrap_err().to_string();
            assert!(refused.starts_with("--require landlock: "), "{refused}");
        }
    }

    #[test]
    fn landlock_has_every_right_of_the_table() {
        for row in table::ROWS {
            assert!(right(row.name).is_some(), "{}", row.name);
        }
    }
}
