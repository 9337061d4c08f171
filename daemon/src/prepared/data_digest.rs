//! The digests of data files: those in the device table, those that the kernel checks, and those of
//! the bytes.

use super::config::hexadecimal;
use super::data_file::DataFile;
use super::image_error::ImageError;
use crate::sys::fs_verity::measured_digest;
use pinhole_erofs::Device;
use pinhole_prepare::verity::{VerityDigest, VerityHasher};
use std::io;
use std::os::fd::AsFd as _;

/// Bytes that are read at once.
const READ_LEN: usize = 1 << 20;

/// Returns the digest of a data file in the device table: its fs-verity digest, 64 hexadecimal
/// digits in lower case. `None`: the table has another text, or none.
pub(super) fn digest_in_table(device: &Device) -> Option<&str> {
    let text = str::from_utf8(&device.tag).ok()?;
    let is_digest = hexadecimal(text).is_some() && !text.bytes().any(|byte| byte.is_ascii_uppercase());
    is_digest.then_some(text)
}

/// Compares data files with the device table: by the digest that the kernel checks, if it has one.
/// With `all_bytes`, every other file is read.
///
/// # Errors
/// A file has another digest, or `all_bytes` and the table has none.
pub(super) fn check_digests(
    devices: &[Device],
    files: &[(DataFile, u64)],
    all_bytes: bool,
) -> Result<(), ImageError> {
    let mut unread = Vec::new();
    for (device, (file, len)) in devices.iter().zip(files) {
        let path = || file.path.clone();
        let Some(wanted) = digest_in_table(device) else {
            if all_bytes {
                return Err(ImageError::NoDataDigest { path: path() });
            }
            continue;
        };
        let measured = measured_digest(file.file.as_fd());
        let measured = measured.map_err(|error| ImageError::Data { path: path(), source: error.into() })?;
        match measured.map(VerityDigest) {
            Some(found) => equal(file, wanted, found)?,
            None if all_bytes => unread.push((wanted, file, *len)),
            None => tracing::debug!("{}: fs-verity is not on, so it is not checked", file.path.display()),
        }
    }
    let mut progress = Progress::new(unread.iter().map(|(_, _, len)| *len).fold(0, u64::saturating_add));
    for (wanted, file, len) in unread {
        let found = digest_of_bytes(file, len, &mut progress);
        let unreadable = |source| ImageError::Data { path: file.path.clone(), source };
        equal(file, wanted, found.map_err(unreadable)?)?;
    }
    Ok(())
}

fn equal(file: &DataFile, wanted: &str, found: VerityDigest) -> Result<(), ImageError> {
    let found = found.to_string();
    if found == wanted {
        return Ok(());
    }
    Err(ImageError::DataDigest { path: file.path.clone(), wanted: wanted.to_owned(), found })
}

fn digest_of_bytes(file: &DataFile, len: u64, progress: &mut Progress) -> io::Result<VerityDigest> {
    let mut hasher = VerityHasher::new();
    let mut buffer = vec![0; READ_LEN];
    let mut done = 0;
    while done < len {
        let read = rustix::io::pread(&file.file, &mut buffer, done)?;
        if read == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        hasher.update(buffer.get(..read).unwrap_or_default());
        let read = u64::try_from(read).unwrap_or_default();
        done = done.saturating_add(read);
        progress.add(read);
    }
    Ok(hasher.finish())
}

/// Progress of a long check, as lines of the log: one for each tenth.
struct Progress {
    total: u64,
    done: u64,
    tenths: u64,
}

impl Progress {
    const fn new(total: u64) -> Self {
        Self { total, done: 0, tenths: 0 }
    }

    fn add(&mut self, bytes: u64) {
        self.done = self.done.saturating_add(bytes);
        let tenths = self.done.saturating_mul(10) / self.total.max(1);
        if tenths > self.tenths {
            self.tenths = tenths;
            tracing::info!("--verify-data: {} % of {} MiB", tenths.saturating_mul(10), self.total >> 20);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_digest_names_a_data_file() {
        let device = |text: &[u8]| {
            let mut tag = [0; 64];
            tag[..text.len()].copy_from_slice(text);
            Device { tag, blocks: 1, first_block: 0 }
        };
        let digest = "0123456789abcdef".repeat(4);
        assert_eq!(digest_in_table(&device(digest.as_bytes())), Some(digest.as_str()));
        let upper = digest.to_uppercase();
        for other in
            [&b""[..], b"layer0", upper.as_bytes(), &digest.as_bytes()[..63], &[0xff; 64], &[b'/'; 64]]
        {
            assert_eq!(digest_in_table(&device(other)), None, "{other:?}");
        }
    }
}
