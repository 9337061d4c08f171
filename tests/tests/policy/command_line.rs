//! Does every correct argument have its effect, and does every wrong one get one line that names
//! it?

use std::os::fd::AsRawFd;
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::time::Duration;

use pinhole_tests::program::{Ended, Program, pinhole, run};
use rustix::io::FdFlags;
use rustix::process::Signal;
use tempfile::TempDir;

/// Line of a daemon that is ready.
const READY: &str = "Waiting for vhost-user socket connection...\n";

/// Directory to share and a path for a socket.
struct Place {
    folder: TempDir,
}

impl Place {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        std::fs::create_dir(folder.path().join("shared")).unwrap();
        Self { folder }
    }

    /// Returns the directory to share.
    fn shared(&self) -> PathBuf {
        self.folder.path().join("shared")
    }

    /// Returns the path for the socket.
    fn socket(&self) -> PathBuf {
        self.folder.path().join("socket")
    }

    /// Splits `text` into words and replaces DIR and SOCK.
    fn words(&self, text: &str) -> Vec<String> {
        let fill = |word: &str| {
            word.replace("DIR", &self.shared().display().to_string())
                .replace("SOCK", &self.socket().display().to_string())
        };
        text.split_whitespace().map(fill).collect()
    }

    /// Runs `pinhole` with these words to its end.
    fn run(&self, text: &str) -> Ended {
        run(&mut pinhole(self.words(text)).unwrap()).unwrap()
    }

    /// Starts `pinhole` with these words and waits until it is ready.
    fn start(&self, text: &str) -> Program {
        let mut program = Program::start(&mut pinhole(self.words(text)).unwrap()).unwrap();
        program.wait_for(READY).unwrap();
        program
    }
}

/// Command lines with a wrong argument, each with words of the message that it gets.
const WRONG: &[(&str, &str)] = &[
    ("", "--shared-dir"),
    ("--shared-dir DIR", "--socket-path"),
    ("--socket-path SOCK", "--shared-dir"),
    ("--shared-dirr DIR --socket-path SOCK", "--shared-dirr"),
    ("--shared-dir", "--shared-dir"),
    ("--shared-dir DIR --socket-path SOCK --fd 3", "--fd and --socket-path"),
    ("--shared-dir DIR --socket-path SOCK --socket /x", "--socket and --socket-path"),
    ("--shared-dir DIR --fd -1", "--fd"),
    ("--shared-dir DIR --fd 3 --socket-group root", "--socket-group"),
    (
        "--shared-dir DIR --socket-path SOCK --cache sometimes",
        "strict, auto, exclusive, never, metadata, always",
    ),
    ("--shared-dir DIR --socket-path SOCK --cache auto --cache never", "--cache"),
    ("--shared-dir DIR --socket-path SOCK --num-request-queues 0", "1..=63"),
    ("--shared-dir DIR --socket-path SOCK --num-request-queues 64", "1..=63"),
    ("--shared-dir DIR --socket-path SOCK --thread-pool-size many", "--thread-pool-size"),
    ("--shared-dir DIR --socket-path SOCK --dax-window 3M", "--dax-window"),
    ("--shared-dir DIR --socket-path SOCK --dax-window 1M", "--dax-window"),
    ("--shared-dir DIR --socket-path SOCK --dax-window 2MiB", "--dax-window"),
    ("--shared-dir DIR --socket-path SOCK --dax always", "--dax-window"),
    ("--shared-dir DIR --socket-path SOCK --dax-window 0 --dax-min-size 1M", "--dax-window"),
    ("--shared-dir DIR --socket-path SOCK --dax-window 2M --dax sometimes", "--dax"),
    ("mount DIR DIR --dax-window 2M", "--dax-window"),
    ("--shared-dir DIR --socket-path SOCK --tag=", "--tag"),
    ("--shared-dir DIR --socket-path SOCK --tag 0123456789012345678901234567890123456", "--tag"),
    ("--shared-dir DIR --socket-path SOCK --attr-timeout soon", "--attr-timeout"),
    ("--shared-dir DIR --socket-path SOCK --entry-timeout=-1", "--entry-timeout"),
    ("--shared-dir DIR --socket-path SOCK --negative-timeout nan", "--negative-timeout"),
    ("--shared-dir DIR --socket-path SOCK --posix-acl=maybe", "--posix-acl"),
    ("--shared-dir DIR --socket-path SOCK --rlimit-nofile 3", "--rlimit-nofile"),
    ("--shared-dir DIR --socket-path SOCK --log-level loud", "--log-level"),
    ("--shared-dir DIR --socket-path SOCK --sandbox sand", "--sandbox"),
    ("--shared-dir DIR --socket-path SOCK --seccomp maybe", "--seccomp"),
    ("--shared-dir DIR --socket-path SOCK --sandbox chroot --require namespace", "--require namespace"),
    (
        "--shared-dir DIR --socket-path SOCK --sandbox none --require landlock,namespace",
        "--require namespace",
    ),
    ("mount DIR DIR --require namespace", "--require namespace"),
    ("mount DIR DIR --uid-map :0:0:1:", "--uid-map"),
    ("--shared-dir DIR --socket-path SOCK --xattrmap :map::user.virtiofs.:", "--xattrmap"),
    ("--shared-dir DIR --socket-path SOCK --security-label", "--security-label"),
    ("--shared-dir DIR --socket-path SOCK --uid-map 0:1:2", "--uid-map"),
    ("--shared-dir DIR --socket-path SOCK --gid-map 0:1:2", "--gid-map"),
    ("--shared-dir DIR --socket-path SOCK --translate-uid map:0:1:2", "--translate-uid"),
    ("--shared-dir DIR --socket-path SOCK --translate-gid map:0:1:2", "--translate-gid"),
    ("--shared-dir DIR --socket-path SOCK --migration-mode find-paths", "--migration-mode"),
    ("--shared-dir DIR --socket-path SOCK -o caches=auto", "-o caches"),
    ("--shared-dir DIR --socket-path SOCK -o cache=some", "-o cache=some"),
    ("--shared-dir DIR --socket-path SOCK --locks all", "--locks"),
    ("--shared-dir DIR --socket-path SOCK -o source=/elsewhere", "-o source="),
    ("--socket-path SOCK mount", "mount"),
    ("mount", "DIR"),
    ("mount DIR", "<DIR>"),
    ("mount --prepared DIR", "MOUNTPOINT"),
    ("mount DIR DIR -o loop", "-o loop"),
    ("mount DIR DIR --threads 0", "--threads"),
    ("mount DIR DIR --socket-path SOCK", "--socket-path"),
    ("umount DIR", "umount"),
];

#[test]
fn wrong_argument_prints_one_line_and_exits_2() {
    let place = Place::new();
    for (words, named) in WRONG {
        let ended = place.run(words);
        assert_eq!(ended.code, Some(2), "{words}: {ended:?}");
        assert_eq!(ended.stderr.lines().count(), 1, "{words}: {ended:?}");
        assert!(ended.stderr.starts_with("pinhole: ") && ended.stderr.contains(named), "{words}: {ended:?}");
        assert!(ended.stderr.contains("--help"), "{words}: {ended:?}");
        assert_eq!(ended.stdout, "", "{words}");
        assert!(!place.socket().exists(), "{words}");
    }
}

#[test]
fn refusal_by_the_host_prints_one_line_and_exits_1() {
    let place = Place::new();
    std::fs::write(place.folder.path().join("file"), "").unwrap();
    let file = place.folder.path().join("file").display().to_string();
    for (words, named) in [
        ("--shared-dir /no/such/place --socket-path SOCK".to_owned(), "/no/such/place"),
        (format!("--shared-dir {file} --socket-path SOCK"), "file"),
        ("--shared-dir DIR --socket-path /no/such/place".to_owned(), "/no/such/place"),
        (format!("--shared-dir DIR --socket-path {file}"), "not a socket"),
        ("--shared-dir DIR --socket-path SOCK --socket-group no-such-group".to_owned(), "no-such-group"),
        ("--shared-dir DIR --fd 999".to_owned(), "999"),
        ("--shared-dir DIR --fd 0".to_owned(), "not a listening"),
        ("mount DIR /no/such/place".to_owned(), "/no/such/place"),
        (format!("mount DIR {file}"), "file"),
    ] {
        let ended = place.run(&words);
        assert_eq!(ended.code, Some(1), "{words}: {ended:?}");
        assert!(ended.stderr.lines().last().is_some_and(|line| line.contains(named)), "{words}: {ended:?}");
    }
}

#[test]
fn command_lines_of_kata_and_libvirt_start() {
    for words in [
        "--socket-path SOCK --shared-dir DIR --cache never --thread-pool-size=1 -o announce_submounts",
        "--socket-path SOCK --shared-dir DIR --cache auto --thread-pool-size=1 -o announce_submounts --xattr",
        "--syslog --cache=auto --shared-dir=DIR --socket-path=SOCK --thread-pool-size=1 --announce-submounts",
        "--socket=SOCK -o source=DIR,cache=none,sandbox=chroot,xattr,no_flock,no_posix_lock -f -d",
        "--shared-dir DIR --socket-path SOCK --cache always --xattr --posix-acl=auto --sandbox namespace \
         --thread-pool-size 64 --readonly --inode-file-handles=prefer --modcaps=+sys_admin --seccomp kill",
        "serve --shared-dir DIR --socket-path SOCK --tag data --num-request-queues 1 --keep-listening",
        "--shared-dir DIR --socket-path SOCK --rlimit-nofile 1024 --preserve-noatime --no-killpriv-v2 \
         --no-announce-submounts --no-readdirplus --allow-direct-io --cache metadata --allow-mmap",
        "--shared-dir DIR --socket-path SOCK --attr-timeout 0.5 --entry-timeout 1 --negative-timeout 2 \
         --writeback --killpriv-v2 --log-level trace",
    ] {
        let place = Place::new();
        let mut program = place.start(words);
        assert!(place.socket().metadata().unwrap().file_type().is_socket(), "{words}");
        assert_eq!(program.end_by(Signal::TERM).unwrap(), Some(0), "{words}: {}", program.stderr());
        assert!(!place.socket().exists(), "{words}");
    }
}

/// Needs root, because chroot needs root.
#[test]
fn complete_sandbox_starts_without_warnings() {
    for sandbox in ["namespace", "chroot", "none"] {
        let place = Place::new();
        let words = "--inode-file-handles never --seccomp trap --log-level warn";
        let mut asked =
            place.start(&format!("--shared-dir DIR --socket-path SOCK --sandbox {sandbox} {words}"));
        assert_eq!(asked.stderr(), READY, "{sandbox}");
        assert_eq!(asked.end_by(Signal::TERM).unwrap(), Some(0), "{sandbox}: {}", asked.stderr());
    }
}

#[test]
fn passed_socket_is_served_until_the_vmm_disconnects() {
    let place = Place::new();
    let listener = UnixListener::bind(place.socket()).unwrap();
    rustix::io::fcntl_setfd(&listener, FdFlags::empty()).unwrap();
    let words = format!("--shared-dir DIR --syslog --fd {}", listener.as_raw_fd());
    let mut program = place.start(&words);
    drop(UnixStream::connect(place.socket()).unwrap());
    let status = program.wait(Duration::from_secs(20)).unwrap();
    assert_eq!(status.and_then(|status| status.code()), Some(0), "{}", program.stderr());
}

#[test]
fn keep_listening_outlives_the_vmm() {
    let place = Place::new();
    let mut program = place.start("--shared-dir DIR --socket-path SOCK --keep-listening");
    for _vmm in 0..3 {
        drop(UnixStream::connect(place.socket()).unwrap());
    }
    assert!(program.wait(Duration::from_millis(300)).unwrap().is_none(), "{}", program.stderr());
    assert_eq!(program.end_by(Signal::INT).unwrap(), Some(0), "{}", program.stderr());
}

#[test]
fn stale_socket_is_replaced_and_socket_in_use_is_not() {
    let place = Place::new();
    drop(UnixListener::bind(place.socket()).unwrap());
    let mut first = place.start("--shared-dir DIR --socket-path SOCK");
    let second = place.run("--shared-dir DIR --socket-path SOCK");
    assert_eq!(second.code, Some(1), "{second:?}");
    assert!(second.stderr.contains("in use"), "{second:?}");
    assert_eq!(first.end_by(Signal::TERM).unwrap(), Some(0));
}

#[test]
fn the_socket_is_for_its_owner_and_the_named_group() {
    let place = Place::new();
    let alone = place.start("--shared-dir DIR --socket-path SOCK");
    assert_eq!(mode(&place.socket()), 0o600);
    drop(alone);
    let place = Place::new();
    let _group = place.start("--shared-dir DIR --socket-path SOCK --socket-group root");
    assert_eq!((mode(&place.socket()), place.socket().metadata().unwrap().gid()), (0o660, 0));
}

/// Returns the permission bits of a path.
fn mode(path: &Path) -> u32 {
    path.metadata().unwrap().permissions().mode() & 0o777
}

#[test]
fn capabilities_are_the_json_that_libvirt_reads() {
    let ended = Place::new().run("--print-capabilities");
    assert_eq!((ended.code, ended.stderr.as_str()), (Some(0), ""));
    let json: String = ended.stdout.split_whitespace().collect();
    assert_eq!(json, r#"{"type":"fs","features":["posix-acl-negotiation-mode","separate-options"]}"#);
}

#[test]
fn help_and_version_are_answers_and_not_errors() {
    let place = Place::new();
    let (short, long) = (place.run("--help"), place.run("help"));
    let mount = ["mount --help", "help mount"].map(|words| place.run(words));
    for ended in [&short, &long, &mount[0], &mount[1], &place.run("serve --help"), &place.run("--version")] {
        assert_eq!((ended.code, ended.stderr.as_str()), (Some(0), ""), "{ended:?}");
    }
    assert_eq!(place.run("-h").stdout, short.stdout);
    assert!(long.stdout.len() > short.stdout.len());
    let groups = ["Share:", "Socket:", "Cache:", "Policy and sandbox:", "DAX:", "Limits:", "Log:"];
    for text in groups.into_iter().chain(["Accepted for virtiofsd", "Examples:"]) {
        assert!(short.stdout.contains(text) && long.stdout.contains(text), "{text}");
    }
    assert!(long.stdout.contains("Exit status:"));
    assert!(place.run("--version").stdout.starts_with("pinhole "));
    for refused in ["--sandbox", "--uid-map", "--gid-map"] {
        assert!(short.stdout.contains(refused) && long.stdout.contains(refused), "{refused}");
        assert!(mount.iter().all(|help| !help.stdout.contains(refused)), "{refused}");
    }
}

#[test]
fn the_descriptor_limit_is_raised_set_or_left() {
    let limits = |options: &str| {
        let place = Place::new();
        let program = place.start(&format!("--shared-dir DIR --socket-path SOCK {options}"));
        let table = std::fs::read_to_string(format!("/proc/{}/limits", program.id())).unwrap();
        let line = table.lines().find(|line| line.starts_with("Max open files")).unwrap().to_owned();
        let words: Vec<String> = line.split_whitespace().map(str::to_owned).collect();
        (words[3].clone(), words[4].clone())
    };
    let (raised, hard) = limits("");
    assert_eq!(raised, hard);
    assert_eq!(limits("--rlimit-nofile 777").0, "777");
    let own = rustix::process::getrlimit(rustix::process::Resource::Nofile).current.unwrap();
    assert_eq!(limits("--rlimit-nofile 0").0, own.to_string());
}
