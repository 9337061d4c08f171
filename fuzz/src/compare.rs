//! Replies as their guest decodes them, and how far two of them must agree.

use crate::oracle::{Answered, Listed, Outcome};
use pinhole_protocol::{Attr, Operation, client};

/// The body of a successful answer to `operation`. A body that does not decode is a bug of the session's.
pub fn answered(operation: &Operation<'_>, body: &[u8]) -> Answered {
    match operation {
        Operation::Lookup(_)
        | Operation::SymLink(_)
        | Operation::MkNod(_)
        | Operation::MkDir(_)
        | Operation::Link(_) => Answered::Entry(client::decode_entry(body).expect("an entry").0),
        Operation::Create(_) | Operation::TmpFile(_) => {
            let (entry, _, open) = client::decode_created(body).expect("an entry and a handle");
            Answered::Created(entry, open)
        }
        Operation::GetAttr(_) | Operation::SetAttr(_) => {
            Answered::Attr(client::decode_attr(body).expect("attributes").0)
        }
        Operation::GetStatx(_) => Answered::Statx(client::decode_statx(body).expect("attributes").0),
        Operation::StatFs(_) => Answered::Statfs(client::decode_statfs(body).expect("figures")),
        Operation::Open(_) | Operation::OpenDir(_) => {
            Answered::Open(client::decode_open(body).expect("a handle"))
        }
        Operation::Read(_) | Operation::ReadLink(_) => Answered::Bytes(body.to_vec()),
        Operation::ReadDir(_) => Answered::List(list(body, false)),
        Operation::ReadDirPlus(_) => Answered::List(list(body, true)),
        Operation::Write(_) => Answered::Count(client::decode_u32(body).expect("a count")),
        Operation::CopyFileRange(copy) if !copy.wide_reply => {
            Answered::Count(client::decode_u32(body).expect("a count"))
        }
        Operation::CopyFileRange(_) | Operation::Lseek(_) => {
            Answered::Long(client::decode_u64(body).expect("a number"))
        }
        Operation::GetXattr(get) if get.size > 0 => Answered::Bytes(body.to_vec()),
        Operation::ListXattr(list) if list.size > 0 => Answered::Bytes(body.to_vec()),
        Operation::GetXattr(_) | Operation::ListXattr(_) => {
            Answered::Count(client::decode_u32(body).expect("a length"))
        }
        Operation::Init(_) => Answered::Init(client::decode_init(body).expect("INIT")),
        Operation::Unlink(_)
        | Operation::RmDir(_)
        | Operation::Rename(_)
        | Operation::Flush(_)
        | Operation::Release(_)
        | Operation::Fsync(_)
        | Operation::Fallocate(_)
        | Operation::SyncFs(_)
        | Operation::FsyncDir(_)
        | Operation::ReleaseDir(_)
        | Operation::Access(_)
        | Operation::SetXattr(_)
        | Operation::RemoveXattr(_)
        | Operation::Destroy(_) => {
            assert!(body.is_empty(), "{operation:?} has a body");
            Answered::Empty
        }
        Operation::Forget(_)
        | Operation::BatchForget(_)
        | Operation::Interrupt(_)
        | Operation::GetLock(_)
        | Operation::SetLock(_)
        | Operation::SetupMapping(_)
        | Operation::RemoveMapping(_)
        | Operation::BMap(_)
        | Operation::Poll(_)
        | Operation::Ioctl(_) => panic!("{operation:?} was answered with success"),
    }
}

/// The entries of a listing.
pub fn list(body: &[u8], plus: bool) -> Vec<Listed> {
    let entries = if plus { client::dirents_plus(body) } else { client::dirents(body) };
    entries
        .map(|record| {
            let (entry, dirent) = record.expect("a directory record");
            let entry = entry.map(|(entry, _)| entry).filter(|entry| entry.node.0 != 0);
            (entry, dirent.ino, dirent.offset, dirent.kind, dirent.name.to_vec())
        })
        .collect()
}

/// Whether a real file system's answer can be the model's: numbers, times, sizes of directories, figures, cookies
/// and which of several errors comes first are the host's own affair.
pub fn agree(subject: &Outcome, model: &Outcome) -> bool {
    match (subject, model) {
        (Err(_), Err(_)) => true,
        (Ok(Answered::Entry(one)), Ok(Answered::Entry(other))) => alike(&one.attr, &other.attr),
        (Ok(Answered::Created(one, _)), Ok(Answered::Created(other, _))) => alike(&one.attr, &other.attr),
        (Ok(Answered::Attr(one)), Ok(Answered::Attr(other))) => alike(one, other),
        (Ok(Answered::Statx(one)), Ok(Answered::Statx(other))) => one.mode == other.mode,
        (Ok(Answered::Bytes(one)), Ok(Answered::Bytes(other))) => one == other,
        (Ok(Answered::Count(one)), Ok(Answered::Count(other))) => one == other,
        (Ok(one), Ok(other)) => std::mem::discriminant(one) == std::mem::discriminant(other),
        (Ok(_), Err(_)) | (Err(_), Ok(_)) => false,
    }
}

fn alike(one: &Attr, other: &Attr) -> bool {
    let directory = one.mode & 0o170_000 == 0o040_000;
    let sized = directory || (one.size == other.size && one.nlink == other.nlink);
    sized && (one.mode, one.uid, one.gid) == (other.mode, other.uid, other.gid)
}
