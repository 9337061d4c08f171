//! Decodes the bytes of a body into an [`Operation`]: one arm for each opcode, one function for
//! each layout.

mod body;
mod file;
mod name;
mod node;

use crate::{
    DecodeError, Destroy, Dialect, GetLock, Opcode, Operation, ReadDirPlus, ReadLink, SetLock, StatFs,
};
use body::Body;

/// Decodes one body without its extensions. Bytes after the last field are an error.
pub(crate) fn decode_operation(
    opcode: Opcode,
    bytes: &[u8],
    payload_len: usize,
    dialect: Dialect,
) -> Result<Operation<'_>, DecodeError> {
    let mut body = Body::new(bytes);
    let operation = decode_body(opcode, &mut body, payload_len, dialect)?;
    match body.rest().len() {
        0 => Ok(operation),
        len => Err(DecodeError::Trailing { opcode, len }),
    }
}

/// Decodes the fields of one body, up to the end of its layout.
fn decode_body<'a>(
    opcode: Opcode,
    body: &mut Body<'a>,
    payload_len: usize,
    dialect: Dialect,
) -> Result<Operation<'a>, DecodeError> {
    Ok(match opcode {
        Opcode::Lookup => Operation::Lookup(name::lookup(body, dialect)?),
        Opcode::Forget => Operation::Forget(node::forget(body)?),
        Opcode::GetAttr => Operation::GetAttr(node::get_attr(body)?),
        Opcode::SetAttr => Operation::SetAttr(node::set_attr(body)?),
        Opcode::ReadLink => Operation::ReadLink(ReadLink),
        Opcode::SymLink => Operation::SymLink(name::sym_link(body)?),
        Opcode::MkNod => Operation::MkNod(name::mk_nod(body)?),
        Opcode::MkDir => Operation::MkDir(name::mk_dir(body)?),
        Opcode::Unlink => Operation::Unlink(name::unlink(body)?),
        Opcode::RmDir => Operation::RmDir(name::rm_dir(body)?),
        Opcode::Rename => Operation::Rename(name::rename(body)?),
        Opcode::Link => Operation::Link(name::link(body)?),
        Opcode::Open => Operation::Open(file::open(body)?),
        Opcode::Read => Operation::Read(file::read(body)?),
        Opcode::Write => Operation::Write(file::write(body, payload_len)?),
        Opcode::StatFs => Operation::StatFs(StatFs),
        Opcode::Release => Operation::Release(file::release(body)?),
        Opcode::Fsync => Operation::Fsync(file::fsync(body)?),
        Opcode::SetXattr => Operation::SetXattr(name::set_xattr(body, dialect)?),
        Opcode::GetXattr => Operation::GetXattr(name::get_xattr(body)?),
        Opcode::ListXattr => Operation::ListXattr(name::list_xattr(body)?),
        Opcode::RemoveXattr => Operation::RemoveXattr(name::remove_xattr(body)?),
        Opcode::Flush => Operation::Flush(file::flush(body)?),
        Opcode::Init => Operation::Init(node::init(body)?),
        Opcode::OpenDir => Operation::OpenDir(file::open_dir(body)?),
        Opcode::ReadDir => Operation::ReadDir(file::read_dir(body)?),
        Opcode::ReadDirPlus => Operation::ReadDirPlus(ReadDirPlus { list: file::read_dir(body)? }),
        Opcode::ReleaseDir => Operation::ReleaseDir(file::release_dir(body)?),
        Opcode::FsyncDir => Operation::FsyncDir(file::fsync_dir(body)?),
        Opcode::GetLock => Operation::GetLock(GetLock(file::lock_range(body)?)),
        Opcode::SetLock => Operation::SetLock(SetLock { lock: file::lock_range(body)?, wait: false }),
        Opcode::SetLockWait => Operation::SetLock(SetLock { lock: file::lock_range(body)?, wait: true }),
        Opcode::Access => Operation::Access(node::access(body)?),
        Opcode::Create => Operation::Create(name::create(body)?),
        Opcode::Interrupt => Operation::Interrupt(node::interrupt(body)?),
        Opcode::BMap => Operation::BMap(node::b_map(body)?),
        Opcode::Destroy => Operation::Destroy(Destroy),
        Opcode::Ioctl => Operation::Ioctl(file::ioctl(body)?),
        Opcode::Poll => Operation::Poll(file::poll(body)?),
        Opcode::BatchForget => Operation::BatchForget(node::batch_forget(body)?),
        Opcode::Fallocate => Operation::Fallocate(file::fallocate(body)?),
        Opcode::Rename2 => Operation::Rename(name::rename2(body)?),
        Opcode::Lseek => Operation::Lseek(file::lseek(body)?),
        Opcode::CopyFileRange => Operation::CopyFileRange(file::copy_file_range(body, false)?),
        Opcode::CopyFileRange64 => Operation::CopyFileRange(file::copy_file_range(body, true)?),
        Opcode::SetupMapping => Operation::SetupMapping(file::setup_mapping(body)?),
        Opcode::RemoveMapping => Operation::RemoveMapping(node::remove_mapping(body)?),
        Opcode::SyncFs => Operation::SyncFs(node::sync_fs(body)?),
        Opcode::TmpFile => Operation::TmpFile(name::tmp_file(body)?),
        Opcode::GetStatx => Operation::GetStatx(node::get_statx(body)?),
        Opcode::NotifyReply
        | Opcode::CuseInit
        | Opcode::CuseInitBswapReserved
        | Opcode::InitBswapReserved => return Err(DecodeError::NotServed(opcode)),
    })
}
