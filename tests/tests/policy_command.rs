//! Does `pinhole policy` say what a policy comes to, and is a policy file that is none refused before anything is
//! served?
#![cfg(test)]

use std::path::PathBuf;

use pinhole_tests::program::{Ended, pinhole, run};
use tempfile::TempDir;

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
dirty-bytes = \"64 MiB\"
";

/// A folder with policy files.
struct Files {
    folder: TempDir,
}

impl Files {
    fn new() -> Self {
        let files = Self { folder: tempfile::tempdir().unwrap() };
        files.write("good.toml", GOOD);
        files
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn write(&self, name: &str, text: &str) {
        std::fs::write(self.path(name), text).unwrap();
    }

    /// Runs `pinhole` within the folder.
    fn pinhole(&self, words: &str) -> Ended {
        run(pinhole(words.split_whitespace()).unwrap().current_dir(self.folder.path())).unwrap()
    }
}

#[test]
fn explain_names_every_operation_once_with_the_errno_of_those_denied() {
    let files = Files::new();
    let explained = files.pinhole("policy explain --profile rootfs");
    assert_eq!((explained.code, explained.stderr.as_str()), (Some(0), ""));
    let lines = || explained.stdout.lines().take_while(|line| !line.starts_with("Limits"));
    let line = |name: &str| {
        let named = lines().filter(|line| line.split_whitespace().next() == Some(name));
        named.map(|line| line.split_whitespace().nth(1).unwrap()).collect::<Vec<_>>()
    };
    for (name, second) in [
        ("read", "Read"),
        ("write", "EROFS"),
        ("mknod-block", "EROFS"),
        ("xattr-read-trusted", "EOPNOTSUPP"),
        ("ioctl-verity", "ENOTTY"),
        ("lock", "EPERM"),
    ] {
        assert_eq!(line(name), [second], "{name}");
    }
}

#[test]
fn explain_tells_the_rules_and_limits_of_a_file() {
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
    let denied = explained.stdout.lines().skip_while(|line| !line.starts_with("Operations denied"));
    let chmod = denied.take_while(|line| !line.is_empty()).find(|line| line.starts_with("  chmod"));
    assert!(chmod.unwrap().contains("EROFS"));
}

#[test]
fn explain_as_json_holds_what_the_text_holds() {
    let explained = Files::new().pinhole("policy explain --policy good.toml --json");
    let json: serde_json::Value = serde_json::from_str(&explained.stdout).unwrap();
    assert_eq!(json["paths"][1]["match"], "/secret");
    assert_eq!(json["paths"][1]["hidden"], true);
    assert_eq!(json["limits"][1]["value"], 64 << 20);
    let operations = json["operations"].as_array().unwrap();
    let chown = operations.iter().find(|operation| operation["name"] == "chown").unwrap();
    assert_eq!((&chown["granted"], &chown["errno"]), (&false.into(), &"EPERM".into()));
    for threads in ["control", "worker", "offload"] {
        assert!(json["host_calls"][threads].is_array(), "{threads}");
    }
}

#[test]
fn check_says_by_which_rule_and_ends_accordingly() {
    let files = Files::new();
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
        (
            "good.toml --path /etc --operation create",
            0,
            "allowed: create at /etc, by what good.toml grants everywhere",
        ),
        (
            "good.toml --path /secret/key --operation read",
            1,
            "denied with ENOENT: read at /secret/key, by good.toml:10 (/secret)",
        ),
        (
            "rootfs --path / --operation mkdir",
            1,
            "denied with EROFS: mkdir at /, by what rootfs grants everywhere",
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
fn diff_says_what_only_one_has() {
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
fn a_question_that_is_wrong_gets_one_line_and_exit_code_2() {
    let files = Files::new();
    for (words, named) in [
        ("policy", "explain"),
        ("policy explain --profile rootz", "--profile"),
        ("policy explain --profile full --policy good.toml", "--policy"),
        ("policy explain --policy none.toml", "none.toml: No such file"),
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

/// Files that are no policies, and the exact line for each.
const BAD: &[(&str, &str)] = &[
    ("profile = \"shore\"", "1:11: unknown profile \"shore\": did you mean \"share\"?"),
    ("allow = [\"chmod\"]\ndeny = [\"chmod\"]", "2:9: \"chmod\" is in allow and in deny"),
    (
        "[[path]]\nmatch = \"/a//b\"\nhidden = true",
        "2:9: an empty component matches nothing: there is no name between two slashes, or after the last",
    ),
    (
        "[[path]]\nmatch = \"/a\"\nhidden = true\n[[path]]\nmatch = \"/a/b\"\naccess = [\"read\"]",
        "5:9: this rule matches nothing that can be reached: line 2 hides it",
    ),
    (
        "[[path]]\nmatch = \"/a/b\"\nhidden = true\n[[path]]\nmatch = \"/a/*\"\naccess = [\"read\"]",
        "2:9: this rule never decides: later rules match all that it matches, as in line 5",
    ),
    (
        "[limits]\nopen-handles = 0",
        "2:16: open-handles is zero: nothing could be done; leave it out for no limit",
    ),
    ("[limits]\nopen-handle = 1", "2:1: unknown limit \"open-handle\": did you mean \"open-handles\"?"),
    (
        "prophile = \"share\"",
        "1:1: unknown field `prophile`, expected one of `profile`, `allow`, `deny`, `path`, `limits`",
    ),
    ("deny = [\"lookup\"]", "1:9: \"lookup\" cannot be denied: nothing would work without it"),
];

#[test]
fn a_policy_that_is_none_is_one_line_with_its_place_and_serves_nothing() {
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
        assert!(!files.path("socket").exists(), "served in spite of: {said}");
    }
}
