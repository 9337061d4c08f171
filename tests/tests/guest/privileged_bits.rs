//! Which operations of which callers remove set-user-id and set-group-id, compared with a local
//! ext4?
//!
//! One boot runs every caller, operation and mode on an ext4 image of the guest and on shares. Each
//! difference has a reason, [`reason_for`], which docs/use/compatibility.md explains.

use super::cases::{Shared, boot, serve};
use std::collections::BTreeSet;

/// Script that runs all callers, operations and modes in one place.
const SCRIPT: &str = "python3 -B /extra/bits.py /mnt/PLACE PLACE\n";

/// Tags and arguments of the shares.
const PLACES: [(&str, &[&str]); 3] =
    [("v2", &["--killpriv-v2"]), ("v1", &["--no-killpriv-v2"]), ("idmap", &["--allow-idmap"])];

/// Returns the reason why a line may differ from that of the local directory, or `None` if it must
/// not differ.
///
/// A line is `OWNER OPERATION MODE: MODE-AFTERWARDS ERRNO`.
fn reason_for((place, caller): (&str, &str), seen: &str, local: &str) -> Option<&'static str> {
    let ((what, here), (_, there)) = (seen.split_once(": ")?, local.split_once(": ")?);
    let ((mode, ended), (local_mode, local_ended)) = (here.split_once(' ')?, there.split_once(' ')?);
    let (operation, before) = what.rsplit_once(' ')?;
    if operation.ends_with("chown to same") && (ended, local_ended) == ("ok", "EPERM") && mode == local_mode {
        return Some("the owner's write sends the same request, and must not fail");
    }
    let names = ["fallocate", "punch", "copy_file_range"].iter().any(|name| operation.ends_with(name));
    if caller == "user-with-fsetid" && names && ended == "ok" {
        return Some("the request does not say that its caller has CAP_FSETID");
    }
    let same = operation.ends_with("chown to same") && mode == before;
    if place == "idmap" && ended == "ok" && local_ended == "ok" && (names || same) {
        return Some("the request does not say who its caller is");
    }
    let bits = |mode| u32::from_str_radix(mode, 8).unwrap();
    let differ = bits(mode) ^ bits(local_mode);
    if bits(before) & 0o010 == 0 && differ == 0o2000 && ended == local_ended {
        return Some("no request says to which groups its caller belongs");
    }
    None
}

#[test]
fn privileged_bits_drop_as_on_a_local_file_system() {
    let shares: Vec<_> = PLACES.iter().map(|_| Shared::new()).collect();
    let mut script = SCRIPT.replace("PLACE", "local");
    let mut daemons = Vec::new();
    for ((place, arguments), share) in PLACES.iter().zip(&shares) {
        script.push_str(&SCRIPT.replace("PLACE", place));
        daemons.push((*place, serve(&share.path, place, arguments)));
    }
    let report = boot(&script, daemons);
    for (place, ended, stderr) in &report.daemons {
        assert!(ended.contains("exit status: 0"), "{place} {ended}: {stderr}");
    }
    let (mut reasons, mut found) = (BTreeSet::new(), Vec::new());
    let callers = report.cases("local");
    assert_eq!(callers.len(), 7, "{}", report.ended);
    for (place, _) in PLACES {
        for caller in &callers {
            let (here, local) = (report.lines(place, caller), report.lines("local", caller));
            assert_eq!((here.len(), local.len()), (2 * 10 * 2, 2 * 10 * 2), "{caller} on {place}");
            for (seen, expected) in here.iter().zip(local).filter(|(seen, expected)| seen != expected) {
                match reason_for((place, caller), seen, expected) {
                    // Root gets the results of a local directory if requests name their caller.
                    // With --allow-idmap they do not.
                    Some(reason) if *caller != "root" || place == "idmap" => drop(reasons.insert(reason)),
                    _ => found.push(format!("{place} {caller}: {seen}, local {expected}")),
                }
            }
        }
    }
    assert!(found.is_empty(), "{} differences:\n{}", found.len(), found.join("\n"));
    assert_eq!(reasons.len(), 4, "a reason without a difference: {reasons:?}");
}
