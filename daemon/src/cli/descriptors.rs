//! The limit of open files of this process, and the guest's part of it.

use super::config::DescriptorLimit;
use crate::limits;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use std::io;

/// Sets the limit, and returns the number of descriptors that the guest's nodes and handles may
/// use.
///
/// # Errors
/// The error of setrlimit(2), in a message that names the option.
pub(super) fn settle(wanted: DescriptorLimit) -> io::Result<u64> {
    let now = getrlimit(Resource::Nofile);
    let limit = match wanted {
        DescriptorLimit::Keep => now.current,
        DescriptorLimit::Hard => {
            let raised = Rlimit { current: now.maximum, maximum: now.maximum };
            if setrlimit(Resource::Nofile, raised).is_ok() { now.maximum } else { now.current }
        }
        DescriptorLimit::Exactly(limit) => {
            let maximum = now.maximum.map(|hard| hard.max(limit));
            setrlimit(Resource::Nofile, Rlimit { current: Some(limit), maximum }).map_err(|error| {
                let hard = now.maximum.map_or_else(|| "unlimited".to_owned(), |hard| hard.to_string());
                io::Error::other(format!(
                    "--rlimit-nofile: {limit} is refused ({error}): give at most the hard limit, {hard}"
                ))
            })?;
            Some(limit)
        }
    };
    // The daemon's reserve is at most half of a small limit.
    let limit = limit.unwrap_or(UNLIMITED).min(UNLIMITED);
    Ok(limit.saturating_sub(limits::DESCRIPTOR_RESERVE.min(limit / 2)))
}

/// Largest number of descriptors, also if there is no limit: the default of `fs.nr_open`. Each
/// descriptor pins memory of the host's kernel, so the guest's part is bounded even without a
/// limit.
const UNLIMITED: u64 = 1 << 20;
