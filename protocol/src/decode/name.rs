//! Decodes bodies with names: one function for each layout.

use super::body::{Body, known_bits, open, permissions, strict_flags};
use crate::{
    Create, DecodeError, Dialect, GetXattr, Link, ListXattr, Lookup, LookupName, MkDir, MkNod, NodeId,
    NodeKind, RemoveXattr, Rename, RenameFlags, RmDir, SetXattr, SetXattrMode, SymLink, TmpFile, Unlink, abi,
};
use zerocopy::little_endian::U32;

/// Maximum length of an extended attribute's value in bytes (`XATTR_SIZE_MAX` of Linux).
const XATTR_VALUE_LEN_MAX: usize = 65_536;
/// Maximum length of a link target in bytes (`PATH_MAX` of Linux without the NUL).
const TARGET_LEN_MAX: usize = 4095;

pub(super) fn lookup<'a>(body: &mut Body<'a>, dialect: Dialect) -> Result<Lookup<'a>, DecodeError> {
    let name = LookupName::parse(body.take_c_str("name")?)?;
    if !dialect.lookup_dots {
        name.component()?;
    }
    Ok(Lookup { name })
}

pub(super) fn sym_link<'a>(body: &mut Body<'a>) -> Result<SymLink<'a>, DecodeError> {
    let name = body.take_name()?;
    let target = body.take_c_str("link target")?;
    match target.count_bytes() {
        0 => Err(DecodeError::TargetEmpty),
        len if len > TARGET_LEN_MAX => Err(DecodeError::TargetLen { len }),
        _ => Ok(SymLink { name, target }),
    }
}

pub(super) fn mk_nod<'a>(body: &mut Body<'a>) -> Result<MkNod<'a>, DecodeError> {
    let wire: &abi::MknodIn = body.take("fuse_mknod_in")?;
    let name = body.take_name()?;
    let mode = wire.mode.get();
    let kind = NodeKind::from_raw(mode, wire.rdev.get()).ok_or(DecodeError::NodeKind(mode))?;
    Ok(MkNod { name, kind, mode: permissions(wire.mode), umask: wire.umask.get() })
}

pub(super) fn mk_dir<'a>(body: &mut Body<'a>) -> Result<MkDir<'a>, DecodeError> {
    let wire: &abi::MkdirIn = body.take("fuse_mkdir_in")?;
    Ok(MkDir { name: body.take_name()?, mode: permissions(wire.mode), umask: wire.umask.get() })
}

pub(super) fn unlink<'a>(body: &mut Body<'a>) -> Result<Unlink<'a>, DecodeError> {
    Ok(Unlink { name: body.take_name()? })
}

pub(super) fn rm_dir<'a>(body: &mut Body<'a>) -> Result<RmDir<'a>, DecodeError> {
    Ok(RmDir { name: body.take_name()? })
}

pub(super) fn rename<'a>(body: &mut Body<'a>) -> Result<Rename<'a>, DecodeError> {
    let wire: &abi::RenameIn = body.take("fuse_rename_in")?;
    two_names(body, NodeId(wire.newdir.get()), RenameFlags::empty())
}

pub(super) fn rename2<'a>(body: &mut Body<'a>) -> Result<Rename<'a>, DecodeError> {
    let wire: &abi::Rename2In = body.take("fuse_rename2_in")?;
    let flags = strict_flags("rename flags", wire.flags)?;
    two_names(body, NodeId(wire.newdir.get()), flags)
}

/// Decodes the two names of a RENAME or RENAME2.
fn two_names<'a>(
    body: &mut Body<'a>,
    new_directory: NodeId,
    flags: RenameFlags,
) -> Result<Rename<'a>, DecodeError> {
    Ok(Rename { name: body.take_name()?, new_directory, new_name: body.take_name()?, flags })
}

pub(super) fn link<'a>(body: &mut Body<'a>) -> Result<Link<'a>, DecodeError> {
    let wire: &abi::LinkIn = body.take("fuse_link_in")?;
    Ok(Link { target: NodeId(wire.oldnodeid.get()), name: body.take_name()? })
}

pub(super) fn set_xattr<'a>(body: &mut Body<'a>, dialect: Dialect) -> Result<SetXattr<'a>, DecodeError> {
    let [value_len, flags]: &[U32; 2] = body.take("fuse_setxattr_in")?;
    let mut acl_kill_sgid = false;
    if dialect.setxattr_ext {
        let [extra, _padding]: &[U32; 2] = body.take("fuse_setxattr_in")?;
        acl_kill_sgid = known_bits("setxattr_flags", *extra, abi::FUSE_SETXATTR_ACL_KILL_SGID)? != 0;
    }
    let mode = SetXattrMode::from_raw(flags.get())
        .ok_or(DecodeError::UnknownFlags { field: "setxattr mode", bits: u64::from(flags.get()) })?;
    let name = body.take_xattr_name()?;
    let value_len = usize::try_from(value_len.get()).unwrap_or(usize::MAX);
    if value_len > XATTR_VALUE_LEN_MAX {
        return Err(DecodeError::XattrValue { len: value_len });
    }
    let value = body.take_bytes("attribute value", value_len)?;
    Ok(SetXattr { name, value, mode, acl_kill_sgid })
}

pub(super) fn get_xattr<'a>(body: &mut Body<'a>) -> Result<GetXattr<'a>, DecodeError> {
    let wire: &abi::GetxattrIn = body.take("fuse_getxattr_in")?;
    Ok(GetXattr { name: body.take_xattr_name()?, size: wire.size.get() })
}

pub(super) fn list_xattr(body: &mut Body<'_>) -> Result<ListXattr, DecodeError> {
    let wire: &abi::GetxattrIn = body.take("fuse_getxattr_in")?;
    Ok(ListXattr { size: wire.size.get() })
}

pub(super) fn remove_xattr<'a>(body: &mut Body<'a>) -> Result<RemoveXattr<'a>, DecodeError> {
    Ok(RemoveXattr { name: body.take_xattr_name()? })
}

pub(super) fn create<'a>(body: &mut Body<'a>) -> Result<Create<'a>, DecodeError> {
    let wire: &abi::CreateIn = body.take("fuse_create_in")?;
    Ok(Create {
        name: body.take_name()?,
        open: open(wire.flags, wire.open_flags)?,
        mode: permissions(wire.mode),
        umask: wire.umask.get(),
    })
}

pub(super) fn tmp_file(body: &mut Body<'_>) -> Result<TmpFile, DecodeError> {
    let wire: &abi::CreateIn = body.take("fuse_create_in")?;
    // Linux sends the name "/", which has no meaning. No name in this request reaches the host.
    body.take_c_str("name")?;
    Ok(TmpFile {
        open: open(wire.flags, wire.open_flags)?,
        mode: permissions(wire.mode),
        umask: wire.umask.get(),
    })
}
