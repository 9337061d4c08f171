//! Does a daemon refuse an image that it cannot serve, and say what is wrong and what to do?

use std::fs;
use std::os::unix::fs::FileExt as _;
use std::path::Path;
use std::time::Duration;

use pinhole_tests::daemon::Daemon;
use pinhole_tests::program::{Ended, pinhole, run};
use sha2::{Digest as _, Sha256};

use crate::sample::{DATA, Guest, ImageFolder, image};

/// Runs `pinhole` with an image until it refuses it.
fn refused(folder: &ImageFolder, arguments: &[&str]) -> String {
    let socket = folder.folder().join("socket");
    let words = ["--socket-path", socket.to_str().unwrap(), "--prepared", folder.image().to_str().unwrap()]
        .map(str::to_owned);
    let mut command = pinhole(words).unwrap();
    let Ended { code, stderr, .. } = run(command.args(arguments)).unwrap();
    assert!(matches!(code, Some(1 | 2)), "{code:?}: {stderr}");
    let stderr = stderr.lines().filter(|line| !line.contains(" INFO ")).collect::<Vec<_>>().join("\n");
    assert_eq!(stderr.lines().count(), 1, "{stderr}");
    assert!(!socket.exists());
    stderr
}

fn digest(bytes: &[u8]) -> String {
    let digits: Vec<_> = Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect();
    format!("sha256:{}", digits.concat())
}

#[test]
fn only_the_image_with_the_digest_is_served() {
    let folder = ImageFolder::new(0);
    let (right, wrong) = (digest(&image(0)), digest(&image(1)));
    let mut guest = Guest::of(&folder, &["--image-digest", &right]);
    guest.entry("file").unwrap();
    let line = refused(&folder, &["--image-digest", &wrong]);
    assert!(line.contains(&format!("--image-digest {wrong}: ")) && line.contains(&right), "{line}");
}

#[test]
fn data_files_are_found_by_name_or_given_in_order() {
    let folder = ImageFolder::new(0);
    let elsewhere = folder.folder().join("layer");
    fs::rename(folder.data(), &elsewhere).unwrap();
    let line = refused(&folder, &[]);
    assert!(line.contains(&format!("{DATA}.data: No such file")) && line.contains("--data"), "{line}");
    let elsewhere = elsewhere.to_str().unwrap();
    let mut guest = Guest::of(&folder, &["--data", elsewhere]);
    guest.entry("file").unwrap();
    let layers = folder.folder().join("layers");
    fs::create_dir(&layers).unwrap();
    fs::hard_link(elsewhere, layers.join(format!("{DATA}.data"))).unwrap();
    let mut guest = Guest::of(&folder, &["--data-dir", layers.to_str().unwrap()]);
    guest.entry("file").unwrap();
    let line = refused(&folder, &["--data", elsewhere, "--data", elsewhere]);
    assert!(line.contains("needs 1 data files, 2 are given"), "{line}");
    fs::OpenOptions::new().write(true).open(elsewhere).unwrap().set_len(8192).unwrap();
    let line = refused(&folder, &["--data", elsewhere]);
    assert!(line.contains("data file 0 has 8192 bytes"), "{line}");
    let line = refused(&folder, &["--data", folder.folder().to_str().unwrap()]);
    assert!(line.contains("not a regular file"), "{line}");
}

#[test]
fn data_files_are_read_and_compared_if_asked() {
    let folder = ImageFolder::new(0);
    let mut guest = Guest::of(&folder, &["--verify-data"]);
    guest.entry("file").unwrap();
    let log = guest.daemon.stderr();
    assert!(log.contains("--verify-data: ") && log.contains("100 % of 2 MiB"), "{log}");
    let data = fs::OpenOptions::new().write(true).open(folder.data()).unwrap();
    data.write_all_at(&[1], 7 * 4096).unwrap();
    let line = refused(&folder, &["--verify-data"]);
    assert!(line.contains("its fs-verity digest is ") && line.contains(&format!("not {DATA}")), "{line}");
    // Without the option, the daemon trusts the file.
    Guest::of(&folder, &[]).entry("file").unwrap();
}

#[test]
fn files_that_are_no_whole_image_are_refused() {
    let folder = ImageFolder::new(0);
    let bytes = image(0);
    let mut no_magic = bytes.clone();
    no_magic[1024] ^= 1;
    let mut damaged = bytes.clone();
    damaged[1100] ^= 1;
    for (content, said) in [
        (Vec::new(), "cannot be read"),
        (vec![0; 10_000], "no EROFS image"),
        (bytes[..bytes.len() - 4096].to_vec(), "cut off"),
        (no_magic, "no magic number"),
        (damaged, "checksum"),
    ] {
        fs::write(folder.image(), content).unwrap();
        let line = refused(&folder, &[]);
        assert!(line.contains(said) && line.contains("image: "), "{said}: {line}");
    }
    fs::remove_file(folder.image()).unwrap();
    assert!(refused(&folder, &[]).contains("No such file"));
    let fifo = folder.image();
    rustix::fs::mknodat(rustix::fs::CWD, &fifo, rustix::fs::FileType::Fifo, rustix::fs::Mode::RUSR, 0)
        .unwrap();
    assert!(refused(&folder, &[]).contains("not a regular file"));
}

/// A pass over all inodes would take longer.
#[test]
fn million_inodes_delay_the_start_by_no_pass() {
    const DIRECTORIES: u32 = 1000;
    const FILES: u32 = 1000;
    let folder = ImageFolder::new(0);
    let time = || {
        let start = || Daemon::of_image(folder.image()).unwrap().time_to_ready().unwrap();
        (0..8).map(|_| start()).min().unwrap()
    };
    let small = time();
    fs::write(folder.image(), crate::sample::many_inodes(DIRECTORIES, FILES)).unwrap();
    let (len, large) = (fs::metadata(folder.image()).unwrap().len(), time());
    println!("ready after {small:?} with few inodes, {large:?} with a million ({len} bytes)");
    let mut guest = Guest::of(&folder, &[]);
    guest.entry("directory-00999/file-00999").unwrap();
    assert!(large < small + Duration::from_millis(100), "{large:?} and {small:?}");
}

#[test]
fn rules_by_path_are_refused_and_limits_work() {
    let folder = ImageFolder::new(0);
    let policy = folder.folder().join("policy.toml");
    let write = |text: &str| fs::write(&policy, text).unwrap();
    let arguments = ["--policy", policy.to_str().unwrap()];
    write("profile = \"rootfs\"\n[[path]]\nmatch = \"/dir/**\"\naccess = [\"lookup\"]\n");
    assert!(refused(&folder, &arguments).contains("rules by path do not apply"));
    write("profile = \"full\"\ndeny = [\"readlink\"]\n");
    let mut guest = Guest::of(&folder, &arguments);
    let link = guest.node("link");
    let read_link = pinhole_protocol::Operation::ReadLink(pinhole_protocol::ReadLink);
    assert_eq!(guest.ask(link, &read_link), Err(pinhole_protocol::Errno::EPERM));
    let remove = pinhole_protocol::Operation::RmDir(pinhole_protocol::RmDir {
        name: pinhole_protocol::Name::parse(c"dir").unwrap(),
    });
    let root = pinhole_protocol::NodeId::ROOT;
    assert_eq!(guest.ask(root, &remove), Err(pinhole_protocol::Errno::EROFS), "whatever the policy grants");
}

#[test]
fn several_layers_name_the_command_that_merges_them() {
    let folder = ImageFolder::new(0);
    let layer = Path::new("layer.erofs").to_str().unwrap();
    let line = refused(&folder, &["--prepared", layer]);
    assert!(line.contains("`pinhole prepare ") && line.contains("layer.erofs -o IMAGE`"), "{line}");
}
