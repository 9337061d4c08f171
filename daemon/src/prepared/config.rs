//! The image to serve, as the command line names it.

use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;

/// The image to serve.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PreparedConfig {
    /// The path of IMAGE.
    pub image: PathBuf,
    /// The data files in the order of the device table. Empty: they are found by the names in the
    /// table.
    pub data: Vec<PathBuf>,
    /// The folder of data files that are found by their names. `None`: that of IMAGE.
    pub data_dir: Option<PathBuf>,
    /// The digest that IMAGE must have.
    pub digest: Option<ImageDigest>,
    /// Read all bytes of the data files and compare them with the digests in the device table.
    pub verify_data: bool,
}

/// The SHA-256 of an image, as `sha256:` and 64 hexadecimal digits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ImageDigest(pub(super) [u8; 32]);

impl fmt::Display for ImageDigest {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str("sha256:")?;
        self.0.iter().try_for_each(|byte| write!(out, "{byte:02x}"))
    }
}

impl FromStr for ImageDigest {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let digits = text.strip_prefix("sha256:").and_then(hexadecimal);
        digits.map(Self).ok_or("give sha256: and 64 hexadecimal digits, as `pinhole prepare` prints them")
    }
}

/// Decodes 64 hexadecimal digits.
pub(super) fn hexadecimal(digits: &str) -> Option<[u8; 32]> {
    let mut bytes = [0; 32];
    let (pairs, rest) = digits.as_bytes().as_chunks::<2>();
    if pairs.len() != bytes.len() || !rest.is_empty() {
        return None;
    }
    for (byte, [high, low]) in bytes.iter_mut().zip(pairs) {
        let digit = |digit: u8| char::from(digit).to_digit(16);
        *byte = u8::try_from(digit(*high)? * 16 + digit(*low)?).ok()?;
    }
    Some(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_digest_is_read_as_it_is_printed() {
        let text = format!("sha256:{}", "0123456789abcdef".repeat(4));
        assert_eq!(text.parse::<ImageDigest>().unwrap().to_string(), text);
        let short = "sha256:0123";
        let long = format!("{text}0");
        let plain = "0123456789abcdef".repeat(4);
        let wrong = text.replace('f', "g");
        let signed = text.replace("01", "+1");
        for wrong in ["", "sha256:", short, &long, &plain, &wrong, &signed, &text.replace("sha256", "sha512")]
        {
            wrong.parse::<ImageDigest>().unwrap_err();
        }
    }
}
