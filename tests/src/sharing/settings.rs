//! Environment variables that change what the questions do.

/// `count` of something, as often as `PINHOLE_SHARING_TURNS` says; once where it says nothing.
pub(crate) fn turns(count: u32) -> u32 {
    let times = std::env::var("PINHOLE_SHARING_TURNS").ok().and_then(|text| text.parse().ok()).unwrap_or(1);
    count.saturating_mul(times)
}

/// For how many seconds databases are written, where `PINHOLE_SHARING_SECONDS` says so.
pub(crate) fn seconds() -> Option<u32> {
    std::env::var("PINHOLE_SHARING_SECONDS").ok()?.parse().ok()
}

/// The seed of what is random: `PINHOLE_SHARING_SEED`, or a fixed one.
pub(crate) fn seed() -> u64 {
    std::env::var("PINHOLE_SHARING_SEED").ok().and_then(|text| text.parse().ok()).unwrap_or(20_261_121)
}
