//! Fields of requests and replies that have a fixed set of values.
//!
//! The decoder of requests rejects any other number, so no code outside this crate compares the
//! numbers of Linux.

/// The bits of `st_mode` that are the file type (`S_IFMT`): a `DT_` number, shifted left.
const FILE_TYPE_BITS: u32 = 0o170_000;
/// Number of bits of `st_mode` below the file type.
const FILE_TYPE_SHIFT: u32 = 12;

/// The file type of a directory entry, as a `DT_` number of `getdents64(2)`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct DirentKind(u32);

#[expect(missing_docs, reason = "the DT_ constants of readdir(3)")]
impl DirentKind {
    pub const UNKNOWN: Self = Self(0);
    pub const FIFO: Self = Self(1);
    pub const CHARACTER: Self = Self(2);
    pub const DIRECTORY: Self = Self(4);
    pub const BLOCK: Self = Self(6);
    pub const REGULAR: Self = Self(8);
    pub const SYMLINK: Self = Self(10);
    pub const SOCKET: Self = Self(12);
    pub const WHITEOUT: Self = Self(14);

    /// Returns the kind with this `DT_` number.
    pub const fn from_raw(raw: u32) -> Self {
        Self(raw)
    }

    /// Returns the kind for the file type bits of `st_mode`.
    pub const fn from_mode(mode: u32) -> Self {
        Self((mode & FILE_TYPE_BITS) >> FILE_TYPE_SHIFT)
    }

    /// Returns the file type bits of `st_mode`.
    pub(crate) const fn mode(self) -> u32 {
        self.0 << FILE_TYPE_SHIFT
    }

    /// Returns the `DT_` number.
    pub const fn raw(self) -> u32 {
        self.0
    }
}

/// How a range of a file is locked. In an `Option<LockKind>`, `None` means unlocked.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum LockKind {
    /// Other owners may hold a read lock too.
    Read,
    /// No other owner may hold a lock.
    Write,
}

impl LockKind {
    /// Returns whether two owners cannot hold these two locks on the same byte.
    pub const fn excludes(self, other: Self) -> bool {
        matches!(self, Self::Write) || matches!(other, Self::Write)
    }

    /// Converts a lock type of `fcntl(2)`. `F_UNLCK` becomes `None`.
    ///
    /// # Errors
    /// The number itself, if it is unknown.
    pub(crate) const fn from_raw(raw: u32) -> Result<Option<Self>, u32> {
        match raw {
            0 => Ok(Some(Self::Read)),
            1 => Ok(Some(Self::Write)),
            2 => Ok(None),
            unknown => Err(unknown),
        }
    }

    /// Returns the lock type of `fcntl(2)`.
    pub(crate) const fn raw(kind: Option<Self>) -> u32 {
        match kind {
            Some(Self::Read) => 0,
            Some(Self::Write) => 1,
            None => 2,
        }
    }
}

/// What an LSEEK looks for.
///
/// The guest's kernel handles `SEEK_SET` and `SEEK_CUR` itself, so the decoder rejects them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Whence {
    /// The end of the file, to which the offset is added.
    End,
    /// The next byte of data.
    Data,
    /// The next byte of a hole. The end of the file counts as a hole.
    Hole,
}

impl Whence {
    /// Returns the value with this number in `lseek(2)`, or `None` if LSEEK does not use the
    /// number.
    pub(crate) const fn from_raw(raw: u32) -> Option<Self> {
        match raw {
            2 => Some(Self::End),
            3 => Some(Self::Data),
            4 => Some(Self::Hole),
            _ => None,
        }
    }

    /// Returns the number in `lseek(2)`.
    pub(crate) const fn raw(self) -> u32 {
        match self {
            Self::End => 2,
            Self::Data => 3,
            Self::Hole => 4,
        }
    }
}

/// The file type that a MKNOD creates. Device numbers are packed as by the kernel's
/// `new_encode_dev`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[expect(missing_docs, reason = "the file types of mknod(2)")]
pub enum NodeKind {
    Regular,
    Fifo,
    Socket,
    CharacterDevice(u32),
    BlockDevice(u32),
}

impl NodeKind {
    /// Returns the kind for the file type bits of a mode, or `None` if MKNOD cannot create it. A
    /// mode without a file type means a regular file, as in `mknod(2)`.
    pub(crate) const fn from_raw(mode: u32, rdev: u32) -> Option<Self> {
        match DirentKind::from_mode(mode) {
            DirentKind::UNKNOWN | DirentKind::REGULAR => Some(Self::Regular),
            DirentKind::FIFO => Some(Self::Fifo),
            DirentKind::SOCKET => Some(Self::Socket),
            DirentKind::CHARACTER => Some(Self::CharacterDevice(rdev)),
            DirentKind::BLOCK => Some(Self::BlockDevice(rdev)),
            _ => None,
        }
    }

    /// Returns the file type bits of a mode, and the device number, which is 0 without a device.
    pub const fn raw(self) -> (u32, u32) {
        match self {
            Self::Regular => (DirentKind::REGULAR.mode(), 0),
            Self::Fifo => (DirentKind::FIFO.mode(), 0),
            Self::Socket => (DirentKind::SOCKET.mode(), 0),
            Self::CharacterDevice(rdev) => (DirentKind::CHARACTER.mode(), rdev),
            Self::BlockDevice(rdev) => (DirentKind::BLOCK.mode(), rdev),
        }
    }

    /// Returns the device number, which is 0 without a device.
    pub const fn rdev(self) -> u32 {
        self.raw().1
    }
}

/// The access that a file is opened for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[expect(missing_docs, reason = "O_RDONLY, O_WRONLY and O_RDWR")]
pub enum AccessMode {
    Read,
    Write,
    ReadWrite,
}

/// Whether SETXATTR may create or must replace the attribute.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum SetXattrMode {
    /// Create or replace.
    #[default]
    Any,
    /// `XATTR_CREATE`: fail with EEXIST if the attribute exists.
    Create,
    /// `XATTR_REPLACE`: fail with ENODATA if the attribute does not exist.
    Replace,
}

impl SetXattrMode {
    /// Returns the mode with this number in `setxattr(2)`, or `None` if the number is unknown.
    pub const fn from_raw(raw: u32) -> Option<Self> {
        match raw {
            0 => Some(Self::Any),
            1 => Some(Self::Create),
            2 => Some(Self::Replace),
            _ => None,
        }
    }

    /// Returns the number in `setxattr(2)`.
    pub const fn raw(self) -> u32 {
        match self {
            Self::Any => 0,
            Self::Create => 1,
            Self::Replace => 2,
        }
    }
}
