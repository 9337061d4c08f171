//! Identity of the calling thread for a system call: user, groups, umask, and the capability that
//! keeps set-user-id bits.
//!
//! A guard restores the identity on every path.

use crate::filesystem::{Answer, Caller};
use crate::limits::GROUPS_MAX;
use crate::passthrough::resolve::errno;
use arrayvec::ArrayVec;
use pinhole_protocol::Errno;
use rustix::fs::{Gid, Mode, Uid};
use rustix::thread::{CapabilitiesSecureBits, CapabilitySet, CapabilitySets};
use std::cell::Cell;

thread_local! {
    /// Whether the thread has CAP_FSETID in its effective set. A new thread has it if the process
    /// does.
    static KEEPS_SUID: Cell<bool> = const { Cell::new(true) };
}

/// The daemon's own identity, and which others it may assume.
#[derive(Debug)]
pub(crate) struct Identity {
    own_uid: Uid,
    own_gid: Gid,
    own_groups: Vec<Gid>,
    /// The daemon is root with CAP_SETUID and CAP_SETGID. Otherwise every call runs as its own
    /// user. The two capabilities alone are not enough: to assume the guest's root and give it up
    /// would lose them.
    can_switch: bool,
    /// A thread keeps its capabilities when it assumes another user ([`keep_capabilities`]). It
    /// then creates files with CAP_DAC_OVERRIDE: the guest's kernel has decided whether the user
    /// may.
    keeps_capabilities: bool,
    /// All capabilities, if CAP_FSETID is one of them.
    with_fsetid: Option<CapabilitySets>,
}

/// Lets the calling thread, and all threads that it starts, keep capabilities when they assume
/// another user. Without CAP_SETPCAP nothing changes.
///
/// # Errors
/// Errors of the host other than EPERM.
pub fn keep_capabilities() -> rustix::io::Result<()> {
    let kept = rustix::thread::capabilities_secure_bits()? | CapabilitiesSecureBits::NO_SETUID_FIXUP;
    match rustix::thread::set_capabilities_secure_bits(kept) {
        Ok(()) | Err(rustix::io::Errno::PERM) => Ok(()),
        Err(error) => Err(error),
    }
}

/// Another identity of the calling thread. The daemon's own is restored when this is dropped.
#[derive(Debug)]
#[must_use = "the identity is restored when this is dropped"]
pub(crate) struct Assumed<'i> {
    identity: &'i Identity,
    uid: bool,
    gid: bool,
    groups: bool,
    umask: bool,
}

impl Identity {
    /// Reads the identity and rights of the process. `as_users` says whether it may assume other
    /// identities. The filters allow the calls for that only if they were built for it.
    pub(crate) fn read(as_users: bool) -> rustix::io::Result<Self> {
        let capabilities = rustix::thread::capabilities(None)?;
        let has = |wanted| capabilities.effective.contains(wanted);
        let own_uid = rustix::process::geteuid();
        let secure_bits = rustix::thread::capabilities_secure_bits()?;
        Ok(Self {
            own_uid,
            own_gid: rustix::process::getegid(),
            own_groups: rustix::process::getgroups()?,
            can_switch: as_users && own_uid.is_root() && has(CapabilitySet::SETUID | CapabilitySet::SETGID),
            keeps_capabilities: secure_bits.contains(CapabilitiesSecureBits::NO_SETUID_FIXUP),
            with_fsetid: has(CapabilitySet::FSETID).then_some(capabilities),
        })
    }

    /// Logs the effect of missing rights on files that are created for users of the guest.
    pub(crate) fn log_missing_rights(&self) {
        if !self.can_switch {
            tracing::info!("without CAP_SETUID and CAP_SETGID, the daemon creates files as its own user");
        } else if !self.keeps_capabilities {
            tracing::warn!(
                "without CAP_SETPCAP, the host's permission bits also decide where users of the guest may create files"
            );
        }
    }

    /// Makes the thread act as the caller until the guard is dropped. `umask` is set if the daemon
    /// has to apply it.
    ///
    /// # Errors
    /// EINVAL for ids that mean "no id"; the error of the host if it refuses the change.
    pub(crate) fn assume(&self, caller: &Caller<'_>, umask: Option<u32>) -> Answer<Assumed<'_>> {
        // Root keeps set-group-id in files that it creates, even if an earlier write of this thread
        // has dropped CAP_FSETID. For others the host decides as for a process without CAP_FSETID.
        self.kill_suidgid(self.can_switch && self.keeps_capabilities && !caller.may_have_fsetid())?;
        let mut assumed = Assumed { identity: self, uid: false, gid: false, groups: false, umask: false };
        if let Some(mask) = umask.filter(|mask| *mask != 0) {
            rustix::process::umask(Mode::from_raw_mode(mask & 0o777));
            assumed.umask = true;
        }
        if !self.can_switch {
            return Ok(assumed);
        }
        let (uid, gid) = (checked_id(caller.uid)?, checked_id(caller.gid)?);
        let (uid, gid) = (Uid::from_raw(uid), Gid::from_raw(gid));
        let groups = checked_groups(caller)?;
        if uid == self.own_uid && gid == self.own_gid && groups.is_empty() {
            return Ok(assumed);
        }
        // Groups first: afterwards the thread may lack the right to drop the daemon's own.
        if groups.as_slice() != self.own_groups {
            rustix::thread::set_thread_groups(&groups).map_err(errno)?;
            assumed.groups = true;
        }
        if gid != self.own_gid {
            rustix::thread::set_thread_res_gid(None, gid, None).map_err(errno)?;
            assumed.gid = true;
        }
        if uid != self.own_uid {
            rustix::thread::set_thread_res_uid(None, uid, None).map_err(errno)?;
            assumed.uid = true;
        }
        Ok(assumed)
    }

    /// Sets whether later writes of this thread drop set-user-id and set-group-id. They do while
    /// the thread lacks CAP_FSETID. The guest sets `kill` if its caller lacks that capability.
    ///
    /// # Errors
    /// The error of the host. The caller must then do nothing.
    pub(crate) fn kill_suidgid(&self, kill: bool) -> Answer<()> {
        let Some(mut sets) = self.with_fsetid else { return Ok(()) };
        if KEEPS_SUID.get() != kill {
            return Ok(());
        }
        if kill {
            sets.effective.remove(CapabilitySet::FSETID);
        }
        rustix::thread::set_capabilities(None, sets).map_err(errno)?;
        KEEPS_SUID.set(!kill);
        Ok(())
    }
}

fn checked_groups(caller: &Caller<'_>) -> Answer<ArrayVec<Gid, GROUPS_MAX>> {
    let groups = caller.groups.clone().into_iter().flatten().take(GROUPS_MAX);
    groups.map(|group| checked_id(group).map(Gid::from_raw)).collect()
}

/// Checks that an id is not the "no id" of `setresuid` and `chown`.
pub(crate) const fn checked_id(id: u32) -> Answer<u32> {
    if id == u32::MAX { Err(Errno::EINVAL) } else { Ok(id) }
}

impl Drop for Assumed<'_> {
    fn drop(&mut self) {
        let own = self.identity;
        let mut outcome = Ok(());
        if self.uid {
            outcome = outcome.and(rustix::thread::set_thread_res_uid(None, own.own_uid, None));
            if !own.keeps_capabilities {
                // Only a daemon with uid 0 assumes other users. Its return to uid 0 raises every
                // permitted capability, also CAP_FSETID.
                KEEPS_SUID.set(true);
            }
        }
        if self.gid {
            outcome = outcome.and(rustix::thread::set_thread_res_gid(None, own.own_gid, None));
        }
        if self.groups {
            outcome = outcome.and(rustix::thread::set_thread_groups(&own.own_groups));
        }
        if self.umask {
            rustix::process::umask(Mode::empty());
        }
        if let Err(error) = outcome {
            // The saved ids are the daemon's own, so the kernel cannot refuse them. If it did, this
            // thread would serve one user of the guest as another.
            tracing::error!(%error, "cannot restore the daemon's own identity");
            crate::sys::process::abort();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn caller(uid: u32, gid: u32) -> Caller<'static> {
        Caller { uid, gid, groups: None, pid: 1 }
    }

    #[test]
    fn assumed_identity_is_restored() {
        let identity = Identity::read(true).unwrap();
        assert!(identity.can_switch, "run the tests as root");
        {
            let _assumed = identity.assume(&caller(1234, 5678), Some(0o077)).unwrap();
            assert_eq!(rustix::process::geteuid().as_raw(), 1234);
            assert_eq!(rustix::process::getegid().as_raw(), 5678);
        }
        assert_eq!(rustix::process::geteuid(), identity.own_uid);
        assert_eq!(rustix::process::getegid(), identity.own_gid);
        assert_eq!(rustix::process::getgroups().unwrap(), identity.own_groups);
    }

    #[test]
    fn identity_is_not_assumed_unless_allowed() {
        let identity = Identity::read(false).unwrap();
        let _assumed = identity.assume(&caller(1234, 5678), None).unwrap();
        assert_eq!(rustix::process::geteuid(), identity.own_uid);
        assert!(!identity.can_switch);
    }

    #[test]
    fn id_that_means_no_id_is_refused() {
        let identity = Identity::read(true).unwrap();
        assert_eq!(identity.assume(&caller(u32::MAX, 0), None).err(), Some(Errno::EINVAL));
        assert_eq!(identity.assume(&caller(0, u32::MAX), None).err(), Some(Errno::EINVAL));
        assert_eq!(rustix::process::geteuid(), identity.own_uid);
    }

    #[test]
    fn capability_that_keeps_suid_is_dropped_and_raised() {
        let identity = Identity::read(true).unwrap();
        let holds = || rustix::thread::capabilities(None).unwrap().effective.contains(CapabilitySet::FSETID);
        identity.kill_suidgid(true).unwrap();
        assert!(!holds());
        drop(identity.assume(&caller(1234, 5678), None).unwrap());
        identity.kill_suidgid(true).unwrap();
        assert!(!holds());
        identity.kill_suidgid(false).unwrap();
        assert!(holds());
    }

    #[test]
    fn assumed_user_has_every_capability_but_fsetid() {
        std::thread::spawn(|| {
            keep_capabilities().unwrap();
            let identity = Identity::read(true).unwrap();
            assert!(identity.keeps_capabilities, "run the tests as root");
            let effective = || rustix::thread::capabilities(None).unwrap().effective;
            let all = effective();
            for uid in [1234, 0, 1234] {
                let assumed = identity.assume(&caller(uid, 5678), None).unwrap();
                let expected = if uid == 0 { all } else { all - CapabilitySet::FSETID };
                assert_eq!((rustix::process::geteuid().as_raw(), effective()), (uid, expected));
                drop(assumed);
                assert_eq!((rustix::process::geteuid(), effective()), (identity.own_uid, expected));
            }
            identity.kill_suidgid(false).unwrap();
            assert_eq!(effective(), all);
        })
        .join()
        .unwrap();
    }
}
