//! Does docs/use/policy.md describe each operation, limit and profile as the program has it?
#![cfg(test)]

use pinhole_policy::{ACCESSES, LIMITS, Profile};

const DOCUMENT: &str = include_str!("../../docs/use/policy.md");

/// Returns the cells of the table row that begins with a name.
fn row(name: &str) -> Vec<&'static str> {
    let start = format!("| `{name}` ");
    let mut rows = DOCUMENT.lines().filter(|line| line.starts_with(&start));
    let row = rows.next().unwrap_or_else(|| panic!("{name} has no row"));
    assert_eq!(rows.next(), None, "{name} has two rows");
    row.trim_matches('|').split('|').map(str::trim).collect()
}

#[test]
fn every_operation_has_a_row_with_meaning_profiles_and_errno() {
    for access in ACCESSES {
        let cells = row(access.name);
        let cell = |profile: Profile| {
            if profile.granted().contains(access.access) { "yes" } else { "" }
        };
        assert_eq!(cells[2], cell(Profile::Share), "{} in share", access.name);
        assert_eq!(cells[3], cell(Profile::Rootfs), "{} in rootfs", access.name);
        assert_eq!(cells[4], access.refusal.errno_name(), "{}", access.name);
        let meaning: String = cells[1].replace(['`', '('], "").to_lowercase();
        let first = access.what.split_whitespace().next().unwrap().to_lowercase();
        assert!(
            meaning.starts_with(&first),
            "{}: the page says {:?}, the program {:?}",
            access.name,
            cells[1],
            access.what
        );
    }
}

#[test]
fn every_limit_has_a_row_with_its_consequence() {
    for limit in LIMITS {
        assert_eq!(row(limit.name)[2], limit.past, "{}", limit.name);
    }
}

#[test]
fn every_profile_has_a_row() {
    for profile in Profile::ALL {
        let start = format!("| `{}` ", profile.name());
        assert!(DOCUMENT.lines().any(|line| line.starts_with(&start)), "{}", profile.name());
    }
}
