//! What `prepare` reads: the SOURCE of the command line.

use crate::progress::Progress;
use std::ffi::OsStr;
use std::fmt;
use std::io::{self, Read};
use std::os::unix::ffi::OsStrExt as _;
use std::path::PathBuf;

/// A source, as the command line names it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SourceArg {
    /// A directory or a tar file.
    Path(PathBuf),
    /// EROFS images that hold their data, the lowest layer first.
    LayerImages(Vec<PathBuf>),
    /// A tar file from standard input.
    StandardInput,
    /// An OCI image layout.
    Oci {
        /// Its folder.
        directory: PathBuf,
        /// The tag of the image, if the layout has several.
        tag: Option<String>,
    },
}

impl SourceArg {
    /// Returns the source that several SOURCEs are: images whose metadata is merged.
    ///
    /// # Errors
    /// The first SOURCE that cannot be one of several, as the command line has it.
    pub fn several(sources: Vec<Self>) -> Result<Self, String> {
        let mut paths = Vec::with_capacity(sources.len());
        for source in sources {
            match source {
                Self::Path(path) => paths.push(path),
                Self::LayerImages(more) => paths.extend(more),
                Self::StandardInput => return Err("-".to_owned()),
                Self::Oci { directory, .. } => return Err(format!("oci:{}", directory.display())),
            }
        }
        Ok(if let [path] = paths.as_slice() { Self::Path(path.clone()) } else { Self::LayerImages(paths) })
    }

    /// Parses a SOURCE: `-`, `oci:DIR[:TAG]` or a path. DIR ends at the first colon.
    ///
    /// # Errors
    /// A text for the user, if DIR or TAG is missing or TAG is not UTF-8.
    pub fn parse(text: &OsStr) -> Result<Self, String> {
        if text == "-" {
            return Ok(Self::StandardInput);
        }
        let Some(rest) = text.as_bytes().strip_prefix(b"oci:") else {
            return Ok(Self::Path(PathBuf::from(text)));
        };
        let (directory, tag) = match rest.iter().position(|byte| *byte == b':') {
            None => (rest, None),
            Some(colon) => (rest.get(..colon).unwrap_or_default(), rest.get(colon + 1..)),
        };
        let tag = tag.map(|tag| std::str::from_utf8(tag).ok().filter(|tag| !tag.is_empty()));
        match (directory, tag) {
            (b"", _) | (_, Some(None)) => {
                Err("give oci:DIR or oci:DIR:TAG, without a colon in DIR".to_owned())
            }
            (directory, tag) => {
                let directory = PathBuf::from(OsStr::from_bytes(directory));
                Ok(Self::Oci { directory, tag: tag.flatten().map(str::to_owned) })
            }
        }
    }
}

/// A reader that reports what was read.
pub(crate) struct Counted<'a, R> {
    source: R,
    progress: &'a mut dyn Progress,
}

impl<'a, R> Counted<'a, R> {
    pub(crate) fn new(source: R, progress: &'a mut dyn Progress) -> Self {
        Self { source, progress }
    }
}

impl<R: Read> Read for Counted<'_, R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.source.read(buffer)?;
        self.progress.advance(u64::try_from(read).unwrap_or(u64::MAX));
        Ok(read)
    }
}

impl<R> fmt::Debug for Counted<'_, R> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Counted").finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn source_is_input_layout_or_path() {
        let oci = |directory: &str, tag: Option<&str>| SourceArg::Oci {
            directory: directory.into(),
            tag: tag.map(str::to_owned),
        };
        for (text, expected) in [
            ("-", SourceArg::StandardInput),
            ("oci:a/b", oci("a/b", None)),
            ("oci:/a:docker.io/library/b:1.2", oci("/a", Some("docker.io/library/b:1.2"))),
            ("a:b.tar", SourceArg::Path("a:b.tar".into())),
            ("./-", SourceArg::Path("./-".into())),
        ] {
            assert_eq!(SourceArg::parse(text.as_ref()), Ok(expected));
        }
        for wrong in ["oci:", "oci::tag", "oci:a:"] {
            assert!(SourceArg::parse(wrong.as_ref()).is_err(), "{wrong}");
        }
    }
}
