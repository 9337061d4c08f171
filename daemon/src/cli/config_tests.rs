//! Tests of the configuration.

use super::*;
use crate::sandbox::{Layers, OnForbidden};
use clap::Parser;

fn config(words: &str) -> Result<Config, ConfigError> {
    Config::new(Cli::try_parse_from(words.split(' ')).unwrap())
}

fn served(words: &str) -> ServeConfig {
    let action = config(words).unwrap().action;
    let Action::Serve(serve) = action else { panic!("{action:?}") };
    serve
}

#[test]
fn the_least_command_line_has_the_documented_defaults() {
    let serve = served("pinhole --shared-dir /d --socket-path /s");
    assert_eq!(serve.listen, ListenConfig::Path { path: "/s".into(), group: None });
    assert_eq!(
        (serve.tag, serve.request_queues, serve.keep_listening),
        (Tag::new("pinhole").unwrap(), RequestQueues::new(8).unwrap(), false)
    );
    let share = serve.share;
    assert_eq!(share.timeouts.attr, Duration::from_secs(1));
    assert_eq!(share.timeouts.negative, Duration::ZERO);
    assert!(share.submounts && share.killpriv && share.readdirplus);
    assert!(!share.read_only && !share.xattr && !share.writeback);
    assert_eq!(share.descriptors, DescriptorLimit::Hard);
}

#[test]
fn serve_may_be_written_or_left_out() {
    assert_eq!(
        config("pinhole serve --shared-dir /d --socket-path /s"),
        config("pinhole --shared-dir /d --socket-path /s")
    );
}

#[test]
fn the_command_line_of_kata_is_accepted() {
    let go = served(
        "virtiofsd --syslog --cache=auto --shared-dir=/p --fd=3 --thread-pool-size=1 --announce-submounts",
    );
    assert_eq!(go.listen, ListenConfig::Descriptor(3));
    let rust = config(
        "virtiofsd --socket-path /s --shared-dir /d --cache never --thread-pool-size=1 -o announce_submounts --xattr",
    );
    assert!(rust.unwrap().notes.is_empty());
}

#[test]
fn the_pool_size_is_limited() {
    let threads = |words: &str| {
        let config = config(format!("pinhole --shared-dir /d --socket-path /s {words}").trim()).unwrap();
        let Action::Serve(serve) = config.action else { panic!("{words}") };
        (serve.pool_threads, config.notes.len())
    };
    assert_eq!(threads(""), (8, 0));
    assert_eq!(threads("--thread-pool-size 0"), (0, 0));
    assert_eq!(threads("--thread-pool-size 64"), (64, 0));
    assert_eq!(threads("--thread-pool-size 100000"), (256, 1));
}

#[test]
fn polling_is_given_or_chosen_for_the_host() {
    let poll = |words: &str| served(format!("pinhole --shared-dir /d --socket-path /s {words}").trim()).poll;
    assert_eq!(poll(""), None);
    assert_eq!(poll("--poll-us 0"), Some(Duration::ZERO));
    assert_eq!(poll("--poll-us=250"), Some(Duration::from_micros(250)));
    Cli::try_parse_from(["pinhole", "--poll-us", "1001"]).unwrap_err();
}

#[test]
fn the_cache_mode_sets_default_timeouts() {
    let day = 86_400;
    let virtiofsds = [("never", 0), ("metadata", day), ("always", day)];
    for (mode, seconds) in [("auto", 1), ("exclusive", day)].into_iter().chain(virtiofsds) {
        let words = format!("pinhole --shared-dir /d --socket-path /s --cache {mode} --entry-timeout 2.5");
        let timeouts = served(&words).share.timeouts;
        assert_eq!(timeouts.attr, Duration::from_secs(seconds), "{mode}");
        assert_eq!(timeouts.entry, Duration::from_millis(2500), "{mode}");
        let absent = if mode == "exclusive" { day } else { 0 };
        assert_eq!(timeouts.negative, Duration::from_secs(absent), "{mode}");
    }
}

#[test]
fn strict_refuses_timeouts() {
    let base = "pinhole --shared-dir /d --socket-path /s --cache strict";
    let nothing = CacheTimeouts { attr: Duration::ZERO, entry: Duration::ZERO, negative: Duration::ZERO };
    for words in ["", " --attr-timeout 0 --entry-timeout 0 --negative-timeout 0", " -o timeout=0"] {
        assert_eq!(served(&format!("{base}{words}")).share.timeouts, nothing, "{words}");
    }
    for (words, option, seconds) in [
        ("--attr-timeout 0.5", "--attr-timeout", "0.5"),
        ("--entry-timeout 1", "--entry-timeout", "1"),
        ("--negative-timeout 3", "--negative-timeout", "3"),
        ("-o timeout=1", "--attr-timeout", "1"),
    ] {
        assert_eq!(
            config(&format!("{base} {words}")),
            Err(ConfigError::Stale { option, seconds: seconds.to_owned() }),
            "{words}"
        );
    }
    let of_old = served("pinhole --shared-dir /d --socket-path /s -o cache=none,timeout=1");
    assert_eq!(of_old.share.timeouts.attr, Duration::from_secs(1));
}

#[test]
fn never_and_metadata_refuse_shared_mappings() {
    let mmap =
        |words: &str| served(&format!("pinhole --shared-dir /d --socket-path /s --cache {words}")).share.mmap;
    assert!(mmap("strict") && mmap("auto") && mmap("exclusive") && mmap("never --allow-mmap"));
    assert!(!mmap("never") && !mmap("none") && !mmap("metadata"));
}

#[test]
fn the_later_of_two_opposite_flags_wins() {
    let base = "pinhole --shared-dir /d --socket-path /s";
    assert!(!served(&format!("{base} --announce-submounts --no-announce-submounts")).share.submounts);
    assert!(served(&format!("{base} --no-killpriv-v2 --killpriv-v2")).share.killpriv);
}

#[test]
fn access_control_lists_imply_extended_attributes() {
    let base = "pinhole --shared-dir /d --socket-path /s";
    assert!(served(&format!("{base} --posix-acl")).share.xattr);
    assert!(!served(&format!("{base} --posix-acl=never --security-label=never")).share.posix_acl);
}

#[test]
fn each_contradiction_names_its_argument() {
    let base = "pinhole --shared-dir /d --socket-path /s";
    for (words, named) in [
        ("--fd 3", "--fd and --socket-path"),
        ("--socket /t", "--socket and --socket-path"),
        ("--tag 0123456789012345678901234567890123456", "--tag: a tag has at most 36 bytes, this one 37"),
        ("--rlimit-nofile 10", "--rlimit-nofile"),
        ("--uid-map 0:1:2", "--uid-map"),
        ("--sandbox chroot --gid-map :0:1:2:", "--uid-map"),
        ("--modcaps +everything", "--modcaps"),
        ("--require seccomp --seccomp log", "--require seccomp"),
        ("-o no_xattr,posix_acl", "--posix-acl"),
        ("-o source=/e", "-o source="),
    ] {
        let line = config(&format!("{base} {words}")).unwrap_err().to_string();
        assert!(line.starts_with(named), "{words}: {line}");
        assert!(!line.contains('\n') && !line.ends_with('.'), "{words}: {line}");
    }
}

#[test]
fn a_missing_argument_is_named() {
    assert_eq!(config("pinhole --shared-dir /d"), Err(ConfigError::NoSocket));
    assert_eq!(config("pinhole --socket-path /s"), Err(ConfigError::NoDirectory));
    assert_eq!(
        config("pinhole --shared-dir /d --fd 3 --socket-group kvm"),
        Err(ConfigError::GroupOfDescriptor { group: "kvm".to_owned() })
    );
}

#[test]
fn the_whole_sandbox_is_the_default() {
    let base = "pinhole --shared-dir /d --socket-path /s";
    let sandbox = served(base).share.sandbox;
    assert_eq!((sandbox.isolation, sandbox.forbidden), (Isolation::Namespace, OnForbidden::Kill));
    let sandbox = served(&format!("{base} --sandbox none --seccomp none")).share.sandbox;
    assert_eq!((sandbox.isolation, sandbox.forbidden), (Isolation::None, OnForbidden::Allow));
    let sandbox = served(&format!("{base} --require landlock,seccomp --uid-map :0:1:2:")).share.sandbox;
    assert_eq!(sandbox.required, Layers::LANDLOCK | Layers::SECCOMP);
    assert!(sandbox.id_maps.are_given());
}

#[test]
fn a_mount_takes_the_options_of_a_share() {
    let config = config("pinhole mount /d /m -o ro,nosuid --cache always --threads 2").unwrap();
    let Action::Mount(mount) = config.action else { panic!("{config:?}") };
    assert_eq!((mount.mountpoint, mount.threads), ("/m".into(), Some(2)));
    assert_eq!(mount.options, ["ro", "nosuid"]);
    assert_eq!(mount.share.cache, CacheArg::Always);
}

#[test]
fn an_unknown_mount_option_is_named() {
    let line = config("pinhole mount /d /m -o ro,loop").unwrap_err().to_string();
    assert!(line.starts_with("-o loop: "), "{line}");
}

#[test]
fn an_image_is_an_alternative_to_a_directory() {
    let base = "pinhole --prepared /i --socket-path /s";
    let share = served(base).share;
    let image = |data: &[&str]| PreparedConfig {
        image: "/i".into(),
        data: data.iter().map(PathBuf::from).collect(),
        data_dir: None,
        digest: None,
        verify_data: false,
    };
    assert_eq!(share.source, ShareSource::Prepared(image(&[])));
    assert_eq!(share.policy, PolicyChoice::Profile(Profile::Prepared));
    assert!(share.read_only && share.xattr && !share.posix_acl && !share.writeback);
    assert_eq!((share.locks, share.timeouts.negative), (LocksArg::Guest, DAY));
    let data = served(&format!("{base} --data /b --data /a")).share.source;
    assert_eq!(data, ShareSource::Prepared(image(&["/b", "/a"])));
    for accepted in [
        "--xattr",
        "--posix-acl",
        "--cache auto --announce-submounts",
        "--cache exclusive",
        "--cache always",
        "--locks none",
        "--profile rootfs",
        "--profile prepared",
        "--readonly --no-killpriv-v2 --no-announce-submounts",
        "--policy /p",
        "--dax-window 2M --sandbox chroot",
    ] {
        let config = config(&format!("{base} {accepted}")).unwrap();
        assert!(config.notes.is_empty(), "{accepted}: {:?}", config.notes);
    }
    let Action::Mount(mount) = config("pinhole mount --prepared /i /m -o nodev").unwrap().action else {
        panic!("no mount");
    };
    assert_eq!((mount.share.source, mount.mountpoint), (ShareSource::Prepared(image(&[])), "/m".into()));
    assert_eq!(mount.options, ["nodev", "ro"]);
}

#[test]
fn options_without_meaning_for_an_image_are_refused() {
    let base = "pinhole --prepared /i --socket-path /s";
    for words in [
        "--writeback",
        "--profile full",
        "--profile share",
        "--cache strict",
        "--cache never",
        "--cache metadata",
        "--allow-direct-io",
        "--preserve-noatime",
        "--inode-file-handles prefer",
        "--locks host",
        "--uid-map :0:1:2:",
        "--gid-map :0:1:2:",
        "-o no_xattr",
        "--shared-dir /d",
        "--prepared /j",
    ] {
        let line = config(&format!("{base} {words}")).unwrap_err().to_string();
        let option = words.split(' ').next().unwrap();
        assert!(line.starts_with(option) && line.contains("--prepared"), "{words}: {line}");
    }
    for words in ["--data /d", "--data-dir /d", "--verify-data", "--image-digest sha256:"] {
        let digits = if words.ends_with(':') { "0".repeat(64) } else { String::new() };
        let line = config(&format!("pinhole --shared-dir /d --socket-path /s {words}{digits}"));
        let line = line.unwrap_err().to_string();
        assert!(line.contains("give --prepared IMAGE"), "{words}: {line}");
    }
    let rw = config("pinhole mount --prepared /i /m -o rw").unwrap_err().to_string();
    assert!(rw.starts_with("-o rw and --prepared"), "{rw}");
    let both = config("pinhole mount /d /m --prepared /i").unwrap_err().to_string();
    assert!(both.starts_with("DIR and --prepared exclude"), "{both}");
}

#[test]
fn a_switch_without_effect_is_noted() {
    let base = "pinhole --shared-dir /d --socket-path /s";
    let mmap = config(&format!("{base} --allow-mmap")).unwrap();
    assert!(mmap.notes.iter().any(|note| note.starts_with("--allow-mmap: not needed")), "{:?}", mmap.notes);
    let writeback = config(&format!("{base} --writeback --cache never")).unwrap();
    assert!(writeback.notes.iter().any(|note| note.starts_with("--writeback: without effect")));
    assert!(!served(&format!("{base} --writeback --cache never")).share.writeback);
    assert!(served(&format!("{base} --writeback")).share.writeback);
}

#[test]
fn a_window_is_off_unless_it_is_asked_for() {
    let window =
        |words: &str| served(format!("pinhole --shared-dir /d --socket-path /s {words}").trim()).window;
    for words in ["", "--dax-window 0", "--dax never", "--dax-window 2M --dax never"] {
        assert_eq!(window(words), None, "{words}");
    }
    let geometry = Geometry::new(2 << 20, ALIGNMENT_SHIFT).unwrap();
    let plain = WindowSettings { geometry, mode: Mode::Auto, threshold: limits::DAX_MIN_SIZE_DEFAULT };
    assert_eq!(window("--dax-window 2M"), Some(plain));
    let few = |words: &str| config(format!("pinhole --shared-dir /d --socket-path /s {words}").trim()).err();
    for (limit, window, least) in [(512, "2M", 514), (1023, "512M", 1024), (1529, "32G", 1530)] {
        let words = format!("--rlimit-nofile {limit} --dax-window {window}");
        assert_eq!(few(&words), Some(ConfigError::FewDescriptors { limit, least }), "{words}");
    }
    assert_eq!(few("--rlimit-nofile 1024 --dax-window 512M"), None);
    let all = WindowSettings { mode: Mode::Always, threshold: 4096, ..plain };
    assert_eq!(window("--dax-window 2097152 --dax always --dax-min-size 4K"), Some(all));
}
