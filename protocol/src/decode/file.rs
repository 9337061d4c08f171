//! Decodes bodies about an open file or directory: one function for each layout.

use super::body::{Body, known_bits, open_flags, strict_flags, when};
use crate::{
    CopyFileRange, DecodeError, Fallocate, FallocateMode, Flush, Fsync, FsyncDir, Handle, Ioctl, IoctlFlags,
    LockKind, LockOwner, LockRange, Lseek, NodeId, Open, OpenDir, OpenFlags, Poll, Read, ReadDir, Release,
    ReleaseDir, SetupMapping, Whence, Write, WriteFlags, abi,
};

pub(super) fn open(body: &mut Body<'_>) -> Result<Open, DecodeError> {
    let wire: &abi::OpenIn = body.take("fuse_open_in")?;
    super::body::open(wire.flags, wire.open_flags)
}

pub(super) fn open_dir(body: &mut Body<'_>) -> Result<OpenDir, DecodeError> {
    let wire: &abi::OpenIn = body.take("fuse_open_in")?;
    Ok(OpenDir { flags: open_flags(wire.flags)? })
}

pub(super) fn read(body: &mut Body<'_>) -> Result<Read, DecodeError> {
    let wire: &abi::ReadIn = body.take("fuse_read_in")?;
    let read_flags = known_bits("read_flags", wire.read_flags, abi::FUSE_READ_LOCKOWNER)?;
    Ok(Read {
        handle: Handle(wire.fh.get()),
        offset: wire.offset.get(),
        size: wire.size.get(),
        lock_owner: when(read_flags, abi::FUSE_READ_LOCKOWNER, LockOwner(wire.lock_owner.get())),
        flags: OpenFlags::from_bits_retain(wire.flags.get()),
    })
}

/// Decodes READDIR and READDIRPLUS. They have the layout of READ, but none of its options.
pub(super) fn read_dir(body: &mut Body<'_>) -> Result<ReadDir, DecodeError> {
    let wire: &abi::ReadIn = body.take("fuse_read_in")?;
    Ok(ReadDir { handle: Handle(wire.fh.get()), offset: wire.offset.get(), size: wire.size.get() })
}

pub(super) fn write(body: &mut Body<'_>, payload_len: usize) -> Result<Write, DecodeError> {
    let wire: &abi::WriteIn = body.take("fuse_write_in")?;
    let size = wire.size.get();
    if usize::try_from(size) != Ok(payload_len) {
        return Err(DecodeError::Count { what: "fuse_write_in.size", declared: size, have: payload_len });
    }
    let write_flags: WriteFlags = strict_flags("write_flags", wire.write_flags)?;
    let lock_owner = LockOwner(wire.lock_owner.get());
    Ok(Write {
        handle: Handle(wire.fh.get()),
        offset: wire.offset.get(),
        size,
        write_flags: write_flags.difference(WriteFlags::LOCKOWNER),
        lock_owner: write_flags.contains(WriteFlags::LOCKOWNER).then_some(lock_owner),
        flags: OpenFlags::from_bits_retain(wire.flags.get()),
    })
}

/// Decodes RELEASE. Unknown flags are ignored, because an error would leak the handle.
pub(super) fn release(body: &mut Body<'_>) -> Result<Release, DecodeError> {
    let wire: &abi::ReleaseIn = body.take("fuse_release_in")?;
    let release_flags = wire.release_flags.get();
    Ok(Release {
        handle: Handle(wire.fh.get()),
        flags: OpenFlags::from_bits_retain(wire.flags.get()),
        flush: release_flags & abi::FUSE_RELEASE_FLUSH != 0,
        flock_unlock: release_flags & abi::FUSE_RELEASE_FLOCK_UNLOCK != 0,
        lock_owner: LockOwner(wire.lock_owner.get()),
    })
}

pub(super) fn release_dir(body: &mut Body<'_>) -> Result<ReleaseDir, DecodeError> {
    let wire: &abi::ReleaseIn = body.take("fuse_release_in")?;
    Ok(ReleaseDir { handle: Handle(wire.fh.get()) })
}

pub(super) fn flush(body: &mut Body<'_>) -> Result<Flush, DecodeError> {
    let wire: &abi::FlushIn = body.take("fuse_flush_in")?;
    Ok(Flush { handle: Handle(wire.fh.get()), lock_owner: LockOwner(wire.lock_owner.get()) })
}

pub(super) fn fsync(body: &mut Body<'_>) -> Result<Fsync, DecodeError> {
    let wire: &abi::FsyncIn = body.take("fuse_fsync_in")?;
    Ok(Fsync { handle: Handle(wire.fh.get()), flags: strict_flags("fsync_flags", wire.fsync_flags)? })
}

pub(super) fn fsync_dir(body: &mut Body<'_>) -> Result<FsyncDir, DecodeError> {
    let Fsync { handle, flags } = fsync(body)?;
    Ok(FsyncDir { handle, flags })
}

/// Decodes GETLK, SETLK and SETLKW.
pub(super) fn lock_range(body: &mut Body<'_>) -> Result<LockRange, DecodeError> {
    let wire: &abi::LkIn = body.take("fuse_lk_in")?;
    let lk_flags = known_bits("lk_flags", wire.lk_flags, abi::FUSE_LK_FLOCK)?;
    Ok(LockRange {
        handle: Handle(wire.fh.get()),
        owner: LockOwner(wire.owner.get()),
        start: wire.lk.start.get(),
        end: wire.lk.end.get(),
        kind: LockKind::from_raw(wire.lk.r#type.get()).map_err(DecodeError::LockKind)?,
        pid: wire.lk.pid.get(),
        flock: lk_flags & abi::FUSE_LK_FLOCK != 0,
    })
}

pub(super) fn ioctl<'a>(body: &mut Body<'a>) -> Result<Ioctl<'a>, DecodeError> {
    let wire: &abi::IoctlIn = body.take("fuse_ioctl_in")?;
    let input_len = usize::try_from(wire.in_size.get()).unwrap_or(usize::MAX);
    Ok(Ioctl {
        handle: Handle(wire.fh.get()),
        flags: IoctlFlags::from_bits_retain(wire.flags.get()),
        command: wire.cmd.get(),
        argument: wire.arg.get(),
        input: body.take_bytes("ioctl input", input_len)?,
        output_len: wire.out_size.get(),
    })
}

/// Decodes POLL. The wake-up cookie and its flag are dropped, because virtio-fs cannot notify a
/// guest.
pub(super) fn poll(body: &mut Body<'_>) -> Result<Poll, DecodeError> {
    let wire: &abi::PollIn = body.take("fuse_poll_in")?;
    Ok(Poll { handle: Handle(wire.fh.get()), events: wire.events.get() })
}

pub(super) fn fallocate(body: &mut Body<'_>) -> Result<Fallocate, DecodeError> {
    let wire: &abi::FallocateIn = body.take("fuse_fallocate_in")?;
    let mode = wire.mode.get();
    Ok(Fallocate {
        handle: Handle(wire.fh.get()),
        offset: wire.offset.get(),
        length: wire.length.get(),
        mode: FallocateMode::from_bits(mode)
            .ok_or(DecodeError::UnknownFallocateMode(mode & !FallocateMode::all().bits()))?,
    })
}

pub(super) fn lseek(body: &mut Body<'_>) -> Result<Lseek, DecodeError> {
    let wire: &abi::LseekIn = body.take("fuse_lseek_in")?;
    let raw = wire.whence.get();
    let whence = Whence::from_raw(raw).ok_or(DecodeError::Whence(raw))?;
    Ok(Lseek { handle: Handle(wire.fh.get()), offset: wire.offset.get(), whence })
}

/// Decodes `COPY_FILE_RANGE` and `COPY_FILE_RANGE_64`.
pub(super) fn copy_file_range(body: &mut Body<'_>, wide_reply: bool) -> Result<CopyFileRange, DecodeError> {
    let wire: &abi::CopyFileRangeIn = body.take("fuse_copy_file_range_in")?;
    Ok(CopyFileRange {
        from: Handle(wire.fh_in.get()),
        from_offset: wire.off_in.get(),
        to_node: NodeId(wire.nodeid_out.get()),
        to: Handle(wire.fh_out.get()),
        to_offset: wire.off_out.get(),
        length: wire.len.get(),
        flags: wire.flags.get(),
        wide_reply,
    })
}

pub(super) fn setup_mapping(body: &mut Body<'_>) -> Result<SetupMapping, DecodeError> {
    const KNOWN: u64 = abi::FUSE_SETUPMAPPING_FLAG_READ | abi::FUSE_SETUPMAPPING_FLAG_WRITE;
    let wire: &abi::SetupmappingIn = body.take("fuse_setupmapping_in")?;
    let flags = wire.flags.get();
    if flags & !KNOWN != 0 {
        return Err(DecodeError::UnknownFlags { field: "setupmapping flags", bits: flags & !KNOWN });
    }
    Ok(SetupMapping {
        handle: Handle(wire.fh.get()),
        file_offset: wire.foffset.get(),
        length: wire.len.get(),
        read: flags & abi::FUSE_SETUPMAPPING_FLAG_READ != 0,
        write: flags & abi::FUSE_SETUPMAPPING_FLAG_WRITE != 0,
        window_offset: wire.moffset.get(),
    })
}
