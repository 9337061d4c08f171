//! Decodes the replies of the tested session, and compares them with the replies of the model file
//! system.

use crate::oracle::{Outcome, ReplyBody, decode_list};
use pinhole_protocol::{Attr, Operation, client};

/// Decodes the body of a successful reply to `operation`.
///
/// # Panics
/// Panics if the session has a bug: the body does not decode, or the operation must not succeed.
pub fn decode_body(operation: &Operation<'_>, body: &[u8]) -> ReplyBody {
    match operation {
        Operation::Lookup(_)
        | Operation::SymLink(_)
        | Operation::MkNod(_)
        | Operation::MkDir(_)
        | Operation::Link(_) => ReplyBody::Entry(client::decode_entry(body).expect("an entry").0),
        Operation::Create(_) | Operation::TmpFile(_) => {
            ReplyBody::Created(client::decode_created(body).expect("an entry and a handle").0)
        }
        Operation::GetAttr(_) | Operation::SetAttr(_) => {
            ReplyBody::Attr(client::decode_attr(body).expect("attributes").0)
        }
        Operation::GetStatx(_) => ReplyBody::Statx(client::decode_statx(body).expect("attributes").0),
        Operation::StatFs(_) => ReplyBody::Statfs(client::decode_statfs(body).expect("statistics")),
        Operation::Open(_) | Operation::OpenDir(_) => {
            ReplyBody::Open(client::decode_open(body).expect("a handle"))
        }
        Operation::Read(_) | Operation::ReadLink(_) => ReplyBody::Bytes(body.to_vec()),
        Operation::ReadDir(_) => ReplyBody::List(decode_list(body, false)),
        Operation::ReadDirPlus(_) => ReplyBody::List(decode_list(body, true)),
        Operation::Write(_) => ReplyBody::Count(client::decode_u32(body).expect("a count")),
        Operation::CopyFileRange(copy) if !copy.wide_reply => {
            ReplyBody::Count(client::decode_u32(body).expect("a count"))
        }
        Operation::CopyFileRange(_) | Operation::Lseek(_) => {
            ReplyBody::Long(client::decode_u64(body).expect("a number"))
        }
        Operation::GetXattr(get) if get.size > 0 => ReplyBody::Bytes(body.to_vec()),
        Operation::ListXattr(list) if list.size > 0 => ReplyBody::Bytes(body.to_vec()),
        Operation::GetXattr(_) | Operation::ListXattr(_) => {
            ReplyBody::Count(client::decode_u32(body).expect("a length"))
        }
        Operation::Init(_) => ReplyBody::Init(client::decode_init(body).expect("INIT")),
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
            ReplyBody::Empty
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
        | Operation::Ioctl(_) => panic!("{operation:?} succeeded"),
    }
}

/// Returns whether the reply of a real file system agrees with the reply of the model.
///
/// Two errors agree even if their numbers differ, because the host decides which error comes first.
/// An error and a success do not agree. Two successes agree if they have the same variant of
/// [`ReplyBody`] and the following parts are equal:
///
/// | reply | parts that must be equal |
/// |---|---|
/// | `Bytes`, `Count` | all |
/// | `Attr`, `Entry`, `Created` of a directory | mode, owner, group |
/// | `Attr`, `Entry`, `Created` of any other file | mode, owner, group, size, link count |
/// | `Statx` | mode |
/// | any other | none, because the host decides the content |
pub fn agree(subject: &Outcome, model: &Outcome) -> bool {
    match (subject, model) {
        (Err(_), Err(_)) => true,
        (Ok(ReplyBody::Entry(one)), Ok(ReplyBody::Entry(other))) => same_attributes(&one.attr, &other.attr),
        (Ok(ReplyBody::Created(one)), Ok(ReplyBody::Created(other))) => {
            same_attributes(&one.entry.attr, &other.entry.attr)
        }
        (Ok(ReplyBody::Attr(one)), Ok(ReplyBody::Attr(other))) => same_attributes(one, other),
        (Ok(ReplyBody::Statx(one)), Ok(ReplyBody::Statx(other))) => one.mode == other.mode,
        (Ok(ReplyBody::Bytes(one)), Ok(ReplyBody::Bytes(other))) => one == other,
        (Ok(ReplyBody::Count(one)), Ok(ReplyBody::Count(other))) => one == other,
        (Ok(one), Ok(other)) => std::mem::discriminant(one) == std::mem::discriminant(other),
        (Ok(_), Err(_)) | (Err(_), Ok(_)) => false,
    }
}

/// Returns whether two files have the same mode, owner and group. Two files that are not
/// directories must also have the same size and link count.
fn same_attributes(one: &Attr, other: &Attr) -> bool {
    let directory = one.mode & 0o170_000 == 0o040_000;
    let same_size = directory || (one.size == other.size && one.nlink == other.nlink);
    same_size && (one.mode, one.uid, one.gid) == (other.mode, other.uid, other.gid)
}
