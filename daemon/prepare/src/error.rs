//! The errors of `prepare`. Each is one line: the place, the value, and what is accepted.

use crate::output::OutputError;
use crate::tree_error::TreeError;
use pinhole_erofs::write::WriteError;
use std::io;
use std::path::PathBuf;

/// A failure of [`crate::prepare()`]. Nothing is left behind.
#[derive(Debug, thiserror::Error)]
#[expect(missing_docs, reason = "the messages say it")]
pub enum PrepareError {
    #[error(transparent)]
    Directory(#[from] DirectoryError),
    #[error(transparent)]
    Archive(#[from] ArchiveError),
    #[error(transparent)]
    Layout(#[from] LayoutError),
    #[error(transparent)]
    LayerImage(#[from] LayerImageError),
    #[error(transparent)]
    Output(#[from] OutputError),
    #[error("{}: {source}; give a smaller source", path.display())]
    Image { path: PathBuf, source: WriteError },
}

/// A directory that cannot be a source, or a file in it.
#[derive(Debug, thiserror::Error)]
#[expect(missing_docs, reason = "the messages say it")]
pub enum DirectoryError {
    #[error("{}: cannot read it: {source}; give a directory, a tar file or oci:DIR that can be read", path.display())]
    Read { path: PathBuf, source: io::Error },
    #[error("{}: it changed while it was read; give a tree that does not change, such as a snapshot", path.display())]
    Changed { path: PathBuf },
    #[error("{}: the image or its data files would be written there; write them outside of the source", path.display())]
    Inside { path: PathBuf },
    #[error("{}: not a directory, a regular file or a pipe; give a directory, a tar file or oci:DIR", path.display())]
    Kind { path: PathBuf },
    #[error("{}: {source}", path.display())]
    Entry { path: PathBuf, source: TreeError },
}

/// A tar file that is refused. Names of entries are escaped as in Rust.
#[derive(Debug, thiserror::Error)]
#[expect(missing_docs, reason = "the messages say it")]
pub enum ArchiveError {
    #[error("{archive}: cannot read it: {source}; give a tar file that is whole and can be read")]
    Read { archive: String, source: io::Error },
    #[error("{archive}: not a tar file: the header at byte {offset} {why}; give tar, plain, gzip or zstd")]
    NotTar { archive: String, offset: u64, why: &'static str },
    #[error("{archive}: it is compressed with {with}; give tar, plain, gzip or zstd")]
    Compression { archive: String, with: &'static str },
    #[error("{archive}: it ends at byte {offset}, without the end of an archive; give the whole file")]
    Cut { archive: String, offset: u64 },
    #[error("{archive}: there is data behind the end of the archive, byte {offset}; give one archive alone")]
    Trailing { archive: String, offset: u64 },
    #[error("{archive}: entry \"{entry}\": {source}")]
    Entry { archive: String, entry: String, source: TreeError },
    #[error("{archive}: entry \"{entry}\": {what}; {remedy}")]
    Refused { archive: String, entry: String, what: String, remedy: &'static str },
}

/// An OCI image layout that is refused.
#[derive(Debug, thiserror::Error)]
#[expect(missing_docs, reason = "the messages say it")]
pub enum LayoutError {
    #[error("{}: cannot read it: {source}; give the folder of an OCI image layout, with all blobs", path.display())]
    Read { path: PathBuf, source: io::Error },
    #[error("{}: {what}; give an OCI image layout of version 1", path.display())]
    Json { path: PathBuf, what: String },
    #[error("{}: it has {len} bytes; at most {most} are accepted", path.display())]
    Long { path: PathBuf, len: u64, most: u64 },
    #[error("{}: its {what} is {found}, not {expected}; copy the image again", path.display())]
    Blob { path: PathBuf, what: &'static str, found: String, expected: String },
    #[error("{}: \"{digest}\" is not the digest of a blob; only sha256: with 64 digits is accepted", path.display())]
    Digest { path: PathBuf, digest: String },
    #[error("{}: no image is {wanted}; there is {known}", path.display())]
    NoImage { path: PathBuf, wanted: String, known: String },
    #[error("{}: it has several images; give one with oci:DIR:TAG; there is {known}", path.display())]
    Several { path: PathBuf, known: String },
    #[error("{}: layer {layer} is of type \"{media_type}\"; only tar, tar+gzip and tar+zstd are accepted", path.display())]
    MediaType { path: PathBuf, layer: usize, media_type: String },
    #[error("{}: it has {count} layers; at most {most} are accepted", path.display())]
    Layers { path: PathBuf, count: usize, most: usize },
}

/// An EROFS image that cannot be a layer.
#[derive(Debug, thiserror::Error)]
#[expect(missing_docs, reason = "the messages say it")]
pub enum LayerImageError {
    #[error("{}: cannot read it: {source}; give an EROFS image that can be read", path.display())]
    Read { path: PathBuf, source: io::Error },
    #[error("{}: {why}; give uncompressed EROFS images", path.display())]
    Format { path: PathBuf, why: String },
    #[error("{}: it has {count} data files of its own; give images that hold their data", path.display())]
    Devices { path: PathBuf, count: usize },
    #[error("{}: entry \"{entry}\": {source}", path.display())]
    Entry { path: PathBuf, entry: String, source: TreeError },
    #[error("{}: entry \"{entry}\": {why}; make the image again", path.display())]
    Damaged { path: PathBuf, entry: String, why: String },
    #[error(
        "{}: entry \"{entry}\": the attribute {name} means another file; only whiteouts and opaque directories of \
         overlayfs are accepted",
        path.display()
    )]
    Overlay { path: PathBuf, entry: String, name: String },
    #[error("{count} images as layers; at most {most} are accepted")]
    Many { count: usize, most: usize },
}
