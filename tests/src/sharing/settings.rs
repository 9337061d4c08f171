//! Environment variables that change what the questions do.

/// Returns `count` times the value of `PINHOLE_SHARING_TURNS`, or `count` if it is unset.
pub(crate) fn turns(count: u32) -> u32 {
    let times = std::env::var("PINHOLE_SHARING_TURNS").ok().and_then(|text| text.parse().ok()).unwrap_or(1);
    count.saturating_mul(times)
}

/// Returns for how many seconds databases are written, if `PINHOLE_SHARING_SECONDS` is set.
pub(crate) fn seconds() -> Option<u32> {
    std::env::var("PINHOLE_SHARING_SECONDS").ok()?.parse().ok()
}

/// Returns the seed of random choices: `PINHOLE_SHARING_SEED`, or a fixed one.
pub(crate) fn seed() -> u64 {
    std::env::var("PINHOLE_SHARING_SEED").ok().and_then(|text| text.parse().ok()).unwrap_or(20_261_121)
}
