//! The ioctls that a guest may use: those that read or change the flags of an inode.
//!
//! All other ioctls return ENOTTY, as on a file system without ioctls.

use crate::filesystem::InodeFlags;
use pinhole_protocol::{Errno, Ioctl};

/// `FS_IOC_GETFLAGS`, `FS_IOC_SETFLAGS` and `FS_IOC_FSGETXATTR` of `linux/fs.h`, as 64-bit programs
/// use them. Linux sends the last one before it changes flags.
const GET_FLAGS: u32 = 0x8008_6601;
const SET_FLAGS: u32 = 0x4008_6602;
const GET_EXTENDED: u32 = 0x801c_581f;

/// Bytes of `struct fsxattr`.
const EXTENDED_LEN: usize = 28;

/// Pairs of `FS_*_FL` and `FS_XFLAG_*` (`fileattr_fill_flags` in the kernel's `fs/file_attr.c`).
const EXTENDED: [(u32, u32); 7] = [
    (0x10, 0x8),
    (0x20, 0x10),
    (0x8, 0x20),
    (0x80, 0x40),
    (0x40, 0x80),
    (0x2000_0000, 0x200),
    (0x0200_0000, 0x8000),
];

/// The form of the reply.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum ReplyForm {
    /// The flags, as an `int`.
    Plain,
    /// The flags, in a `struct fsxattr`.
    Extended,
    /// Success without data.
    Nothing,
}

/// Returns the operation on the host for an ioctl, and the form of its reply.
///
/// # Errors
/// ENOTTY for an ioctl that is not served, EINVAL for wrong sizes.
pub(super) fn decode(ioctl: &Ioctl<'_>) -> Result<(InodeFlags, ReplyForm), Errno> {
    let handle = ioctl.handle;
    let room = usize::try_from(ioctl.output_len).unwrap_or(usize::MAX);
    let read = |form: ReplyForm, len: usize| {
        if room < len { Err(Errno::EINVAL) } else { Ok((InodeFlags { handle, set: None }, form)) }
    };
    match ioctl.command {
        GET_FLAGS => read(ReplyForm::Plain, size_of::<u32>()),
        GET_EXTENDED => read(ReplyForm::Extended, EXTENDED_LEN),
        SET_FLAGS => {
            let flags = ioctl.input.first_chunk().ok_or(Errno::EINVAL)?;
            Ok((InodeFlags { handle, set: Some(u32::from_le_bytes(*flags)) }, ReplyForm::Nothing))
        }
        _ => Err(Errno::ENOTTY),
    }
}

/// Encodes the flags in the given form: the bytes that the ioctl writes.
pub(super) fn encode(flags: u32, form: ReplyForm) -> Vec<u8> {
    match form {
        ReplyForm::Plain => flags.to_le_bytes().to_vec(),
        ReplyForm::Extended => {
            let extended = EXTENDED.iter().filter(|(plain, _)| flags & plain != 0);
            let extended = extended.fold(0, |all: u32, (_, extended)| all | extended);
            // A share has no extent size, extents or project.
            let mut bytes = extended.to_le_bytes().to_vec();
            bytes.resize(EXTENDED_LEN, 0);
            bytes
        }
        ReplyForm::Nothing => Vec::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use pinhole_protocol::{Handle, IoctlFlags};

    fn ioctl(command: u32, input: &[u8], output_len: u32) -> Ioctl<'_> {
        Ioctl { handle: Handle(1), flags: IoctlFlags::empty(), command, argument: 0, input, output_len }
    }

    #[test]
    fn nothing_but_inode_flags_is_served() {
        // TCGETS, FICLONE, FS_IOC_ENABLE_VERITY, FS_IOC_SET_ENCRYPTION_POLICY, FS_IOC_FSSETXATTR,
        // FITRIM.
        for command in [0x5401, 0x4004_9409, 0x4080_6685, 0x800c_6613, 0x401c_5820, 0xc018_5879] {
            assert_eq!(decode(&ioctl(command, &[0; 128], 128)), Err(Errno::ENOTTY), "{command:#x}");
        }
    }

    #[test]
    fn sizes_that_are_too_small_are_refused() {
        assert_eq!(decode(&ioctl(GET_FLAGS, &[], 3)), Err(Errno::EINVAL));
        assert_eq!(decode(&ioctl(GET_EXTENDED, &[], 27)), Err(Errno::EINVAL));
        assert_eq!(decode(&ioctl(SET_FLAGS, &[0; 3], 0)), Err(Errno::EINVAL));
        let set = InodeFlags { handle: Handle(1), set: Some(0x10) };
        assert_eq!(decode(&ioctl(SET_FLAGS, &[0x10, 0, 0, 0], 0)), Ok((set, ReplyForm::Nothing)));
    }

    #[test]
    fn flags_are_encoded_in_both_forms() {
        assert_eq!(encode(0x30, ReplyForm::Plain), [0x30, 0, 0, 0]);
        let extended = encode(0x30, ReplyForm::Extended);
        assert_eq!((extended.len(), extended[0]), (28, 0x18));
    }
}
