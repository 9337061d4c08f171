//! Does the sandbox permit the calls of options that are rarely combined?
//!
//! A system call that the sandbox does not permit ends the daemon. So each test makes a request
//! that needs such a call, and then another request.

use pinhole_protocol::{
    Create, GetAttr, GetXattr, Lookup, Name, NodeId, Open, OpenFlags, Operation, SetXattr, SetXattrMode,
};
use pinhole_tests::daemon::Daemon;
use pinhole_tests::frontend::frame::u64_at;
use pinhole_tests::frontend::{Bench, Frontend, Setup};
use std::fs;

/// Sends a request and returns the body of its successful reply.
fn reply_body(bench: &mut Bench, node: NodeId, operation: &Operation<'_>) -> Vec<u8> {
    bench.guest.request(1, node, operation, &[]).unwrap().success().unwrap().to_vec()
}

#[test]
fn attribute_is_set_where_no_other_change_is_allowed() {
    let folder = tempfile::tempdir().unwrap();
    let policy = folder.path().join("policy.toml");
    fs::write(&policy, "profile = \"rootfs\"\nallow = [\"xattr-write-user\"]\n").unwrap();
    let policy = policy.to_str().unwrap();
    let arguments = ["--policy", policy, "--xattr", "--modcaps", "+fsetid"];
    let mut bench = Bench::with(Setup::default(), &arguments).unwrap();
    fs::write(bench.host("file"), "").unwrap();
    let name = Name::parse(c"file").unwrap();
    let node = NodeId(
        u64_at(&reply_body(&mut bench, NodeId::ROOT, &Operation::Lookup(Lookup { name: name.into() })), 0)
            .unwrap(),
    );
    let name = c"user.a";
    // The flag applies to access control lists, and not to other attributes.
    for acl_kill_sgid in [true, false] {
        let set = SetXattr { name, value: b"value", mode: SetXattrMode::Any, acl_kill_sgid };
        reply_body(&mut bench, node, &Operation::SetXattr(set));
        let get = Operation::GetXattr(GetXattr { name, size: 100 });
        assert_eq!(reply_body(&mut bench, node, &get), b"value");
    }
    bench.is_alive().unwrap();
}

#[test]
fn daemon_with_mapped_users_but_no_groups_creates_files() {
    let share = tempfile::tempdir().unwrap();
    let mut daemon = Daemon::pinhole(share.path()).unwrap();
    for argument in ["--uid-map", ":0:0:2000:", "--modcaps", "+setuid:+setgid"] {
        daemon = daemon.argument(argument);
    }
    let daemon = daemon.start().unwrap();
    let mut guest = Frontend::connect(daemon.socket()).unwrap();
    guest.init().unwrap();
    let (name, flags) = (Name::parse(c"file").unwrap(), OpenFlags::from_bits_retain(2));
    let open = Open { flags, kill_suidgid: false };
    let create = Operation::Create(Create { name, open, mode: 0o644, umask: 0 });
    let mut message = guest.encode(NodeId::ROOT, &create, &[]);
    // Sets uid and gid in the header.
    message[24..28].copy_from_slice(&1000u32.to_le_bytes());
    message[28..32].copy_from_slice(&1000u32.to_le_bytes());
    guest.raw(1, &message, 1024).unwrap().success().unwrap();
    assert!(share.path().join("file").exists());
    let get_attr = Operation::GetAttr(GetAttr { handle: None });
    guest.request(1, NodeId::ROOT, &get_attr, &[]).unwrap().success().unwrap();
}
