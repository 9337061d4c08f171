//! Prepares shares: from a directory, a tar file or an OCI image to an EROFS image of metadata and
//! one data file per layer.
//!
//! A source goes through three stages. `directory`, `tar`, `oci` and `layer_images` read it, put
//! each entry into the tree (`tree`) and write file data to a data file at once (`data_file`).
//! `image` turns the tree into an image. `output` publishes the files when all are on disk.
//! `inspect` reads an image back.
//!
//! Archives come from elsewhere. They are parsed without panics and within `limits`.

mod attributes;
mod compressed;
mod data_file;
mod directory;
mod error;
#[cfg(test)]
mod fixture;
mod hash_thread;
mod hex;
mod image;
mod image_file;
mod inspect;
mod layer_images;
mod limits;
mod oci;
mod output;
mod prepare;
mod progress;
mod source;
mod tar;
mod tree;
mod tree_error;
pub mod verity;
mod xattrs;

pub use data_file::Align;
pub use error::{ArchiveError, DirectoryError, LayerImageError, LayoutError, PrepareError};
pub use inspect::{
    InspectError, InspectRequest, InspectedLayer, Inspection, LayerState, TreeSummary, inspect,
};
pub use output::{OutputError, TemporaryNames};
pub use prepare::{Prepared, PreparedData, Request, prepare};
pub use progress::Progress;
pub use source::SourceArg;
pub use tree_error::TreeError;
