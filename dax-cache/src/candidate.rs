//! Decides whether a file is offered to the guest for mapping (`FUSE_ATTR_DAX` of its inode).
//!
//! A guest that maps a file reads and writes it only through the window, except for writes that
//! extend it. A range that cannot be mapped gives its programs EIO or SIGBUS: the guest does not
//! fall back to READ and WRITE. So a file is offered only if this front-end can map every range of
//! it, for every access that the guest has.
//!
//! The guest reads the flag when it learns of the inode. A change of the flag takes effect only
//! after the guest has dropped the inode (`fuse_dax_dontcache`).

use crate::{Capabilities, SLOT_LEN};

/// The files that the administrator wants to offer (`--dax`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Mode {
    /// Offer no file.
    Never,
    /// Offer the files that benefit from it, if that is safe.
    #[default]
    Auto,
    /// Offer every file that can be mapped with its current length, whatever its size. After a
    /// change of the length, its end may no longer be mappable.
    Always,
}

/// The kind of a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum FileKind {
    /// A regular file.
    Regular,
    /// A directory, symbolic link, FIFO, socket or device. The daemon never opens such a file for
    /// its data.
    Other,
}

/// A file that may be offered.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Candidate {
    /// Kind of the file.
    pub kind: FileKind,
    /// Length in bytes.
    pub len: u64,
    /// Whether the policy lets this guest change the length: write, truncate, fallocate. Other
    /// writers on the host do not count.
    pub len_may_change: bool,
    /// Whether the policy grants `map-read`.
    pub map_read: bool,
    /// Whether the policy grants `map-write`, and the host lets the daemon open the file `O_RDWR`.
    pub map_write: bool,
    /// Whether the policy grants writing by WRITE.
    pub write: bool,
}

/// The decision on a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Decision {
    /// The file is offered: `FUSE_ATTR_DAX` is set.
    Mappable,
    /// The file is not offered: the guest uses READ and WRITE.
    Unmappable(Unmappable),
}

impl Decision {
    /// Returns whether `FUSE_ATTR_DAX` is set.
    pub const fn is_mappable(self) -> bool {
        matches!(self, Self::Mappable)
    }
}

/// Why a file is not offered.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, thiserror::Error)]
pub enum Unmappable {
    /// The mode is [`Mode::Never`].
    #[error("DAX is switched off")]
    Off,
    /// Only regular files have pages to map.
    #[error("the file is not a regular file")]
    NotRegular,
    /// Every access starts with a mapping for reading.
    #[error("the policy does not grant map-read")]
    NotGranted,
    /// The guest may write the file by WRITE, but not through a mapping. Linux sends no WRITE for a
    /// mapped file, so permitted writes would fail.
    #[error("the guest may write the file, but not through a mapping")]
    WritesWouldFail,
    /// The front-end maps only descriptors that are open for writing, and the guest must not write.
    /// QEMU ignores a request for a read-only mapping and maps writable.
    #[error("the front-end cannot map a read-only descriptor")]
    ReadOnly,
    /// The front-end does not map past the end of a file, and the file ends within a slot. Linux
    /// maps whole slots, so it could not map the last slot of the file.
    #[error("the front-end does not map past the end of a file, and the file ends within a slot")]
    EndsWithinSlot,
    /// The front-end does not map past the end of a file, and the guest may extend or truncate the
    /// file. The file consists of whole slots now. After the change the front-end would refuse the
    /// last slot, and a guest that has the file open would still map it. [`Mode::Always`] accepts
    /// that.
    #[error("the front-end does not map past the end of a file, and the length may change")]
    LenMayChange,
    /// The file is shorter than the threshold. Each file costs at least one slot of the window and
    /// a round trip to the front-end.
    #[error("the file is shorter than the threshold")]
    Small,
}

impl Candidate {
    /// Decides whether to offer the file.
    ///
    /// `threshold` is in bytes and applies to [`Mode::Auto`] only.
    pub const fn decide(&self, capabilities: &Capabilities, mode: Mode, threshold: u64) -> Decision {
        match self.obstacle(capabilities, mode, threshold) {
            Some(why) => Decision::Unmappable(why),
            None => Decision::Mappable,
        }
    }

    /// Returns the first reason not to offer the file.
    const fn obstacle(&self, capabilities: &Capabilities, mode: Mode, threshold: u64) -> Option<Unmappable> {
        let auto = match mode {
            Mode::Never => return Some(Unmappable::Off),
            Mode::Auto => true,
            Mode::Always => false,
        };
        if let FileKind::Other = self.kind {
            return Some(Unmappable::NotRegular);
        }
        if !self.map_read {
            return Some(Unmappable::NotGranted);
        }
        if self.write && !self.map_write {
            return Some(Unmappable::WritesWouldFail);
        }
        if !self.map_write && !capabilities.read_only_descriptors {
            return Some(Unmappable::ReadOnly);
        }
        // An empty file has no partial slot, but gets one with its first byte. Most empty files are
        // created to be filled.
        let ends_within_slot = self.len == 0 || !self.len.is_multiple_of(SLOT_LEN);
        if !capabilities.past_end_of_file && ends_within_slot {
            return Some(Unmappable::EndsWithinSlot);
        }
        if !capabilities.past_end_of_file && self.len_may_change && auto {
            return Some(Unmappable::LenMayChange);
        }
        if auto && self.len < threshold {
            return Some(Unmappable::Small);
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const IMAGE: Candidate = Candidate {
        kind: FileKind::Regular,
        len: 8 * SLOT_LEN,
        len_may_change: false,
        map_read: true,
        map_write: true,
        write: true,
    };
    const READ_ONLY: Candidate = Candidate { map_write: false, write: false, ..IMAGE };

    fn refusal(candidate: Candidate, capabilities: Capabilities, mode: Mode) -> Option<Unmappable> {
        match candidate.decide(&capabilities, mode, SLOT_LEN) {
            Decision::Mappable => None,
            Decision::Unmappable(why) => Some(why),
        }
    }

    #[test]
    fn with_mode_never_no_file_is_offered() {
        for capabilities in [Capabilities::qemu(), Capabilities::replacing()] {
            assert_eq!(refusal(IMAGE, capabilities, Mode::Never), Some(Unmappable::Off));
        }
    }

    #[test]
    fn only_regular_files_are_offered() {
        let directory = Candidate { kind: FileKind::Other, ..IMAGE };
        assert_eq!(refusal(directory, Capabilities::replacing(), Mode::Always), Some(Unmappable::NotRegular));
    }

    #[test]
    fn a_file_without_map_read_is_not_offered() {
        let hidden = Candidate { map_read: false, ..IMAGE };
        assert_eq!(refusal(hidden, Capabilities::replacing(), Mode::Always), Some(Unmappable::NotGranted));
    }

    #[test]
    fn a_file_with_write_needs_map_write() {
        let by_request = Candidate { map_write: false, ..IMAGE };
        assert_eq!(
            refusal(by_request, Capabilities::replacing(), Mode::Always),
            Some(Unmappable::WritesWouldFail)
        );
    }

    #[test]
    fn a_read_only_file_needs_read_only_descriptors() {
        assert_eq!(refusal(READ_ONLY, Capabilities::replacing(), Mode::Auto), None);
        assert_eq!(refusal(READ_ONLY, Capabilities::qemu(), Mode::Always), Some(Unmappable::ReadOnly));
    }

    #[test]
    fn a_partial_last_slot_needs_mapping_past_the_end() {
        for len in [0, 1, SLOT_LEN - 1, SLOT_LEN * 2 + 4096] {
            let odd = Candidate { len, ..IMAGE };
            assert_eq!(refusal(odd, Capabilities::replacing(), Mode::Always), None);
            assert_eq!(refusal(odd, Capabilities::qemu(), Mode::Always), Some(Unmappable::EndsWithinSlot));
        }
        assert_eq!(refusal(IMAGE, Capabilities::qemu(), Mode::Auto), None);
    }

    #[test]
    fn on_qemu_a_growing_file_needs_mode_always() {
        let log = Candidate { len_may_change: true, ..IMAGE };
        assert_eq!(refusal(log, Capabilities::replacing(), Mode::Auto), None);
        assert_eq!(refusal(log, Capabilities::qemu(), Mode::Auto), Some(Unmappable::LenMayChange));
        assert_eq!(refusal(log, Capabilities::qemu(), Mode::Always), None);
    }

    #[test]
    fn mode_auto_leaves_out_small_files() {
        let small = Candidate { len: SLOT_LEN - 1, ..IMAGE };
        assert_eq!(refusal(small, Capabilities::replacing(), Mode::Auto), Some(Unmappable::Small));
        assert_eq!(refusal(small, Capabilities::replacing(), Mode::Always), None);
        let empty = Candidate { len: 0, ..IMAGE };
        assert_eq!(refusal(empty, Capabilities::replacing(), Mode::Always), None);
    }

    #[test]
    fn an_untested_front_end_is_assumed_to_lack_abilities() {
        for candidate in [READ_ONLY, Candidate { len: 1, ..IMAGE }] {
            assert!(!candidate.decide(&Capabilities::unknown(), Mode::Always, 0).is_mappable());
        }
    }
}
