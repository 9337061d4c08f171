//! Decodes bodies about a node or about the session: one function for each layout.

use super::body::{Body, known_bits, permissions, strict_flags, timestamp, when};
use crate::{
    Access, BMap, BatchForget, DecodeError, Forget, GetAttr, GetStatx, Handle, InitFlags, InitRequest,
    Interrupt, LockOwner, NodeId, RemoveMapping, SetAttr, SetTime, SyncFs, Unique, abi,
};
use zerocopy::FromBytes as _;
use zerocopy::little_endian::U32;

/// Maximum number of records of one REMOVEMAPPING (`FUSE_REMOVEMAPPING_MAX_ENTRY` with pages of
/// 4,096 bytes).
const REMOVE_COUNT_MAX: usize = 256;

pub(super) fn forget(body: &mut Body<'_>) -> Result<Forget, DecodeError> {
    let wire: &abi::ForgetIn = body.take("fuse_forget_in")?;
    Ok(Forget { count: wire.nlookup.get() })
}

pub(super) fn batch_forget<'a>(body: &mut Body<'a>) -> Result<BatchForget<'a>, DecodeError> {
    let wire: &abi::BatchForgetIn = body.take("fuse_batch_forget_in")?;
    let forgets = BatchForget::parse(body.take_rest())?;
    check_count("fuse_batch_forget_in", wire.count, forgets.records.len())?;
    Ok(forgets)
}

pub(super) fn remove_mapping<'a>(body: &mut Body<'a>) -> Result<RemoveMapping<'a>, DecodeError> {
    let wire: &abi::RemovemappingIn = body.take("fuse_removemapping_in")?;
    let mappings = RemoveMapping::parse(body.take_rest())?;
    check_count("fuse_removemapping_in", wire.count, mappings.records.len())?;
    Ok(mappings)
}

/// Checks that a declared count is the number of records.
fn check_count(what: &'static str, declared: U32, have: usize) -> Result<(), DecodeError> {
    match declared.get() {
        count if usize::try_from(count) == Ok(have) => Ok(()),
        declared => Err(DecodeError::Count { what, declared, have }),
    }
}

impl<'a> BatchForget<'a> {
    /// Parses packed `fuse_forget_one` records.
    ///
    /// # Errors
    /// [`DecodeError::Short`] if the last record is cut off.
    pub fn parse(records: &'a [u8]) -> Result<Self, DecodeError> {
        let records = <[abi::ForgetOne]>::ref_from_bytes(records)
            .map_err(|_size| cut_off("fuse_forget_one", records.len()))?;
        Ok(Self { records })
    }

    /// Returns the forgets in the guest's order.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = (NodeId, Forget)> + use<'a> {
        self.records.iter().map(|one| (NodeId(one.nodeid.get()), Forget { count: one.nlookup.get() }))
    }
}

impl<'a> RemoveMapping<'a> {
    /// Parses packed `fuse_removemapping_one` records, at most 256.
    ///
    /// # Errors
    /// [`DecodeError::Short`] if the last record is cut off, [`DecodeError::TooLong`] if there are
    /// too many.
    pub fn parse(records: &'a [u8]) -> Result<Self, DecodeError> {
        let len = records.len();
        let records = <[abi::RemovemappingOne]>::ref_from_bytes(records)
            .map_err(|_size| cut_off("fuse_removemapping_one", len))?;
        if records.len() > REMOVE_COUNT_MAX {
            return Err(DecodeError::TooLong { have: len });
        }
        Ok(Self { records })
    }

    /// Returns the window offset and the length of each range in bytes, in the guest's order.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = (u64, u64)> + use<'a> {
        self.records.iter().map(|one| (one.moffset.get(), one.len.get()))
    }
}

/// Returns the error for records of which the last one is cut off.
fn cut_off(what: &'static str, len: usize) -> DecodeError {
    // Both record types have 16 bytes.
    DecodeError::Short { what, need: len.next_multiple_of(16), have: len }
}

pub(super) fn get_attr(body: &mut Body<'_>) -> Result<GetAttr, DecodeError> {
    let wire: &abi::GetattrIn = body.take("fuse_getattr_in")?;
    let flags = known_bits("getattr_flags", wire.getattr_flags, abi::FUSE_GETATTR_FH)?;
    Ok(GetAttr { handle: when(flags, abi::FUSE_GETATTR_FH, Handle(wire.fh.get())) })
}

pub(super) fn get_statx(body: &mut Body<'_>) -> Result<GetStatx, DecodeError> {
    let wire: &abi::StatxIn = body.take("fuse_statx_in")?;
    let flags = known_bits("getattr_flags", wire.getattr_flags, abi::FUSE_GETATTR_FH)?;
    Ok(GetStatx {
        handle: when(flags, abi::FUSE_GETATTR_FH, Handle(wire.fh.get())),
        flags: wire.sx_flags.get(),
        mask: wire.sx_mask.get(),
    })
}

pub(super) fn set_attr(body: &mut Body<'_>) -> Result<SetAttr, DecodeError> {
    // Every bit up to the last one that fuse.h defines.
    const KNOWN: u32 = (abi::FATTR_KILL_SUIDGID << 1).wrapping_sub(1);
    let wire: &abi::SetattrIn = body.take("fuse_setattr_in")?;
    let valid = known_bits("fuse_setattr_in.valid", wire.valid, KNOWN)?;
    let set_time = |at: u32, now: u32, field, seconds, nanoseconds| {
        if valid & now != 0 {
            return Ok(Some(SetTime::Now));
        }
        let time = when(valid, at, ()).map(|()| timestamp(field, seconds, nanoseconds)).transpose()?;
        Ok::<_, DecodeError>(time.map(SetTime::At))
    };
    let atime = set_time(abi::FATTR_ATIME, abi::FATTR_ATIME_NOW, "atime", wire.atime, wire.atimensec)?;
    let mtime = set_time(abi::FATTR_MTIME, abi::FATTR_MTIME_NOW, "mtime", wire.mtime, wire.mtimensec)?;
    let ctime = when(valid, abi::FATTR_CTIME, ())
        .map(|()| timestamp("ctime", wire.ctime, wire.ctimensec))
        .transpose()?;
    Ok(SetAttr {
        handle: when(valid, abi::FATTR_FH, Handle(wire.fh.get())),
        mode: when(valid, abi::FATTR_MODE, permissions(wire.mode)),
        uid: when(valid, abi::FATTR_UID, wire.uid.get()),
        gid: when(valid, abi::FATTR_GID, wire.gid.get()),
        size: when(valid, abi::FATTR_SIZE, wire.size.get()),
        atime,
        mtime,
        ctime,
        lock_owner: when(valid, abi::FATTR_LOCKOWNER, LockOwner(wire.lock_owner.get())),
        kill_suidgid: valid & abi::FATTR_KILL_SUIDGID != 0,
    })
}

pub(super) fn init(body: &mut Body<'_>) -> Result<InitRequest, DecodeError> {
    let [major, minor]: &[U32; 2] = body.take("fuse_init_in")?;
    let (major, minor) = (major.get(), minor.get());
    // Bytes that newer guests append are ignored. A guest with a newer major version sends INIT
    // again in our version.
    let mut rest = Body::new(body.take_rest());
    if major != abi::FUSE_KERNEL_VERSION {
        return Ok(InitRequest { major, minor, max_readahead: 0, flags: InitFlags::empty() });
    }
    let [max_readahead, low]: &[U32; 2] = rest.take("fuse_init_in")?;
    let mut flags = InitFlags::from_bits_retain(u64::from(low.get()));
    if flags.contains(InitFlags::INIT_EXT) {
        let high: &U32 = rest.take("fuse_init_in.flags2")?;
        flags |= InitFlags::from_bits_retain(u64::from(high.get()) << 32);
    }
    Ok(InitRequest { major, minor, max_readahead: max_readahead.get(), flags })
}

pub(super) fn access(body: &mut Body<'_>) -> Result<Access, DecodeError> {
    let wire: &abi::AccessIn = body.take("fuse_access_in")?;
    Ok(Access { mask: strict_flags("access mask", wire.mask)? })
}

pub(super) fn interrupt(body: &mut Body<'_>) -> Result<Interrupt, DecodeError> {
    let wire: &abi::InterruptIn = body.take("fuse_interrupt_in")?;
    Ok(Interrupt { target: Unique(wire.unique.get()) })
}

pub(super) fn b_map(body: &mut Body<'_>) -> Result<BMap, DecodeError> {
    let wire: &abi::BmapIn = body.take("fuse_bmap_in")?;
    Ok(BMap { block: wire.block.get(), block_size: wire.blocksize.get() })
}

pub(super) fn sync_fs(body: &mut Body<'_>) -> Result<SyncFs, DecodeError> {
    let _: &abi::SyncfsIn = body.take("fuse_syncfs_in")?;
    Ok(SyncFs)
}
