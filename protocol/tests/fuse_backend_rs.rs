//! Do we agree with fuse-backend-rs, an independent implementation, on all that it defines?
//!
//! The DAX structs of fuse-backend-rs are left out: they need the feature `virtiofs`, which adds a
//! second version of the vhost crate to the build.
#![cfg(test)]

use fuse_backend_rs::abi::fuse_abi as theirs;
use pinhole_protocol::{InitFlags, Opcode, OpenReplyFlags, layout};

macro_rules! same_size {
    ($($name:literal: $kind:ty,)*) => {
        [$(($name, size_of::<$kind>()),)*]
    };
}

#[test]
fn structs_have_the_same_size() {
    let sizes = same_size! {
        "fuse_in_header": theirs::InHeader,
        "fuse_out_header": theirs::OutHeader,
        "fuse_attr": theirs::Attr,
        "fuse_kstatfs": theirs::Kstatfs,
        "fuse_file_lock": theirs::FileLock,
        "fuse_entry_out": theirs::EntryOut,
        "fuse_forget_in": theirs::ForgetIn,
        "fuse_forget_one": theirs::ForgetOne,
        "fuse_batch_forget_in": theirs::BatchForgetIn,
        "fuse_getattr_in": theirs::GetattrIn,
        "fuse_attr_out": theirs::AttrOut,
        "fuse_mknod_in": theirs::MknodIn,
        "fuse_mkdir_in": theirs::MkdirIn,
        "fuse_rename_in": theirs::RenameIn,
        "fuse_rename2_in": theirs::Rename2In,
        "fuse_link_in": theirs::LinkIn,
        "fuse_setattr_in": theirs::SetattrIn,
        "fuse_open_in": theirs::OpenIn,
        "fuse_create_in": theirs::CreateIn,
        "fuse_open_out": theirs::OpenOut,
        "fuse_release_in": theirs::ReleaseIn,
        "fuse_flush_in": theirs::FlushIn,
        "fuse_read_in": theirs::ReadIn,
        "fuse_write_in": theirs::WriteIn,
        "fuse_write_out": theirs::WriteOut,
        "fuse_statfs_out": theirs::StatfsOut,
        "fuse_fsync_in": theirs::FsyncIn,
        "fuse_getxattr_in": theirs::GetxattrIn,
        "fuse_getxattr_out": theirs::GetxattrOut,
        "fuse_lk_in": theirs::LkIn,
        "fuse_lk_out": theirs::LkOut,
        "fuse_access_in": theirs::AccessIn,
        "fuse_init_out": theirs::InitOut,
        "fuse_interrupt_in": theirs::InterruptIn,
        "fuse_bmap_in": theirs::BmapIn,
        "fuse_bmap_out": theirs::BmapOut,
        "fuse_ioctl_in": theirs::IoctlIn,
        "fuse_ioctl_out": theirs::IoctlOut,
        "fuse_poll_in": theirs::PollIn,
        "fuse_poll_out": theirs::PollOut,
        "fuse_fallocate_in": theirs::FallocateIn,
        "fuse_dirent": theirs::Dirent,
        "fuse_direntplus": theirs::Direntplus,
        "fuse_lseek_in": theirs::LseekIn,
        "fuse_lseek_out": theirs::LseekOut,
        "fuse_copy_file_range_in": theirs::CopyFileRangeIn,
    };
    for (name, size) in sizes {
        let ours = layout::STRUCTS.iter().find(|layout| layout.name == name).unwrap();
        assert_eq!(ours.size, size, "{name}");
    }
    // fuse-backend-rs splits INIT into two structs and defines only the old layout of SETXATTR.
    assert_eq!(size_of::<theirs::InitIn>() + size_of::<theirs::InitIn2>(), 64);
    assert_eq!(size_of::<theirs::SetxattrIn>(), 8);
}

#[test]
fn opcodes_have_the_same_numbers() {
    // fuse-backend-rs has no opcode from SYNCFS on, except for the two of reversed byte order.
    for opcode in Opcode::ALL.iter().filter(|opcode| opcode.raw() < 50) {
        let name = format!("{:?}", theirs::Opcode::from(opcode.raw())).to_lowercase();
        let ours = opcode.name().replace('_', "").to_lowercase();
        assert_eq!(name, ours);
    }
    assert_eq!(theirs::Opcode::CuseInitBswapReserved as u32, Opcode::CuseInitBswapReserved.raw());
    assert_eq!(theirs::Opcode::InitBswapReserved as u32, Opcode::InitBswapReserved.raw());
}

#[test]
fn constants_have_the_same_values() {
    let ours = layout::constants();
    let theirs_by_name = [
        ("FUSE_ROOT_ID", theirs::ROOT_ID),
        ("FATTR_FH", theirs::FATTR_FH.into()),
        ("FATTR_LOCKOWNER", theirs::FATTR_LOCKOWNER.into()),
        ("FUSE_ATTR_DAX", theirs::FUSE_ATTR_DAX.into()),
        ("FUSE_ATTR_SUBMOUNT", theirs::ATTR_SUBMOUNT.into()),
        ("FUSE_RELEASE_FLUSH", theirs::RELEASE_FLUSH.into()),
        ("FUSE_RELEASE_FLOCK_UNLOCK", theirs::RELEASE_FLOCK_UNLOCK.into()),
        ("FUSE_GETATTR_FH", theirs::GETATTR_FH.into()),
        ("FUSE_LK_FLOCK", theirs::LK_FLOCK.into()),
        ("FUSE_WRITE_CACHE", theirs::WRITE_CACHE.into()),
        ("FUSE_WRITE_LOCKOWNER", theirs::WRITE_LOCKOWNER.into()),
        ("FUSE_WRITE_KILL_SUIDGID", theirs::WRITE_KILL_PRIV.into()),
        ("FUSE_READ_LOCKOWNER", theirs::READ_LOCKOWNER.into()),
        ("FUSE_FSYNC_FDATASYNC", theirs::FSYNC_FDATASYNC.into()),
        ("FUSE_OPEN_KILL_SUIDGID", theirs::FOPEN_IN_KILL_SUIDGID.into()),
        ("FATTR_KILL_SUIDGID", theirs::SetattrValid::KILL_SUIDGID.bits().into()),
        ("FATTR_CTIME", theirs::SetattrValid::CTIME.bits().into()),
        ("FATTR_MTIME_NOW", theirs::SetattrValid::MTIME_NOW.bits().into()),
    ];
    for (name, value) in theirs_by_name {
        assert!(ours.contains(&(name, value)), "{name}");
    }
    assert_eq!(OpenReplyFlags::CACHE_DIR.bits(), theirs::OpenOptions::CACHE_DIR.bits());
    assert_eq!(OpenReplyFlags::STREAM.bits(), theirs::OpenOptions::STREAM.bits());
    assert_eq!(InitFlags::MAX_PAGES.bits(), theirs::FsOptions::MAX_PAGES.bits());
    assert_eq!(InitFlags::SUBMOUNTS.bits(), theirs::FsOptions::SUBMOUNTS.bits());
    assert_eq!(InitFlags::INIT_EXT.bits(), theirs::FsOptions::INIT_EXT.bits());
    assert_eq!(InitFlags::POSIX_ACL.bits(), theirs::FsOptions::POSIX_ACL.bits());
}
