//! Does a guest stop honoring set-user-id and set-group-id when a user without CAP_FSETID changes a
//! file?
//!
//! One boot runs every way to change a file in every cache mode, and on an ext4 image of the guest.
//! A check of the host's file is not enough: `exec` uses the copy of the mode in the guest's
//! kernel.

use super::cases::{Shared, boot, serve};
use super::report::Difference;

/// Every cache mode, writeback caches, and a guest that clears the bits by itself.
const PLACES: [(&str, &[&str]); 9] = [
    ("auto", &["--cache=auto"]),
    ("strict", &["--cache=strict"]),
    ("exclusive", &["--cache=exclusive"]),
    ("always", &["--cache=always"]),
    ("never", &["--cache=never"]),
    ("metadata", &["--cache=metadata"]),
    ("auto-writeback", &["--cache=auto", "--writeback"]),
    ("exclusive-writeback", &["--cache=exclusive", "--writeback"]),
    ("exclusive-v1", &["--cache=exclusive", "--no-killpriv-v2"]),
];

/// Modes that refuse shared mappings.
const UNMAPPED: &[&str] = &["never", "metadata"];

/// Differences between a share and the local ext4.
const DIFFERENCES: [Difference; 1] =
    [Difference { places: UNMAPPED, case: "mapped-6755", share: &["change: ENODEV"], ends_early: false }];

/// Script that builds /tmp/ids, a program that prints its effective user and group.
const IDS: &str = r#"
    printf '#include <stdio.h>\n#include <unistd.h>\nint main(void) { printf("%%d %%d\\n", geteuid(), getegid()); }' \
        > /tmp/ids.c
    gcc -static -o /tmp/ids /tmp/ids.c
    "#;

#[test]
fn guest_stops_honoring_privileged_bits_after_an_unprivileged_change() {
    let shares: Vec<_> = PLACES.iter().map(|_| Shared::new()).collect();
    let run =
        |place, modes| format!("python3 -B /extra/privileges.py /tmp/ids /mnt/{place} {place} {modes}\n");
    let mut script = format!("{IDS}{}", run("local", "6755 4755 2755"));
    let mut daemons = Vec::new();
    for ((place, arguments), share) in PLACES.iter().zip(&shares) {
        // In `auto`, both bits together and each bit alone. In the other modes, both together.
        script.push_str(&run(place, if *place == "auto" { "6755 4755 2755" } else { "6755" }));
        daemons.push((*place, serve(&share.path, place, arguments)));
    }
    let report = boot(&script, daemons);
    let cases = report.cases("local");
    assert_eq!(cases.len(), 3 * 14, "{}", report.ended);
    let mut found = Vec::new();
    for (place, ended, stderr) in &report.daemons {
        assert!(ended.contains("exit status: 0"), "{place} {ended}: {stderr}");
    }
    for (place, _) in PLACES {
        let cases = report.cases(place);
        assert!(cases.len() >= 14, "{place}: {cases:?}, {}", report.ended);
        for case in cases {
            found.extend(report.differences(case, place, "local", &DIFFERENCES));
        }
    }
    assert!(found.is_empty(), "{} differences:\n{}", found.len(), found.join("\n"));
    // The local directory is the reference, except for stores through a mapping.
    for case in cases.iter().filter(|case| !case.starts_with("mapped")) {
        let lines = report.lines("local", case);
        assert!(lines.contains(&"ran as: 1001 1001".to_owned()), "{case}: {lines:?}");
        assert!(lines.contains(&"mode: 0o100755".to_owned()), "{case}: {lines:?}");
    }
}
