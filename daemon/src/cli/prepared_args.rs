//! The options about a prepared image.

use super::error::ConfigError;
use crate::prepared::{ImageDigest, PreparedConfig};
use clap::Args;
use std::path::PathBuf;

/// Options about a prepared image, of `serve` and `mount`.
#[derive(Args, Debug, Default)]
pub struct PreparedArgs {
    /// EROFS image to share instead of a directory, read-only.
    ///
    /// The image is one that `pinhole prepare` has made, or another uncompressed EROFS image with
    /// blocks of 4 KiB. The profile is prepared, extended attributes are always served, and the
    /// guest may keep all that it has read: the image must not change while it is served. To
    /// replace an image, write another file and rename it. The guest mounts it with `-o ro`.
    #[arg(long, value_name = "IMAGE", help_heading = "Share")]
    pub prepared: Vec<PathBuf>,
    /// Data file of the image; may be given several times.
    ///
    /// Give all of them, in the order of the image's device table. By default they are found by the
    /// names in the table, `DIGEST.data`.
    #[arg(long, value_name = "FILE", hide_short_help = true, help_heading = "Share")]
    pub data: Vec<PathBuf>,
    /// Folder of the image's data files [default: that of the image].
    #[arg(long, value_name = "DIR", conflicts_with = "data", hide_short_help = true, help_heading = "Share")]
    pub data_dir: Option<PathBuf>,
    /// Digest that the image must have, `sha256:HEX`.
    ///
    /// The SHA-256 of the file IMAGE, as `pinhole prepare` and `sha256sum` print it. It covers all
    /// names and attributes, and the digests of the data files, but not their bytes.
    #[arg(long, value_name = "DIGEST", hide_short_help = true, help_heading = "Share")]
    pub image_digest: Option<ImageDigest>,
    /// Read all data files at the start, and compare them with their digests.
    ///
    /// The digests are those in the image. The log shows the progress. A file with fs-verity is not
    /// read: the host's kernel checks each page of it, and its digest is compared in any case.
    #[arg(long, hide_short_help = true, help_heading = "Share")]
    pub verify_data: bool,
}

impl PreparedArgs {
    /// Returns the image to serve, if there is one.
    ///
    /// # Errors
    /// An option that needs an image, or several images.
    pub(super) fn config(&self) -> Result<Option<PreparedConfig>, ConfigError> {
        let image = match self.prepared.as_slice() {
            [] => {
                let options = [
                    ("--data", !self.data.is_empty()),
                    ("--data-dir", self.data_dir.is_some()),
                    ("--image-digest", self.image_digest.is_some()),
                    ("--verify-data", self.verify_data),
                ];
                return match options.into_iter().find(|(_, given)| *given) {
                    Some((option, _)) => Err(ConfigError::NoImage { option }),
                    None => Ok(None),
                };
            }
            [image] => image.clone(),
            images => return Err(ConfigError::SeveralImages { images: images.to_vec() }),
        };
        Ok(Some(PreparedConfig {
            image,
            data: self.data.clone(),
            data_dir: self.data_dir.clone(),
            digest: self.image_digest,
            verify_data: self.verify_data,
        }))
    }
}
