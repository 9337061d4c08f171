//! The closed set of things that an operation can need.

use bitflags::bitflags;

bitflags! {
    /// Capabilities over file operations, fine enough that a profile can be read as a sentence.
    #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
    pub struct Access: u64 {
        /// Find a name in a directory.
        const LOOKUP = 1;
        /// Read attributes.
        const STAT = 1 << 1;
        /// Read the target of a symbolic link.
        const READLINK = 1 << 2;
        /// List a directory.
        const LIST = 1 << 3;
        /// Read a file's bytes.
        const READ = 1 << 4;
        /// Map a file's bytes read-only into the DAX window.
        const MAP_READ = 1 << 5;
        /// Write a file's bytes anywhere.
        const WRITE = 1 << 6;
        /// Write at a file's end.
        const APPEND = 1 << 7;
        /// Change a file's length.
        const TRUNCATE = 1 << 8;
        /// Map a file's bytes writable into the DAX window.
        const MAP_WRITE = 1 << 9;
        /// Make a regular file.
        const CREATE = 1 << 10;
        /// Make a directory.
        const MKDIR = 1 << 11;
        /// Make a symbolic link.
        const SYMLINK = 1 << 12;
        /// Give a file another name.
        const LINK = 1 << 13;
        /// Make a FIFO.
        const MKNOD_FIFO = 1 << 14;
        /// Make a socket node.
        const MKNOD_SOCKET = 1 << 15;
        /// Make a character or block device node.
        const MKNOD_DEVICE = 1 << 16;
        /// Remove a name.
        const UNLINK = 1 << 17;
        /// Remove an empty directory.
        const RMDIR = 1 << 18;
        /// Move a name.
        const RENAME = 1 << 19;
        /// Swap two names.
        const EXCHANGE = 1 << 20;
        /// Leave an overlayfs whiteout behind a rename.
        const WHITEOUT = 1 << 21;
        /// Change permission bits.
        const CHMOD = 1 << 22;
        /// Change owner or group.
        const CHOWN = 1 << 23;
        /// Change timestamps.
        const UTIMENS = 1 << 24;
        /// Read extended attributes.
        const XATTR_READ = 1 << 25;
        /// Change extended attributes.
        const XATTR_WRITE = 1 << 26;
        /// Make data durable.
        const FSYNC = 1 << 27;
        /// Reserve, punch, zero or move file ranges.
        const FALLOCATE = 1 << 28;
        /// Copy between files inside the host.
        const COPY_RANGE = 1 << 29;
        /// Take file locks.
        const LOCK = 1 << 30;
        /// Read the figures of the file system.
        const STATFS = 1 << 31;
        /// Make a file without a name.
        const TMPFILE = 1 << 32;
        /// Send ioctls to a file.
        const IOCTL = 1 << 33;
    }
}

impl Access {
    /// Everything that changes the host's files. A read-only policy grants none of it.
    pub const MUTATIONS: Self = Self::WRITE
        .union(Self::APPEND)
        .union(Self::TRUNCATE)
        .union(Self::MAP_WRITE)
        .union(Self::CREATE)
        .union(Self::MKDIR)
        .union(Self::SYMLINK)
        .union(Self::LINK)
        .union(Self::MKNOD_FIFO)
        .union(Self::MKNOD_SOCKET)
        .union(Self::MKNOD_DEVICE)
        .union(Self::UNLINK)
        .union(Self::RMDIR)
        .union(Self::RENAME)
        .union(Self::EXCHANGE)
        .union(Self::WHITEOUT)
        .union(Self::CHMOD)
        .union(Self::CHOWN)
        .union(Self::UTIMENS)
        .union(Self::XATTR_WRITE)
        .union(Self::FALLOCATE)
        .union(Self::COPY_RANGE)
        .union(Self::TMPFILE)
        .union(Self::IOCTL);
}
