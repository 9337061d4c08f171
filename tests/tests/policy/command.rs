//! Does `pinhole policy` describe a policy correctly, and is a wrong policy file refused before
//! anything is served?

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;

use pinhole_policy::{ACCESSES, Policy, Profile, host_calls};
use pinhole_tests::program::{Ended, pinhole, run};
use tempfile::TempDir;

/// Valid policy file.
const GOOD: &str = "\
profile = \"share\"
allow = [\"mknod-char\"]
deny = [\"chown\"]

[[path]]
match = \"/etc/**\"
access = [\"lookup\", \"stat\", \"list\", \"read\", \"readlink\"]

[[path]]
match = \"/secret\"
hidden = true

[limits]
open-handles = 10000
write-bytes-per-second = \"64 MiB\"
";

/// Folder with policy files.
struct Files {
    folder: TempDir,
}

impl Files {
    /// Makes the folder with the file `good.toml`.
    fn new() -> Self {
        let files = Self { folder: tempfile::tempdir().unwrap() };
        files.write("good.toml", GOOD);
        files
    }

    /// Returns the path of a file in the folder.
    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// Writes a file in the folder.
    fn write(&self, name: &str, text: &str) {
        std::fs::write(self.path(name), text).unwrap();
    }

    /// Runs `pinhole` in the folder.
    fn pinhole(&self, words: &str) -> Ended {
        run(pinhole(words.split_whitespace()).unwrap().current_dir(self.folder.path())).unwrap()
    }
}

/// Returns the lines of one section of an explanation.
fn section<'t>(explained: &'t str, title: &str) -> Vec<&'t str> {
    let from = explained.lines().skip_while(|line| !line.starts_with(title)).skip(1);
    from.take_while(|line| !line.is_empty()).collect()
}

/// Returns the outcome of each operation in an explanation: `granted`, or what the guest gets.
fn outcomes(explained: &str) -> BTreeMap<String, String> {
    let mut all = BTreeMap::new();
    for title in ["Operations granted", "Granted and not served", "Operations denied"] {
        for line in section(explained, title) {
            let mut words = line.split_whitespace();
            let name = words.next().unwrap().to_owned();
            let second = words.next().unwrap();
            let said = if title == "Operations granted" { "granted" } else { second };
            assert_eq!(all.insert(name, said.to_owned()), None, "twice: {line}");
        }
    }
    all
}

#[test]
fn explain_lists_every_operation_once_with_its_outcome() {
    let files = Files::new();
    for profile in Profile::ALL {
        let name = profile.name();
        let policy = Policy::of(profile);
        let is_read_only = policy.is_read_only();
        let explained = files.pinhole(&format!("policy explain --profile {name}"));
        assert_eq!((explained.code, explained.stderr.as_str()), (Some(0), ""));
        assert_eq!(files.pinhole(&format!("policy explain {name}")).stdout, explained.stdout);
        let outcomes = outcomes(&explained.stdout);
        assert_eq!(outcomes.len(), ACCESSES.len(), "{name}");
        for row in ACCESSES {
            let granted = policy.granted().contains(row.access);
            let expected = match row.name {
                "fsync" if is_read_only => "success",
                _ if granted => "granted",
                _ => row.access.refusal(is_read_only).errno_name(),
            };
            assert_eq!(outcomes.get(row.name).map(String::as_str), Some(expected), "{} in {name}", row.name);
        }
    }
}

#[test]
fn explain_lists_enosys_calls_and_calls_of_started_threads() {
    let files = Files::new();
    let explained = files.pinhole("policy explain share");
    let answered = section(&explained.stdout, "Host system calls that the kernel answers with ENOSYS");
    let names: Vec<_> = answered.iter().map(|line| line.trim().split(' ').next().unwrap()).collect();
    assert!(answered.iter().any(|line| line.trim().starts_with("mmap (queue, offload): ")), "{answered:?}");
    assert_eq!(names, host_calls::ANSWERED.iter().map(|row| row.call).collect::<Vec<_>>());
    let control = section(&explained.stdout, "Host system calls of control threads");
    let inherited = control.last().unwrap();
    assert!(
        inherited.contains("the threads that they start") && inherited.contains(" mkdirat,"),
        "{inherited}"
    );

    let supervisor = section(&explained.stdout, "Host system calls of the supervisor");
    assert!(supervisor.iter().any(|line| line.trim().starts_with("the serving process; SIGTERM: ")));

    let json = files.pinhole("policy explain share --json");
    let json: serde_json::Value = serde_json::from_str(&json.stdout).unwrap();
    let answered = json["answered"].as_array().unwrap().iter().map(|row| row["call"].as_str().unwrap());
    assert_eq!(answered.collect::<Vec<_>>(), names);
    let calls = |kind: &str| -> BTreeSet<_> {
        let calls = json["host_calls"][kind].as_array().unwrap().iter();
        calls.map(|call| call["call"].as_str().unwrap().to_owned()).collect()
    };
    let others: BTreeSet<_> = calls("queue").union(&calls("offload")).cloned().collect();
    assert!(calls("control").is_superset(&others));
}

#[test]
fn explain_lists_the_rules_and_limits_of_a_file() {
    let explained = Files::new().pinhole("policy explain --policy good.toml");
    assert_eq!(explained.code, Some(0), "{}", explained.stderr);
    for line in [
        "  line 6, /etc/**: lookup, stat, readlink, list, read",
        "  line 10, /secret: hidden",
        "  open-handles                      10000  Files and directories open at once; past it: ENFILE",
    ] {
        assert!(explained.stdout.lines().any(|said| said == line), "{line}\n{}", explained.stdout);
    }
}

#[test]
fn explain_as_read_only_denies_every_change() {
    let explained = Files::new().pinhole("policy explain --policy good.toml --readonly");
    let outcomes = outcomes(&explained.stdout);
    assert_eq!((outcomes["chmod"].as_str(), outcomes["map-write"].as_str()), ("EROFS", "EROFS"));
    // FSYNC was granted by the policy, so it is not a change.
    assert_eq!(outcomes["fsync"], "granted");
}

#[test]
fn explain_as_json_has_the_content_of_the_text() {
    let explained = Files::new().pinhole("policy explain --policy good.toml --json");
    let json: serde_json::Value = serde_json::from_str(&explained.stdout).unwrap();
    assert_eq!(json["paths"][1]["match"], "/secret");
    assert_eq!(json["paths"][1]["hidden"], true);
    assert_eq!(json["limits"][1]["value"], 64 << 20);
    let operations = json["operations"].as_array().unwrap();
    let chown = operations.iter().find(|operation| operation["name"] == "chown").unwrap();
    assert_eq!((&chown["granted"], &chown["errno"]), (&false.into(), &"EPERM".into()));
    assert_eq!(chown["standing"], "denied");
    let lock = operations.iter().find(|operation| operation["name"] == "lock").unwrap();
    assert_eq!((&lock["granted"], &lock["standing"]), (&true.into(), &"served".into()));
    for threads in ["control", "queue", "offload", "supervisor"] {
        assert!(json["host_calls"][threads].is_array(), "{threads}");
    }
}

#[test]
fn check_says_by_which_rule_and_ends_accordingly() {
    let files = Files::new();
    files.write("closed.toml", "[[path]]\nmatch = \"/a\"\naccess = []\n");
    for (words, code, said) in [
        (
            "good.toml --path /etc/passwd --operation write",
            1,
            "denied with EPERM: write at /etc/passwd, by good.toml:6 (/etc/**)",
        ),
        (
            "good.toml --path /etc/passwd --operation read",
            0,
            "allowed: read at /etc/passwd, by good.toml:6 (/etc/**)",
        ),
        ("good.toml --path /etc --operation create", 0, "allowed: create at /etc, which good.toml grants"),
        (
            "good.toml --path /secret/key --operation read",
            1,
            "denied with ENOENT: read at /secret/key, by good.toml:10 (/secret)",
        ),
        (
            "rootfs --path / --operation mkdir",
            1,
            "denied with EROFS: mkdir at /, which rootfs does not grant",
        ),
        (
            "rootfs --path /a --operation fsync",
            0,
            "allowed: fsync at /a is answered with success: rootfs grants no change, so nothing is unwritten, and the \
             host is not asked",
        ),
        ("share --path /a --operation lock", 0, "allowed: lock at /a, which share grants"),
        (
            "closed.toml --path /a/b --operation read",
            1,
            "denied with EPERM: read at /a/b, for /a cannot be found, by closed.toml:2 (/a)",
        ),
    ] {
        let checked = files.pinhole(&format!("policy check {words}"));
        assert_eq!(
            (checked.code, checked.stdout.trim_end()),
            (Some(code), said),
            "{words} {}",
            checked.stderr
        );
    }
}

#[test]
fn diff_lists_differences_between_two_policies() {
    let files = Files::new();
    let same = files.pinhole("policy diff good.toml good.toml");
    assert_eq!((same.code, same.stdout.as_str()), (Some(0), "good.toml and good.toml grant the same\n"));
    let differ = files.pinhole("policy diff share good.toml");
    assert_eq!(differ.code, Some(1));
    for line in [
        "--- share",
        "+++ good.toml",
        "- operation chown",
        "+ operation mknod-char",
        "+ rule line 10, /secret: hidden",
        "+ limit open-handles = 10000",
    ] {
        assert!(differ.stdout.lines().any(|said| said == line), "{line}\n{}", differ.stdout);
    }
}

#[test]
fn diff_lists_the_arguments_that_only_one_policy_allows() {
    let differ = Files::new().pinhole("policy diff share full");
    let device = "+ host call of queue threads mknodat, the directory is a descriptor; S_IFCHR: make a character \
                  device node (mknod-char)";
    assert!(differ.stdout.lines().any(|said| said == device), "{}", differ.stdout);
    let mut calls = differ.stdout.lines().filter(|line| line.contains(" mknodat"));
    assert!(calls.all(|line| line.starts_with('+') && !line.contains("FIFO")), "{}", differ.stdout);
}

#[test]
fn wrong_policy_command_prints_one_line_and_exits_2() {
    let files = Files::new();
    for (words, named) in [
        ("policy", "explain"),
        ("policy explain --profile rootz", "--profile"),
        ("policy explain --profile full --policy good.toml", "--policy"),
        ("policy explain --policy none.toml", "--policy none.toml: No such file"),
        ("policy explain --policy shrae", "did you mean --profile share?"),
        ("policy explain --policy rootfs", "did you mean --profile rootfs?"),
        (
            "policy explain rotfs",
            "rotfs: No such file or directory (os error 2); did you mean the profile rootfs?",
        ),
        ("policy explain rootfs --profile share", "--profile"),
        ("policy explain good.toml --policy good.toml", "--policy"),
        ("--shared-dir . --socket-path socket --policy shrae", "--policy shrae: No such file"),
        ("--shared-dir . --socket-path socket --policy shrae", "did you mean --profile share?"),
        ("policy check good.toml --path etc --operation read", "begins with /"),
        ("policy check good.toml --path /a/../b --operation read", "no component is empty, . or .."),
        ("policy check good.toml --path / --operation raed", "did you mean \"read\"?"),
        ("policy check good.toml --path /", "--operation"),
        ("policy diff share", "<B>"),
        ("policy diff share shar", "shar: No such file"),
    ] {
        let ended = files.pinhole(words);
        assert_eq!((ended.code, ended.stdout.as_str()), (Some(2), ""), "{words}");
        assert_eq!(ended.stderr.lines().count(), 1, "{words}: {}", ended.stderr);
        assert!(ended.stderr.contains(named), "{words}: {}", ended.stderr);
    }
}

/// Invalid policy files, and the exact line for each.
const BAD: &[(&str, &str)] = &[
    ("profile = \"shore\"", "1:11: unknown profile \"shore\": did you mean \"share\"?"),
    ("allow = [\"chmod\"]\ndeny = [\"chmod\"]", "2:9: \"chmod\" is in allow and in deny"),
    (
        "[[path]]\nmatch = \"/a//b\"\nhidden = true",
        "2:9: an empty component matches nothing: remove the double or final slash",
    ),
    (
        "[[path]]\nmatch = \"/a\"\nhidden = true\n[[path]]\nmatch = \"/a/b\"\naccess = [\"lookup\", \"read\"]",
        "5:9: this rule matches nothing that can be reached: line 2 hides it",
    ),
    (
        "[[path]]\nmatch = \"/a/b\"\nhidden = true\n[[path]]\nmatch = \"/a/*\"\naccess = [\"lookup\", \"read\"]",
        "2:9: this rule never decides: later rules match all its paths, such as the one in line 5",
    ),
    (
        "[limits]\nopen-handles = 0",
        "2:16: open-handles is zero: nothing could be done; leave it out for no limit",
    ),
    ("[limits]\nopen-handle = 1", "2:1: unknown limit \"open-handle\": did you mean \"open-handles\"?"),
    ("prophile = \"share\"", "1:1: unknown key \"prophile\": did you mean \"profile\"?"),
    ("[limit]\nopen-handles = 1", "1:2: unknown key \"limit\": did you mean \"limits\"?"),
    (
        "profile = \"rootfs\"\n[limits]\nlocks = 1",
        "3:1: locks limits operations that are granted nowhere: lock",
    ),
    (
        "[limits]\ndirty-bytes = 1",
        "2:1: dirty-bytes is no longer a limit: limit the memory of the daemon's cgroup (MemoryMax of systemd)",
    ),
    (
        "[[path]]\nmatch = \"/a\"\naccess = []\n[[path]]\nmatch = \"/a/b\"\naccess = [\"lookup\", \"read\"]",
        "5:9: this rule matches nothing that can be reached: line 2 grants no lookup above it",
    ),
    (
        "[[path]]\nmatch = \"/a/**\"\naccess = [\"read\"]",
        "3:10: \"read\" without lookup: no file can be reached under this rule",
    ),
    ("deny = [\"lookup\"]", "1:9: \"lookup\" cannot be denied: nothing would work without it"),
];

#[test]
fn invalid_policy_is_one_line_with_its_position() {
    let files = Files::new();
    std::fs::create_dir(files.path("shared")).unwrap();
    for (text, said) in BAD {
        files.write("bad.toml", text);
        let expected = format!("pinhole: bad.toml:{said}\n");
        for words in [
            "--shared-dir shared --socket-path socket --policy bad.toml",
            "mount shared shared --policy bad.toml",
            "policy explain --policy bad.toml",
            "policy check bad.toml --path / --operation stat",
            "policy diff share bad.toml",
        ] {
            let ended = files.pinhole(words);
            assert_eq!((ended.code, &ended.stderr), (Some(2), &expected), "{words}");
            assert_eq!(ended.stdout, "");
        }
        assert!(!files.path("socket").exists(), "served despite: {said}");
    }
}
