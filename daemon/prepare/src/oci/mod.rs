//! An OCI image layout as the source: `index.json`, a manifest, and one tar file per layer.
//!
//! The source is the image specification, "Image Layout" and "Image Manifest". Every blob is
//! compared with its digest and size. The configuration of the image is not read, for the tree does
//! not depend on it.

mod blob;
mod json;

use crate::compressed::TarBytes;
use crate::data_file::{Align, DataFile, DataWriter};
use crate::error::{LayoutError, PrepareError};
use crate::limits;
use crate::output::Folder;
use crate::progress::Progress;
use crate::tar;
use crate::tree::LayerTree;
use blob::Blob;
use json::{Descriptor, Document};
use std::path::{Path, PathBuf};

/// The layers of the image that was chosen.
#[derive(Debug)]
pub(crate) struct OciImage {
    directory: PathBuf,
    layers: Vec<Descriptor>,
}

impl OciImage {
    /// Chooses the image with a tag, or the only one, for the platform of this host.
    pub(crate) fn choose(directory: &Path, tag: Option<&str>) -> Result<Self, PrepareError> {
        let path = directory.join("index.json");
        let mut document = Document::read(&path)?;
        let mut images = document.descriptors("manifests")?;
        if let Some(tag) = tag {
            let known = tags(&images);
            images.retain(|image| image.has_tag(tag));
            if images.is_empty() {
                let wanted = format!("tagged \"{tag}\"");
                return Err(LayoutError::NoImage { path, wanted, known }.into());
            }
        }
        for _depth in 0..limits::INDEX_DEPTH_MAX {
            let image = choose(document.path(), images)?;
            let mut blob = Blob::open(directory, &image)?;
            document = Document::parse(blob.path().to_owned(), &blob.whole()?)?;
            if !document.is_index(&image) {
                return Self::of_manifest(directory, &document);
            }
            images = document.descriptors("manifests")?;
        }
        let what = format!("its indexes are within one another {} times", limits::INDEX_DEPTH_MAX);
        Err(LayoutError::Json { path, what }.into())
    }

    fn of_manifest(directory: &Path, manifest: &Document) -> Result<Self, PrepareError> {
        let (layers, path) = (manifest.descriptors("layers")?, manifest.path());
        if layers.len() > limits::LAYERS_MAX {
            let (count, most) = (layers.len(), limits::LAYERS_MAX);
            return Err(LayoutError::Layers { path: path.to_owned(), count, most }.into());
        }
        for (layer, descriptor) in layers.iter().enumerate() {
            if !is_layer(&descriptor.media_type) {
                let media_type = descriptor.media_type.clone();
                return Err(LayoutError::MediaType { path: path.to_owned(), layer, media_type }.into());
            }
        }
        Ok(Self { directory: directory.to_owned(), layers })
    }

    /// Applies the layers to the tree. Returns the data file of each layer that has data.
    pub(crate) fn read(
        &self,
        tree: &mut LayerTree,
        (folder, align): (&Folder, Align),
        progress: &mut dyn Progress,
    ) -> Result<Vec<Option<DataFile>>, PrepareError> {
        progress.expect(self.layers.iter().fold(0, |sum, layer| sum.saturating_add(layer.size)));
        let mut files = Vec::with_capacity(self.layers.len());
        for (number, layer) in self.layers.iter().enumerate() {
            if number > 0 {
                tree.next_layer();
            }
            let mut data = DataWriter::create(folder, align, tree.layer())?;
            let mut blob = Blob::open(&self.directory, layer)?;
            let archive = blob.path().display().to_string();
            let mut counted = crate::source::Counted::new(&mut blob, progress);
            let mut bytes = TarBytes::new(&archive, &mut counted)?;
            tar::read(&archive, &mut bytes, tar::TarKind::OciLayer, (tree, &mut data))?;
            drop(bytes);
            blob.check()?;
            files.push(data.finish()?);
        }
        Ok(files)
    }
}

/// Returns whether a layer of this type is a tar file that can be read.
fn is_layer(media_type: &str) -> bool {
    const OCI: &str = "application/vnd.oci.image.layer.";
    const DOCKER: &str = "application/vnd.docker.image.rootfs.";
    let oci = ["v1.tar", "v1.tar+gzip", "v1.tar+zstd"];
    let of_oci =
        media_type.strip_prefix(OCI).map(|rest| rest.strip_prefix("nondistributable.").unwrap_or(rest));
    let docker = ["diff.tar", "diff.tar.gzip", "diff.tar.zstd", "foreign.diff.tar", "foreign.diff.tar.gzip"];
    of_oci.is_some_and(|rest| oci.contains(&rest))
        || media_type.strip_prefix(DOCKER).is_some_and(|rest| docker.contains(&rest))
}

/// Chooses the only image, or the only one for this host.
fn choose(path: &Path, mut images: Vec<Descriptor>) -> Result<Descriptor, LayoutError> {
    let known = tags(&images);
    if images.len() > 1 {
        images.retain(Descriptor::is_for_this_host);
    }
    let mut images = images.into_iter();
    let path = path.to_owned();
    match (images.next(), images.next()) {
        (Some(image), None) => Ok(image),
        (Some(_), Some(_)) => Err(LayoutError::Several { path, known }),
        (None, _) => {
            Err(LayoutError::NoImage { path, wanted: format!("for {}", json::host_platform()), known })
        }
    }
}

/// Returns the tags and platforms of images, for a message.
fn tags(images: &[Descriptor]) -> String {
    const MOST: usize = 20;
    let mut names: Vec<_> = images.iter().take(MOST).map(ToString::to_string).collect();
    if images.len() > MOST {
        names.push("others".to_owned());
    }
    if names.is_empty() { "no image".to_owned() } else { names.join(", ") }
}

#[cfg(test)]
#[path = "tests.rs"]
mod tests;
