//! Does a rootless container in the guest get the same results from a share as from a local ext4?
//!
//! The container's user is root in its own user namespace. So it has CAP_DAC_OVERRIDE there, and
//! the guest's kernel lets it create files in directories whose mode forbids that. The daemon
//! creates these files with the ids of that user.

use super::cases::{Shared, boot, serve};
use super::report::Report;
use std::sync::OnceLock;

/// Script that runs all cases in one place.
const SCRIPT: &str = "python3 -B /extra/rootless.py /mnt/PLACE PLACE\n";

/// Returns the results of the only boot, on a share and on the local ext4.
fn booted() -> &'static Report {
    static BOOTED: OnceLock<Report> = OnceLock::new();
    BOOTED.get_or_init(|| {
        let share = Shared::new();
        // An overlay needs device nodes to mark removed names, and extended attributes.
        let daemon = serve(&share.path, "share", &["--profile=full", "--xattr"]);
        let script = SCRIPT.replace("PLACE", "local") + &SCRIPT.replace("PLACE", "share");
        boot(&script, vec![("share", daemon)])
    })
}

/// Checks that a case prints `expected_line` on the local ext4 and the same lines on the share.
#[track_caller]
fn assert_same_as_local(case: &str, expected_line: &str) {
    let report = booted();
    let (_, ended, stderr) = &report.daemons[0];
    assert!(ended.contains("exit status: 0"), "{ended}: {stderr}");
    assert!(
        report.lines("local", case).iter().any(|line| line == expected_line),
        "{:?}",
        report.lines("local", case)
    );
    let found = report.differences(case, "share", "local", &[]);
    assert!(found.is_empty(), "{}\nall: {:#?}", found.join("\n"), report.lines("share", case));
}

#[test]
fn root_of_user_namespace_makes_files_in_closed_directories() {
    assert_same_as_local("namespace", "closed-0 create: ok");
}

#[test]
fn plain_user_cannot_create_in_closed_directories() {
    assert_same_as_local("plain", "closed-500 create: EACCES");
}

#[test]
fn rootless_overlay_has_its_upper_layer_on_the_share() {
    assert_same_as_local("overlay", "mount: 0 ");
}
