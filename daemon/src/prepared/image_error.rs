//! Reasons why an image cannot be served.

use super::config::ImageDigest;
use pinhole_erofs::OpenError as FormatError;
use std::io;
use std::path::PathBuf;

/// Reason why an image cannot be served.
#[derive(Debug, thiserror::Error)]
#[expect(missing_docs, reason = "the messages say it")]
pub enum ImageError {
    #[error("{}: {source}; give an image that can be read", path.display())]
    Image { path: PathBuf, source: io::Error },
    #[error("{}: not a regular file; give the file of an image or of its data", path.display())]
    NotAFile { path: PathBuf },
    #[error("{}: {source}{}{}", path.display(), reasons(source), remedy(source))]
    Format { path: PathBuf, source: FormatError },
    #[error(
        "--image-digest {wanted}: {} has {found}: give the image that was prepared, or its digest",
        path.display()
    )]
    Digest { path: PathBuf, wanted: ImageDigest, found: ImageDigest },
    #[error(
        "--data: the image needs {needed} data files, {given} are given: give each with --data, in order"
    )]
    DataCount { needed: usize, given: usize },
    #[error(
        "{}: the image does not name data file {number} of {count}: give all with --data, in the order of its table",
        path.display()
    )]
    NamelessData { path: PathBuf, number: usize, count: usize },
    #[error("{}: its fs-verity digest is {found}, not {wanted}: give the data file of this image", path.display())]
    DataDigest { path: PathBuf, wanted: String, found: String },
    #[error("--verify-data: the image has no digest of {}: leave it out", path.display())]
    NoDataDigest { path: PathBuf },
    #[error(
        "{}: {source}; put the image's data file there, or give its folder with --data-dir or its path with --data",
        path.display()
    )]
    Data { path: PathBuf, source: io::Error },
}

/// Returns the sources of an error, for one line.
fn reasons(error: &FormatError) -> String {
    let mut text = String::new();
    let mut source = std::error::Error::source(error);
    while let Some(error) = source {
        text.push_str(": ");
        text.push_str(&error.to_string());
        source = error.source();
    }
    text
}

/// Returns what to do, unless the error itself says it.
const fn remedy(error: &FormatError) -> &'static str {
    if matches!(error, FormatError::Refused(_)) {
        return "";
    }
    "; give a whole image, such as one that `pinhole prepare` has made"
}
