//! Names of system calls and capabilities by number, from kernel headers.

use std::collections::BTreeMap;
use std::fs;

use pinhole_tests::guest::Parts;

use crate::step::{Failure, Outcome};

/// Names by number.
#[derive(Clone, Debug)]
pub(super) struct Names {
    /// System calls of x86-64, the only architecture that is measured here.
    pub(super) calls: BTreeMap<u32, String>,
    pub(super) capabilities: BTreeMap<u32, String>,
}

impl Names {
    /// Reads the headers of the Debian release that the guests come from.
    ///
    /// # Errors
    /// Fails if the headers have not been fetched.
    pub(super) fn read() -> Outcome<Self> {
        let base = Parts::locate().base().map_err(|error| Failure::new(error.to_string()))?;
        let text = |name: &str| {
            let path = base.join("usr/include").join(name);
            fs::read_to_string(&path).map_err(Failure::io(format!("cannot read {}", path.display())))
        };
        Ok(Self {
            calls: defined(&text("x86_64-linux-gnu/asm/unistd_64.h")?, "__NR_"),
            capabilities: defined(&text("linux/capability.h")?, "CAP_"),
        })
    }

    /// Returns the names in a set of capabilities, in the form of `/proc/PID/status`.
    pub(super) fn of_set(&self, set: u64) -> Vec<&str> {
        let known = self.capabilities.iter().filter(|(number, _)| set >> **number & 1 == 1);
        known.map(|(_, name)| name.as_str()).collect()
    }
}

/// Returns the names of lines `#define PREFIXname number` by number, in lower case.
fn defined(header: &str, prefix: &str) -> BTreeMap<u32, String> {
    let parsed = header.lines().filter_map(|line| {
        let mut words = line.strip_prefix("#define ")?.split_whitespace();
        let name = words.next()?.strip_prefix(prefix)?.to_ascii_lowercase();
        Some((words.next()?.parse().ok()?, name))
    });
    parsed.collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_plain_numbers_are_names() {
        let header =
            "#define CAP_CHOWN            0\n#define CAP_LAST_CAP CAP_X\n#define CAP_KILL 5 /* x */\n";
        let names = defined(header, "CAP_");
        assert_eq!(names, BTreeMap::from([(0, "chown".to_owned()), (5, "kill".to_owned())]));
    }

    #[test]
    fn a_set_is_the_names_of_its_bits() {
        let capabilities = BTreeMap::from([(0, "chown".to_owned()), (5, "kill".to_owned())]);
        let names = Names { calls: BTreeMap::new(), capabilities };
        assert_eq!(names.of_set(0x21), ["chown", "kill"]);
        assert_eq!(names.of_set(0x20), ["kill"]);
    }
}
