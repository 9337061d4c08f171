//! CRC-32C (Castagnoli), as the checksum of a superblock uses it.
//!
//! Written out, because a crate for it would be one more dependency for 3 KiB per image.

/// Reversed polynomial.
const POLYNOMIAL: u32 = 0x82f6_3b78;

/// Continues the CRC `crc` with `bytes`. Neither the start nor the result is inverted, as in Linux.
pub(crate) fn crc32c(crc: u32, bytes: &[u8]) -> u32 {
    bytes.iter().fold(crc, |crc, byte| {
        (0..8).fold(crc ^ u32::from(*byte), |crc, _| (crc >> 1) ^ (POLYNOMIAL * (crc & 1)))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn checksum_of_the_standard_text_is_known() {
        assert_eq!(!crc32c(!0, b"123456789"), 0xe306_9283);
    }
}
