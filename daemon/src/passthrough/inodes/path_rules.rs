//! Which of a policy's path rules decides at a node.
//!
//! A node has the rule of the name by which it was first reached. Each other name by which it is reached narrows it to
//! what both grant; nothing widens it again for as long as the guest knows the node. Without path rules nothing here
//! costs more than a look whether there are any.

use crate::filesystem::{Answer, Call, errno_of};
use crate::passthrough::inodes::Inodes;
use crate::passthrough::inodes::lookup::FoundAt;
use crate::passthrough::inodes::mounts::Mount;
use crate::passthrough::inodes::node::NodeRef;
use crate::passthrough::resolve;
use crate::sync::lock::{RwLockReadGuard, RwLockWriteGuard};
use pinhole_policy::{Access, PathRules, RequiresAccess, RuleId};
use pinhole_protocol::{self as protocol, Errno, Name, RenameFlags};
use rustix::fs::FileType;
use std::os::fd::BorrowedFd;

/// The right to change what names are; see [`Inodes::lock_names`].
#[derive(Debug)]
#[must_use = "names are held until this is dropped"]
pub(in crate::passthrough) enum NamesLock<'p> {
    /// With others.
    Shared(#[expect(dead_code, reason = "held to be dropped")] RwLockReadGuard<'p, ()>),
    /// As the only one.
    Exclusive(#[expect(dead_code, reason = "held to be dropped")] RwLockWriteGuard<'p, ()>),
}

/// What the host does beneath the gate for a policy with path rules.
impl Inodes {
    /// The rules, if the policy has any.
    pub(in crate::passthrough) fn rules(&self) -> Option<&PathRules> {
        self.rules.as_deref()
    }

    /// The rule of what has been found there.
    pub(in crate::passthrough) fn rule_of(&self, found: FoundAt<'_>) -> RuleId {
        let Some(rules) = self.rules() else { return RuleId::SHARE };
        let directory = found.directory.rule.get();
        match found.name {
            Some(name) => rules.child(directory, name.as_bytes()),
            None => rules.unnamed(directory),
        }
    }

    /// A node that was known already has been found there too.
    pub(in crate::passthrough) fn narrow(&self, node: &NodeRef, found: FoundAt<'_>) {
        if let Some(rules) = self.rules() {
            node.rule.narrow(rules, self.rule_of(found));
        }
    }

    /// Whether a listing leaves a name out.
    pub(in crate::passthrough) fn is_hidden(&self, directory: &NodeRef, name: &[u8]) -> bool {
        let hides = |rules: &PathRules| {
            !matches!(name, b"." | b"..") && rules.is_hidden(rules.child(directory.rule.get(), name))
        };
        self.rules().is_some_and(hides)
    }

    /// Whether a listing may tell more of a name than that it is there.
    pub(in crate::passthrough) fn may_list_attributes(&self, directory: &NodeRef, name: Name<'_>) -> bool {
        let tells = |rules: &PathRules| {
            let rule = rules.child(directory.rule.get(), name.as_bytes());
            rules.access(rule).contains(Access::LOOKUP | Access::STAT)
        };
        self.rules().is_none_or(tells)
    }

    /// CREATE has found something in its place, which may be known by other names too: whether what it wants beside
    /// making it may be done to that.
    pub(in crate::passthrough) fn check_existing(
        &self,
        node: &NodeRef,
        call: &Call<'_, protocol::Create<'_>>,
    ) -> Answer<()> {
        let Some(rules) = self.rules() else { return Ok(()) };
        let wanted = call.accesses() - Access::CREATE;
        let missing = wanted - rules.access(node.rule.get());
        if missing.is_empty() { Ok(()) } else { Err(errno_of(missing.refusal(false))) }
    }

    /// Whether the rules can be kept on a mount: not where a name that no rule matches finds what one is about.
    ///
    /// # Errors
    /// EPERM.
    pub(in crate::passthrough) fn check_mount(&self, mount: &Mount) -> Answer<()> {
        if self.rules().is_some() && mount.traits.folds_names { Err(Errno::EPERM) } else { Ok(()) }
    }

    /// Keeps a name from becoming a directory's between [`Self::check_only_files`] and the RENAME that it allows: that
    /// one is alone among all that can do it, RENAME and MKDIR. Without path rules nobody waits.
    ///
    /// Names that the host or another guest changes at that moment are not held; those are not bound by this policy at
    /// all.
    pub(in crate::passthrough) fn lock_names(&self, only_files: bool) -> Option<NamesLock<'_>> {
        self.rules()?;
        Some(if only_files {
            NamesLock::Exclusive(self.names.write())
        } else {
            NamesLock::Shared(self.names.read())
        })
    }

    /// RENAME between rules that decide differently somewhere: of files alone, because what is below a directory would
    /// have to be decided anew.
    pub(in crate::passthrough) fn check_only_files(
        &self,
        (from, to): (BorrowedFd<'_>, BorrowedFd<'_>),
        rename: &protocol::Rename<'_>,
    ) -> Answer<()> {
        let is_file = |fd, name| match resolve::stat_beneath(fd, name)?.kind() {
            FileType::Directory => Err(Errno::EXDEV),
            FileType::RegularFile
            | FileType::Symlink
            | FileType::Fifo
            | FileType::Socket
            | FileType::CharacterDevice
            | FileType::BlockDevice
            | FileType::Unknown => Ok(()),
        };
        is_file(from, rename.name)?;
        if rename.flags.contains(RenameFlags::EXCHANGE) { is_file(to, rename.new_name) } else { Ok(()) }
    }
}
