//! The JSON files of an OCI image layout.

use crate::error::LayoutError;
use crate::limits;
use serde_json::Value;
use std::fmt;
use std::fs::File;
use std::io::Read as _;
use std::path::{Path, PathBuf};

/// A parsed file and its path, for messages.
#[derive(Debug)]
pub(super) struct Document {
    path: PathBuf,
    root: Value,
}

/// A reference to a blob.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Descriptor {
    pub(super) media_type: String,
    pub(super) digest: String,
    pub(super) size: u64,
    /// Operating system and architecture, if the index gives them.
    platform: Option<String>,
    /// Tags, in short and in full form.
    tags: Vec<String>,
}

impl Document {
    /// Reads a file that no digest covers.
    pub(super) fn read(path: &Path) -> Result<Self, LayoutError> {
        let wrong = |source| LayoutError::Read { path: path.to_owned(), source };
        let file = File::open(path).map_err(wrong)?;
        let len = file.metadata().map_err(wrong)?.len();
        if len > limits::JSON_LEN_MAX {
            return Err(LayoutError::Long { path: path.to_owned(), len, most: limits::JSON_LEN_MAX });
        }
        let mut bytes = Vec::new();
        file.take(limits::JSON_LEN_MAX).read_to_end(&mut bytes).map_err(wrong)?;
        Self::parse(path.to_owned(), &bytes)
    }

    /// Parses a file. serde_json limits the depth to 128.
    pub(super) fn parse(path: PathBuf, bytes: &[u8]) -> Result<Self, LayoutError> {
        match serde_json::from_slice::<Value>(bytes) {
            Ok(root) if root.is_object() => Ok(Self { path, root }),
            Ok(_) => Err(LayoutError::Json { path, what: "not a JSON object".to_owned() }),
            Err(error) => Err(LayoutError::Json { path, what: format!("not valid JSON: {error}") }),
        }
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// Returns whether this is an index, by its own type or that of the reference to it.
    pub(super) fn is_index(&self, reference: &Descriptor) -> bool {
        const INDEXES: [&str; 2] = [
            "application/vnd.oci.image.index.v1+json",
            "application/vnd.docker.distribution.manifest.list.v2+json",
        ];
        let own = self.root.get("mediaType").and_then(Value::as_str).unwrap_or(&reference.media_type);
        INDEXES.contains(&own)
    }

    /// Returns the references of a list.
    pub(super) fn descriptors(&self, list: &str) -> Result<Vec<Descriptor>, LayoutError> {
        let wrong = |what: String| LayoutError::Json { path: self.path.clone(), what };
        let entries = self.root.get(list).and_then(Value::as_array);
        let entries = entries.ok_or_else(|| wrong(format!("it has no list \"{list}\"")))?;
        let descriptors = entries.iter().enumerate().map(|(number, entry)| {
            Descriptor::of(entry)
                .map_err(|field| wrong(format!("entry {number} of \"{list}\" has no \"{field}\"")))
        });
        descriptors.collect()
    }
}

impl Descriptor {
    /// Returns the reference, or the name of the field that is missing or wrong.
    fn of(entry: &Value) -> Result<Self, &'static str> {
        let text = |field| entry.get(field).and_then(Value::as_str).map(str::to_owned);
        let annotation =
            |name| entry.get("annotations").and_then(|all| all.get(name)).and_then(Value::as_str);
        let tags = ["org.opencontainers.image.ref.name", "io.containerd.image.name"];
        let platform = entry.get("platform").and_then(|platform| {
            let part = |name| platform.get(name).and_then(Value::as_str);
            Some(format!("{}/{}", part("os")?, part("architecture")?))
        });
        Ok(Self {
            media_type: text("mediaType").ok_or("mediaType")?,
            digest: text("digest").ok_or("digest")?,
            size: entry.get("size").and_then(Value::as_u64).ok_or("size")?,
            platform,
            tags: tags.into_iter().filter_map(annotation).map(str::to_owned).collect(),
        })
    }

    pub(super) fn has_tag(&self, tag: &str) -> bool {
        self.tags.iter().any(|known| known == tag)
    }

    /// Returns whether the index gives the platform of this host, or none.
    pub(super) fn is_for_this_host(&self) -> bool {
        self.platform.as_ref().is_none_or(|platform| *platform == host_platform())
    }
}

impl fmt::Display for Descriptor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let tag = self.tags.first().map(|tag| format!("\"{}\"", tag.escape_default()));
        let platform = self.platform.as_ref().map(|platform| platform.escape_default().to_string());
        match (tag, platform) {
            (Some(tag), Some(platform)) => write!(f, "{tag} for {platform}"),
            (Some(tag), None) => f.write_str(&tag),
            (None, Some(platform)) => write!(f, "one for {platform}"),
            (None, None) => f.write_str("one without a tag"),
        }
    }
}

/// Returns the platform of this host, in the words of Go.
pub(super) fn host_platform() -> String {
    let architecture = match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    };
    format!("linux/{architecture}")
}
