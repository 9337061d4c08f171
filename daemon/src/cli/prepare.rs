//! `pinhole prepare`: its arguments, its progress and its answer.

use super::report;
use crate::sys::process::end;
use crate::sys::signals::{block_signals, take_signal};
use clap::builder::{OsStringValueParser, TypedValueParser};
use clap::{Args, ValueEnum};
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use pinhole_prepare::{Align, PrepareError, Prepared, Progress, Request, SourceArg, TemporaryNames};
use serde_json::json;
use signal_hook::consts::{SIGINT, SIGTERM};
use std::fmt::{self, Display, Formatter};
use std::io::{self, IsTerminal as _};
use std::path::PathBuf;
use std::process::ExitCode;

/// Options of `prepare`.
#[derive(Args, Clone, Debug, PartialEq, Eq)]
pub struct PrepareArgs {
    /// The directory, tar file, OCI image layout, or EROFS images.
    ///
    /// A directory is read with the rights of the caller, across mounts, without following
    /// symlinks; it must not change meanwhile. A tar file may be compressed with gzip or zstd. From
    /// `oci:DIR`, the layers of the image with the tag TAG are applied, or of the only image; of an
    /// image for several platforms, that for this host.
    ///
    /// Of EROFS images that hold their data, such as containerd's `layer.erofs` files, the metadata
    /// is merged, the lowest layer first, with whiteouts of overlayfs. The images stay the data
    /// files: serve the result with `--data FILE` for each file that the answer lists.
    #[arg(value_name = "SOURCE", required = true, value_parser = OsStringValueParser::new().try_map(|text| SourceArg::parse(&text)))]
    pub sources: Vec<SourceArg>,
    /// The image to write; its folder must exist.
    #[arg(short, long, value_name = "IMAGE", help_heading = "Output")]
    pub output: PathBuf,
    /// Folder of the data files [default: that of IMAGE].
    ///
    /// Each is named DIGEST.data, by its fs-verity digest. One that is there is checked and used
    /// again.
    #[arg(long, value_name = "DIR", help_heading = "Output")]
    pub data_dir: Option<PathBuf>,
    /// Replace IMAGE if it exists.
    ///
    /// A daemon that serves the old image keeps it. Data files are never replaced.
    #[arg(long, help_heading = "Output")]
    pub force: bool,
    /// Where data begins in a data file: 4K, 2M [default: 4K].
    ///
    /// 4K: each file on 4 KiB. 2M: files of 2 MiB and more on 2 MiB, so that a DAX window can map
    /// them with huge pages of the host; the gaps take no space on disk.
    #[arg(long, value_name = "SIZE", value_enum, default_value_t, hide_default_value = true)]
    #[arg(help_heading = "Output")]
    pub align: AlignArg,
    /// Do not enter directories on other file systems.
    ///
    /// Such a directory is in the image, and is empty. Applies to a directory as SOURCE.
    #[arg(long, help_heading = "Source")]
    pub one_file_system: bool,
    /// Print the answer as JSON.
    #[arg(long, help_heading = "Output")]
    pub json: bool,
}

impl PrepareArgs {
    /// Returns the source.
    ///
    /// # Errors
    /// The SOURCE that cannot be one of several.
    fn source(&self) -> Result<SourceArg, String> {
        match self.sources.as_slice() {
            [source] => Ok(source.clone()),
            sources => SourceArg::several(sources.to_vec()),
        }
    }
}

impl PrepareCommandError {
    /// Returns whether the command line is wrong.
    pub(super) const fn is_usage(&self) -> bool {
        matches!(self, Self::Several(_))
    }
}

/// An alignment, as `--align` takes it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
#[expect(missing_docs, reason = "explained at --align")]
pub enum AlignArg {
    #[default]
    #[value(name = "4K")]
    Page,
    #[value(name = "2M")]
    HugePage,
}

/// A failure of `pinhole prepare`.
#[derive(Debug, thiserror::Error)]
pub(super) enum PrepareCommandError {
    #[error(transparent)]
    Prepare(#[from] PrepareError),
    #[error("SOURCE: {0} cannot be one of several; give one SOURCE, or only EROFS images")]
    Several(String),
    #[error("host: cannot wait for signals: {0}; raise the limit on threads (TasksMax, RLIMIT_NPROC)")]
    Signals(io::Error),
    #[error("standard output: cannot write the answer: {0}; use an output that stays open")]
    Output(io::Error),
}

/// Makes an image and prints what was made.
///
/// # Errors
/// [`PrepareCommandError`].
pub(super) fn run(args: PrepareArgs) -> Result<ExitCode, PrepareCommandError> {
    let source = args.source().map_err(PrepareCommandError::Several)?;
    let names = TemporaryNames::default();
    remove_at_signal(names.clone()).map_err(PrepareCommandError::Signals)?;
    let align = match args.align {
        AlignArg::Page => Align::Page,
        AlignArg::HugePage => Align::HugePage,
    };
    let request = Request {
        source,
        image: args.output,
        data_dir: args.data_dir,
        force: args.force,
        align,
        one_file_system: args.one_file_system,
    };
    let mut bar = Bar::new();
    let prepared = pinhole_prepare::prepare(&request, &mut bar, &names);
    bar.0.finish_and_clear();
    let answer = MadeImage { request: &request, prepared: &prepared? };
    let written = if args.json { report::answer(answer.json()) } else { report::answer(answer) };
    written.map_err(PrepareCommandError::Output)?;
    Ok(ExitCode::SUCCESS)
}

/// Removes temporary files and ends the process at the first signal. A publication of files that
/// has begun is completed before.
fn remove_at_signal(names: TemporaryNames) -> io::Result<()> {
    const ENDING: [i32; 2] = [SIGTERM, SIGINT];
    block_signals(&ENDING)?;
    let wait = move || {
        let signal = take_signal(&ENDING).unwrap_or(SIGTERM);
        names.interrupt();
        end(u8::try_from(signal).unwrap_or_default().saturating_add(128))
    };
    std::thread::Builder::new().name("signals".to_owned()).spawn(wait).map(drop)
}

/// The progress on a terminal.
struct Bar(ProgressBar);

impl Bar {
    fn new() -> Self {
        let is_shown = io::stderr().is_terminal();
        let target = if is_shown { ProgressDrawTarget::stderr() } else { ProgressDrawTarget::hidden() };
        let bar = ProgressBar::with_draw_target(None, target);
        Self(with_template(bar, "{spinner} {bytes} read, {bytes_per_sec}, {elapsed_precise}"))
    }
}

fn with_template(bar: ProgressBar, template: &str) -> ProgressBar {
    match ProgressStyle::with_template(template) {
        Ok(style) => bar.with_style(style),
        Err(_not_a_template) => bar,
    }
}

impl Progress for Bar {
    fn expect(&mut self, bytes: u64) {
        let template = "{bar:30} {bytes} of {total_bytes} read, {bytes_per_sec}, {eta} left";
        self.0 = with_template(self.0.clone(), template);
        self.0.set_length(bytes);
    }

    fn advance(&mut self, bytes: u64) {
        self.0.inc(bytes);
    }
}

/// What was made.
struct MadeImage<'a> {
    request: &'a Request,
    prepared: &'a Prepared,
}

impl MadeImage<'_> {
    fn json(&self) -> String {
        let Self { request, prepared } = self;
        let files = prepared.data_files.iter().map(|file| {
            json!({
                "path": file.path.to_string_lossy(),
                "bytes": file.len,
                "reused": file.is_reused,
            })
        });
        let answer = json!({
            "image": request.image.to_string_lossy(),
            "digest": format!("sha256:{}", prepared.digest),
            "inodes": prepared.inodes,
            "metadata_bytes": prepared.metadata_bytes,
            "data_bytes": prepared.data_bytes,
            "data_files": files.collect::<Vec<_>>(),
        });
        format!("{answer:#}")
    }
}

impl Display for MadeImage<'_> {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let Self { request, prepared } = self;
        writeln!(f, "image      {}", request.image.display())?;
        writeln!(f, "digest     sha256:{}", prepared.digest)?;
        writeln!(f, "inodes     {}", prepared.inodes)?;
        let metadata = prepared.metadata_bytes;
        writeln!(f, "metadata   {metadata} bytes, {} per inode", per_inode(metadata, prepared.inodes))?;
        write!(f, "data       {} bytes in {} files", prepared.data_bytes, prepared.data_files.len())?;
        for file in &prepared.data_files {
            let note = if file.is_reused { " (was there)" } else { "" };
            write!(f, "\ndata file  {}{note}", file.path.display())?;
        }
        Ok(())
    }
}

/// Returns bytes per inode with one digit behind the point.
pub(super) fn per_inode(bytes: u64, inodes: u64) -> String {
    let tenths = u128::from(bytes).saturating_mul(10).checked_div(u128::from(inodes)).unwrap_or_default();
    format!("{}.{}", tenths / 10, tenths % 10)
}
