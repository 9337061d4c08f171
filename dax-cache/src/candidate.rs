//! Whether a file is offered to the guest for mapping: `FUSE_ATTR_DAX`, told with each inode.
//!
//! A guest that maps a file reads and writes it through the window alone (but for writes that make it longer), and what
//! cannot be mapped then is EIO or SIGBUS to its programs. Nothing falls back to READ and WRITE. So a file is offered
//! only if every range of it, for every access that the guest has, can be mapped on this front-end. The guest takes
//! the flag when it learns of the inode, and of a change when it has dropped the inode (`fuse_dax_dontcache`).

use crate::{Capabilities, SLOT_LEN};

/// What the administrator wants (`--dax`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Mode {
    /// No file.
    Never,
    /// The files that gain by it, where it is safe.
    #[default]
    Auto,
    /// Every file that can be mapped as it is now: of any size, and where it cannot be mapped to its end any more when
    /// it has another length, too.
    Always,
}

/// What kind of file it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum FileKind {
    /// A regular file.
    Regular,
    /// Directory, symbolic link, FIFO, socket or device: never opened for its data.
    Other,
}

/// A file that might be offered.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Candidate {
    /// Its kind.
    pub kind: FileKind,
    /// Its length in bytes.
    pub len: u64,
    /// Whether this guest, by policy, could change the length: write, truncate, fallocate. Others are not known.
    pub len_may_change: bool,
    /// The policy grants `map-read` on it.
    pub map_read: bool,
    /// The policy grants `map-write` on it, and the host lets the daemon open it `O_RDWR`.
    pub map_write: bool,
    /// The policy grants writing it by WRITE.
    pub write: bool,
}

/// The decision.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Judgement {
    /// `FUSE_ATTR_DAX` is set.
    Mappable,
    /// It is not: READ and WRITE.
    Unmappable(Unmappable),
}

impl Judgement {
    /// `FUSE_ATTR_DAX`.
    pub const fn is_mappable(self) -> bool {
        matches!(self, Self::Mappable)
    }
}

/// Why a file is not offered.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, thiserror::Error)]
pub enum Unmappable {
    /// [`Mode::Never`].
    #[error("it is switched off")]
    Off,
    /// Only regular files have pages to map.
    #[error("it is no regular file")]
    NotRegular,
    /// Every access begins with a mapping to read.
    #[error("the policy does not grant map-read")]
    NotGranted,
    /// The guest may write the file by WRITE, and could not by a mapping: then even what WRITE allows would fail, since
    /// Linux sends none for a mapped file.
    #[error("the guest may write it, but not through a mapping")]
    WritesWouldFail,
    /// The front-end maps only what was opened for writing, and the guest must not write: QEMU maps writable whatever it
    /// is told.
    #[error("the front-end maps no read-only descriptor")]
    ReadOnly,
    /// The front-end does not map past the end of the file, and Linux maps whole slots: the last could not be mapped.
    #[error("the front-end does not map past the end of the file, and it ends within a slot")]
    EndsWithinSlot,
    /// The same, as soon as the guest appends to the file or cuts it: the file is whole slots now, the front-end would
    /// refuse its last one then, and a guest that holds the file open keeps on mapping it. [`Mode::Always`] takes that.
    #[error("the front-end does not map past the end of the file, and its length may change")]
    LenMayChange,
    /// Shorter than the threshold: each file costs at least one slot of the window, and a round trip to the front-end.
    #[error("it is small")]
    Small,
}

impl Candidate {
    /// Whether to offer the file. `threshold` is in bytes and counts for [`Mode::Auto`] only.
    pub const fn judge(&self, capabilities: &Capabilities, mode: Mode, threshold: u64) -> Judgement {
        match self.obstacle(capabilities, mode, threshold) {
            Some(why) => Judgement::Unmappable(why),
            None => Judgement::Mappable,
        }
    }

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
        // An empty file is whole slots only until its first byte, which is what most empty files are made for.
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

    fn why(candidate: Candidate, capabilities: Capabilities, mode: Mode) -> Option<Unmappable> {
        match candidate.judge(&capabilities, mode, SLOT_LEN) {
            Judgement::Mappable => None,
            Judgement::Unmappable(why) => Some(why),
        }
    }

    #[test]
    fn switched_off_is_off_for_every_file() {
        for capabilities in [Capabilities::qemu(), Capabilities::replacing()] {
            assert_eq!(why(IMAGE, capabilities, Mode::Never), Some(Unmappable::Off));
        }
    }

    #[test]
    fn only_regular_files_are_mapped() {
        let directory = Candidate { kind: FileKind::Other, ..IMAGE };
        assert_eq!(why(directory, Capabilities::replacing(), Mode::Always), Some(Unmappable::NotRegular));
    }

    #[test]
    fn what_the_policy_does_not_grant_is_not_offered() {
        let hidden = Candidate { map_read: false, ..IMAGE };
        assert_eq!(why(hidden, Capabilities::replacing(), Mode::Always), Some(Unmappable::NotGranted));
    }

    #[test]
    fn a_file_that_is_written_by_requests_is_not_offered_without_writable_mappings() {
        let by_request = Candidate { map_write: false, ..IMAGE };
        assert_eq!(
            why(by_request, Capabilities::replacing(), Mode::Always),
            Some(Unmappable::WritesWouldFail)
        );
    }

    #[test]
    fn a_read_only_file_is_mapped_only_where_a_read_only_descriptor_is() {
        assert_eq!(why(READ_ONLY, Capabilities::replacing(), Mode::Auto), None);
        assert_eq!(why(READ_ONLY, Capabilities::qemu(), Mode::Always), Some(Unmappable::ReadOnly));
    }

    #[test]
    fn a_file_that_ends_within_a_slot_is_mapped_only_where_past_the_end_is() {
        for len in [0, 1, SLOT_LEN - 1, SLOT_LEN * 2 + 4096] {
            let odd = Candidate { len, ..IMAGE };
            assert_eq!(why(odd, Capabilities::replacing(), Mode::Always), None);
            assert_eq!(why(odd, Capabilities::qemu(), Mode::Always), Some(Unmappable::EndsWithinSlot));
        }
        assert_eq!(why(IMAGE, Capabilities::qemu(), Mode::Auto), None);
    }

    #[test]
    fn a_file_that_may_grow_is_mapped_up_to_its_end_only_by_who_insists() {
        let log = Candidate { len_may_change: true, ..IMAGE };
        assert_eq!(why(log, Capabilities::replacing(), Mode::Auto), None);
        assert_eq!(why(log, Capabilities::qemu(), Mode::Auto), Some(Unmappable::LenMayChange));
        assert_eq!(why(log, Capabilities::qemu(), Mode::Always), None);
    }

    #[test]
    fn small_files_are_left_out_unless_all_are_wanted() {
        let small = Candidate { len: SLOT_LEN - 1, ..IMAGE };
        assert_eq!(why(small, Capabilities::replacing(), Mode::Auto), Some(Unmappable::Small));
        assert_eq!(why(small, Capabilities::replacing(), Mode::Always), None);
        let empty = Candidate { len: 0, ..IMAGE };
        assert_eq!(why(empty, Capabilities::replacing(), Mode::Always), None);
    }

    #[test]
    fn of_a_front_end_that_is_not_known_the_worst_is_assumed() {
        for candidate in [READ_ONLY, Candidate { len: 1, ..IMAGE }] {
            assert!(!candidate.judge(&Capabilities::unknown(), Mode::Always, 0).is_mappable());
        }
    }
}
