//! The ids of the host in a user namespace: `--uid-map` and `--gid-map`, in virtiofsd's form.

use super::error::SandboxError;
use crate::sys::process::{self, Forked};
use crate::sys::thread::unshare;
use rustix::process::{Pid, WaitOptions, getegid, geteuid, getpid, waitpid};
use rustix::thread::UnshareFlags;
use std::fmt;
use std::io::{self, PipeReader, Read as _, Write as _};
use std::process::{Command, Stdio};
use std::str::FromStr;

/// A range of ids, `:namespace:host:count:`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct IdMap {
    inside: u32,
    outside: u32,
    count: u32,
}

/// A text that is not a range of ids.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not a range of ids: give :namespace_id:host_id:count:, such as :0:100000:65536:")]
pub struct IdMapError(String);

impl FromStr for IdMap {
    type Err = IdMapError;

    /// Parses virtiofsd's form. The first character is the separator: any character except a digit.
    /// The same separator stands between the numbers and at the end.
    fn from_str(text: &str) -> Result<Self, IdMapError> {
        Self::parse(text).ok_or_else(|| IdMapError(text.to_owned()))
    }
}

impl fmt::Display for IdMap {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{} {} {}", self.inside, self.outside, self.count)
    }
}

impl IdMap {
    fn parse(text: &str) -> Option<Self> {
        let separator = text.chars().next().filter(|first| !first.is_ascii_digit())?;
        let inner = text.strip_prefix(separator)?.strip_suffix(separator)?;
        let numbers: Option<Vec<u32>> = inner.split(separator).map(|number| number.parse().ok()).collect();
        let [inside, outside, count] = numbers?.try_into().ok()?;
        let ends = inside.checked_add(count).and(outside.checked_add(count));
        (count > 0 && ends.is_some()).then_some(Self { inside, outside, count })
    }

    const fn of_one(id: u32) -> Self {
        Self { inside: id, outside: id, count: 1 }
    }
}

/// The ids of a user namespace. If no users are given, the daemon's own user is mapped to itself.
/// If no groups are given, its own group is mapped to itself.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct IdMaps {
    /// The ranges of users.
    pub users: Vec<IdMap>,
    /// The ranges of groups.
    pub groups: Vec<IdMap>,
}

impl IdMaps {
    /// Returns whether ids are given.
    pub const fn are_given(&self) -> bool {
        !self.users.is_empty() || !self.groups.is_empty()
    }

    /// Returns whether the namespace has a root user and group.
    pub fn have_root(&self) -> bool {
        let root = |maps: &[IdMap]| maps.iter().any(|map| map.inside == 0);
        root(&self.users) && root(&self.groups)
    }

    /// Returns the ranges with the defaults filled in.
    fn filled(&self) -> Self {
        let or =
            |maps: &Vec<IdMap>, own| if maps.is_empty() { vec![IdMap::of_one(own)] } else { maps.clone() };
        Self { users: or(&self.users, geteuid().as_raw()), groups: or(&self.groups, getegid().as_raw()) }
    }

    /// Returns whether a process without capabilities may write these ranges: one user and one
    /// group, each the process's own.
    fn is_own(&self) -> bool {
        let own = |maps: &[IdMap], id| matches!(maps, [map] if map.outside == id && map.count == 1);
        own(&self.users, geteuid().as_raw()) && own(&self.groups, getegid().as_raw())
    }

    /// Enters a new user namespace with these ids, and makes a new PID namespace for child
    /// processes.
    ///
    /// # Errors
    /// The step that the host refuses.
    pub(super) fn enter(&self) -> Result<(), SandboxError> {
        let maps = self.filled();
        let refused = SandboxError::namespace::<io::Error>;
        let flags = UnshareFlags::NEWUSER | UnshareFlags::NEWPID;
        if maps.is_own() {
            unshare(flags).map_err(refused("no user namespace"))?;
            // The kernel requires this setting before a group is mapped without CAP_SETGID.
            return std::fs::write("/proc/self/setgroups", "deny")
                .and_then(|()| maps.write_to("self"))
                .map_err(refused("cannot map this user and group"));
        }
        // A second process maps all other ids, from outside the namespace. Inside, no process has
        // the right to map them, and newuidmap does not run as root.
        let (request_reader, mut request_writer) = io::pipe().map_err(refused("no pipe"))?;
        let (error_reader, error_writer) = io::pipe().map_err(refused("no pipe"))?;
        let target = getpid();
        match process::fork().map_err(refused("no second process"))? {
            Forked::Child => {
                drop(request_writer);
                let error = maps.map_for(target, request_reader).err().unwrap_or_default();
                // If the reader is gone, the result no longer matters.
                drop((&error_writer).write_all(error.as_bytes()));
                process::end(0);
            }
            Forked::Parent(helper) => {
                drop((request_reader, error_writer));
                unshare(flags).map_err(refused("no user namespace"))?;
                request_writer.write_all(b"!").map_err(refused("cannot ask for the ids to be mapped"))?;
                let error = io::read_to_string(error_reader)
                    .map_err(refused("cannot read whether the ids were mapped"))?;
                waitpid(Some(helper), WaitOptions::empty())
                    .map_err(SandboxError::namespace("cannot wait for the ids"))?;
                if error.is_empty() { Ok(()) } else { Err(SandboxError::Maps(error)) }
            }
        }
    }

    /// Waits for a byte in `request`, and then maps the ids of the process `target`. The error is a
    /// text for the operator.
    fn map_for(&self, target: Pid, mut request: PipeReader) -> Result<(), String> {
        request
            .read_exact(&mut [0])
            .map_err(|error| format!("the daemon has not asked for them: {error}"))?;
        let number = target.as_raw_nonzero().to_string();
        if geteuid().is_root() {
            return self.write_to(&number).map_err(|error| {
                format!(
                    "the host refuses them: {error}; use host ids that /proc/self/uid_map and gid_map list"
                )
            });
        }
        for (program, maps) in [("newuidmap", &self.users), ("newgidmap", &self.groups)] {
            let ids = maps.iter().flat_map(|map| [map.inside, map.outside, map.count]);
            let mut command = Command::new(program);
            command.arg(&number).args(ids.map(|id| id.to_string()));
            let output = command.stdin(Stdio::null()).stdout(Stdio::null()).output().map_err(|error| {
                format!("{program} cannot be run ({error}): install it (package uidmap), or map one user and one group, each the daemon's own")
            })?;
            if !output.status.success() {
                let why = String::from_utf8_lossy(&output.stderr);
                return Err(format!("{}; /etc/subuid and /etc/subgid say what is allowed", why.trim()));
            }
        }
        Ok(())
    }

    fn write_to(&self, process: &str) -> io::Result<()> {
        for (file, maps) in [("uid_map", &self.users), ("gid_map", &self.groups)] {
            let text: Vec<String> = maps.iter().map(|map| format!("{map}\n")).collect();
            std::fs::write(format!("/proc/{process}/{file}"), text.concat())?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_range_has_the_form_of_virtiofsd() {
        let map = IdMap { inside: 0, outside: 100_000, count: 65_536 };
        assert_eq!(":0:100000:65536:".parse(), Ok(map));
        assert_eq!("/0/100000/65536/".parse(), Ok(map));
        assert_eq!(map.to_string(), "0 100000 65536");
        for wrong in ["", ":", "0:1:2", ":0:1:", ":0:1:0:", ":0:1:2:3:", ":a:1:2:", ":4294967295:1:2:"] {
            assert_eq!(wrong.parse::<IdMap>(), Err(IdMapError(wrong.to_owned())), "{wrong}");
        }
    }

    #[test]
    fn default_maps_the_daemons_own_ids_to_themselves() {
        let maps = IdMaps::default().filled();
        assert!(maps.is_own() && !IdMaps::default().are_given());
        let several = IdMaps { users: vec![":0:100000:65536:".parse().unwrap()], ..IdMaps::default() };
        assert!(!several.filled().is_own() && several.are_given());
    }
}
