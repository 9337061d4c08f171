//! Under whose name a host call runs: user, groups, umask and the capability that keeps suid bits.
//!
//! All of it belongs to the calling thread alone. A guard puts back what it changed, on every path.

use crate::filesystem::Caller;
use crate::limits::GROUPS_MAX;
use crate::passthrough::resolve::errno;
use arrayvec::ArrayVec;
use pinhole_protocol::Errno;
use rustix::fs::{Gid, Mode, Uid};
use rustix::thread::{CapabilitiesSecureBits, CapabilitySet, CapabilitySets};
use std::cell::Cell;

thread_local! {
    /// Whether this thread's effective set holds CAP_FSETID now. It starts as the process has it.
    static KEEPS_SUID: Cell<bool> = const { Cell::new(true) };
}

/// What the daemon itself may take on.
#[derive(Debug)]
pub(crate) struct Identity {
    own_uid: Uid,
    own_gid: Gid,
    own_groups: Vec<Gid>,
    /// The daemon is root with CAP_SETUID and CAP_SETGID; else every call runs as its own user. With the two
    /// capabilities alone it cannot switch: taking on a guest's root and giving it up again would lose them.
    can_switch: bool,
    /// A thread keeps its capabilities when it takes on another user ([`keep_capabilities`]). Then what it makes for
    /// that user is made with CAP_DAC_OVERRIDE: the guest's kernel has judged whether the user may.
    keeps_capabilities: bool,
    /// The capabilities, where CAP_FSETID is among them.
    with_fsetid: Option<CapabilitySets>,
}

/// Lets this thread, and all that it starts, keep capabilities when they take on another user. Without the right to that
/// (CAP_SETPCAP) nothing changes.
///
/// # Errors
/// What the host says but EPERM.
pub fn keep_capabilities() -> rustix::io::Result<()> {
    let kept = rustix::thread::capabilities_secure_bits()? | CapabilitiesSecureBits::NO_SETUID_FIXUP;
    match rustix::thread::set_capabilities_secure_bits(kept) {
        Ok(()) | Err(rustix::io::Errno::PERM) => Ok(()),
        Err(error) => Err(error),
    }
}

/// The daemon's own identity is not the thread's until this is dropped.
#[derive(Debug)]
#[must_use = "the identity is put back when this is dropped"]
pub(crate) struct Assumed<'i> {
    identity: &'i Identity,
    uid: bool,
    gid: bool,
    groups: bool,
    umask: bool,
}

impl Identity {
    /// Reads what the process is allowed. `as_users`: it may take on others' identities, if it can; the filters have
    /// room for what that takes only where this was said when they were made.
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

    /// Whether the host's permission bits do not stand in the way of what a guest's user makes.
    pub(crate) const fn keeps_capabilities(&self) -> bool {
        self.keeps_capabilities
    }

    /// Whether files get their guest owner.
    pub(crate) const fn can_switch(&self) -> bool {
        self.can_switch
    }

    /// Makes the thread act as the caller until the guard is dropped. `umask` is given where the server applies it.
    ///
    /// # Errors
    /// EINVAL for ids that mean "no id"; what the host says where it refuses the switch.
    pub(crate) fn assume(&self, caller: &Caller<'_>, umask: Option<u32>) -> Result<Assumed<'_>, Errno> {
        // Root keeps set-group-id in what it makes, whatever an earlier write of this thread was told. Others keep it as the
        // host decides for a process without CAP_FSETID.
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
        // Groups go first: afterwards the thread may no longer have the right to drop the daemon's own.
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

    /// Sets whether suid and sgid bits survive what this thread writes from now on: they do while it holds
    /// CAP_FSETID. `kill` is the guest's word that its caller has no such capability.
    ///
    /// # Errors
    /// What the host says; the caller then does nothing.
    pub(crate) fn kill_suidgid(&self, kill: bool) -> Result<(), Errno> {
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

fn checked_groups(caller: &Caller<'_>) -> Result<ArrayVec<Gid, GROUPS_MAX>, Errno> {
    let mut checked = ArrayVec::new();
    for group in caller.groups.clone().into_iter().flatten().take(GROUPS_MAX) {
        checked.push(Gid::from_raw(checked_id(group)?));
    }
    Ok(checked)
}

/// An id that is not the "no id" of `setresuid` and `chown`.
pub(crate) const fn checked_id(id: u32) -> Result<u32, Errno> {
    if id == u32::MAX { Err(Errno::EINVAL) } else { Ok(id) }
}

impl Drop for Assumed<'_> {
    fn drop(&mut self) {
        let own = self.identity;
        let mut outcome = Ok(());
        if self.uid {
            outcome = outcome.and(rustix::thread::set_thread_res_uid(None, own.own_uid, None));
            if !own.keeps_capabilities {
                // Coming back to uid 0, the only own uid that switches, raises every permitted capability.
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
            // The saved ids are the daemon's own, so the kernel cannot refuse them; if it did, this thread would
            // serve one guest user's requests as another.
            tracing::error!(%error, "cannot take back the daemon's own identity");
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
    fn an_assumed_identity_is_put_back() {
        let identity = Identity::read(true).unwrap();
        assert!(identity.can_switch(), "run the tests as root");
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
    fn who_was_not_told_that_it_may_takes_on_no_identity() {
        let identity = Identity::read(false).unwrap();
        let _assumed = identity.assume(&caller(1234, 5678), None).unwrap();
        assert_eq!(rustix::process::geteuid(), identity.own_uid);
        assert!(!identity.can_switch());
    }

    #[test]
    fn the_id_that_means_no_id_is_refused() {
        let identity = Identity::read(true).unwrap();
        assert_eq!(identity.assume(&caller(u32::MAX, 0), None).err(), Some(Errno::EINVAL));
        assert_eq!(identity.assume(&caller(0, u32::MAX), None).err(), Some(Errno::EINVAL));
        assert_eq!(rustix::process::geteuid(), identity.own_uid);
    }

    #[test]
    fn the_capability_that_keeps_suid_goes_and_comes() {
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
            assert!(identity.keeps_capabilities(), "run the tests as root");
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
