//! The access that the mode of a file grants a caller, for guests that leave this to the daemon.

use super::Caller;
use pinhole_protocol::{AccessMask, Attr, DirentKind};

/// Returns whether the mode of a file grants the caller an access. It ignores access control lists:
/// a Linux guest decides by itself (`default_permissions`) and never sends ACCESS. Asking the host
/// as the caller would need one more system call in every filter.
pub(crate) fn permits(attr: &Attr, caller: &Caller<'_>, wanted: AccessMask) -> bool {
    let grants = |class: u32| AccessMask::from_bits_truncate(class).contains(wanted);
    let Some(uid) = caller.known_uid() else {
        // A caller without an id has the access that every class has.
        return grants(attr.mode >> 6 & attr.mode >> 3 & attr.mode);
    };
    if uid == 0 {
        let is_directory = matches!(DirentKind::from_mode(attr.mode), DirentKind::DIRECTORY);
        return !wanted.contains(AccessMask::EXECUTE) || attr.mode & 0o111 != 0 || is_directory;
    }
    let mut groups = caller.groups.clone().into_iter().flatten();
    grants(if attr.uid == uid {
        attr.mode >> 6
    } else if caller.known_gid() == Some(attr.gid) || groups.any(|group| group == attr.gid) {
        attr.mode >> 3
    } else {
        attr.mode
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const READ: AccessMask = AccessMask::READ;
    const WRITE: AccessMask = AccessMask::WRITE;
    const EXECUTE: AccessMask = AccessMask::EXECUTE;

    #[test]
    fn access_depends_on_class_and_root_needs_an_execute_bit() {
        let attr = |mode| Attr { mode, uid: 1, gid: 2, ..Attr::default() };
        let caller = |uid, gid| Caller { uid, gid, groups: None, pid: 1 };
        assert!(permits(&attr(0o100_640), &caller(1, 9), READ | WRITE));
        assert!(permits(&attr(0o100_640), &caller(9, 2), READ));
        assert!(!permits(&attr(0o100_640), &caller(9, 2), WRITE));
        assert!(!permits(&attr(0o100_640), &caller(9, 9), READ));
        // The owner's class applies to the owner, even if another class would grant more.
        assert!(!permits(&attr(0o100_066), &caller(1, 2), READ));
        assert!(permits(&attr(0o100_000), &caller(0, 0), READ | WRITE));
        assert!(!permits(&attr(0o100_644), &caller(0, 0), EXECUTE));
        assert!(permits(&attr(0o040_000), &caller(0, 0), EXECUTE));
    }

    #[test]
    fn unknown_caller_has_access_that_every_class_has() {
        let unknown = Caller { uid: u32::MAX, gid: u32::MAX, groups: None, pid: 1 };
        // A file without an owner is not owned by a caller without an id.
        let attr = |mode| Attr { mode, uid: u32::MAX, gid: u32::MAX, ..Attr::default() };
        assert!(permits(&attr(0o100_755), &unknown, READ | EXECUTE));
        for mode in [0o100_722, 0o100_070, 0o100_007] {
            assert!(!permits(&attr(mode), &unknown, READ), "{mode:o}");
        }
    }
}
