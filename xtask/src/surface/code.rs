//! Lines of our own code that a request reaches before the policy check, without comments, empty
//! lines and tests.
//!
//! Each part counts every file of its folders, so a new file counts without being named here.
//! [`ASIDE`] takes out the files that a request does not reach.

use std::fs;
use std::path::Path;

use crate::step::{Failure, Outcome};
use crate::tidy::source::Source;

/// The parts of the path of a request.
const PARTS: [Part; 4] = [
    Part {
        name: "transport: ring and descriptor chain",
        folders: &["daemon/src/transport", "daemon/src/transport/vhost_user"],
        files: &["daemon/src/guest_view.rs", "daemon/src/io_vectors.rs"],
    },
    Part { name: "protocol: decoding", folders: &["protocol/src", "protocol/src/decode"], files: &[] },
    Part {
        name: "session: state and what an operation needs",
        folders: &["daemon/src/session", "daemon/src/window"],
        files: &[],
    },
    Part {
        name: "policy: the gate and the rules by path",
        folders: &["policy/src"],
        files: &["daemon/src/passthrough/inodes/path_rules.rs"],
    },
];

/// Files of these folders that are no part of the path: replies, setup, messages of the VMM, and
/// descriptions of a policy.
const ASIDE: [&str; 32] = [
    "daemon/src/session/options.rs",
    "daemon/src/window/probe.rs",
    "daemon/src/window/back_channel.rs",
    "daemon/src/transport/mod.rs",
    "daemon/src/transport/parking.rs",
    "daemon/src/transport/vhost_user/back_channel.rs",
    "daemon/src/transport/vhost_user/connection.rs",
    "daemon/src/transport/vhost_user/crew.rs",
    "daemon/src/transport/vhost_user/device.rs",
    "daemon/src/transport/vhost_user/listener.rs",
    "daemon/src/transport/vhost_user/mod.rs",
    "daemon/src/transport/vhost_user/options.rs",
    "daemon/src/transport/vhost_user/parking.rs",
    "daemon/src/transport/vhost_user/regions.rs",
    "daemon/src/transport/vhost_user/socket_name.rs",
    "daemon/src/transport/vhost_user/stop.rs",
    "policy/src/capabilities.rs",
    "policy/src/compare.rs",
    "policy/src/explain.rs",
    "policy/src/glob.rs",
    "policy/src/host_calls.rs",
    "policy/src/landlock.rs",
    "policy/src/lib.rs",
    "policy/src/limits.rs",
    "policy/src/need.rs",
    "policy/src/parse.rs",
    "policy/src/profile.rs",
    "policy/src/standing.rs",
    "protocol/src/dirent.rs",
    "protocol/src/errno.rs",
    "protocol/src/lib.rs",
    "protocol/src/reply.rs",
];

/// A part of the path of a request.
struct Part {
    name: &'static str,
    /// Folders whose files count, without the folders in them.
    folders: &'static [&'static str],
    /// Files of other folders.
    files: &'static [&'static str],
}

/// Returns the lines of each part.
///
/// # Errors
/// If a folder or a file cannot be read, or if [`ASIDE`] names a file that is in no folder.
pub(super) fn lines(root: &Path) -> Outcome<Vec<(&'static str, usize)>> {
    let mut aside = ASIDE.to_vec();
    let lines = PARTS.iter().map(|part| lines_of(part, root, &mut aside));
    let lines = lines.collect::<Outcome<_>>()?;
    match aside.first() {
        Some(file) => Err(Failure::new(format!("{}: {file} is in no folder of a part", file!()))),
        None => Ok(lines),
    }
}

/// Returns the name and the lines of a part, and removes the files that do not count from `aside`.
fn lines_of(part: &Part, root: &Path, aside: &mut Vec<&str>) -> Outcome<(&'static str, usize)> {
    let mut files: Vec<_> = part.files.iter().map(|file| (*file).to_owned()).collect();
    for folder in part.folders {
        files.extend(files_in(root, folder)?);
    }
    let mut sum = 0;
    for file in files {
        let listed = aside.len();
        aside.retain(|name| *name != file);
        if aside.len() == listed {
            let text = fs::read_to_string(root.join(&file));
            sum += count(&Source::new(&file, &text.map_err(Failure::io(format!("cannot read {file}")))?));
        }
    }
    Ok((part.name, sum))
}

/// Returns the Rust files of a folder, by their names from the root.
fn files_in(root: &Path, folder: &str) -> Outcome<Vec<String>> {
    let failed = || Failure::io(format!("cannot list {folder}"));
    let entries = fs::read_dir(root.join(folder)).map_err(failed())?;
    let names = entries.map(|entry| Ok(entry.map_err(failed())?.file_name().to_string_lossy().into_owned()));
    let names = names.collect::<Outcome<Vec<_>>>()?;
    let is_rust = |name: &String| Path::new(name).extension().is_some_and(|extension| extension == "rs");
    Ok(names.into_iter().filter(is_rust).map(|name| format!("{folder}/{name}")).collect())
}

fn count(source: &Source) -> usize {
    source.product_lines()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::workspace;

    #[test]
    fn every_part_is_found_and_every_file_aside_exists() {
        let all = lines(&workspace::root()).unwrap();
        assert!(all.iter().all(|(_, lines)| *lines > 100), "{all:?}");
    }

    #[test]
    fn a_file_of_a_folder_counts_unless_it_is_aside() {
        let root = std::env::temp_dir().join(format!("pinhole-surface-code-{}", std::process::id()));
        fs::create_dir_all(root.join("a/inner")).unwrap();
        for file in ["a/new.rs", "a/aside.rs", "a/inner/other.rs", "a/tests.rs", "a/text.md", "b.rs"] {
            fs::write(root.join(file), "fn a() {}\n").unwrap();
        }
        let mut aside = vec!["a/aside.rs", "a/gone.rs"];
        let part = Part { name: "part", folders: &["a"], files: &["b.rs"] };
        let found = lines_of(&part, &root, &mut aside);
        fs::remove_dir_all(&root).unwrap();
        assert_eq!(found.unwrap(), ("part", 2));
        assert_eq!(aside, ["a/gone.rs"]);
    }

    #[test]
    fn comments_empty_lines_and_tests_are_no_code() {
        let text = "//! A.\n\n// B.\nfn a() {} // c\n/* d\n */\n#[cfg(test)]\nmod tests {}\n";
        assert_eq!(count(&Source::new("a/src/b.rs", text)), 1);
    }
}
