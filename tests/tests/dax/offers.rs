//! Does the daemon offer a file for mapping (FUSE_ATTR_DAX) exactly if the guest can map all of it?
//!
//! The tests vary the VMM, and the length, policy and mode of the file. They check each kind of
//! reply that has attributes.

use pinhole_protocol::InitFlags;
use pinhole_tests::dax_vmm::{ATTR_DAX, Dax, Rules, connect};
use pinhole_tests::frontend::frame::opcode::{GETATTR, LINK, OPENDIR, READDIRPLUS};
use pinhole_tests::frontend::frame::{Frame, u32_at, u64_at};
use pinhole_tests::frontend::{Bench, FrontendError, Setup};
use std::fs;
use std::os::unix::fs::PermissionsExt as _;

/// Length of a slot of the window in bytes.
const SLOT: u64 = 2 << 20;
/// Arguments of the daemon for a window that is used for every file.
const WINDOW: [&str; 2] = ["--dax-window=16M", "--dax=always"];

/// Checks that the daemon has sent no invalid message to the VMM.
#[track_caller]
fn check_no_faults(dax: &Dax) {
    assert_eq!(dax.window.faults(), Vec::<String>::new());
}

/// Starts a daemon with files of several lengths, and a guest with a VMM of these rules. Returns
/// the files that the daemon offers for mapping.
fn offered(rules: Rules, arguments: &[&str]) -> Vec<&'static str> {
    let arguments: Vec<&str> = ["--dax-window=16M"].iter().chain(arguments).copied().collect();
    let mut dax = Dax::new(rules, &arguments).unwrap();
    let files = [("empty", 0), ("small", 5000), ("odd", SLOT + 5000), ("whole", 2 * SLOT)];
    for (name, len) in files {
        fs::File::create(dax.bench.host(name)).unwrap().set_len(len).unwrap();
    }
    fs::create_dir(dax.bench.host("directory")).unwrap();
    std::os::unix::fs::symlink("whole", dax.bench.host("link")).unwrap();
    let names = files.map(|(name, _)| name).into_iter().chain(["directory", "link"]);
    let offered = names.filter(|name| dax.look_up(name).unwrap().dax).collect();
    check_no_faults(&dax);
    offered
}

#[test]
fn file_is_offered_where_all_of_it_can_be_mapped() {
    let read_only = ["--profile=rootfs"];
    let always = ["--dax=always"];
    let always_read_only = ["--dax=always", "--profile=rootfs"];
    // A VMM that maps every range.
    assert_eq!(offered(Rules::mapping(), &[]), ["odd", "whole"]);
    assert_eq!(offered(Rules::mapping(), &read_only), ["odd", "whole"]);
    assert_eq!(offered(Rules::mapping(), &["--dax-min-size=4M"]), ["whole"]);
    assert_eq!(offered(Rules::mapping(), &["--dax-min-size=4K"]), ["small", "odd", "whole"]);
    let all = offered(Rules::mapping(), &always);
    assert!(["small", "odd", "whole"].iter().all(|name| all.contains(name)), "{all:?}");
    assert!(!all.contains(&"directory") && !all.contains(&"link"), "{all:?}");
    // QEMU maps nothing past the end of a file, and no descriptor that is open for reading only.
    assert_eq!(offered(Rules::strict(), &[]), [""; 0], "a file may grow, so not all of it can be mapped");
    assert_eq!(offered(Rules::strict(), &read_only), [""; 0]);
    assert_eq!(offered(Rules::strict(), &always_read_only), [""; 0]);
    assert_eq!(offered(Rules::strict(), &always), ["whole"]);
}

#[test]
fn file_that_policy_forbids_to_map_is_not_offered() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("policy.toml");
    let with = |text: &str| {
        fs::write(&path, text).unwrap();
        offered(Rules::mapping(), &["--policy", path.to_str().unwrap()])
    };
    assert_eq!(with("deny = [\"map-read\"]"), [""; 0]);
    assert_eq!(
        with("deny = [\"map-write\"]"),
        [""; 0],
        "the guest may write the files, but not through a mapping"
    );
    let rule = "[[path]]\nmatch = \"/odd\"\naccess = [\"lookup\", \"stat\", \"read\", \"write\"]";
    assert_eq!(with(rule), ["whole"]);
    let rule = "[[path]]\nmatch = \"/odd\"\naccess = [\"lookup\", \"stat\", \"read\", \"map-read\"]";
    assert_eq!(with(rule), ["odd", "whole"]);
}

#[test]
fn share_without_mappings_has_no_window() {
    for arguments in [&["--dax-window=0"][..], &["--dax-window=16M", "--dax=never"], &[]] {
        let (_folder, daemon) = Bench::serve(arguments).unwrap();
        let refused = connect(daemon.socket(), Setup::default(), Rules::mapping()).map(drop);
        assert!(matches!(refused, Err(FrontendError::Reply(_))), "{arguments:?}: {refused:?}");
    }
}

#[test]
fn writable_set_id_program_is_not_mapped() {
    let offered = |arguments: &[&str]| {
        let arguments: Vec<&str> = WINDOW.iter().chain(arguments).copied().collect();
        let mut dax = Dax::new(Rules::mapping(), &arguments).unwrap();
        for (name, mode) in [("user", 0o4755), ("group", 0o2755), ("neither", 0o755)] {
            dax.file(name, SLOT).unwrap();
            fs::set_permissions(dax.bench.host(name), fs::Permissions::from_mode(mode)).unwrap();
        }
        let names = ["user", "group", "neither"];
        names.map(|name| dax.look_up(name).unwrap().dax)
    };
    assert_eq!(offered(&[]), [false, false, true]);
    assert_eq!(offered(&["--profile=rootfs"]), [true; 3], "without write access the bit is safe");
}

#[test]
fn every_reply_has_the_same_dax_flag_of_a_file() {
    let mut dax = Dax::new(Rules::mapping(), &["--dax-window=16M"]).unwrap();
    for (name, len) in [("small", 5000), ("large", SLOT)] {
        fs::File::create(dax.bench.host(name)).unwrap().set_len(len).unwrap();
    }
    let dir = u64_at(&dax.bench.body(Frame::new(OPENDIR, 1).u32(0).u32(0), 16).unwrap(), 0).unwrap();
    let list = Frame::new(READDIRPLUS, 1).u64(dir).u64(0).u32(4096).u32(0).u64(0).u32(0).u32(0);
    let listed = dax.bench.body(list, 4096).unwrap();
    for (name, mapped) in [("small", false), ("large", true)] {
        let found = dax.look_up(name).unwrap();
        assert_eq!(found.dax, mapped, "{name}: LOOKUP");
        let attr = dax.bench.body(Frame::new(GETATTR, found.node).u32(0).u32(0).u64(0), 104).unwrap();
        assert_eq!(u32_at(&attr, 16 + 84).unwrap() & ATTR_DAX != 0, mapped, "{name}: GETATTR");
        // In a READDIRPLUS, a `fuse_entry_out` of 128 bytes and 24 bytes of a `fuse_dirent` are
        // before the name.
        let at = listed.windows(5).position(|window| window == name.as_bytes()).unwrap() - 24 - 128;
        assert_eq!(u32_at(&listed, at + 124).unwrap() & ATTR_DAX != 0, mapped, "{name}: READDIRPLUS");
        let link = Frame::new(LINK, 1).u64(found.node).name(format!("{name}-too"));
        let linked = dax.bench.body(link, 128).unwrap();
        assert_eq!(u32_at(&linked, 124).unwrap() & ATTR_DAX != 0, mapped, "{name}: LINK");
    }
}

#[test]
fn window_with_too_many_slots_for_the_vmm_is_unused() {
    let mut dax = Dax::before_init(Rules::strict(), &["--dax-window=1G", "--dax=always"]).unwrap();
    let agreed = dax.bench.guest.init().unwrap();
    assert!(!agreed.flags.contains(InitFlags::HAS_INODE_DAX));
    let said = dax.bench.daemon.stderr();
    assert!(said.contains("--dax-window 512M") || said.contains("--dax-window 536870912"), "{said}");
    let mut dax = Dax::before_init(Rules::mapping(), &["--dax-window=1G", "--dax=always"]).unwrap();
    let agreed = dax.bench.guest.init().unwrap();
    assert!(agreed.flags.contains(InitFlags::HAS_INODE_DAX));
    assert_eq!(dax.window.places(), [], "a mapping that the daemon made for a test is left");
}
