//! How much of our own code a guest reaches before the gate has permitted anything: lines of the files that a request
//! passes on its way there, without comments, empty lines and tests.
//!
//! The lists name every file of the folders that they speak of, so that a new file cannot be forgotten.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use crate::step::{Failure, Outcome};
use crate::tidy::source::Source;

/// Folders whose every file is in one of [`STATIONS`].
const FOLDERS: [&str; 6] = [
    "daemon/src/session",
    "daemon/src/session/window",
    "daemon/src/transport",
    "daemon/src/transport/vhost_user",
    "protocol/src",
    "protocol/src/decode",
];

/// What a request passes, station by station, and what lies aside of its way: answers, set-up, the other transport.
const STATIONS: [Station; 5] = [
    Station {
        name: "transport: ring and descriptor chain",
        reached: true,
        files: &[
            "daemon/src/guest_view.rs",
            "daemon/src/io_vectors.rs",
            "daemon/src/transport/chain.rs",
            "daemon/src/transport/sink.rs",
            "daemon/src/transport/vhost_user/backlog.rs",
            "daemon/src/transport/vhost_user/leases.rs",
            "daemon/src/transport/vhost_user/poll.rs",
            "daemon/src/transport/vhost_user/pool.rs",
            "daemon/src/transport/vhost_user/request.rs",
            "daemon/src/transport/vhost_user/ring.rs",
            "daemon/src/transport/vhost_user/sleep.rs",
            "daemon/src/transport/vhost_user/split_ring.rs",
            "daemon/src/transport/vhost_user/tail.rs",
            "daemon/src/transport/vhost_user/vring.rs",
            "daemon/src/transport/vhost_user/worker.rs",
        ],
    },
    Station {
        name: "protocol: decoding",
        reached: true,
        files: &[
            "protocol/src/abi.rs",
            "protocol/src/decode/body.rs",
            "protocol/src/decode/file.rs",
            "protocol/src/decode/mod.rs",
            "protocol/src/decode/name.rs",
            "protocol/src/decode/node.rs",
            "protocol/src/extension.rs",
            "protocol/src/flags.rs",
            "protocol/src/id.rs",
            "protocol/src/init.rs",
            "protocol/src/name.rs",
            "protocol/src/opcode.rs",
            "protocol/src/operation.rs",
            "protocol/src/request.rs",
        ],
    },
    Station {
        name: "session: state and what an operation needs",
        reached: true,
        files: &[
            "daemon/src/session/accesses.rs",
            "daemon/src/session/dax.rs",
            "daemon/src/session/dispatch.rs",
            "daemon/src/session/effort.rs",
            "daemon/src/session/ioctl.rs",
            "daemon/src/session/locks.rs",
            "daemon/src/session/mod.rs",
            "daemon/src/session/parked.rs",
            "daemon/src/session/rate.rs",
            "daemon/src/session/slot.rs",
            "daemon/src/session/state.rs",
            "daemon/src/session/throttle.rs",
            "daemon/src/session/window/mod.rs",
        ],
    },
    Station {
        name: "policy: the gate and the rules by path",
        reached: true,
        files: &[
            "daemon/src/host/rules.rs",
            "policy/src/access.rs",
            "policy/src/automaton.rs",
            "policy/src/check.rs",
            "policy/src/letters.rs",
            "policy/src/paths.rs",
            "policy/src/place.rs",
            "policy/src/policy.rs",
            "policy/src/recognizer.rs",
            "policy/src/refusal.rs",
        ],
    },
    Station {
        name: "aside",
        reached: false,
        files: &[
            "daemon/src/session/options.rs",
            "daemon/src/session/window/learnt.rs",
            "daemon/src/session/window/messenger.rs",
            "daemon/src/session/window/tests.rs",
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
            "protocol/src/dirent.rs",
            "protocol/src/errno.rs",
            "protocol/src/lib.rs",
            "protocol/src/reply.rs",
        ],
    },
];

/// Some files and whether a request passes them before the gate.
struct Station {
    name: &'static str,
    reached: bool,
    files: &'static [&'static str],
}

/// Lines of each station before the gate.
///
/// # Errors
/// Where a file is in no list, or a list names one that does not exist.
pub(super) fn lines(root: &Path) -> Outcome<Vec<(&'static str, usize)>> {
    let listed: Vec<&str> = STATIONS.iter().flat_map(|station| station.files).copied().collect();
    check(&listed, &existing(root, &listed)?)?;
    let mut all = Vec::new();
    for station in STATIONS.iter().filter(|station| station.reached) {
        let mut sum = 0;
        for file in station.files {
            let text =
                fs::read_to_string(root.join(file)).map_err(Failure::io(format!("cannot read {file}")))?;
            sum += count(&Source::new(file, &text));
        }
        all.push((station.name, sum));
    }
    Ok(all)
}

fn count(source: &Source) -> usize {
    source.product_code().lines().filter(|line| !line.trim().is_empty()).count()
}

/// What there is of the list, which may also name files of other folders, and every file of [`FOLDERS`].
fn existing(root: &Path, listed: &[&str]) -> Outcome<BTreeSet<String>> {
    let there = listed.iter().filter(|file| root.join(file).exists());
    let mut all: BTreeSet<_> = there.map(|file| (*file).to_owned()).collect();
    for folder in FOLDERS {
        let failed = || Failure::io(format!("cannot list {folder}"));
        for file in fs::read_dir(root.join(folder)).map_err(failed())? {
            let name = file.map_err(failed())?.file_name().to_string_lossy().into_owned();
            if Path::new(&name).extension().is_some_and(|extension| extension == "rs") {
                all.insert(format!("{folder}/{name}"));
            }
        }
    }
    Ok(all)
}

/// Each file once, and no other.
fn check(listed: &[&str], existing: &BTreeSet<String>) -> Outcome {
    let once: BTreeSet<&str> = listed.iter().copied().collect();
    let gone = once.iter().find(|file| !existing.contains(**file));
    let forgotten = existing.iter().find(|file| !once.contains(file.as_str()));
    let place = "xtask/src/surface/code.rs";
    match (gone, forgotten) {
        (Some(file), _) => Err(Failure::new(format!("{place} names {file}, which does not exist"))),
        (None, Some(file)) => {
            Err(Failure::new(format!("{place} does not say whether a request passes {file}")))
        }
        (None, None) if once.len() < listed.len() => Err(Failure::new(format!("{place} names a file twice"))),
        (None, None) => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::workspace;

    #[test]
    fn every_file_of_the_way_is_in_one_list() {
        let all = lines(&workspace::root()).unwrap();
        assert!(all.iter().all(|(_, lines)| *lines > 100), "{all:?}");
    }

    #[test]
    fn a_new_file_must_be_placed_and_a_gone_one_removed() {
        let existing: BTreeSet<String> = ["a.rs", "b.rs"].map(str::to_owned).into();
        let said = |listed: &[&str]| check(listed, &existing).err().map(|failure| failure.to_string());
        assert_eq!(said(&["a.rs", "b.rs"]), None);
        assert!(said(&["a.rs"]).unwrap().contains("whether a request passes b.rs"));
        assert!(said(&["a.rs", "b.rs", "c.rs"]).unwrap().contains("c.rs, which does not exist"));
        assert!(said(&["a.rs", "b.rs", "b.rs"]).unwrap().contains("twice"));
    }

    #[test]
    fn comments_empty_lines_and_tests_are_no_code() {
        let text = "//! A.\n\n// B.\nfn a() {} // c\n/* d\n */\n#[cfg(test)]\nmod tests {}\n";
        assert_eq!(count(&Source::new("a/src/b.rs", text)), 1);
    }
}
