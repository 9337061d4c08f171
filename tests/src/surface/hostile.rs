//! Requests that no driver sends. First those that decode: nodes and handles that do not exist,
//! invalid names, numbers out of every range. Then those that do not decode, and malformed
//! descriptor chains.

use super::guest::{ROOM, Result, SurfaceError, SurfaceGuest};
use crate::frontend::frame::Frame;
use crate::frontend::frame::opcode::{
    COPY_FILE_RANGE, CREATE, FALLOCATE, FLUSH, FORGET, GETATTR, GETXATTR, LINK, LOOKUP, LSEEK, MKDIR, MKNOD,
    OPEN_FILE, OPENDIR, READ, READDIR, READDIRPLUS, READLINK, RELEASE, RENAME, RENAME2, RMDIR, SETATTR,
    SETLK, SYMLINK, UNLINK, WRITE,
};
use crate::frontend::{Descriptor, MEMORY_LEN, MEMORY_START};
use crate::linux::{ATTR_LEN, ROOT};

/// Number of random messages.
const GARBAGE: u64 = 64;

/// Opcode that no kernel has.
const NO_OPCODE: u32 = 999;

/// Sends requests that decode.
pub(super) fn decodable(guest: &mut SurfaceGuest) -> Result<()> {
    let file = guest.lookup(ROOT, "file")?;
    let dir = guest.lookup(ROOT, "dir")?;
    unknown_ids(guest, file)?;
    names(guest, dir, file)?;
    odd_flags(guest, file)?;
    numbers(guest, file, &[1 << 62])?;
    guest.send_hiprio(Frame::new(FORGET, u64::MAX).u64(u64::MAX))?;
    guest.send(Frame::new(NO_OPCODE, file).u64(0))
}

/// Sends nodes and file handles that the daemon has not given out.
fn unknown_ids(guest: &mut SurfaceGuest, file: u64) -> Result<()> {
    for node in [0, file + 1000, file ^ 1 << 32, 1 << 63, u64::MAX] {
        guest.request(Frame::new(GETATTR, node).u32(0).u32(0).u64(0), ATTR_LEN)?;
        guest.send(Frame::new(LOOKUP, node).name("file"))?;
        guest.send(Frame::new(OPEN_FILE, node).u32(0).u32(0))?;
        guest.send(Frame::new(OPENDIR, node).u32(0).u32(0))?;
        guest.send(Frame::new(READLINK, node))?;
        guest.send(Frame::new(UNLINK, node).name("file"))?;
        guest.send(Frame::new(LINK, ROOT).u64(node).name("stranger"))?;
        guest.send(Frame::new(RENAME, ROOT).u64(node).name("file").name("stranger"))?;
        guest.send_hiprio(Frame::new(FORGET, node).u64(u64::MAX))?;
    }
    for handle in [1 << 20, 1 << 40, u64::MAX] {
        guest.send(Frame::new(READ, file).u64(handle).u64(0).u32(64).u32(0).u64(0).u32(0).u32(0))?;
        let write = Frame::new(WRITE, file).u64(handle).u64(0).u32(1).u32(0).u64(0).u32(0).u32(0);
        guest.send(write.bytes(b"x"))?;
        guest.send(Frame::new(FLUSH, file).u64(handle).u32(0).u32(0).u64(0))?;
        guest.send(Frame::new(RELEASE, file).u64(handle).u32(0).u32(0).u64(0))?;
        for opcode in [READDIR, READDIRPLUS] {
            guest.send(Frame::new(opcode, ROOT).u64(handle).u64(0).u32(1024).u32(0).u64(0).u32(0).u32(0))?;
        }
    }
    Ok(())
}

/// Sends names that are paths, and invalid names.
fn names(guest: &mut SurfaceGuest, dir: u64, file: u64) -> Result<()> {
    let long = "l".repeat(256);
    for name in ["dir/inner", "../file", "..", ".", "/", "/etc/hostname", &long] {
        let two = |frame: Frame| frame.name(name).name("plain");
        guest.send(Frame::new(LOOKUP, dir).name(name))?;
        guest.send(Frame::new(CREATE, dir).u32(2).u32(0o100_644).u32(0).u32(0).name(name))?;
        guest.send(Frame::new(MKNOD, dir).u32(0o100_644).u32(0).u32(0).u32(0).name(name))?;
        guest.send(Frame::new(MKDIR, dir).u32(0o755).u32(0).name(name))?;
        guest.send(Frame::new(SYMLINK, dir).name(name).name("target"))?;
        guest.send(Frame::new(LINK, dir).u64(file).name(name))?;
        guest.send(two(Frame::new(RENAME, dir).u64(ROOT)))?;
        guest.send(Frame::new(RMDIR, dir).name(name))?;
    }
    Ok(())
}

/// Sends modes and flags out of range.
fn odd_flags(guest: &mut SurfaceGuest, file: u64) -> Result<()> {
    let handle = guest.open(file, 0)?.unwrap_or(0);
    for flags in [0x3, 0x7f00_0000, u32::MAX] {
        guest.send(Frame::new(OPEN_FILE, file).u32(flags).u32(0))?;
        guest.send(Frame::new(CREATE, ROOT).u32(flags).u32(u32::MAX).u32(0).u32(0).name("file"))?;
        guest.send(Frame::new(RENAME2, ROOT).u64(ROOT).u32(flags).u32(0).name("file").name("other"))?;
        guest.send(Frame::new(FALLOCATE, file).u64(handle).u64(0).u64(1).u32(flags).u32(0))?;
        guest.send(Frame::new(MKNOD, ROOT).u32(flags).u32(0).u32(0).u32(0).name("odd"))?;
    }
    guest.send(Frame::new(GETXATTR, file).u32(1 << 16).u32(0).name("user.kept"))?;
    guest.release(file, handle)
}

/// Sends offsets and lengths beyond any file.
fn numbers(guest: &mut SurfaceGuest, file: u64, numbers: &[u64]) -> Result<()> {
    let handle = guest.open(file, 0)?.unwrap_or(0);
    for &number in numbers {
        guest.send(Frame::new(READ, file).u64(handle).u64(number).u32(64).u32(0).u64(0).u32(0).u32(0))?;
        let write = Frame::new(WRITE, file).u64(handle).u64(number).u32(1).u32(0).u64(0).u32(0).u32(0);
        guest.send(write.bytes(b"x"))?;
        guest.send(Frame::new(FALLOCATE, file).u64(handle).u64(number).u64(number).u32(0).u32(0))?;
        guest.send(Frame::new(LSEEK, file).u64(handle).u64(number).u32(99).u32(0))?;
        let copy = Frame::new(COPY_FILE_RANGE, file).u64(handle).u64(number).u64(file).u64(handle);
        guest.send(copy.u64(number).u64(number).u64(number))?;
        let lock = Frame::new(SETLK, file).u64(handle).u64(number).u64(number).u64(0);
        guest.send(lock.u32(9).u32(0).u32(0).u32(0))?;
        // FATTR_SIZE.
        let set = Frame::new(SETATTR, file).u32(8).u32(0).u64(0).u64(number);
        guest.send(set.bytes(&[0; 64]))?;
    }
    guest.release(file, handle)
}

/// Sends offsets that do not fit into `off_t`, then requests that do not decode, then malformed
/// chains. The daemon must return each request, with or without a reply. virtiofsd 1.14 ends at a
/// READ with such an offset.
pub(super) fn malformed(guest: &mut SurfaceGuest) -> Result<()> {
    let file = guest.lookup(ROOT, "file")?;
    numbers(guest, file, &[1 << 63, u64::MAX])?;
    let message = Frame::new(SETATTR, file).bytes(&[0; 88]).message();
    for len in 0..message.len() {
        raw(guest, message.get(..len).unwrap_or_default())?;
    }
    // Wrong lengths in the header, names without an end.
    for declared in [0, 39, 41, u32::MAX] {
        let rest = message.get(4..).unwrap_or_default();
        raw(guest, &[&u32::to_le_bytes(declared), rest].concat())?;
    }
    for opcode in 0..64 {
        raw(guest, &Frame::new(opcode, file).bytes(&[0x41; 7]).message())?;
    }
    let mut seed = 0x9e37_79b9_7f4a_7c15_u64;
    for number in 0..GARBAGE {
        let mut bytes = Vec::new();
        while bytes.len() < usize::try_from(number * 8).unwrap_or(0) {
            seed ^= seed << 13;
            seed ^= seed >> 7;
            seed ^= seed << 17;
            bytes.extend(seed.to_le_bytes());
        }
        raw(guest, &bytes)?;
    }
    chains(guest)
}

/// Sends any bytes and waits until the daemon returns them.
fn raw(guest: &mut SurfaceGuest, bytes: &[u8]) -> Result<()> {
    guest.frontend.raw(1, bytes, ROOM).map(drop).map_err(SurfaceError::wire("a malformed request"))
}

/// Sends chains outside memory, a loop, a writable descriptor before a readable one, and an empty
/// chain.
fn chains(guest: &mut SurfaceGuest) -> Result<()> {
    let (next, write) = (Descriptor::NEXT, Descriptor::WRITE);
    let descriptor = |address, flags, next| Descriptor { address, len: 64, flags, next };
    let inside = MEMORY_START + (32 << 20);
    let chains = [
        vec![descriptor(MEMORY_START + MEMORY_LEN, next, 1), descriptor(inside, write, 0)],
        vec![descriptor(u64::MAX - 8, next, 1), descriptor(inside, write, 0)],
        vec![descriptor(inside, next | write, 1), descriptor(inside, 0, 0)],
        vec![descriptor(inside, next, 1), descriptor(inside, next, 0)],
        vec![descriptor(inside, write, 0)],
    ];
    for chain in chains {
        guest.frontend.raw_chain(1, &chain).map_err(SurfaceError::wire("a malformed chain"))?;
    }
    Ok(())
}
