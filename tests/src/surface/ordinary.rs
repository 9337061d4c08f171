//! Requests of ordinary guests: one function for each family of operations. Names that a round
//! makes contain its number, so that a file that one round leaves behind does not change the next.
//!
//! Most later requests are sent even if an earlier one is refused. A node that was not found or
//! made is replaced by one that exists. A file handle for writing is replaced by one for reading.
//! After a refused CREATE or TMPFILE, its WRITE and RELEASE are left out.

use super::guest::{OWNER, ROOM, Result, SurfaceGuest};
use super::share::FILE_LEN;
use crate::frontend::frame::opcode::{
    ACCESS, BMAP, COPY_FILE_RANGE, CREATE, FALLOCATE, FLUSH, FSYNC, FSYNCDIR, GETATTR, GETLK, GETXATTR,
    INTERRUPT, IOCTL, LINK, LISTXATTR, LOOKUP, LSEEK, MKDIR, MKNOD, OPENDIR, POLL, READ, READDIR,
    READDIRPLUS, READLINK, RELEASEDIR, REMOVEMAPPING, REMOVEXATTR, RENAME, RENAME2, RMDIR, SETATTR, SETLK,
    SETLKW, SETUPMAPPING, SETXATTR, STATFS, STATX, SYMLINK, SYNCFS, TMPFILE, UNLINK, WRITE,
};
use crate::frontend::frame::{Frame, u32_at, u64_at};
use crate::linux::{
    ATTR_LEN, O_APPEND, O_DIRECTORY, O_DSYNC, O_RDONLY, O_RDWR, O_SYNC, O_TRUNC, O_WRONLY, ROOT,
};

/// Bits of `fuse_setattr_in.valid`.
mod valid {
    pub(super) const MODE: u32 = 1;
    pub(super) const UID: u32 = 2;
    pub(super) const GID: u32 = 4;
    pub(super) const SIZE: u32 = 8;
    pub(super) const ATIME: u32 = 16;
    pub(super) const MTIME: u32 = 32;
    pub(super) const HANDLE: u32 = 64;
    pub(super) const ATIME_NOW: u32 = 128;
    pub(super) const MTIME_NOW: u32 = 256;
    pub(super) const KILL_SUIDGID: u32 = 2048;
}

/// User and group of the caller that is not root.
const USER: u32 = 1000;

/// Nodes that the families of a round use.
struct Scene {
    round: u32,
    file: u64,
    other: u64,
    dir: u64,
    moves: u64,
    link: u64,
}

impl Scene {
    /// Returns a name that contains the round.
    fn name(&self, name: &str) -> String {
        format!("{name}-{}", self.round)
    }
}

/// Plays one round of all requests.
pub(super) fn play(guest: &mut SurfaceGuest, round: u32) -> Result<()> {
    let scene = Scene {
        round,
        file: guest.lookup(ROOT, "file")?,
        other: guest.lookup(ROOT, "other")?,
        dir: guest.lookup(ROOT, "dir")?,
        moves: guest.lookup(ROOT, "moves")?,
        link: guest.lookup(ROOT, "link")?,
    };
    metadata(guest, &scene)?;
    attributes(guest, &scene)?;
    reading(guest, &scene)?;
    writing(guest, &scene)?;
    making(guest, &scene)?;
    nodes(guest, &scene)?;
    moving(guest, &scene)?;
    listing(guest, &scene)?;
    xattrs(guest, &scene)?;
    locks(guest, &scene)?;
    rest(guest, &scene)
}

/// Sends requests for names, attributes and the file system.
fn metadata(guest: &mut SurfaceGuest, scene: &Scene) -> Result<()> {
    guest.lookup(scene.dir, "inner")?;
    guest.lookup(ROOT, "fifo")?;
    guest.lookup(ROOT, "missing")?;
    guest.lookup(ROOT, &"n".repeat(255))?;
    for node in [ROOT, scene.file, scene.dir, scene.link] {
        guest.request(Frame::new(GETATTR, node).u32(0).u32(0).u64(0), ATTR_LEN)?;
        guest.send(Frame::new(ACCESS, node).u32(4).u32(0))?;
    }
    guest.send(Frame::new(STATX, scene.file).u32(0).u32(0).u64(0).u32(0).u32(0xfff))?;
    guest.send(Frame::new(READLINK, scene.link))?;
    guest.send(Frame::new(STATFS, ROOT))
}

/// Returns a SETATTR that changes the attributes in `valid`. Mode, owner and times are the same in
/// each.
fn set_attr(node: u64, valid: u32, handle: u64, size: u64) -> Frame {
    let times = Frame::new(SETATTR, node).u32(valid).u32(0).u64(handle).u64(size).u64(OWNER);
    let times = times.u64(1_000_000).u64(2_000_000).u64(0).u32(5).u32(6).u32(0);
    times.u32(0o640).u32(0).u32(USER).u32(USER).u32(0)
}

/// Sends SETATTR for mode, owner, size and times, each set also without the size.
fn attributes(guest: &mut SurfaceGuest, scene: &Scene) -> Result<()> {
    let sets = [
        valid::MODE,
        valid::UID | valid::GID,
        valid::UID | valid::KILL_SUIDGID,
        valid::SIZE,
        valid::SIZE | valid::KILL_SUIDGID,
        valid::ATIME | valid::MTIME,
        valid::ATIME | valid::ATIME_NOW | valid::MTIME | valid::MTIME_NOW,
    ];
    for valid in sets {
        guest.request(set_attr(scene.other, valid, 0, FILE_LEN / 2), ATTR_LEN)?;
        guest.request(set_attr(scene.other, valid & !valid::SIZE, 0, 0), ATTR_LEN)?;
    }
    guest.request(set_attr(scene.link, valid::ATIME | valid::MTIME, 0, 0), ATTR_LEN)?;
    guest.request(set_attr(scene.dir, valid::MTIME | valid::MTIME_NOW, 0, 0), ATTR_LEN)?;
    guest.request(set_attr(scene.other, valid::SIZE, 0, FILE_LEN), ATTR_LEN).map(drop)
}

/// Returns a READ.
fn read(node: u64, handle: u64, offset: u64, size: u32) -> Frame {
    Frame::new(READ, node).u64(handle).u64(offset).u32(size).u32(0).u64(0).u32(0).u32(0)
}

/// Returns an LSEEK from offset 0.
fn seek(node: u64, handle: u64, whence: u32) -> Frame {
    Frame::new(LSEEK, node).u64(handle).u64(0).u32(whence).u32(0)
}

/// Returns a FLUSH.
fn flush(node: u64, handle: u64) -> Frame {
    Frame::new(FLUSH, node).u64(handle).u32(0).u32(0).u64(OWNER)
}

/// Sends READ, LSEEK, GETATTR with a file handle, and FLUSH. The second file is not in the host's
/// page cache in the first round.
fn reading(guest: &mut SurfaceGuest, scene: &Scene) -> Result<()> {
    let cold = guest.lookup(ROOT, "cold")?;
    for node in [scene.file, cold] {
        let handle = guest.open(node, O_RDONLY)?.unwrap_or(0);
        for size in [1, 4096, 128 << 10, 1 << 20] {
            let room = usize::try_from(size).unwrap_or(0);
            guest.request(read(node, handle, 0, size), room)?;
            guest.request(read(node, handle, FILE_LEN - 1, size), room)?;
        }
        guest.request(Frame::new(GETATTR, node).u32(1).u32(0).u64(handle), ATTR_LEN)?;
        // SEEK_DATA, SEEK_HOLE, SEEK_END.
        for whence in [3, 4, 2] {
            guest.send(seek(node, handle, whence))?;
        }
        guest.send(flush(node, handle))?;
        guest.release(node, handle)?;
    }
    Ok(())
}

/// Returns a WRITE without FUSE write flags, for a file opened for reading and writing.
fn write(node: u64, handle: u64, offset: u64, data: &[u8]) -> Frame {
    write_flagged(node, handle, offset, (0, O_RDWR), data)
}

/// Returns a WRITE with these FUSE write flags and open flags.
fn write_flagged(node: u64, handle: u64, offset: u64, (write, open): (u32, u32), data: &[u8]) -> Frame {
    let size = u32::try_from(data.len()).unwrap_or(u32::MAX);
    let frame = Frame::new(WRITE, node).u64(handle).u64(offset).u32(size).u32(write);
    frame.u64(OWNER).u32(open).u32(0).bytes(data)
}

/// Opens a file in four ways, and sends WRITE, SETATTR of the size and FLUSH for each. Then opens
/// it for reading and writing, and sends FALLOCATE, COPY_FILE_RANGE and FSYNC.
fn writing(guest: &mut SurfaceGuest, scene: &Scene) -> Result<()> {
    let node = scene.file;
    let reading = guest.open(node, O_RDONLY)?.unwrap_or(0);
    for flags in [O_RDWR, O_WRONLY | O_APPEND, O_WRONLY | O_DSYNC, O_RDWR | O_TRUNC] {
        let opened = guest.open(node, flags)?;
        let handle = opened.unwrap_or(reading);
        guest.send(write(node, handle, 0, b"written"))?;
        guest.send(write(node, handle, 4096, &vec![7; 128 << 10]))?;
        // The write flags CACHE and KILL_SUIDGID, then the open flags O_DSYNC and O_SYNC.
        for flags in [(1, O_RDWR), (4, O_RDWR), (0, O_WRONLY | O_DSYNC), (0, O_WRONLY | O_SYNC)] {
            guest.send(write_flagged(node, handle, 8192, flags, &[8; 4096]))?;
        }
        guest.request(set_attr(node, valid::SIZE | valid::HANDLE, handle, FILE_LEN), ATTR_LEN)?;
        guest.send(flush(node, handle))?;
        if let Some(handle) = opened {
            guest.release(node, handle)?;
        }
    }
    let opened = guest.open(node, O_RDWR)?;
    let handle = opened.unwrap_or(reading);
    // Reserve; the same without a new size; punch; zero; collapse; insert.
    for (mode, offset) in [(0, FILE_LEN), (1, FILE_LEN), (3, 0), (0x10, 8192), (8, 0), (0x20, 0)] {
        let frame = Frame::new(FALLOCATE, node).u64(handle).u64(offset).u64(4096).u32(mode).u32(0);
        guest.send(frame)?;
    }
    let copy = Frame::new(COPY_FILE_RANGE, node).u64(handle).u64(0).u64(node).u64(handle);
    guest.send(copy.u64(FILE_LEN / 2).u64(4096).u64(0))?;
    for flags in [0, 1] {
        guest.send(Frame::new(FSYNC, node).u64(handle).u32(flags).u32(0))?;
    }
    if let Some(handle) = opened {
        guest.release(node, handle)?;
    }
    guest.release(node, reading)
}

/// Sends CREATE or TMPFILE and returns node and file handle. Returns `fallback` and no file handle
/// if the request is refused.
fn create(guest: &mut SurfaceGuest, frame: Frame, fallback: u64) -> Result<(u64, Option<u64>)> {
    let Some(body) = guest.request(frame, 128 + 16)? else { return Ok((fallback, None)) };
    Ok((guest.learn(&body), u64_at(&body, 128).ok()))
}

/// Makes files, directories and symbolic links, as root and as another user. Then, as root, makes a
/// hard link, removes all of these, and makes a file without a name.
fn making(guest: &mut SurfaceGuest, scene: &Scene) -> Result<()> {
    for (name, caller) in [("roots", 0), ("users", USER)] {
        let name = scene.name(name);
        let frame = Frame::new(CREATE, scene.dir).u32(O_RDWR).u32(0o100_644).u32(0o22).u32(0);
        let (node, handle) = create(guest, frame.name(&name).caller(caller, caller), scene.file)?;
        if let Some(handle) = handle {
            guest.send(write(node, handle, 0, b"new"))?;
            guest.release(node, handle)?;
        }
        let folder = scene.name(&format!("folder-{caller}"));
        let frame = Frame::new(MKDIR, scene.dir).u32(0o755).u32(0o22).name(&folder);
        guest.entry(frame.caller(caller, caller), scene.dir)?;
        let target = scene.name(&format!("symlink-{caller}"));
        let frame = Frame::new(SYMLINK, scene.dir).name(&target).name("../file");
        let link = guest.entry(frame.caller(caller, caller), scene.link)?;
        guest.send(Frame::new(READLINK, link))?;
        let hard = scene.name(&format!("hard-{caller}"));
        guest.entry(Frame::new(LINK, scene.dir).u64(node).name(&hard), scene.file)?;
        for name in [name, target, hard] {
            guest.send(Frame::new(UNLINK, scene.dir).name(&name))?;
        }
        guest.send(Frame::new(RMDIR, scene.dir).name(&folder))?;
    }
    let frame = Frame::new(TMPFILE, scene.dir).u32(O_RDWR).u32(0o100_600).u32(0).u32(0).name("/");
    let (node, handle) = create(guest, frame, scene.file)?;
    if let Some(handle) = handle {
        guest.send(write(node, handle, 0, b"unnamed"))?;
        guest.release(node, handle)?;
    }
    Ok(())
}

/// Sends MKNOD of each type: file, FIFO, socket, character device, block device, whiteout.
fn nodes(guest: &mut SurfaceGuest, scene: &Scene) -> Result<()> {
    let kinds = [
        (0o100_000, 0),
        (0o010_000, 0),
        (0o140_000, 0),
        (0o020_000, 0x103),
        (0o060_000, 0x700),
        (0o020_000, 0),
    ];
    for (number, (kind, device)) in kinds.into_iter().enumerate() {
        let name = scene.name(&format!("node-{number}"));
        let frame = Frame::new(MKNOD, scene.dir).u32(kind | 0o644).u32(device).u32(0o22).u32(0).name(&name);
        let node = guest.entry(frame, scene.file)?;
        guest.request(Frame::new(GETATTR, node).u32(0).u32(0).u64(0), ATTR_LEN)?;
        guest.send(Frame::new(UNLINK, scene.dir).name(&name))?;
    }
    Ok(())
}

/// Sends RENAME and RENAME2 with each flag.
fn moving(guest: &mut SurfaceGuest, scene: &Scene) -> Result<()> {
    let (from, to) = (scene.name("from"), scene.name("to"));
    let frame = Frame::new(MKNOD, scene.dir).u32(0o100_644).u32(0).u32(0).u32(0).name(&from);
    guest.entry(frame, scene.file)?;
    guest.send(Frame::new(RENAME, scene.dir).u64(scene.moves).name(&from).name(&to))?;
    guest.send(Frame::new(LOOKUP, scene.moves).name(&to))?;
    // RENAME_NOREPLACE back to the old name; RENAME_EXCHANGE twice; RENAME_WHITEOUT.
    let rename = |from: (u64, &str), to: (u64, &str), flags: u32| {
        Frame::new(RENAME2, from.0).u64(to.0).u32(flags).u32(0).name(from.1).name(to.1)
    };
    guest.send(rename((scene.moves, &to), (scene.dir, &from), 1))?;
    guest.send(rename((scene.dir, &from), (scene.dir, "inner"), 2))?;
    guest.send(rename((scene.dir, &from), (scene.dir, "inner"), 2))?;
    guest.send(rename((scene.dir, &from), (scene.dir, &to), 4))?;
    for name in [&from, &to] {
        guest.send(Frame::new(UNLINK, scene.dir).name(name))?;
    }
    let (one, two) = (scene.name("one"), scene.name("two"));
    guest.entry(Frame::new(MKDIR, scene.dir).u32(0o755).u32(0).name(&one), scene.dir)?;
    guest.send(Frame::new(RENAME, scene.dir).u64(scene.moves).name(&one).name(&two))?;
    guest.send(Frame::new(RMDIR, scene.moves).name(&two))
}

/// Lists directories by READDIR and READDIRPLUS.
fn listing(guest: &mut SurfaceGuest, scene: &Scene) -> Result<()> {
    let list = guest.lookup(ROOT, "list")?;
    for node in [ROOT, list, scene.moves] {
        let body = guest.request(Frame::new(OPENDIR, node).u32(O_DIRECTORY).u32(0), 16)?;
        let handle = body.and_then(|body| u64_at(&body, 0).ok()).unwrap_or(0);
        let page = |opcode, offset: u64, size: u32| {
            let frame = Frame::new(opcode, node).u64(handle).u64(offset).u32(size);
            frame.u32(0).u64(0).u32(0).u32(0)
        };
        guest.request(page(READDIR, 0, 4096), ROOM)?;
        let mut offset = 0;
        while let Some(body) =
            guest.request(page(READDIRPLUS, offset, 4096), ROOM)?.filter(|body| !body.is_empty())
        {
            offset = learn_listed(guest, &body).unwrap_or(u64::MAX);
        }
        guest.send(Frame::new(FSYNCDIR, node).u64(handle).u32(0).u32(0))?;
        guest.send(Frame::new(RELEASEDIR, node).u64(handle).u32(0).u32(0).u64(0))?;
    }
    Ok(())
}

/// Remembers the nodes of a READDIRPLUS reply. Returns the offset after its last entry.
fn learn_listed(guest: &mut SurfaceGuest, mut body: &[u8]) -> Option<u64> {
    let mut offset = None;
    // An entry is `fuse_entry_out`, then inode, offset, length of the name, type and name, padded
    // to a multiple of eight bytes.
    while let (Ok(next), Ok(name_len)) = (u64_at(body, 136), u32_at(body, 144)) {
        guest.learn(body);
        offset = Some(next);
        let len = (152 + usize::try_from(name_len).ok()?).next_multiple_of(8);
        body = body.get(len..).unwrap_or_default();
    }
    offset
}

/// Access control list equivalent to mode 0644 (`linux/posix_acl_xattr.h`).
const ACL: [u8; 28] = [
    2, 0, 0, 0, 1, 0, 6, 0, 255, 255, 255, 255, 4, 0, 4, 0, 255, 255, 255, 255, 32, 0, 4, 0, 255, 255, 255,
    255,
];

/// Sends the requests for extended attributes, in each namespace and in an unknown one.
fn xattrs(guest: &mut SurfaceGuest, scene: &Scene) -> Result<()> {
    let names =
        ["user.kept", "user.made", "trusted.made", "security.made", "system.posix_acl_access", "other.made"];
    for node in [scene.file, scene.dir, scene.link] {
        for name in names {
            for size in [0, 256] {
                guest.send(Frame::new(GETXATTR, node).u32(size).u32(0).name(name))?;
                guest.send(Frame::new(LISTXATTR, node).u32(size).u32(0))?;
            }
            let value: &[u8] = if name.starts_with("system.") { &ACL } else { b"value" };
            let len = u32::try_from(value.len()).unwrap_or(0);
            guest.send(Frame::new(SETXATTR, node).u32(len).u32(0).name(name).bytes(value))?;
            if name != "user.kept" {
                guest.send(Frame::new(REMOVEXATTR, node).name(name))?;
            }
        }
    }
    Ok(())
}

/// Sends GETLK, SETLK and SETLKW.
fn locks(guest: &mut SurfaceGuest, scene: &Scene) -> Result<()> {
    let node = scene.file;
    let reading = guest.open(node, O_RDONLY)?.unwrap_or(0);
    let opened = guest.open(node, O_RDWR)?;
    let handle = opened.unwrap_or(reading);
    // First a range, as fcntl(2) locks it, then the whole file, as flock(2) does. Kind 0 is a read
    // lock, 1 a write lock and 2 an unlock.
    for (opcode, kind, whole) in [
        (GETLK, 1, 0),
        (SETLK, 0, 0),
        (SETLKW, 1, 0),
        (SETLK, 2, 0),
        (SETLK, 1, 1),
        (SETLKW, 0, 1),
        (SETLK, 2, 1),
    ] {
        let end = if whole == 0 { 99 } else { i64::MAX.unsigned_abs() };
        let frame = Frame::new(opcode, node).u64(handle).u64(OWNER).u64(0).u64(end);
        guest.send(frame.u32(kind).u32(1).u32(whole).u32(0))?;
    }
    guest.send(flush(node, handle))?;
    if let Some(handle) = opened {
        guest.release(node, handle)?;
    }
    guest.release(node, reading)
}

/// Sends the remaining operations: IOCTL, POLL, BMAP, mappings, SYNCFS and INTERRUPT.
fn rest(guest: &mut SurfaceGuest, scene: &Scene) -> Result<()> {
    let node = scene.file;
    let handle = guest.open(node, O_RDONLY)?.unwrap_or(0);
    let ioctl = |command, input: &[u8]| {
        let len = u32::try_from(input.len()).unwrap_or(0);
        let frame = Frame::new(IOCTL, node).u64(handle).u32(0).u32(command).u64(0).u32(len).u32(64);
        frame.bytes(input)
    };
    // FS_IOC_GETFLAGS, then FS_IOC_SETFLAGS with the flags that it returned, as chattr(1) does. The
    // flags follow the 16 bytes of `fuse_ioctl_out`.
    let told = guest.request(ioctl(0x8008_6601, &[]), 80)?.unwrap_or_default();
    let flags = told.get(16..20).unwrap_or(&[0; 4]);
    guest.send(ioctl(0x4008_6602, &[flags, &[0; 4]].concat()))?;
    // FS_IOC_MEASURE_VERITY, TCGETS.
    guest.send(ioctl(0xc004_6686, &[0; 4]))?;
    guest.send(ioctl(0x5401, &[]))?;
    guest.send(Frame::new(POLL, node).u64(handle).u64(0).u32(0).u32(1))?;
    guest.send(Frame::new(BMAP, node).u64(0).u32(4096).u32(0))?;
    guest.send(Frame::new(SETUPMAPPING, node).u64(u64::MAX).u64(0).u64(0x20_0000).u64(1).u64(0))?;
    guest.send(Frame::new(REMOVEMAPPING, node).u32(1).u64(0).u64(0x20_0000))?;
    guest.send(Frame::new(SYNCFS, ROOT).u64(0))?;
    guest.send_hiprio(Frame::new(INTERRUPT, 0).u64(4))?;
    guest.release(node, handle)
}
