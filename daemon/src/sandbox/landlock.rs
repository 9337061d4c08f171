//! Landlock: nothing but the share is opened, listed or changed by name, whatever else the process could reach; no
//! network, no signal to and no abstract socket of anybody outside.
//!
//! What Landlock does not look at: attributes and what changes them (mode, owner, times, extended attributes), and
//! O_PATH descriptors. Those are left to the read-only mount and to the filters.

use super::{Plan, SandboxError, Walls};
use landlock::{
    ABI, Access as _, AccessFs, AccessNet, BitFlags, Erratum, LandlockStatus, PathBeneath, Ruleset,
    RulesetAttr as _, RulesetCreatedAttr as _, RulesetError, RulesetStatus, Scope,
};
use pinhole_policy::{Facilities, landlock as table};
use std::os::fd::BorrowedFd;

/// The newest that is known here; the kernel takes of it what it has.
const NEWEST: ABI = ABI::V9;

/// From here on it covers all that is meant in the first paragraph.
const WHOLE: ABI = ABI::V6;

/// A share's ruleset.
#[derive(Clone, Copy, Debug)]
pub(super) struct Rules {
    handled: BitFlags<AccessFs>,
    granted: BitFlags<AccessFs>,
    opens: bool,
}

impl Rules {
    /// For what the policy grants anywhere. `own_mount`: the share's mount begins at the share.
    pub(super) fn of(plan: &Plan, own_mount: bool) -> Self {
        // A file that is opened by its handle after the kernel has forgotten its name has no way up to the share. New
        // kernels go on from the mount that it was opened by, which is right where that is the share's own.
        let found = own_mount && Erratum::current().contains(Erratum::DisconnectedDirectoryHandling);
        let opens = found || !plan.facilities.contains(Facilities::HANDLES);
        let all = AccessFs::from_all(NEWEST);
        let handled =
            if opens { all } else { all & !(AccessFs::ReadFile | AccessFs::WriteFile | AccessFs::Truncate) };
        let rows = table::rows(plan.reach, plan.facilities);
        let granted = rows.filter_map(|row| right(row.name)).fold(BitFlags::empty(), |all, one| all | one);
        Self { handled, granted: granted & handled, opens }
    }

    /// Whether opening a file for its data is looked at.
    pub(super) const fn cover_opening(&self) -> bool {
        self.opens
    }

    /// Puts them on the calling thread, and on those that it starts.
    pub(super) fn enforce(&self, share: BorrowedFd<'_>) -> Result<LandlockStatus, RulesetError> {
        let mut rules = Ruleset::default()
            .handle_access(self.handled)?
            .handle_access(AccessNet::from_all(NEWEST))?
            .scope(Scope::from_all(NEWEST))?
            .create()?;
        if !self.granted.is_empty() {
            rules = rules.add_rule(PathBeneath::new(share, self.granted))?;
        }
        let status = rules.restrict_self()?;
        Ok(match (status.ruleset, status.landlock) {
            // What the policy needs is not in this version, so there are no rules at all.
            (RulesetStatus::NotEnforced, LandlockStatus::Available { .. }) => LandlockStatus::NotEnabled,
            (_, landlock) => landlock,
        })
    }
}

/// Enforces them on this process, and says what is missing.
pub(super) fn enforce(
    plan: &Plan,
    (share, own_mount): (BorrowedFd<'_>, bool),
    lacks: &mut Vec<String>,
) -> Result<(), SandboxError> {
    let rules = Rules::of(plan, own_mount);
    let status = rules.enforce(share).map_err(|error| SandboxError::Landlock(error.to_string()))?;
    let missing = match status {
        LandlockStatus::Available { effective_abi, .. } if effective_abi >= WHOLE => None,
        LandlockStatus::Available { effective_abi, .. } => {
            let version = effective_abi;
            Some(format!(
                "Landlock has version {version:?}: truncation (3), network (4), signals (6) are of later ones"
            ))
        }
        LandlockStatus::NotEnabled => {
            Some("no Landlock: it is not enabled, or too old for this policy".to_owned())
        }
        LandlockStatus::NotImplemented => Some("no Landlock: this kernel has none".to_owned()),
    };
    if let Some(why) = missing {
        if plan.required.contains(Walls::LANDLOCK) {
            return Err(SandboxError::Required { wall: "landlock", why });
        }
        lacks.push(why);
    } else if !rules.cover_opening() {
        let why =
            "Landlock leaves opening files alone, for the sake of file handles; --inode-file-handles=never"
                .to_owned()
                + " or a newer kernel with --sandbox namespace has both";
        if plan.required.contains(Walls::LANDLOCK) {
            return Err(SandboxError::Required { wall: "landlock", why });
        }
        lacks.push(why);
    }
    Ok(())
}

/// The right of this name in the kernel's header.
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
    fn every_right_of_the_table_is_one_of_landlocks() {
        for row in table::ROWS {
            assert!(right(row.name).is_some(), "{}", row.name);
        }
    }
}
