//! What INIT offers to a guest, and the other settings of its session.

use super::args::{CacheArg, LocksArg};
use super::config::ShareSettings;
use crate::limits;
use crate::session::{self, LockMode};
use pinhole_policy::{Access, Policy};
use pinhole_protocol::{InitFlags, InitOffer, Timeouts};

/// Removes the right to lock from the policy if locks do not reach the host.
pub(super) fn with_locks(policy: Policy, locks: LocksArg) -> Policy {
    match locks {
        LocksArg::Host => policy,
        LocksArg::Guest | LocksArg::None => policy.without(Access::LOCK),
    }
}

/// Returns the settings of a session with a directory, for the rights that the policy grants
/// anywhere.
pub(super) fn directory_options(share: &ShareSettings, granted: Access) -> session::Options {
    session::Options {
        offer: InitOffer { flags: directory_flags(share, granted), ..common_offer() },
        timeouts: Timeouts { entry: share.timeouts.entry, attr: share.timeouts.attr },
        negative_timeout: share.timeouts.negative,
        locks: if share.locks == LocksArg::None { LockMode::Refuse } else { LockMode::Host },
        assumed: None,
    }
}

/// Returns the offer of INIT without its flags, for any share.
fn common_offer() -> InitOffer {
    InitOffer {
        // The guest's own value is smaller and wins.
        max_readahead: limits::WRITE_LEN_MAX,
        max_write: limits::WRITE_LEN_MAX,
        // A ring holds no more requests. The guest reports congestion at three quarters.
        max_background: limits::QUEUE_SIZE_MAX,
        congestion_threshold: limits::QUEUE_SIZE_MAX / 4 * 3,
        time_gran: 1,
        ..InitOffer::default()
    }
}

/// Returns the flags that INIT offers, for the rights that the policy grants anywhere. The window
/// adds those of DAX. Passthrough and io_uring are not served. EXPORT_SUPPORT would ask for lookups
/// of "." and "..". A guest without the flags for locks keeps its locks to itself.
fn directory_flags(share: &ShareSettings, granted: Access) -> InitFlags {
    let locks = match share.locks {
        LocksArg::Host => granted.contains(Access::LOCK),
        LocksArg::Guest => false,
        // The guest asks, and gets an error.
        LocksArg::None => true,
    };
    let is_exclusive = matches!(share.cache, CacheArg::Exclusive | CacheArg::Always);
    let when = |wanted: bool, flags: InitFlags| if wanted { flags } else { InitFlags::empty() };
    InitFlags::ASYNC_READ
        | InitFlags::ASYNC_DIO
        | InitFlags::ATOMIC_O_TRUNC
        | InitFlags::BIG_WRITES
        | InitFlags::MAX_PAGES
        | InitFlags::PARALLEL_DIROPS
        | InitFlags::INIT_EXT
        | InitFlags::CREATE_SUPP_GROUP
        // The guest drops data when new attributes show a change by another guest or the host. With
        // `exclusive` there are no such changes.
        | when(!is_exclusive, InitFlags::AUTO_INVAL_DATA)
        | when(is_exclusive, InitFlags::CACHE_SYMLINKS)
        | when(share.readdirplus, InitFlags::DO_READDIRPLUS | InitFlags::READDIRPLUS_AUTO)
        | when(share.killpriv, InitFlags::HANDLE_KILLPRIV_V2)
        | when(share.idmap, InitFlags::ALLOW_IDMAP)
        | when(share.submounts, InitFlags::SUBMOUNTS)
        | when(share.writeback, InitFlags::WRITEBACK_CACHE)
        | when(share.mmap, InitFlags::DIRECT_IO_ALLOW_MMAP)
        | when(locks, InitFlags::POSIX_LOCKS | InitFlags::FLOCK_LOCKS)
        | when(share.xattr, InitFlags::SETXATTR_EXT)
        // A default ACL of the parent replaces the umask, so the guest must not apply its umask.
        | when(share.posix_acl, InitFlags::POSIX_ACL | InitFlags::DONT_MASK)
}

/// Returns the settings of a session with an image.
///
/// A guest that sends no INIT has sent it to an earlier process of this daemon. That process has
/// offered the same features, and gave out the same nodes.
pub(super) fn image_options(share: &ShareSettings) -> session::Options {
    let flags = image_flags(share);
    session::Options {
        offer: InitOffer { flags, ..common_offer() },
        timeouts: Timeouts { entry: share.timeouts.entry, attr: share.timeouts.attr },
        negative_timeout: share.timeouts.negative,
        locks: if share.locks == LocksArg::None { LockMode::Refuse } else { LockMode::Host },
        assumed: Some(flags),
    }
}

/// Returns the flags that INIT offers. Without `AUTO_INVAL_DATA`, the guest keeps data until it
/// needs the memory. `ATOMIC_O_TRUNC` is missing, so that opening a file for writing never reaches
/// the daemon as a success. Without `READDIRPLUS_AUTO`, each listing brings the attributes of its
/// entries, which cost no host call and stay valid, so that the guest looks up no entry.
fn image_flags(share: &ShareSettings) -> InitFlags {
    let when = |wanted: bool, flags: InitFlags| if wanted { flags } else { InitFlags::empty() };
    InitFlags::ASYNC_READ
        | InitFlags::ASYNC_DIO
        | InitFlags::MAX_PAGES
        | InitFlags::PARALLEL_DIROPS
        | InitFlags::INIT_EXT
        | InitFlags::NO_OPEN_SUPPORT
        | InitFlags::NO_OPENDIR_SUPPORT
        | InitFlags::EXPORT_SUPPORT
        | InitFlags::CACHE_SYMLINKS
        | when(share.readdirplus, InitFlags::DO_READDIRPLUS)
        | when(share.idmap, InitFlags::ALLOW_IDMAP)
        | when(share.locks == LocksArg::None, InitFlags::POSIX_LOCKS | InitFlags::FLOCK_LOCKS)
        | when(share.posix_acl, InitFlags::POSIX_ACL)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::args::Cli;
    use crate::cli::config::{Action, Config, PolicyChoice};
    use clap::Parser;
    use std::time::Duration;

    fn settings(words: &str) -> ShareSettings {
        let cli = Cli::try_parse_from(words.split_whitespace()).unwrap();
        let Action::Serve(serve) = Config::new(cli).unwrap().action else { panic!("{words}") };
        serve.share
    }

    fn offered(words: &str) -> session::Options {
        let share = settings(&format!("pinhole --shared-dir / --socket-path /s {words}"));
        let PolicyChoice::Profile(profile) = share.policy else { panic!("{words}") };
        directory_options(&share, with_locks(Policy::of(profile), share.locks).granted_anywhere())
    }

    fn offered_with_image(words: &str) -> session::Options {
        image_options(&settings(&format!("pinhole --prepared /i --socket-path /s {words}")))
    }

    #[test]
    fn each_switch_changes_what_init_offers() {
        let plain = offered("").offer.flags;
        for (words, flag) in [
            ("--posix-acl", InitFlags::POSIX_ACL | InitFlags::DONT_MASK | InitFlags::SETXATTR_EXT),
            ("--writeback", InitFlags::WRITEBACK_CACHE),
            ("--allow-idmap", InitFlags::ALLOW_IDMAP),
            ("--cache exclusive", InitFlags::CACHE_SYMLINKS),
            ("--cache always", InitFlags::CACHE_SYMLINKS),
        ] {
            assert!(offered(words).offer.flags.contains(flag), "{words}");
            assert!(!plain.contains(flag), "{words}");
        }
        for (words, flag) in [
            ("--no-readdirplus", InitFlags::DO_READDIRPLUS),
            ("--cache strict", InitFlags::DO_READDIRPLUS),
            ("--entry-timeout 0", InitFlags::DO_READDIRPLUS),
            ("--cache never", InitFlags::DIRECT_IO_ALLOW_MMAP),
            ("--cache metadata", InitFlags::DIRECT_IO_ALLOW_MMAP),
            ("--no-killpriv-v2", InitFlags::HANDLE_KILLPRIV_V2),
            ("--no-announce-submounts", InitFlags::SUBMOUNTS),
            ("--cache exclusive", InitFlags::AUTO_INVAL_DATA),
            ("--cache always", InitFlags::AUTO_INVAL_DATA),
        ] {
            assert!(!offered(words).offer.flags.intersects(flag), "{words}");
            assert!(plain.contains(flag), "{words}");
        }
    }

    #[test]
    fn locks_are_offered_if_served_or_refused() {
        let locks = InitFlags::POSIX_LOCKS | InitFlags::FLOCK_LOCKS;
        for words in ["", "--cache never", "--locks host --cache always", "--locks none --profile rootfs"] {
            assert!(offered(words).offer.flags.contains(locks), "{words}");
        }
        for words in ["--locks guest", "--cache always", "--profile rootfs"] {
            assert!(!offered(words).offer.flags.intersects(locks), "{words}");
        }
        assert_eq!(offered("--locks none").locks, LockMode::Refuse);
    }

    #[test]
    fn an_image_is_offered_as_what_never_changes() {
        let options = offered_with_image("");
        let day = Duration::from_hours(24);
        let Timeouts { entry, attr } = options.timeouts;
        assert_eq!((entry, attr, options.negative_timeout), (day, day, day));
        let flags = options.offer.flags;
        assert!(flags.contains(InitFlags::NO_OPEN_SUPPORT | InitFlags::NO_OPENDIR_SUPPORT));
        assert!(flags.contains(InitFlags::EXPORT_SUPPORT | InitFlags::DO_READDIRPLUS));
        assert!(!flags.contains(InitFlags::READDIRPLUS_AUTO));
        let changes = InitFlags::ATOMIC_O_TRUNC
            | InitFlags::WRITEBACK_CACHE
            | InitFlags::AUTO_INVAL_DATA
            | InitFlags::POSIX_LOCKS
            | InitFlags::POSIX_ACL;
        assert!(!flags.intersects(changes));
        assert_eq!(options.assumed, Some(flags));
    }

    #[test]
    fn switches_of_a_share_work_with_an_image() {
        assert!(offered_with_image("--posix-acl").offer.flags.contains(InitFlags::POSIX_ACL));
        assert!(!offered_with_image("--no-readdirplus").offer.flags.contains(InitFlags::DO_READDIRPLUS));
        assert!(offered_with_image("--allow-idmap").offer.flags.contains(InitFlags::ALLOW_IDMAP));
        let none = offered_with_image("--locks none");
        assert!(none.offer.flags.contains(InitFlags::FLOCK_LOCKS) && none.locks == LockMode::Refuse);
        assert_eq!(offered_with_image("--attr-timeout 2").timeouts.attr, Duration::from_secs(2));
        assert_eq!(offered_with_image("--negative-timeout 0").negative_timeout, Duration::ZERO);
    }
}
