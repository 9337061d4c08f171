//! Cases in `scripts`, and a guest that runs them on shares.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use pinhole_tests::daemon::{Daemon, Serving};
use pinhole_tests::guest::Guest;
use tempfile::TempDir;

use super::report::Report;

/// Files of the cases, as the guest finds them in `/extra`.
const SCRIPTS: [(&str, &str); 10] = [
    ("idmap.py", include_str!("scripts/idmap.py")),
    ("rootless.py", include_str!("scripts/rootless.py")),
    ("bits.py", include_str!("scripts/bits.py")),
    ("posix.py", include_str!("scripts/posix.py")),
    ("privileges.py", include_str!("scripts/privileges.py")),
    ("probe.py", include_str!("scripts/probe.py")),
    ("cases_files.py", include_str!("scripts/cases_files.py")),
    ("cases_mounts.py", include_str!("scripts/cases_mounts.py")),
    ("cases_names.py", include_str!("scripts/cases_names.py")),
    ("cases_rights.py", include_str!("scripts/cases_rights.py")),
];

/// Script that mounts an ext4 image in the guest's tmpfs. This is the local directory that shares
/// are compared with.
const LOCAL: &str = "
    set -e
    posix() { python3 -B /extra/posix.py \"$@\"; }
    truncate -s 200M /tmp/image
    mkfs.ext4 -q -F -b 4096 -I 256 -N 60000 /tmp/image
    mkdir -p /mnt/local
    mount -o loop /tmp/image /mnt/local
    ";

/// Folder to share, removed at the end. It is on the disk of the build folder, because a tmpfs
/// supports neither collapsing nor inode handles.
pub(crate) struct Shared {
    _keeper: TempDir,
    pub(crate) path: PathBuf,
}

impl Shared {
    pub(crate) fn new() -> Self {
        let keeper =
            tempfile::Builder::new().prefix("share-").tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
        // The outer folder is closed to other users. The share is open, for the guest's other
        // users.
        let path = keeper.path().join("share");
        fs::create_dir(&path).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
        Self { _keeper: keeper, path }
    }
}

/// Starts a daemon that serves `folder` under `tag`.
pub(crate) fn serve(folder: &Path, tag: &str, arguments: &[&str]) -> Serving {
    assert!(
        rustix::process::geteuid().is_root(),
        "shares of other users' files need root: run `sudo -E env PATH=\"$PATH\" cargo xtask test`"
    );
    let daemon = Daemon::pinhole(folder).unwrap().argument(format!("--tag={tag}"));
    arguments.iter().fold(daemon, |daemon, argument| daemon.argument(*argument)).start().unwrap()
}

/// Runs [`LOCAL`] and then `script` in a guest that mounts the shares of `daemons`, and returns the
/// results. The daemons have their tags.
pub(crate) fn boot(script: &str, daemons: Vec<(&str, Serving)>) -> Report {
    let mut guest = Guest::uml().userland().memory_mib(768).limit(Duration::from_mins(8));
    guest = guest.file("two_mounts.py", 0o644, include_str!("scripts/two_mounts.py"));
    for (name, text) in SCRIPTS {
        guest = guest.file(name, 0o644, text);
    }
    for (tag, daemon) in &daemons {
        guest = guest.share(daemon.socket(), tag);
    }
    Report::new(guest.run(&format!("{LOCAL}{script}")), daemons)
}
