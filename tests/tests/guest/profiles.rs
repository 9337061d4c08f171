//! Which operations can a real guest use under each profile?
//!
//! One boot runs every case of `scripts` under the profile `share`, on an ext4 image of the guest,
//! and under `rootfs`. The module `posix` tests `full`. A second boot runs the programs of a Debian
//! tree that is served as the root file system of a container.

use std::fs;
use std::process::Command;
use std::sync::OnceLock;
use std::time::Duration;

use super::cases::{Shared, boot, serve};
use super::host_view::HostView;
use super::report::{Difference, Report};
use pinhole_tests::daemon::Daemon;
use pinhole_tests::guest::{Guest, Parts};

/// Operations that `share` refuses, case by case, and their results in the guest.
/// docs/use/policy.md explains each.
const SHARE: [Difference; 5] = [
    // This is the same under every profile with write access; see docs/use/compatibility.md.
    Difference {
        places: &["share"],
        case: "sparse_file",
        share: &["data at for a writer: [(0, 100)]"],
        ends_early: false,
    },
    // Linux's FUSE refuses both modes without a request. This is the same under every profile.
    Difference {
        places: &["share"],
        case: "fallocate_shifts",
        share: &["collapse: ENOTSUP", "collapsed: ABCDEFGH", "insert: ENOTSUP", "inserted: ABCDEFGH"],
        ends_early: false,
    },
    Difference {
        places: &["share"],
        case: "rename_with_flags",
        share: &["whiteout: EINVAL"],
        ends_early: true,
    },
    Difference {
        places: &["share"],
        case: "device_nodes",
        share: &["character device: EPERM"],
        ends_early: true,
    },
    Difference {
        places: &["share"],
        case: "attributes_of_the_system",
        share: &["trusted: ENOTSUP"],
        ends_early: true,
    },
];

/// Script with every operation that changes a tree, once each, on existing files. It prints one
/// line for each: the operation and its errno.
const CHANGES: &str = r#"
import ctypes, errno, os
os.chdir("/mnt/rootfs/tree")
libc = ctypes.CDLL(None, use_errno=True)
def fallocate():
    if libc.fallocate(os.open("file", os.O_RDONLY), 0, 0, 1) != 0:
        raise OSError(ctypes.get_errno(), "")
def attempt(what, action):
    try:
        action()
        print(what, "ok")
    except OSError as error:
        print(what, errno.errorcode[error.errno])
print("@ rootfs changes")
attempt("write", lambda: os.open("file", os.O_WRONLY))
attempt("append", lambda: os.open("file", os.O_WRONLY | os.O_APPEND))
attempt("truncate", lambda: os.truncate("file", 0))
attempt("create", lambda: os.open("new", os.O_CREAT | os.O_RDWR))
attempt("mkdir", lambda: os.mkdir("new"))
attempt("symlink", lambda: os.symlink("file", "new"))
attempt("link", lambda: os.link("file", "new"))
attempt("mkfifo", lambda: os.mkfifo("new"))
attempt("unlink", lambda: os.unlink("file"))
attempt("rmdir", lambda: os.rmdir("/mnt/rootfs/folder"))
attempt("rename", lambda: os.rename("file", "new"))
attempt("chmod", lambda: os.chmod("file", 0o777))
attempt("chown", lambda: os.chown("file", 1, 1))
attempt("utimens", lambda: os.utime("file", (1, 1)))
attempt("setxattr", lambda: os.setxattr("file", "user.x", b"y"))
attempt("removexattr", lambda: os.removexattr("file", "user.x"))
attempt("tmpfile", lambda: os.open(".", os.O_TMPFILE | os.O_RDWR))
print("@ end")
os.fsync(os.open("file", os.O_RDONLY))
os.fsync(os.open(".", os.O_RDONLY))
"#;

/// Script of the first boot.
const CASES: &str = "
    posix run share /mnt/share plain rich
    posix run local /mnt/local plain rich
    sync
    echo '@ share manifest'; posix manifest /mnt/share; echo '@ end'
    echo '@ rootfs manifest'; posix manifest /mnt/rootfs; echo '@ end'
    python3 -B /extra/changes.py
    posix run rootfs /mnt/rootfs plain rich
    ";

/// Results of the first boot.
struct Booted {
    report: Report,
    /// Manifest of the `rootfs` share before the boot.
    before: Vec<String>,
    /// The `rootfs` share after the boot.
    after: HostView,
    /// The `share` share after the boot.
    share: HostView,
}

/// Returns the results of the first boot. The cases make their files on `share` and `local`. On
/// `rootfs`, [`make_tree`] has made the files before.
fn booted() -> &'static Booted {
    static BOOTED: OnceLock<Booted> = OnceLock::new();
    BOOTED.get_or_init(|| {
        let (share, rootfs) = (Shared::new(), Shared::new());
        make_tree(&rootfs);
        let before = HostView::of(&rootfs.path).manifest();
        let daemons = vec![
            ("share", serve(&share.path, "share", &["--xattr", "--posix-acl"])),
            ("rootfs", serve(&rootfs.path, "rootfs", &["--profile=rootfs", "--xattr", "--posix-acl"])),
        ];
        let script = format!(
            "cat > /tmp/changes.py <<'END'\n{CHANGES}\nEND\n{}",
            CASES.replace("/extra/changes.py", "/tmp/changes.py")
        );
        let report = boot(&script, daemons);
        let (after, share) = (HostView::of(&rootfs.path), HostView::of(&share.path));
        Booted { report, before, after, share }
    })
}

/// Makes the names that `CHANGES` uses, and some objects of every kind.
fn make_tree(folder: &Shared) {
    let at = |name: &str| folder.path.join(name);
    fs::create_dir(at("tree")).unwrap();
    fs::create_dir(at("folder")).unwrap();
    fs::write(at("tree/file"), "kept").unwrap();
    std::os::unix::fs::symlink("tree/file", at("link")).unwrap();
    for n in 0..40 {
        fs::write(at("folder").join(format!("file-{n}")), vec![b'x'; n * 1000]).unwrap();
    }
}

#[test]
fn share_profile_lacks_only_device_nodes_and_security_attributes() {
    let booted = booted();
    let cases = booted.report.cases("local");
    assert!(cases.len() > 30, "only {cases:?} ran: {}", booted.report.ended);
    let differences = |case: &&str| booted.report.differences(case, "share", "local", &SHARE);
    let found: Vec<_> = cases.iter().filter(|case| **case != "overlay_upper").flat_map(differences).collect();
    assert!(found.is_empty(), "{}", found.join("\n"));
    // The whiteouts of an overlay are device nodes.
    let upper = booted.report.lines("share", "overlay_upper");
    assert_ne!(upper, booted.report.lines("local", "overlay_upper"));
    let mut guest = booted.report.lines("share", "manifest").to_vec();
    guest.sort();
    assert_eq!(guest, booted.share.manifest(), "the host sees what the guest sees");
}

#[test]
fn rootfs_reads_everything_and_refuses_every_change() {
    let booted = booted();
    let mut guest = booted.report.lines("rootfs", "manifest").to_vec();
    guest.sort();
    assert_eq!(guest, booted.before);
    let changes = booted.report.lines("rootfs", "changes");
    assert_eq!(changes.len(), 17, "{changes:?}");
    for line in changes {
        assert!(line.ends_with(" EROFS"), "{line}");
    }
    for case in booted.report.cases("local") {
        let lines = booted.report.lines("rootfs", case).join("\n");
        assert!(lines.contains("OSError: [Errno 30] Read-only file system"), "{case}: {lines}");
    }
    assert_eq!(booted.before, booted.after.manifest(), "nothing on the host has changed");
    let file = booted.after.at("tree/file");
    assert_eq!(booted.after.content("tree/file"), b"kept");
    assert!(file.permissions() == 0o644 && file.attributes.is_empty());
    assert!(!booted.after.has("tree/new"));
}

#[test]
fn inode_flags_work_only_where_the_policy_grants_them() {
    let (plain, flags) = (Shared::new(), Shared::new());
    let policy = flags.path.with_file_name("policy.toml");
    fs::write(&policy, "profile = \"share\"\nallow = [\"ioctl-inode-flags\"]\n").unwrap();
    let policy = format!("--policy={}", policy.display());
    let daemons =
        vec![("plain", serve(&plain.path, "plain", &[])), ("flags", serve(&flags.path, "flags", &[&policy]))];
    let script = "
        set +e
        touch /mnt/plain/file /mnt/flags/file
        mkdir /mnt/flags/folder
        echo '@ flags changed'
        lsattr /mnt/plain/file 2>&1 | grep -o 'While reading flags'
        chattr +d /mnt/flags/file /mnt/flags/folder
        lsattr /mnt/flags/file | cut -d' ' -f1 | tr -d e-
        lsattr -d /mnt/flags/folder | cut -d' ' -f1 | tr -d e-
        chattr +i /mnt/flags/file
        echo more 2>&1 >> /mnt/flags/file | grep -o 'not permitted'
        rm -f /mnt/flags/file 2>&1 | grep -o 'not permitted'
        lsattr /mnt/flags/file | cut -d' ' -f1 | tr -d e-
        chattr -i /mnt/flags/file
        rm /mnt/flags/file && echo removed
        echo '@ end'
        ";
    let report = boot(script, daemons);
    let seen = report.lines("flags", "changed");
    let expected = ["While reading flags", "d", "d", "not permitted", "not permitted", "id", "removed"];
    assert_eq!(seen, expected, "{:?}", report.daemons);
    assert!(plain.path.join("file").exists() && !flags.path.join("file").exists());
}

#[test]
fn daemon_prints_no_error_under_any_profile() {
    for (name, ended, stderr) in &booted().report.daemons {
        assert_eq!(ended, "exit status: 0", "{name}: {stderr}");
        assert!(!stderr.contains("panicked") && !stderr.contains("ERROR"), "{name}: {stderr}");
    }
}

#[test]
fn a_debian_tree_runs_from_a_rootfs_share() {
    let tree = Parts::locate().userland().unwrap();
    let mut daemon = Daemon::pinhole(&tree)
        .unwrap()
        .argument("--tag=root")
        .argument("--profile=rootfs")
        .argument("--cache=always")
        .start()
        .unwrap();
    let script = "
        set -e
        mkdir -p /tmp/scratch
        mount -t proc proc /mnt/root/proc
        mount -t tmpfs tmpfs /mnt/root/tmp
        chroot /mnt/root /bin/bash -c '
            set -e
            python3 -c \"import sqlite3, zlib; print(sqlite3.connect(\\\":memory:\\\").execute(\\\"select 6*7\\\").fetchone()[0])\"
            printf \"int main(void){return 0;}\" > /tmp/a.c && gcc -o /tmp/a /tmp/a.c && /tmp/a && echo compiled
            git init -q /tmp/repository && echo repository
            touch /usr/new 2>&1 | grep -o \"Read-only file system\"
            find /usr/lib/git-core /usr/share -xdev -type f | wc -l
        '
        sha256sum /mnt/root/usr/bin/git | cut -d' ' -f1
        ";
    let guest = Guest::uml().userland().memory_mib(768).limit(Duration::from_mins(8));
    let finished = guest.share(daemon.socket(), "root").run(script).unwrap();
    let text = finished.text();
    assert_eq!(finished.exit_code, 0, "{text}\n{}", daemon.stderr());
    let on_host = |command: &str| {
        let done = Command::new("sh").arg("-c").arg(command).current_dir(&tree).output().unwrap();
        String::from_utf8(done.stdout).unwrap().trim().to_owned()
    };
    let files = on_host("find usr/lib/git-core usr/share -xdev -type f | wc -l");
    let sum = on_host("sha256sum usr/bin/git | cut -d' ' -f1");
    let lines: Vec<_> = text.lines().collect();
    assert_eq!(lines, ["42", "compiled", "repository", "Read-only file system", &files, &sum], "{text}");
    let ended = daemon.wait_at_most(Duration::from_secs(10)).unwrap();
    assert!(ended.is_some_and(|status| status.success()), "{ended:?}: {}", daemon.stderr());
}
