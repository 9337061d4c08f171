//! The accesses that each operation requires, and the places where it requires them: the one table
//! between operations and the policy.
//!
//! The policy check reads the table for the same call that is then carried out. So a call does only
//! what was checked. For each bit of each flag word, the table has an access, or the decoder
//! refuses the bit, or the bit never reaches the host. The tests below check each bit.

use crate::filesystem::{Call, InodeFlags, ListNames};
use pinhole_policy::{Access, Demand, Move, Place, RequiresAccess, XattrNamespace};
use pinhole_protocol::{
    self as protocol, AccessMode, Create, FallocateMode, Handle, LookupName, MkNod, Name, NodeKind, Open,
    OpenFlags, Rename, RenameFlags, SetAttr, TmpFile, WriteFlags,
};
use std::ffi::CStr;

/// Takes one demand after another.
type Each<'e> = &'e mut dyn FnMut(Demand<'_>);

/// An operation that states the accesses that it requires.
trait Requirements {
    /// Passes each place with the accesses that the operation requires there. `node` is that of the
    /// header: the directory of an operation on a name.
    fn demands(&self, node: u64, each: Each<'_>);

    /// Returns all accesses that the operation requires. They do not depend on the node.
    fn accesses(&self) -> Access {
        let mut all = Access::empty();
        self.demands(0, &mut |demand| all |= demand.access);
        all
    }

    /// Returns what the operation moves to another name.
    fn moves(&self, _node: u64) -> Option<Move<'_>> {
        None
    }
}

impl<T: Requirements> RequiresAccess for Call<'_, T> {
    fn accesses(&self) -> Access {
        self.operation.accesses()
    }

    fn demands(&self, each: &mut dyn FnMut(Demand<'_>)) {
        // An operation without requirements (FORGET, RELEASE) is carried out at any place.
        if !self.operation.accesses().is_empty() {
            self.operation.demands(self.node.0, each);
        }
    }

    fn moves(&self) -> Option<Move<'_>> {
        self.operation.moves(self.node.0)
    }
}

const fn child(directory: u64, name: Name<'_>) -> Place<'_> {
    Place::Child { directory, name: name.as_bytes() }
}

/// Returns the place of a LOOKUP. "." and ".." are not names in the directory.
const fn looked_up(directory: u64, name: LookupName<'_>) -> Place<'_> {
    match name {
        LookupName::Component(name) => child(directory, name),
        LookupName::Itself | LookupName::Parent => Place::Node(directory),
    }
}

const fn handle(handle: Handle) -> Place<'static> {
    Place::Handle(handle.0)
}

/// Operations on one place: for each, the accesses and the place. The place may depend on the node
/// of the header. The functions whose names begin with `to_` return accesses.
macro_rules! at_one_place {
    ($($operation:ty: |$op:pat_param, $node:pat_param| $access:expr, $place:expr;)*) => {
        $(impl Requirements for $operation {
            fn demands(&self, $node: u64, each: Each<'_>) {
                let $op = self;
                each(Demand { place: $place, access: $access });
            }
        })*
    };
}

at_one_place! {
    protocol::Lookup<'_>: |op, node| Access::LOOKUP, looked_up(node, op.name);
    protocol::Forget: |_, node| Access::empty(), Place::Node(node);
    protocol::GetAttr: |_, node| Access::STAT, Place::Node(node);
    protocol::GetStatx: |_, node| Access::STAT, Place::Node(node);
    SetAttr: |op, node| to_set_attr(op), Place::Node(node);
    protocol::Access: |_, node| Access::STAT, Place::Node(node);
    protocol::StatFs: |_, _| Access::STATFS, Place::Share;
    protocol::ReadLink: |_, node| Access::READLINK, Place::Node(node);
    protocol::SymLink<'_>: |op, node| Access::SYMLINK, child(node, op.name);
    protocol::MkDir<'_>: |op, node| Access::MKDIR, child(node, op.name);
    MkNod<'_>: |op, node| to_make(op.kind), child(node, op.name);
    protocol::Unlink<'_>: |op, node| Access::UNLINK, child(node, op.name);
    protocol::RmDir<'_>: |op, node| Access::RMDIR, child(node, op.name);
    Open: |op, node| to_open(op.flags), Place::Node(node);
    Create<'_>: |op, node| to_open(op.open.flags) | Access::CREATE, child(node, op.name);
    TmpFile: |op, node| to_open(op.open.flags) | Access::TMPFILE, Place::Unnamed { directory: node };
    protocol::Flush: |op, _| Access::empty(), handle(op.handle);
    protocol::Release: |op, _| Access::empty(), handle(op.handle);
    // The handle was opened through the policy check. Operations on it are checked again, because
    // the rule of its node may have become narrower since.
    protocol::Read: |op, _| Access::READ, handle(op.handle);
    protocol::Write: |op, _| to_write(op), handle(op.handle);
    protocol::Lseek: |op, _| Access::READ, handle(op.handle);
    protocol::Fsync: |op, _| Access::FSYNC, handle(op.handle);
    protocol::FsyncDir: |op, _| Access::FSYNC, handle(op.handle);
    protocol::SyncFs: |_, _| Access::FSYNC, Place::Share;
    protocol::Fallocate: |op, _| Access::WRITE | to_allocate(op.mode), handle(op.handle);
    protocol::OpenDir: |_, node| Access::LIST, Place::Node(node);
    protocol::ReadDir: |op, _| Access::LIST, handle(op.handle);
    protocol::ReleaseDir: |op, _| Access::empty(), handle(op.handle);
    protocol::GetLock: |op, _| Access::LOCK, handle(op.0.handle);
    // Unlocking requires nothing, like RELEASE.
    protocol::SetLock: |op, _| op.lock.kind.map_or(Access::empty(), |_| Access::LOCK), handle(op.lock.handle);
    protocol::GetXattr<'_>: |op, node| namespace(op.name).read(), Place::Node(node);
    protocol::SetXattr<'_>: |op, node| namespace(op.name).write(), Place::Node(node);
    protocol::RemoveXattr<'_>: |op, node| namespace(op.name).write(), Place::Node(node);
    // One of the accesses whose names it lists, or reading user attributes.
    ListNames: |op, node| op.readable.iter().next().unwrap_or(Access::XATTR_READ_USER), Place::Node(node);
    // Linux sends no handle here, so the node is checked.
    protocol::SetupMapping: |op, node| to_map(op.write), Place::Node(node);
    // Operations that are not served yet are checked too, so that the policy holds when they are.
    protocol::BMap: |_, node| Access::READ, Place::Node(node);
    protocol::Poll: |op, _| Access::empty(), handle(op.handle);
    protocol::RemoveMapping<'_>: |_, node| Access::empty(), Place::Node(node);
    InodeFlags: |op, _| Access::IOCTL_INODE_FLAGS, handle(op.handle);
}

fn namespace(name: &CStr) -> XattrNamespace {
    XattrNamespace::of(name.to_bytes())
}

/// Returns the accesses for a mapping, which can always be read.
const fn to_map(write: bool) -> Access {
    if write { Access::MAP_READ.union(Access::MAP_WRITE) } else { Access::MAP_READ }
}

fn to_open(flags: OpenFlags) -> Access {
    let write = if flags.contains(OpenFlags::APPEND) { Access::APPEND } else { Access::WRITE };
    let mut needed = match flags.access_mode() {
        AccessMode::Read => Access::READ,
        AccessMode::Write => write,
        AccessMode::ReadWrite => Access::READ | write,
    };
    needed.set(Access::TRUNCATE, flags.contains(OpenFlags::TRUNC));
    needed
}

fn to_write(write: &protocol::Write) -> Access {
    // Data from the guest's page cache has a position, and the host uses it.
    let at_end = write.flags.contains(OpenFlags::APPEND) && !write.write_flags.contains(WriteFlags::CACHE);
    if at_end { Access::APPEND } else { Access::WRITE }
}

fn to_set_attr(set: &SetAttr) -> Access {
    let mut needed = Access::STAT;
    needed.set(Access::TRUNCATE, set.size.is_some());
    needed.set(Access::CHMOD, set.mode.is_some());
    // Alone, the flag asks for the effect of a change to the same owner.
    let only_drops_bits = set.kill_suidgid && set.size.is_none();
    needed.set(Access::CHOWN, set.uid.is_some() || set.gid.is_some() || only_drops_bits);
    needed.set(Access::UTIMENS, set.atime.is_some() || set.mtime.is_some() || set.ctime.is_some());
    needed
}

fn to_make(kind: NodeKind) -> Access {
    match kind {
        NodeKind::Regular => Access::CREATE,
        NodeKind::Fifo => Access::MKNOD_FIFO,
        NodeKind::Socket => Access::MKNOD_SOCKET,
        // overlayfs marks a deleted name with the character device 0:0. No driver has that number.
        NodeKind::CharacterDevice(0) => Access::WHITEOUT,
        NodeKind::CharacterDevice(_) => Access::MKNOD_CHAR,
        NodeKind::BlockDevice(_) => Access::MKNOD_BLOCK,
    }
}

fn to_allocate(mode: FallocateMode) -> Access {
    // An unknown mode was refused before. If it were not, no profile would grant all of these.
    fallocate_access(mode).unwrap_or(Access::FALLOCATES)
}

/// Returns the access for a mode of fallocate, or `None` if it is unknown or not for guests. The
/// filter of host calls allows exactly these modes, so no other may reach the host.
pub(super) fn fallocate_access(mode: FallocateMode) -> Option<Access> {
    let keep = FallocateMode::KEEP_SIZE;
    let ways = [
        (FallocateMode::empty(), Access::FALLOCATE),
        (keep, Access::FALLOCATE),
        (FallocateMode::PUNCH_HOLE | keep, Access::FALLOCATE_PUNCH),
        (FallocateMode::ZERO_RANGE, Access::FALLOCATE_ZERO),
        (FallocateMode::ZERO_RANGE | keep, Access::FALLOCATE_ZERO),
        (FallocateMode::COLLAPSE_RANGE, Access::FALLOCATE_SHIFT),
        (FallocateMode::INSERT_RANGE, Access::FALLOCATE_SHIFT),
    ];
    ways.into_iter().find(|(known, _)| *known == mode).map(|(_, access)| access)
}

impl Requirements for protocol::ReadDirPlus {
    fn accesses(&self) -> Access {
        Access::LIST | Access::LOOKUP | Access::STAT
    }

    /// The policy check of each name follows when the name is listed.
    fn demands(&self, _: u64, each: Each<'_>) {
        each(Demand { place: handle(self.list.handle), access: Access::LIST });
    }
}

impl Requirements for protocol::CopyFileRange {
    fn demands(&self, _: u64, each: Each<'_>) {
        each(Demand { place: handle(self.from), access: Access::COPY_RANGE | Access::READ });
        each(Demand { place: handle(self.to), access: Access::COPY_RANGE | Access::WRITE });
    }
}

impl Requirements for protocol::Link<'_> {
    fn demands(&self, node: u64, each: Each<'_>) {
        each(Demand { place: Place::Node(self.target.0), access: Access::LINK });
        each(Demand { place: child(node, self.name), access: Access::LINK });
    }

    fn moves(&self, node: u64) -> Option<Move<'_>> {
        Some(Move { from: Place::Node(self.target.0), to: child(node, self.name), exchange: false })
    }
}

impl Requirements for Rename<'_> {
    fn demands(&self, node: u64, each: Each<'_>) {
        let mut needed = Access::RENAME;
        needed.set(Access::EXCHANGE, self.flags.contains(RenameFlags::EXCHANGE));
        needed.set(Access::WHITEOUT, self.flags.contains(RenameFlags::WHITEOUT));
        each(Demand { place: child(node, self.name), access: needed });
        // The whiteout is made at the old name.
        let to = child(self.new_directory.0, self.new_name);
        each(Demand { place: to, access: needed - Access::WHITEOUT });
    }

    fn moves(&self, node: u64) -> Option<Move<'_>> {
        Some(Move {
            from: child(node, self.name),
            to: child(self.new_directory.0, self.new_name),
            exchange: self.flags.contains(RenameFlags::EXCHANGE),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use pinhole_protocol::{LockKind, NodeId};

    #[test]
    fn opening_for_append_needs_no_right_to_overwrite() {
        // O_WRONLY | O_APPEND.
        let open = Open { flags: OpenFlags::from_bits_retain(1) | OpenFlags::APPEND, kill_suidgid: false };
        assert_eq!(open.accesses(), Access::APPEND);
    }

    #[test]
    fn a_character_device_without_a_number_is_a_whiteout() {
        let name = Name::parse(c"n").unwrap();
        let made = |kind| MkNod { name, kind, mode: 0o600, umask: 0 }.accesses();
        assert_eq!(made(NodeKind::CharacterDevice(0)), Access::WHITEOUT);
        assert_eq!(made(NodeKind::CharacterDevice(0x103)), Access::MKNOD_CHAR);
        assert_eq!(made(NodeKind::BlockDevice(0)), Access::MKNOD_BLOCK);
    }

    #[test]
    fn each_mode_of_fallocate_has_its_own_access() {
        let needed = |mode| {
            let handle = Handle(1);
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

    #[test]
    fn no_other_open_flag_requires_an_access() {
        let needed = |bits| Open { flags: OpenFlags::from_bits_retain(bits), kill_suidgid: false }.accesses();
        for access in 0..3 {
            for bit in (2..32).map(|shift| 1 << shift) {
                let more = match OpenFlags::from_bits_retain(bit) {
                    OpenFlags::TRUNC => Access::TRUNCATE,
                    // Requires less, not more, as tested above.
                    OpenFlags::APPEND => continue,
                    _ => Access::empty(),
                };
                assert_eq!(needed(access | bit), needed(access) | more, "{access} {bit:#o}");
            }
        }
    }

    #[test]
    fn a_lock_requires_an_access_and_an_unlock_none() {
        let needed = |kind| {
            let (owner, handle) = (protocol::LockOwner(1), Handle(1));
            let lock = protocol::LockRange { handle, owner, start: 0, end: 9, kind, pid: 1, flock: false };
            protocol::SetLock { lock, wait: false }.accesses()
        };
        let kinds = [Some(LockKind::Read), Some(LockKind::Write), None];
        assert_eq!(kinds.map(needed), [Access::LOCK, Access::LOCK, Access::empty()]);
    }

    #[test]
    fn each_mode_of_fallocate_has_its_access_or_none() {
        let known: Vec<u32> = (0..=u32::from(u8::MAX))
            .filter(|mode| fallocate_access(FallocateMode::from_bits_retain(*mode)).is_some())
            .collect();
        // Plain and zero, both also with KEEP_SIZE. Punch, only with KEEP_SIZE. Collapse and
        // insert.
        assert_eq!(known, [0, 1, 3, 8, 0x10, 0x11, 0x20]);
    }

    #[test]
    fn each_rename_flag_requires_more_than_a_rename() {
        let name = Name::parse(c"n").unwrap();
        let needed = |flags| Rename { name, new_directory: NodeId(1), new_name: name, flags }.accesses();
        assert_eq!(needed(RenameFlags::empty()), Access::RENAME);
        assert_eq!(needed(RenameFlags::NOREPLACE), Access::RENAME);
        assert_eq!(needed(RenameFlags::EXCHANGE), Access::RENAME | Access::EXCHANGE);
        assert_eq!(needed(RenameFlags::WHITEOUT), Access::RENAME | Access::WHITEOUT);
        // The decoder refuses all other flags.
        assert_eq!(RenameFlags::all().bits(), 7);
    }

    #[test]
    fn a_lookup_of_dots_is_checked_at_its_directory() {
        for name in [LookupName::Itself, LookupName::Parent] {
            let mut places = Vec::new();
            protocol::Lookup { name }.demands(7, &mut |demand| places.push(format!("{demand:?}")));
            let expected = Demand { place: Place::Node(7), access: Access::LOOKUP };
            assert_eq!(places, [format!("{expected:?}")]);
        }
    }

    #[test]
    fn operations_on_a_name_are_checked_at_the_name() {
        let (name, other) = (Name::parse(c"n").unwrap(), Name::parse(c"m").unwrap());
        let asked = |operation: &dyn Requirements| {
            let mut places = Vec::new();
            operation.demands(7, &mut |demand| places.push(format!("{:?}", demand.place)));
            places
        };
        let at_name = format!("{:?}", child(7, name));
        let open = Open { flags: OpenFlags::empty(), kill_suidgid: false };
        let by_name: [&dyn Requirements; 6] = [
            &protocol::Lookup { name: name.into() },
            &protocol::Unlink { name },
            &protocol::RmDir { name },
            &protocol::SymLink { name, target: c"t" },
            &protocol::MkDir { name, mode: 0, umask: 0 },
            &Create { name, open, mode: 0, umask: 0 },
        ];
        for operation in by_name {
            assert_eq!(asked(operation), [at_name.as_str()]);
        }
        let rename = Rename { name, new_directory: NodeId(9), new_name: other, flags: RenameFlags::empty() };
        assert_eq!(asked(&rename), [at_name.clone(), format!("{:?}", child(9, other))]);
        let link = protocol::Link { target: NodeId(5), name };
        assert_eq!(asked(&link), [format!("{:?}", Place::Node(5)), at_name]);
        let tmp = TmpFile { open, mode: 0, umask: 0 };
        assert_eq!(asked(&tmp), [format!("{:?}", Place::Unnamed { directory: 7 })]);
    }
}
