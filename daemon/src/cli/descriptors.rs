//! How many files this process may have open, and how many of them the guest may take.

use super::config::DescriptorLimit;
use crate::limits;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use std::io;

/// Sets the limit and returns how many descriptors are left for what the guest knows and opens.
///
/// # Errors
/// What setrlimit(2) says, in words that name the option.
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
                    "--rlimit-nofile: {limit} is refused ({error}); the hard limit is {hard}"
                ))
            })?;
            Some(limit)
        }
    };
    // Where the limit is small, the two halves share it.
    let limit = limit.unwrap_or(UNLIMITED).min(UNLIMITED);
    Ok(limit.saturating_sub(limits::DESCRIPTOR_RESERVE.min(limit / 2)))
}

/// What "unlimited", or a number that only says so, means for a budget: the kernel's own default ceiling
/// (`fs.nr_open`). Each descriptor pins memory of the host's kernel, so a guest may not have a billion.
const UNLIMITED: u64 = 1 << 20;
