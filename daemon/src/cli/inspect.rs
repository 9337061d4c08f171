//! `pinhole inspect`: its arguments and its answer.

use super::prepare::per_inode;
use super::report;
use clap::Args;
use pinhole_prepare::{InspectError, InspectRequest, InspectedLayer, Inspection, LayerState, TreeSummary};
use serde_json::{Value, json};
use std::fmt::{self, Display, Formatter};
use std::io;
use std::path::PathBuf;
use std::process::ExitCode;

/// Options of `inspect`.
#[derive(Args, Clone, Debug, PartialEq, Eq)]
pub struct InspectArgs {
    /// The image.
    #[arg(value_name = "IMAGE")]
    pub image: PathBuf,
    /// Folder of the data files [default: that of IMAGE].
    #[arg(long, value_name = "DIR", help_heading = "Input")]
    pub data_dir: Option<PathBuf>,
    /// Data file of the image; may be given several times.
    ///
    /// Give all of them, in the order of the image's device table. By default they have the names
    /// in the table (`DIGEST.data`).
    #[arg(long, value_name = "FILE", conflicts_with = "data_dir", help_heading = "Input")]
    pub data: Vec<PathBuf>,
    /// Read the data files too, and compare their digests.
    #[arg(long, help_heading = "Input")]
    pub verify_data: bool,
    /// Print the answer as JSON.
    #[arg(long, help_heading = "Output")]
    pub json: bool,
}

/// A failure of `pinhole inspect`.
#[derive(Debug, thiserror::Error)]
pub(super) enum InspectCommandError {
    #[error(transparent)]
    Inspect(#[from] InspectError),
    #[error("standard output: cannot write the answer: {0}; use an output that stays open")]
    Output(io::Error),
}

/// The exit code for an image with problems.
const PROBLEMS: u8 = 1;

/// Inspects an image and prints what was found.
///
/// # Errors
/// [`InspectCommandError`].
pub(super) fn run(args: InspectArgs) -> Result<ExitCode, InspectCommandError> {
    let InspectArgs { image, data_dir, data, verify_data, json } = args;
    let request = InspectRequest { image, data_dir, data, verify_data };
    let inspection = pinhole_prepare::inspect(&request)?;
    let written = if json {
        report::answer(format_args!("{:#}", as_json(&request, &inspection)))
    } else {
        report::answer(Inspected(&request, &inspection))
    };
    written.map_err(InspectCommandError::Output)?;
    Ok(if inspection.problems.is_empty() { ExitCode::SUCCESS } else { ExitCode::from(PROBLEMS) })
}

const fn named(state: LayerState) -> &'static str {
    match state {
        LayerState::Present => "present",
        LayerState::Verified => "verified",
        LayerState::Wrong => "wrong",
    }
}

fn as_json(request: &InspectRequest, inspection: &Inspection) -> Value {
    let Inspection { digest, bytes, uuid, features, layers, tree, problems } = inspection;
    let layers = layers.iter().map(|layer| {
        let InspectedLayer { tag, bytes, path, state } = layer;
        let path = path.as_ref().map(|path| path.to_string_lossy());
        json!({"tag": tag, "bytes": bytes, "path": path, "state": named(*state)})
    });
    json!({
        "image": request.image.to_string_lossy(),
        "digest": format!("sha256:{digest}"),
        "uuid": uuid,
        "features": features,
        "metadata_bytes": bytes,
        "inodes": {
            "total": tree.inodes(),
            "files": tree.files,
            "directories": tree.directories,
            "symlinks": tree.symlinks,
            "character_devices": tree.character_devices,
            "block_devices": tree.block_devices,
            "fifos": tree.fifos,
            "sockets": tree.sockets,
        },
        "names": tree.names,
        "file_bytes": tree.file_bytes,
        "dax": {"files": tree.mappable_files, "bytes": tree.mappable_bytes},
        "layers": layers.collect::<Vec<_>>(),
        "problems": problems,
    })
}

/// An inspection as text.
struct Inspected<'a>(&'a InspectRequest, &'a Inspection);

impl Display for Inspected<'_> {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let Self(request, inspection) = self;
        let Inspection { digest, bytes, uuid, features, layers, tree, problems } = inspection;
        let TreeSummary { files, directories, symlinks, fifos, sockets, .. } = tree;
        writeln!(f, "image      {}", request.image.display())?;
        writeln!(f, "digest     sha256:{digest}")?;
        writeln!(f, "uuid       {uuid}")?;
        writeln!(f, "features   {}", features.join(", "))?;
        writeln!(f, "metadata   {bytes} bytes, {} per inode", per_inode(*bytes, tree.inodes()))?;
        let devices = tree.character_devices.saturating_add(tree.block_devices);
        writeln!(
            f,
            "inodes     {}: {files} files, {directories} directories, {symlinks} symlinks, {devices} devices, \
             {fifos} FIFOs, {sockets} sockets",
            tree.inodes()
        )?;
        writeln!(f, "names      {}", tree.names)?;
        writeln!(f, "data       {} bytes in files", tree.file_bytes)?;
        write!(
            f,
            "DAX        {} files with {} bytes can be mapped",
            tree.mappable_files, tree.mappable_bytes
        )?;
        for layer in layers {
            let place =
                layer.path.as_ref().map_or_else(|| layer.tag.clone(), |path| path.display().to_string());
            write!(f, "\ndata file  {place}, {} bytes, {}", layer.bytes, named(layer.state))?;
        }
        for problem in problems {
            write!(f, "\nproblem    {problem}")?;
        }
        Ok(())
    }
}
