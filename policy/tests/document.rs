//! Does docs/use/policy.md say of each operation what the program does?
#![cfg(test)]

use pinhole_policy::{ACCESSES, LIMITS, Profile};

const DOCUMENT: &str = include_str!("../../docs/use/policy.md");

/// The cells of the table row that begins with a name.
fn row(name: &str) -> Vec<&'static str> {
    let start = format!("| `{name}` ");
    let mut rows = DOCUMENT.lines().filter(|line| line.starts_with(&start));
    let row = rows.next().unwrap_or_else(|| panic!("{name} has no row"));
    assert_eq!(rows.next(), None, "{name} has two rows");
    row.trim_matches('|').split('|').map(str::trim).collect()
}

#[test]
fn every_operation_has_a_row_with_its_meaning_its_profiles_and_its_errno() {
    for described in ACCESSES {
        let cells = row(described.name);
        let within = |profile: Profile| {
            if profile.granted().contains(described.access) { "yes" } else { "" }
        };
        assert_eq!(cells[2], within(Profile::Share), "{} in share", described.name);
        assert_eq!(cells[3], within(Profile::Rootfs), "{} in rootfs", described.name);
        assert_eq!(cells[4], described.refusal.errno_name(), "{}", described.name);
        let plain: String = cells[1].replace(['`', '('], "").to_lowercase();
        let first = described.what.split_whitespace().next().unwrap().to_lowercase();
        assert!(plain.starts_with(&first), "{}: {} is not: {}", described.name, described.what, cells[1]);
    }
}

#[test]
fn every_limit_has_a_row_that_says_what_happens_past_it() {
    for limit in LIMITS {
        assert_eq!(row(limit.name)[2], limit.past, "{}", limit.name);
    }
}

#[test]
fn every_profile_is_described() {
    for profile in Profile::ALL {
        let start = format!("| `{}` ", profile.name());
        assert!(DOCUMENT.lines().any(|line| line.starts_with(&start)), "{}", profile.name());
    }
}
