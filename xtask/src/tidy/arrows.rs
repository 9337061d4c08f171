//! Permitted dependencies: between crates, between modules of the daemon, and from pure crates to
//! the standard library.
//!
//! Dependencies have one direction and no cycles. The tables here define the architecture, and
//! docs/internals/architecture.md explains it.

use super::fault::Fault;
use super::modules::Crate;
use super::scope::NamedPath;
use super::source::Source;

/// Page that explains the tables of this file.
const PAGE: &str = "docs/internals/architecture.md";

/// Folder of the modules of the daemon.
const DAEMON: &str = "daemon/src/";

/// Folder of a crate, and the crates of this workspace that it may depend on. Dev-dependencies are
/// not checked.
const CRATES: [(&str, &[&str]); 10] = [
    ("protocol", &[]),
    ("policy", &[]),
    ("dax-cache", &[]),
    ("daemon/erofs", &[]),
    ("daemon/prepare", &["pinhole-erofs"]),
    (
        "daemon",
        &["pinhole-protocol", "pinhole-policy", "pinhole-dax-cache", "pinhole-erofs", "pinhole-prepare"],
    ),
    ("tests", &["pinhole", "pinhole-protocol", "pinhole-policy", "pinhole-dax-cache", "pinhole-erofs"]),
    ("tests/bench", &["pinhole-tests", "pinhole-protocol"]),
    ("tests/crash", &["pinhole-tests", "pinhole-protocol"]),
    ("xtask", &["pinhole-tests"]),
];

/// Pure crates: they compute values from values and have no effects.
const PURE: [&str; 4] = ["protocol", "policy", "dax-cache", "daemon/erofs"];

/// Modules of `std` that a pure crate must not name.
const EFFECTS: [&str; 9] = ["env", "fs", "io", "net", "os", "process", "thread", "time", "random"];

/// Exceptions to [`EFFECTS`]: a length of time is a value, but the clock is an effect. A writer
/// that the caller gives is an argument, and an error is a value.
const VALUES: [&str; 3] = ["std::time::Duration", "std::io::Write", "std::io::Error"];

/// Module of the daemon, and the modules with a row that it may name. A module without a row is a
/// leaf: every module may name it, and it may name only leaves.
const MODULES: [(&str, &[&str]); 8] = [
    ("cli", &["sandbox", "transport", "session", "window", "passthrough", "prepared", "filesystem"]),
    ("transport", &["session", "window"]),
    ("session", &["window", "filesystem"]),
    ("window", &["filesystem"]),
    ("passthrough", &["filesystem"]),
    ("prepared", &["filesystem"]),
    ("filesystem", &[]),
    ("sandbox", &[]),
];

/// The only exception to [`MODULES`]: a module, and a path that it may name. The threads of
/// `transport` are generic over the file system that `session` calls.
const SEAMS: [(&str, &str); 1] = [("transport", "crate::filesystem::FileSystem")];

/// Crates that a module of the daemon must not name.
const MODULE_CRATES: [(&str, &[&str]); 4] = [
    ("passthrough", &["pinhole_dax_cache", "vhost", "vhost_user_backend", "virtio_queue"]),
    ("prepared", &["pinhole_dax_cache", "vhost", "vhost_user_backend", "virtio_queue"]),
    ("session", &["vhost", "vhost_user_backend", "virtio_queue", "vm_memory"]),
    ("sandbox", &["pinhole_protocol", "pinhole_dax_cache"]),
];

/// Files of the daemon, by the start of their path, and the files that they must not use. A use
/// through a re-export counts too.
const FILES: [(&str, &str); 8] = [
    ("passthrough/inodes/", "passthrough/ops/"),
    ("passthrough/files/", "passthrough/ops/"),
    ("passthrough/locks/", "passthrough/ops/"),
    ("transport/vhost_user/", "transport/dev_fuse/"),
    ("transport/dev_fuse/", "transport/vhost_user/"),
    ("cli/args.rs", "cli/config.rs"),
    ("cli/args.rs", "cli/build.rs"),
    ("cli/config.rs", "cli/build.rs"),
];

/// Checks the uses between files of the daemon against [`FILES`].
pub(super) fn check_files(crates: &[Crate<'_>]) -> Vec<Fault> {
    let mut faults = Vec::new();
    for used in crates.iter().flat_map(Crate::uses) {
        let Some(from) = used.from.strip_prefix(DAEMON) else { continue };
        for to in used.through.iter().chain([&used.to]).filter_map(|file| file.strip_prefix(DAEMON)) {
            let is_forbidden =
                FILES.iter().any(|(own, other)| from.starts_with(own) && to.starts_with(other));
            if is_forbidden {
                let what = format!("{from} must not use {to}: move the shared code down (see {PAGE})");
                faults.push(Fault::new(used.from, used.line, what));
            }
        }
    }
    faults
}

/// Checks the manifests of the crates and the paths in product code.
pub(super) fn check(sources: &[Source]) -> Vec<Fault> {
    let mut faults = Vec::new();
    for source in sources {
        if let Some((folder, "Cargo.toml")) = source.file.rsplit_once('/') {
            manifest(source, folder, &mut faults);
        }
        let Some(rust) = source.rust().filter(|_| !source.is_test_code()) else {
            continue;
        };
        let named = rust.scope.all_paths();
        if let Some(folder) = PURE.iter().find(|folder| source.file.starts_with(&format!("{folder}/src/"))) {
            effects(source, folder, &named, &mut faults);
        }
        if let Some(path_in_daemon) = source.file.strip_prefix(DAEMON) {
            modules(source, path_in_daemon, &named, &mut faults);
        }
    }
    faults
}

/// Checks the dependencies in the manifest of the crate in `folder` against [`CRATES`].
fn manifest(source: &Source, folder: &str, faults: &mut Vec<Fault>) {
    let Some((_, allowed)) = CRATES.iter().find(|(name, _)| *name == folder) else {
        return;
    };
    let mut section = "";
    for (number, line) in source.lines() {
        let line = line.trim();
        if line.starts_with('[') {
            section = line;
            continue;
        }
        let name = line.split(['.', '=', ' ']).next().unwrap_or_default();
        let ours = name == "pinhole" || name.starts_with("pinhole-");
        if section == "[dependencies]" && ours && !allowed.contains(&name) {
            let what = format!(
                "{folder} must not depend on {name}: move the shared code to a crate that both may use"
            );
            faults.push(Fault::new(&source.file, number, what));
        }
    }
}

/// Checks that a pure crate names no module of `std` with effects.
fn effects(source: &Source, folder: &str, named: &[NamedPath], faults: &mut Vec<Fault>) {
    for path in named {
        let [first, second, ..] = path.segments.as_slice() else { continue };
        let is_value = VALUES.contains(&path.segments.join("::").as_str());
        if first == "std" && EFFECTS.contains(&second.as_str()) && !is_value {
            let what =
                format!("{folder} is pure and must not name std::{second}: take the value as an argument");
            faults.push(Fault::new(&source.file, path.line, what));
        }
    }
}

/// Checks the modules and crates that a file of the daemon names.
fn modules(source: &Source, path_in_daemon: &str, named: &[NamedPath], faults: &mut Vec<Fault>) {
    let top = path_in_daemon.split('/').next().unwrap_or_default().trim_end_matches(".rs");
    if matches!(top, "lib" | "main") {
        return;
    }
    let allowed = row(&MODULES, top).unwrap_or_default();
    let forbidden_crates = row(&MODULE_CRATES, top).unwrap_or_default();
    for path in named {
        let Some(first) = path.segments.first() else { continue };
        if forbidden_crates.contains(&first.as_str()) {
            let what = format!("{top} must not name {first}: that crate belongs to another module");
            faults.push(Fault::new(&source.file, path.line, what));
        }
        let Some(target) = module_named(path_in_daemon, &path.segments) else { continue };
        let has_row = row(&MODULES, target).is_some();
        let is_seam = SEAMS.contains(&(top, path.segments.join("::").as_str()));
        if target != top && has_row && !is_seam && !allowed.contains(&target) {
            let what = format!("{top} must not name {target}: pass a value or a trait instead (see {PAGE})");
            faults.push(Fault::new(&source.file, path.line, what));
        }
    }
}

/// Returns the entries of the row `name` of a table.
fn row<'a>(table: &[(&str, &'a [&'a str])], name: &str) -> Option<&'a [&'a str]> {
    table.iter().find(|(row, _)| *row == name).map(|(_, entries)| *entries)
}

/// Returns the top module of the daemon that a path names: with `crate::session::...`, or with
/// enough `super::` to leave the top module of the file at `path_in_daemon`.
fn module_named<'a>(path_in_daemon: &str, segments: &'a [String]) -> Option<&'a str> {
    let ups = segments.iter().take_while(|segment| *segment == "super").count();
    let first = segments.first()?;
    if first == "crate" {
        return segments.get(1).map(String::as_str);
    }
    let own_file = path_in_daemon.rsplit('/').next().unwrap_or_default();
    let depth = path_in_daemon.split('/').count() - usize::from(own_file == "mod.rs");
    (ups > 0 && ups >= depth).then(|| segments.get(ups).map(String::as_str)).flatten()
}

#[cfg(test)]
mod tests {
    use super::super::modules;
    use super::*;

    fn faults(file: &str, text: &str) -> Vec<String> {
        check(&[Source::new(file, text)]).into_iter().map(|fault| fault.to_string()).collect()
    }

    #[test]
    fn pure_crate_that_names_std_fs_is_a_fault() {
        let faults = faults("protocol/src/a.rs", "//! A.\nuse std::{fmt, fs::File};\n");
        assert_eq!(faults.len(), 1);
        assert!(faults[0].starts_with("protocol/src/a.rs:2: protocol is pure and must not name std::fs"));
    }

    #[test]
    fn passthrough_must_not_name_session_in_any_form() {
        for text in [
            "use crate::session::X;",
            "use crate::{limits, session};",
            "use super::super::super::session::X;",
        ] {
            assert_eq!(faults("daemon/src/passthrough/inodes/table.rs", text).len(), 1, "{text}");
        }
        assert_eq!(faults("daemon/src/filesystem.rs", "use super::session::X;").len(), 1);
        assert_eq!(faults("daemon/src/passthrough/inodes/table.rs", "use super::session_like::X;").len(), 0);
    }

    #[test]
    fn session_may_name_filesystem_and_a_leaf_may_not() {
        assert_eq!(faults("daemon/src/session/mod.rs", "use crate::filesystem::FileSystem;").len(), 0);
        assert_eq!(faults("daemon/src/limits.rs", "use crate::filesystem::FileSystem;").len(), 1);
    }

    #[test]
    fn transport_may_name_only_the_file_system_trait() {
        let file = "daemon/src/transport/dev_fuse/fuse_thread.rs";
        assert_eq!(faults(file, "use crate::filesystem::FileSystem;").len(), 0);
        assert_eq!(faults(file, "use crate::filesystem::{FileSystem, MapFile};").len(), 1);
    }

    #[test]
    fn inodes_must_not_use_operations_even_by_a_re_export() {
        let passthrough =
            "mod inodes;\nmod ops;\npub(crate) use ops::Operation;\npub(crate) struct Shared;\n";
        let sources = [
            Source::new("daemon/src/lib.rs", "mod passthrough;\n"),
            Source::new("daemon/src/passthrough/mod.rs", passthrough),
            Source::new("daemon/src/passthrough/inodes/mod.rs", "use super::{Operation, Shared};\n"),
            Source::new(
                "daemon/src/passthrough/ops/mod.rs",
                "pub(crate) struct Operation;\nuse super::Shared;\n",
            ),
        ];
        let faults = check_files(&modules::crates(&sources));
        let expected = "daemon/src/passthrough/inodes/mod.rs:1: passthrough/inodes/mod.rs must not use passthrough/ops/mod.rs";
        assert_eq!(faults.len(), 1);
        assert!(faults[0].to_string().starts_with(expected));
    }

    #[test]
    fn duration_is_a_value_and_instant_is_not() {
        assert_eq!(faults("protocol/src/a.rs", "use std::time::Duration;").len(), 0);
        assert_eq!(faults("protocol/src/a.rs", "use std::time::{Duration, Instant};").len(), 1);
    }

    #[test]
    fn forbidden_dependency_is_found_in_the_manifest() {
        let text =
            "[dependencies]\npinhole-policy.workspace = true\n[dev-dependencies]\npinhole.workspace = true\n";
        assert_eq!(faults("protocol/Cargo.toml", text).len(), 1);
        assert_eq!(faults("daemon/Cargo.toml", text).len(), 0);
    }
}
