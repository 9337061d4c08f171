//! Do our structs and constants match the kernel's `linux/fuse.h`, and is everything else listed as
//! left out?
#![cfg(test)]

mod parse_header;

use parse_header::KernelHeader;
use pinhole_protocol::{Opcode, layout};
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

/// Structs of the header that this crate does not define, each with the reason.
const STRUCTS_LEFT_OUT: &[(&str, &str)] = &[
    ("cuse_init_in", "character devices in user space"),
    ("cuse_init_out", "character devices in user space"),
    ("fuse_ioctl_iovec", "unrestricted ioctls are for CUSE only"),
    ("fuse_notify_poll_wakeup_out", "virtio-fs has no notification queue"),
    ("fuse_notify_inval_inode_out", "virtio-fs has no notification queue"),
    ("fuse_notify_inval_entry_out", "virtio-fs has no notification queue"),
    ("fuse_notify_delete_out", "virtio-fs has no notification queue"),
    ("fuse_notify_store_out", "virtio-fs has no notification queue"),
    ("fuse_notify_retrieve_out", "virtio-fs has no notification queue"),
    ("fuse_notify_retrieve_in", "the reply to a notification"),
    ("fuse_notify_prune_out", "virtio-fs has no notification queue"),
    ("fuse_backing_map", "an ioctl of /dev/fuse, for PASSTHROUGH"),
    ("fuse_uring_ent_in_out", "/dev/fuse over io_uring"),
    ("fuse_uring_req_header", "/dev/fuse over io_uring"),
    ("fuse_uring_cmd_req", "/dev/fuse over io_uring"),
];

/// Constants of the header that this crate does not define, by name or by prefix (`*`), each with
/// the reason.
const CONSTANTS_LEFT_OUT: &[(&str, &str)] = &[
    ("FUSE_NOTIFY_*", "virtio-fs has no notification queue"),
    ("FUSE_EXPIRE_ONLY", "virtio-fs has no notification queue"),
    ("FUSE_POLL_SCHEDULE_NOTIFY", "virtio-fs has no notification queue"),
    ("CUSE_UNRESTRICTED_IOCTL", "character devices in user space"),
    ("CUSE_INIT_INFO_MAX", "character devices in user space"),
    ("FUSE_IOCTL_MAX_IOV", "unrestricted ioctls are for CUSE only"),
    ("FUSE_DEV_IOC_*", "ioctls of /dev/fuse"),
    ("FUSE_URING_*", "/dev/fuse over io_uring"),
    ("FUSE_IO_URING_*", "/dev/fuse over io_uring"),
    ("FUSE_MIN_READ_BUFFER", "a limit of /dev/fuse"),
    ("FUSE_COMPAT_ENTRY_OUT_SIZE", "guests older than 7.9"),
    ("FUSE_COMPAT_ATTR_OUT_SIZE", "guests older than 7.9"),
    ("FUSE_COMPAT_MKNOD_IN_SIZE", "guests older than 7.12"),
    ("FUSE_COMPAT_WRITE_IN_SIZE", "guests older than 7.9"),
    ("FUSE_COMPAT_STATFS_SIZE", "guests older than 7.4"),
    ("FUSE_COMPAT_INIT_OUT_SIZE", "guests older than 7.5"),
    ("FUSE_COMPAT_22_INIT_OUT_SIZE", "guests older than 7.23"),
    ("FUSE_COMPAT_SETXATTR_IN_SIZE", "the size of a struct, which is compared"),
    ("FUSE_DIRECT_IO_RELAX", "an older name of FUSE_DIRECT_IO_ALLOW_MMAP"),
    ("FUSE_WRITE_KILL_PRIV", "an older name of FUSE_WRITE_KILL_SUIDGID"),
    ("FUSE_UNIQUE_RESEND", "HAS_RESEND is never offered; unique numbers are never interpreted"),
    ("FUSE_INVALID_UIDGID", "a uid or gid of u32::MAX, which the daemon checks for"),
    ("FUSE_NAME_OFFSET*", "an offset; compared as a field of the struct"),
    (
        "FUSE_REMOVEMAPPING_MAX_ENTRY",
        "depends on the guest's page size; see the_limit_of_removemapping_matches_the_header",
    ),
    ("FUSE_REC_ALIGN", "a macro with an argument"),
    ("FUSE_DIRENT*", "macros with an argument"),
];

/// Reads the header of the guest's kernel, or the file that `PINHOLE_FUSE_H` names.
fn kernel_header() -> KernelHeader {
    let workspace = Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the crate is in the workspace");
    let guest = std::env::var_os("PINHOLE_GUEST_DIR").map_or_else(|| workspace.join(".guest"), Into::into);
    let path = std::env::var_os("PINHOLE_FUSE_H")
        .map_or_else(|| guest.join("base/usr/include/linux/fuse.h"), Into::into);
    let text = std::fs::read_to_string(&path)
        .unwrap_or_else(|error| panic!("{}: {error}; run: cargo xtask guest", path.display()));
    KernelHeader::parse(&text)
}

/// Returns whether a name is in a list of names and prefixes.
fn left_out(list: &[(&str, &str)], name: &str) -> bool {
    list.iter().any(|(pattern, _)| match pattern.strip_suffix('*') {
        Some(start) => name.starts_with(start),
        None => name == *pattern,
    })
}

#[test]
fn struct_layouts_match_the_header() {
    let kernel = kernel_header();
    for ours in layout::STRUCTS {
        let theirs = kernel.structs.get(ours.name).unwrap_or_else(|| panic!("no struct {}", ours.name));
        let our_fields: Vec<_> = ours
            .fields
            .iter()
            .map(|field| (field.name.trim_start_matches("r#").to_owned(), field.offset))
            .collect();
        assert_eq!(our_fields, theirs.fields, "fields of {}", ours.name);
        assert_eq!(ours.size, theirs.size, "size of {}", ours.name);
    }
}

#[test]
fn every_struct_is_defined_or_listed_as_left_out() {
    let kernel = kernel_header();
    let ours: BTreeSet<_> = layout::STRUCTS.iter().map(|layout| layout.name).collect();
    for name in kernel.structs.keys() {
        let out = left_out(STRUCTS_LEFT_OUT, name);
        assert!(ours.contains(name.as_str()) != out, "{name}: defined {}, listed as left out {out}", !out);
    }
    assert!(kernel.structs.len() > 60, "the parser found only {} structs", kernel.structs.len());
}

#[test]
fn constants_match_the_header() {
    let kernel = kernel_header();
    for (name, value) in layout::constants() {
        assert_eq!(kernel.constants.get(name), Some(&Some(value)), "{name}");
    }
    for opcode in Opcode::ALL {
        let name = kernel_name(*opcode);
        assert_eq!(kernel.constants.get(&name), Some(&Some(u64::from(opcode.raw()))), "{name}");
        assert_eq!(Opcode::from_raw(opcode.raw()), Some(*opcode));
    }
}

#[test]
fn every_constant_is_defined_or_listed_as_left_out() {
    let kernel = kernel_header();
    let mut ours: BTreeMap<String, u64> =
        layout::constants().into_iter().map(|(name, value)| (name.to_owned(), value)).collect();
    ours.extend(Opcode::ALL.iter().map(|opcode| (kernel_name(*opcode), u64::from(opcode.raw()))));
    for name in kernel.constants.keys() {
        // FUSE_NOTIFY_REPLY matches FUSE_NOTIFY_*, but is an opcode.
        let out = !ours.contains_key(name) && left_out(CONSTANTS_LEFT_OUT, name);
        assert!(ours.contains_key(name) != out, "{name} is neither defined nor listed as left out");
    }
    assert!(kernel.constants.len() > 150, "the parser found only {} constants", kernel.constants.len());
}

#[test]
fn the_left_out_lists_name_only_existing_items() {
    let kernel = kernel_header();
    for (name, _) in STRUCTS_LEFT_OUT {
        assert!(kernel.structs.contains_key(*name), "{name}");
    }
    for (pattern, _) in CONSTANTS_LEFT_OUT {
        assert!(kernel.constants.keys().any(|name| left_out(&[(pattern, "")], name)), "{pattern}");
    }
}

#[test]
fn the_header_has_our_version() {
    let kernel = kernel_header();
    assert_eq!(kernel.constants.get("FUSE_KERNEL_VERSION"), Some(&Some(7)));
    assert_eq!(kernel.constants.get("FUSE_KERNEL_MINOR_VERSION"), Some(&Some(45)));
}

#[test]
fn the_limit_of_removemapping_matches_the_header() {
    // (PAGE_SIZE / sizeof(struct fuse_removemapping_one))
    let record = kernel_header().structs["fuse_removemapping_one"].size;
    let most = vec![0; 4096 / record * record];
    pinhole_protocol::RemoveMapping::parse(&most).unwrap();
    pinhole_protocol::RemoveMapping::parse(&vec![0; most.len() + record]).unwrap_err();
}

/// Returns the name of an opcode in `fuse.h`.
fn kernel_name(opcode: Opcode) -> String {
    match opcode.name() {
        name if name.starts_with("CUSE_") => name.to_owned(),
        name => format!("FUSE_{name}"),
    }
}
