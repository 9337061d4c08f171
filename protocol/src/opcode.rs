//! The opcodes of `linux/fuse.h`, including those that a file server never receives.

use crate::Operation;
use bitflags::bitflags;
use zerocopy::FromBytes as _;
use zerocopy::little_endian::U32;

/// Defines the opcodes, their numbers on the wire and their names in one table.
macro_rules! opcodes {
    ($($(#[$doc:meta])* $variant:ident = $raw:literal, $name:literal;)*) => {
        /// The operation that a request asks for (`enum fuse_opcode`).
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
        #[expect(missing_docs, reason = "each served variant is documented at the struct of the same name")]
        pub enum Opcode {
            $($(#[$doc])* $variant,)*
        }

        impl Opcode {
            /// All opcodes, ordered by number.
            pub const ALL: &[Self] = &[$(Self::$variant,)*];

            /// Returns the opcode with this number on the wire, or `None` if there is none.
            pub const fn from_raw(raw: u32) -> Option<Self> {
                match raw {
                    $($raw => Some(Self::$variant),)*
                    _ => None,
                }
            }

            /// Returns the number on the wire.
            pub const fn raw(self) -> u32 {
                match self {
                    $(Self::$variant => $raw,)*
                }
            }

            /// Returns the name in `fuse.h`, without the prefix `FUSE_`.
            pub const fn name(self) -> &'static str {
                match self {
                    $(Self::$variant => $name,)*
                }
            }
        }
    };
}

opcodes! {
    Lookup = 1, "LOOKUP";
    Forget = 2, "FORGET";
    GetAttr = 3, "GETATTR";
    SetAttr = 4, "SETATTR";
    ReadLink = 5, "READLINK";
    SymLink = 6, "SYMLINK";
    MkNod = 8, "MKNOD";
    MkDir = 9, "MKDIR";
    Unlink = 10, "UNLINK";
    RmDir = 11, "RMDIR";
    Rename = 12, "RENAME";
    Link = 13, "LINK";
    Open = 14, "OPEN";
    Read = 15, "READ";
    Write = 16, "WRITE";
    StatFs = 17, "STATFS";
    Release = 18, "RELEASE";
    Fsync = 20, "FSYNC";
    SetXattr = 21, "SETXATTR";
    GetXattr = 22, "GETXATTR";
    ListXattr = 23, "LISTXATTR";
    RemoveXattr = 24, "REMOVEXATTR";
    Flush = 25, "FLUSH";
    Init = 26, "INIT";
    OpenDir = 27, "OPENDIR";
    ReadDir = 28, "READDIR";
    ReleaseDir = 29, "RELEASEDIR";
    FsyncDir = 30, "FSYNCDIR";
    GetLock = 31, "GETLK";
    SetLock = 32, "SETLK";
    SetLockWait = 33, "SETLKW";
    Access = 34, "ACCESS";
    Create = 35, "CREATE";
    Interrupt = 36, "INTERRUPT";
    BMap = 37, "BMAP";
    Destroy = 38, "DESTROY";
    Ioctl = 39, "IOCTL";
    Poll = 40, "POLL";
    /// The reply to a retrieve notification. A server that sends no notifications never gets this
    /// opcode.
    NotifyReply = 41, "NOTIFY_REPLY";
    BatchForget = 42, "BATCH_FORGET";
    Fallocate = 43, "FALLOCATE";
    ReadDirPlus = 44, "READDIRPLUS";
    Rename2 = 45, "RENAME2";
    Lseek = 46, "LSEEK";
    CopyFileRange = 47, "COPY_FILE_RANGE";
    SetupMapping = 48, "SETUPMAPPING";
    RemoveMapping = 49, "REMOVEMAPPING";
    SyncFs = 50, "SYNCFS";
    TmpFile = 51, "TMPFILE";
    GetStatx = 52, "STATX";
    CopyFileRange64 = 53, "COPY_FILE_RANGE_64";
    /// Starts a character device in user space. A file system never gets this opcode.
    CuseInit = 4096, "CUSE_INIT";
    /// `CuseInit` from a guest of the opposite byte order.
    CuseInitBswapReserved = 1_048_576, "CUSE_INIT_BSWAP_RESERVED";
    /// `Init` from a guest of the opposite byte order.
    InitBswapReserved = 436_207_616, "INIT_BSWAP_RESERVED";
}

bitflags! {
    /// Properties of every request with one opcode, whatever its body contains.
    #[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
    pub struct OpcodeFacts: u8 {
        /// The host waits for the disk, or works in proportion to the size of the request. The host
        /// call has no variant that does less.
        const WAITS = 1 << 0;
        /// May wait until data is on the disk, or on the server of a network file system.
        const SYNCS = 1 << 1;
        /// May free all blocks of a file.
        const FREES = 1 << 2;
        /// Stores bytes that the guest chooses, in a file, an attribute or a link target.
        const WRITES = 1 << 3;
        /// The guest expects no reply, not even an error.
        const NO_REPLY = 1 << 4;
        /// Gives back what the guest holds. Other requests must not delay this one.
        const URGENT = 1 << 5;
        /// Begins or ends the session, so that it excludes every other request.
        const CHANGES_SESSION = 1 << 6;
    }
}

impl Opcode {
    /// Returns the opcode of a message that begins with a request header, or `None` if the message
    /// is too short or the opcode is unknown.
    pub fn of_message(message: &[u8]) -> Option<Self> {
        let ([_len, opcode], _rest) = <[U32; 2]>::ref_from_prefix(message).ok()?;
        Self::from_raw(opcode.get())
    }

    /// Returns the properties of every request with this opcode.
    pub const fn facts(self) -> OpcodeFacts {
        match self {
            Self::Fsync | Self::FsyncDir => OpcodeFacts::WAITS.union(OpcodeFacts::SYNCS),
            Self::Flush | Self::Release => OpcodeFacts::SYNCS,
            Self::SetAttr | Self::Open | Self::Create => OpcodeFacts::FREES,
            Self::Fallocate => OpcodeFacts::WAITS,
            Self::CopyFileRange | Self::CopyFileRange64 => OpcodeFacts::WAITS.union(OpcodeFacts::WRITES),
            Self::Write | Self::SetXattr | Self::SymLink => OpcodeFacts::WRITES,
            Self::Forget | Self::BatchForget => OpcodeFacts::URGENT.union(OpcodeFacts::NO_REPLY),
            Self::Interrupt => OpcodeFacts::NO_REPLY,
            Self::Init | Self::Destroy => OpcodeFacts::CHANGES_SESSION,
            Self::Lookup
            | Self::GetAttr
            | Self::Read
            | Self::ReadLink
            | Self::MkNod
            | Self::MkDir
            | Self::Unlink
            | Self::RmDir
            | Self::Rename
            | Self::Link
            | Self::StatFs
            | Self::GetXattr
            | Self::ListXattr
            | Self::RemoveXattr
            | Self::OpenDir
            | Self::ReadDir
            | Self::ReleaseDir
            | Self::GetLock
            | Self::SetLock
            | Self::SetLockWait
            | Self::Access
            | Self::BMap
            | Self::Ioctl
            | Self::Poll
            | Self::NotifyReply
            | Self::ReadDirPlus
            | Self::Rename2
            | Self::Lseek
            | Self::SetupMapping
            | Self::RemoveMapping
            | Self::SyncFs
            | Self::TmpFile
            | Self::GetStatx
            | Self::CuseInit
            | Self::CuseInitBswapReserved
            | Self::InitBswapReserved => OpcodeFacts::empty(),
        }
    }
}

impl std::fmt::Display for Opcode {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.name())
    }
}

impl Operation<'_> {
    /// Returns the opcode of this operation.
    ///
    /// A rename with flags is RENAME2, a lock request that waits is SETLKW, and a copy with a
    /// 64-bit reply is `COPY_FILE_RANGE_64`.
    pub const fn opcode(&self) -> Opcode {
        match self {
            Self::Lookup(_) => Opcode::Lookup,
            Self::Forget(_) => Opcode::Forget,
            Self::BatchForget(_) => Opcode::BatchForget,
            Self::GetAttr(_) => Opcode::GetAttr,
            Self::SetAttr(_) => Opcode::SetAttr,
            Self::ReadLink(_) => Opcode::ReadLink,
            Self::SymLink(_) => Opcode::SymLink,
            Self::MkNod(_) => Opcode::MkNod,
            Self::MkDir(_) => Opcode::MkDir,
            Self::Unlink(_) => Opcode::Unlink,
            Self::RmDir(_) => Opcode::RmDir,
            Self::Link(_) => Opcode::Link,
            Self::Open(_) => Opcode::Open,
            Self::Read(_) => Opcode::Read,
            Self::Write(_) => Opcode::Write,
            Self::StatFs(_) => Opcode::StatFs,
            Self::Release(_) => Opcode::Release,
            Self::Fsync(_) => Opcode::Fsync,
            Self::SetXattr(_) => Opcode::SetXattr,
            Self::GetXattr(_) => Opcode::GetXattr,
            Self::ListXattr(_) => Opcode::ListXattr,
            Self::RemoveXattr(_) => Opcode::RemoveXattr,
            Self::Flush(_) => Opcode::Flush,
            Self::Init(_) => Opcode::Init,
            Self::OpenDir(_) => Opcode::OpenDir,
            Self::ReadDir(_) => Opcode::ReadDir,
            Self::ReadDirPlus(_) => Opcode::ReadDirPlus,
            Self::ReleaseDir(_) => Opcode::ReleaseDir,
            Self::FsyncDir(_) => Opcode::FsyncDir,
            Self::GetLock(_) => Opcode::GetLock,
            Self::Access(_) => Opcode::Access,
            Self::Create(_) => Opcode::Create,
            Self::Interrupt(_) => Opcode::Interrupt,
            Self::BMap(_) => Opcode::BMap,
            Self::Destroy(_) => Opcode::Destroy,
            Self::Ioctl(_) => Opcode::Ioctl,
            Self::Poll(_) => Opcode::Poll,
            Self::Fallocate(_) => Opcode::Fallocate,
            Self::Lseek(_) => Opcode::Lseek,
            Self::SetupMapping(_) => Opcode::SetupMapping,
            Self::RemoveMapping(_) => Opcode::RemoveMapping,
            Self::SyncFs(_) => Opcode::SyncFs,
            Self::TmpFile(_) => Opcode::TmpFile,
            Self::GetStatx(_) => Opcode::GetStatx,
            Self::Rename(rename) if rename.flags.is_empty() => Opcode::Rename,
            Self::Rename(_) => Opcode::Rename2,
            Self::SetLock(set) if set.wait => Opcode::SetLockWait,
            Self::SetLock(_) => Opcode::SetLock,
            Self::CopyFileRange(copy) if copy.wide_reply => Opcode::CopyFileRange64,
            Self::CopyFileRange(_) => Opcode::CopyFileRange,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn facts_of_all_opcodes() {
        let expected = [
            (OpcodeFacts::SYNCS, "RELEASE FSYNC FLUSH FSYNCDIR"),
            (OpcodeFacts::FREES, "SETATTR OPEN CREATE"),
            (OpcodeFacts::WAITS, "FSYNC FSYNCDIR FALLOCATE COPY_FILE_RANGE COPY_FILE_RANGE_64"),
            (OpcodeFacts::WRITES, "SYMLINK WRITE SETXATTR COPY_FILE_RANGE COPY_FILE_RANGE_64"),
            (OpcodeFacts::NO_REPLY, "FORGET INTERRUPT BATCH_FORGET"),
            (OpcodeFacts::URGENT, "FORGET BATCH_FORGET"),
            (OpcodeFacts::CHANGES_SESSION, "INIT DESTROY"),
        ];
        assert_eq!(expected.map(|(fact, _)| fact).into_iter().collect::<OpcodeFacts>(), OpcodeFacts::all());
        for (fact, names) in expected {
            let having = Opcode::ALL.iter().filter(|opcode| opcode.facts().contains(fact));
            assert_eq!(having.map(|opcode| opcode.name()).collect::<Vec<_>>().join(" "), names, "{fact:?}");
        }
    }

    #[test]
    fn opcode_of_a_message() {
        for &opcode in Opcode::ALL {
            let message = [40u32.to_le_bytes(), opcode.raw().to_le_bytes(), [0xff; 4]].concat();
            assert_eq!(Opcode::of_message(&message), Some(opcode));
            assert_eq!(Opcode::of_message(&message[..7]), None);
        }
        assert_eq!(Opcode::of_message(&[0xff; 40]), None);
    }
}
