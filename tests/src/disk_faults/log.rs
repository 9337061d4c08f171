//! The log of a disk, in the format of Linux's dm-log-writes (`drivers/md/dm-log-writes.c`) as
//! QEMU's `blklogwrites` writes it: every write with its data and every flush, in order. The log
//! determines the content that the disk has after a loss of power.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt as _;

/// Length of a sector in bytes, in the log and on the disk. The harness starts the disk with it.
pub(super) const SECTOR_LEN: u64 = 512;

/// `WRITE_LOG_MAGIC`.
const MAGIC: u64 = 0x006a_7366_7773_6872;

const FLUSH: u64 = 1;
const FUA: u64 = 2;
const DISCARD: u64 = 4;

/// Bytes of a log that are copied at once.
const PIECE_LEN: usize = 1 << 20;

/// Moment in the history of a disk, as a number of entries of its log.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Moment(pub(super) u64);

/// Entry of the log: one request to the disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Entry {
    /// First sector of the disk.
    sector: u64,
    sectors: u64,
    flags: u64,
}

impl Entry {
    /// Returns whether the entry makes all earlier writes durable.
    const fn is_flush(self) -> bool {
        self.flags & FLUSH != 0
    }

    /// Returns the number of sectors of data that follow in the log.
    const fn logged_sectors(self) -> u64 {
        if self.flags & DISCARD == 0 { self.sectors } else { 0 }
    }
}

/// Returns the 64-bit number at this index, or 0 beyond the end.
fn number(bytes: &[u8], index: usize) -> u64 {
    let field = bytes.chunks_exact(8).nth(index).and_then(|field| field.try_into().ok());
    field.map_or(0, u64::from_le_bytes)
}

/// Returns an error with this message.
fn fault(what: impl Into<String>) -> io::Error {
    io::Error::other(what.into())
}

/// Returns the moment of the last flush that the disk has answered. The disk rewrites the head of
/// the log with each flush.
pub(super) fn last_flush(log: &File) -> io::Result<Moment> {
    let mut head = [0; 32];
    log.read_exact_at(&mut head, 0)?;
    let (magic, version, entries) = (number(&head, 0), number(&head, 1), number(&head, 2));
    let sector_len = number(&head, 3) & 0xffff_ffff;
    if (magic, version, sector_len) != (MAGIC, 1, SECTOR_LEN) {
        return Err(fault(format!(
            "no log of writes: {magic:#x}, version {version}, sectors of {sector_len}"
        )));
    }
    Ok(Moment(entries))
}

/// Returns the entries with the offsets of their data in the log.
fn entries(log: &File, until: Moment) -> io::Result<Vec<(Entry, u64)>> {
    let mut found = Vec::new();
    let mut at = SECTOR_LEN;
    for _ in 0..until.0 {
        let mut head = [0; 32];
        log.read_exact_at(&mut head, at)?;
        let entry = Entry { sector: number(&head, 0), sectors: number(&head, 1), flags: number(&head, 2) };
        if entry.flags & !(FLUSH | FUA | DISCARD) != 0 {
            return Err(fault(format!("a log entry with flags {:#x} at {at}", entry.flags)));
        }
        at += SECTOR_LEN;
        found.push((entry, at));
        at += entry.logged_sectors() * SECTOR_LEN;
    }
    Ok(found)
}

/// Writes to `image` the content of the disk if the power fails at a moment: all data up to the
/// last flush, and no later data. `image` is as long as the disk and all zeros. A real disk may
/// also keep some later data; this is the worst case.
pub(super) fn replay(log: &File, at: Moment, image: &File) -> io::Result<()> {
    let entries = entries(log, at)?;
    let durable = entries.iter().rposition(|(entry, _)| entry.is_flush()).map_or(0, |last| last + 1);
    let mut piece = vec![0; PIECE_LEN];
    for &(entry, data) in entries.iter().take(durable) {
        let mut done = 0;
        let len = entry.sectors * SECTOR_LEN;
        while done < len {
            let now = usize::try_from(len - done).unwrap_or(PIECE_LEN).min(PIECE_LEN);
            let part = piece.get_mut(..now).unwrap_or_default();
            if entry.flags & DISCARD == 0 {
                log.read_exact_at(part, data + done)?;
            } else {
                part.fill(0);
            }
            image.write_all_at(part, entry.sector * SECTOR_LEN + done)?;
            done += now as u64;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    const LEN: u64 = 8 * SECTOR_LEN;

    /// Returns a log of these entries. The data of each write repeats one byte.
    fn log(written: &[(Entry, u8)]) -> File {
        let log = tempfile::tempfile().unwrap();
        let words = |words: [u64; 4]| words.map(u64::to_le_bytes).concat();
        log.write_all_at(&words([MAGIC, 1, written.len() as u64, SECTOR_LEN]), 0).unwrap();
        let mut at = SECTOR_LEN;
        for (entry, byte) in written {
            log.write_all_at(&words([entry.sector, entry.sectors, entry.flags, 0]), at).unwrap();
            at += SECTOR_LEN;
            let len = entry.logged_sectors() * SECTOR_LEN;
            log.write_all_at(&vec![*byte; usize::try_from(len).unwrap()], at).unwrap();
            at += len;
        }
        log.set_len(at).unwrap();
        log
    }

    fn disk(log: &File, at: Moment) -> Vec<u8> {
        let image = tempfile::tempfile().unwrap();
        image.set_len(LEN).unwrap();
        replay(log, at, &image).unwrap();
        let mut bytes = vec![0; usize::try_from(LEN).unwrap()];
        image.read_exact_at(&mut bytes, 0).unwrap();
        bytes.into_iter().step_by(usize::try_from(SECTOR_LEN).unwrap()).collect()
    }

    #[test]
    fn writes_after_the_last_flush_are_lost() {
        let write = |sector, sectors| Entry { sector, sectors, flags: 0 };
        let flush = Entry { sector: 0, sectors: 0, flags: FLUSH };
        let log = log(&[(write(1, 2), 7), (flush, 0), (write(2, 1), 8), (write(5, 1), 9), (flush, 0)]);
        assert_eq!(last_flush(&log).unwrap(), Moment(5));
        assert_eq!(disk(&log, Moment(1)), [0; 8]);
        for entries in [2, 3, 4] {
            assert_eq!(disk(&log, Moment(entries)), [0, 7, 7, 0, 0, 0, 0, 0], "{entries}");
        }
        assert_eq!(disk(&log, Moment(5)), [0, 7, 8, 0, 0, 9, 0, 0]);
    }

    #[test]
    fn discarded_sectors_read_as_zeros_without_data_in_the_log() {
        let write = Entry { sector: 0, sectors: 4, flags: 0 };
        let discard = Entry { sector: 1, sectors: 2, flags: DISCARD };
        let flush = Entry { sector: 3, sectors: 1, flags: FLUSH };
        let log = log(&[(write, 1), (discard, 0), (flush, 2)]);
        assert_eq!(disk(&log, Moment(3)), [1, 0, 0, 2, 0, 0, 0, 0]);
    }
}
