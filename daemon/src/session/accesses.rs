//! What each operation needs: the one table between the wire and the policy.
//!
//! The gate reads it off the very call that runs, so what was checked is what is done.

use crate::host::Call;
use pinhole_policy::{Access, Demand, Gated, Place, XattrNamespace};
use pinhole_protocol::{
    self as protocol, AccessMode, Create, FallocateMode, MkNod, Open, OpenFlags, Rename, RenameFlags,
    SetAttr, TmpFile, WriteFlags,
};

/// An operation that can say what it needs.
trait Needs {
    fn accesses(&self) -> Access;
}

impl<T: Needs> Gated for Call<'_, T> {
    fn accesses(&self) -> Access {
        self.operation.accesses()
    }

    fn demands(&self, each: &mut dyn FnMut(Demand<'_>)) {
        each(Demand { place: Place::Node(self.node.0), access: self.accesses() });
    }
}

/// Operations that always need the same.
macro_rules! always {
    ($($operation:ty => $access:expr;)*) => {
        $(impl Needs for $operation {
            fn accesses(&self) -> Access {
                $access
            }
        })*
    };
}

always! {
    protocol::Lookup<'_> => Access::LOOKUP;
    protocol::Forget => Access::empty();
    protocol::GetAttr => Access::STAT;
    protocol::GetStatx => Access::STAT;
    protocol::Access => Access::STAT;
    protocol::StatFs => Access::STATFS;
    protocol::ReadLink => Access::READLINK;
    protocol::SymLink<'_> => Access::SYMLINK;
    protocol::MkDir<'_> => Access::MKDIR;
    protocol::Link<'_> => Access::LINK;
    protocol::Unlink<'_> => Access::UNLINK;
    protocol::RmDir<'_> => Access::RMDIR;
    protocol::Flush => Access::empty();
    protocol::Release => Access::empty();
    // The handle was opened for reading, or for writing, through the gate; these say it once more, so that a policy
    // that changes while a file is open has its effect.
    protocol::Read => Access::READ;
    protocol::Lseek => Access::READ;
    protocol::Fsync => Access::FSYNC;
    protocol::FsyncDir => Access::FSYNC;
    protocol::SyncFs => Access::FSYNC;
    protocol::CopyFileRange => Access::COPY_RANGE.union(Access::READ).union(Access::WRITE);
    protocol::OpenDir => Access::LIST;
    protocol::ReadDir => Access::LIST;
    protocol::ReadDirPlus => Access::LIST.union(Access::LOOKUP).union(Access::STAT);
    protocol::ReleaseDir => Access::empty();
    protocol::ListXattr => Access::XATTR_READ_USER;
}

impl Needs for protocol::GetXattr<'_> {
    fn accesses(&self) -> Access {
        XattrNamespace::of(self.name.to_bytes()).read()
    }
}

impl Needs for protocol::SetXattr<'_> {
    fn accesses(&self) -> Access {
        XattrNamespace::of(self.name.to_bytes()).write()
    }
}

impl Needs for protocol::RemoveXattr<'_> {
    fn accesses(&self) -> Access {
        XattrNamespace::of(self.name.to_bytes()).write()
    }
}

impl Needs for protocol::Fallocate {
    fn accesses(&self) -> Access {
        let shifts = FallocateMode::COLLAPSE_RANGE | FallocateMode::INSERT_RANGE;
        let zeroes = FallocateMode::ZERO_RANGE | FallocateMode::WRITE_ZEROES;
        let mut needed = Access::WRITE;
        needed.set(Access::FALLOCATE_SHIFT, self.mode.intersects(shifts));
        needed.set(Access::FALLOCATE_PUNCH, self.mode.contains(FallocateMode::PUNCH_HOLE));
        needed.set(Access::FALLOCATE_ZERO, self.mode.intersects(zeroes));
        // What else there is reserves room, or is refused by the host.
        needed.set(Access::FALLOCATE, !needed.intersects(Access::FALLOCATES));
        needed
    }
}

impl Needs for Open {
    fn accesses(&self) -> Access {
        let mut needed = match self.flags.access_mode() {
            AccessMode::Read => Access::READ,
            AccessMode::Write if self.flags.contains(OpenFlags::APPEND) => Access::APPEND,
            AccessMode::Write => Access::WRITE,
            AccessMode::ReadWrite => Access::READ | Access::WRITE,
        };
        needed.set(Access::TRUNCATE, self.flags.contains(OpenFlags::TRUNC));
        needed
    }
}

impl Needs for protocol::Write {
    fn accesses(&self) -> Access {
        // What comes from the guest's page cache says where it goes, and the host believes it.
        let at_end = self.flags.contains(OpenFlags::APPEND) && !self.write_flags.contains(WriteFlags::CACHE);
        if at_end { Access::APPEND } else { Access::WRITE }
    }
}

impl Needs for Create<'_> {
    fn accesses(&self) -> Access {
        self.open.accesses() | Access::CREATE
    }
}

impl Needs for TmpFile {
    fn accesses(&self) -> Access {
        self.open.accesses() | Access::TMPFILE
    }
}

impl Needs for Rename<'_> {
    fn accesses(&self) -> Access {
        let mut needed = Access::RENAME;
        needed.set(Access::EXCHANGE, self.flags.contains(RenameFlags::EXCHANGE));
        needed.set(Access::WHITEOUT, self.flags.contains(RenameFlags::WHITEOUT));
        needed
    }
}

impl Needs for SetAttr {
    fn accesses(&self) -> Access {
        let mut needed = Access::STAT;
        needed.set(Access::TRUNCATE, self.size.is_some());
        needed.set(Access::CHMOD, self.mode.is_some());
        needed.set(Access::CHOWN, self.uid.is_some() || self.gid.is_some());
        needed.set(Access::UTIMENS, self.atime.is_some() || self.mtime.is_some() || self.ctime.is_some());
        needed
    }
}

impl Needs for MkNod<'_> {
    fn accesses(&self) -> Access {
        // The file type bits of a mode, `S_IFMT`.
        match self.mode & 0o170_000 {
            0o010_000 => Access::MKNOD_FIFO,
            0o140_000 => Access::MKNOD_SOCKET,
            // Character device 0:0 is how overlayfs marks a name as deleted; no driver has it.
            0o020_000 if self.rdev == 0 => Access::WHITEOUT,
            0o020_000 => Access::MKNOD_CHAR,
            0o060_000 => Access::MKNOD_BLOCK,
            // A regular file, or something that the host will refuse as no type at all.
            _ => Access::CREATE,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn opening_for_append_needs_no_right_to_overwrite() {
        // O_WRONLY | O_APPEND.
        let open = Open { flags: OpenFlags::from_bits_retain(1) | OpenFlags::APPEND, kill_suidgid: false };
        assert_eq!(open.accesses(), Access::APPEND);
    }

    #[test]
    fn a_character_device_without_a_number_is_a_whiteout() {
        let name = protocol::Name::parse(c"n").unwrap();
        let made = |mode, rdev| MkNod { name, mode, rdev, umask: 0 }.accesses();
        assert_eq!(made(0o020_600, 0), Access::WHITEOUT);
        assert_eq!(made(0o020_600, 0x103), Access::MKNOD_CHAR);
        assert_eq!(made(0o060_600, 0), Access::MKNOD_BLOCK);
    }

    #[test]
    fn each_way_to_fallocate_is_an_access_of_its_own() {
        let needed = |mode| {
            let handle = protocol::Handle(1);
            protocol::Fallocate { handle, offset: 0, length: 1, mode }.accesses() - Access::WRITE
        };
        let keep = FallocateMode::KEEP_SIZE;
        assert_eq!(needed(keep), Access::FALLOCATE);
        assert_eq!(needed(keep | FallocateMode::PUNCH_HOLE), Access::FALLOCATE_PUNCH);
        assert_eq!(needed(FallocateMode::ZERO_RANGE), Access::FALLOCATE_ZERO);
        assert_eq!(needed(FallocateMode::INSERT_RANGE), Access::FALLOCATE_SHIFT);
    }

    #[test]
    fn truncating_at_open_needs_the_right_to_truncate() {
        let open = Open { flags: OpenFlags::TRUNC, kill_suidgid: false };
        assert!(open.accesses().contains(Access::TRUNCATE));
    }
}
