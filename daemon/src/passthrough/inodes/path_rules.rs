//! Which of the policy's path rules applies to a node.
//!
//! A node has the rule of the name by which it was first found. Each other name by which it is
//! found narrows the rule to the accesses that both grant. The rule never widens while the guest
//! knows the node. Without path rules, everything here costs one check.

use crate::filesystem::{Answer, Call, errno_of};
use crate::passthrough::inodes::Inodes;
use crate::passthrough::inodes::lookup::Found;
use crate::passthrough::inodes::mounts::Mount;
use crate::passthrough::inodes::node::NodeRef;
use crate::passthrough::resolve;
use pinhole_policy::{Access, PathRules, RequiresAccess, RuleId};
use pinhole_protocol::{self as protocol, Errno, Name, RenameFlags};
use rustix::fs::FileType;
use std::os::fd::BorrowedFd;

impl Inodes {
    /// Returns the path rules, if the policy has any.
    pub(crate) fn rules(&self) -> Option<&PathRules> {
        self.rules.as_deref()
    }

    /// Returns the rule of an inode that was found in a directory, by a name or without one.
    pub(super) fn rule_of(&self, directory: &NodeRef, name: Option<Name<'_>>) -> RuleId {
        let Some(rules) = self.rules() else { return RuleId::SHARE };
        let directory = directory.rule();
        match name {
            Some(name) => rules.child(directory, name.as_bytes()),
            None => rules.unnamed(directory),
        }
    }

    /// Narrows the rule of a known node that was found again.
    pub(super) fn narrow(&self, node: &NodeRef, found: Found<'_>) {
        if let Some(rules) = self.rules() {
            node.narrow_rule(rules, self.rule_of(found.directory, found.name));
        }
    }

    /// Returns whether a listing leaves out a name.
    pub(crate) fn is_hidden(&self, directory: &NodeRef, name: &[u8]) -> bool {
        let hides = |rules: &PathRules| {
            !matches!(name, b"." | b"..") && rules.is_hidden(rules.child(directory.rule(), name))
        };
        self.rules().is_some_and(hides)
    }

    /// Returns whether a listing may contain the attributes of a name.
    pub(crate) fn may_list_attributes(&self, directory: &NodeRef, name: Name<'_>) -> bool {
        let grants = |rules: &PathRules| {
            let rule = rules.child(directory.rule(), name.as_bytes());
            rules.access(rule).contains(Access::LOOKUP | Access::STAT)
        };
        self.rules().is_none_or(grants)
    }

    /// Checks a CREATE that has found an existing inode. The inode may be known by other names too,
    /// so its rule must grant everything that CREATE needs besides creating.
    pub(crate) fn check_existing(&self, node: &NodeRef, call: &Call<'_, protocol::Create<'_>>) -> Answer<()> {
        let Some(rules) = self.rules() else { return Ok(()) };
        let wanted = call.accesses() - Access::CREATE;
        let missing = wanted - rules.access(node.rule());
        if missing.is_empty() { Ok(()) } else { Err(errno_of(missing.refusal(false))) }
    }

    /// Checks that path rules can be enforced on a mount. They cannot if a name that no rule
    /// matches leads to a file that a rule is about.
    ///
    /// # Errors
    /// EPERM.
    pub(super) fn check_mount(&self, mount: &Mount) -> Answer<()> {
        if self.rules().is_some() && mount.traits.folds_names { Err(Errno::EPERM) } else { Ok(()) }
    }

    /// Locks names, so that no name becomes the name of a directory between
    /// [`Self::check_only_files`] and the RENAME that it allows. That RENAME excludes every other
    /// RENAME and MKDIR. Without path rules there is no lock.
    ///
    /// The host and other guests can still change names. This policy does not apply to them.
    #[must_use = "names are locked until this is dropped"]
    pub(crate) fn lock_names(&self, only_files: bool) -> impl Sized {
        let has_rules = self.rules().is_some();
        let shared = (has_rules && !only_files).then(|| self.names.read());
        let exclusive = (has_rules && only_files).then(|| self.names.write());
        (shared, exclusive)
    }

    /// Checks a RENAME between directories with different rules. It may move only files, because
    /// the rules of everything below a directory would change.
    ///
    /// # Errors
    /// EXDEV for a directory.
    pub(crate) fn check_only_files(
        &self,
        (from, to): (BorrowedFd<'_>, BorrowedFd<'_>),
        rename: &protocol::Rename<'_>,
    ) -> Answer<()> {
        let check_file = |fd, name| {
            let is_directory = resolve::stat_beneath(fd, name)?.kind() == FileType::Directory;
            if is_directory { Err(Errno::EXDEV) } else { Ok(()) }
        };
        check_file(from, rename.name)?;
        if rename.flags.contains(RenameFlags::EXCHANGE) { check_file(to, rename.new_name) } else { Ok(()) }
    }
}
