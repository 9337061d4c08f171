//! The group of `--socket-group`: a name of `/etc/group`, or a number.

use std::io;

/// Returns the group's number.
///
/// # Errors
/// A message that names the option, if there is no such group.
pub(super) fn resolve(group: &str) -> io::Result<u32> {
    if let Ok(number) = group.parse() {
        return Ok(number);
    }
    let table = std::fs::read("/etc/group").map_err(|error| {
        io::Error::other(format!(
            "--socket-group: cannot read /etc/group: {error}; give the number of {group:?}"
        ))
    })?;
    find(&String::from_utf8_lossy(&table), group).ok_or_else(|| {
        io::Error::other(format!("--socket-group: no group {group:?} in /etc/group; give its number instead"))
    })
}

/// Returns the third field of the line that begins with the name, group(5).
fn find(table: &str, group: &str) -> Option<u32> {
    let mut lines = table.lines().map(|line| line.split(':'));
    lines.find_map(|mut fields| (fields.next()? == group).then(|| fields.nth(1)?.parse().ok())?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_and_a_number_are_both_groups() {
        assert_eq!(resolve("108").unwrap(), 108);
        assert_eq!(find("root:x:0:\nkvm:x:108:me\n", "kvm"), Some(108));
    }

    #[test]
    fn an_unknown_group_is_named() {
        let error = resolve("no-such-group").unwrap_err().to_string();
        assert!(error.contains("no-such-group"), "{error}");
    }
}
