//! Why an entry cannot be part of the tree.

/// A fault of one entry. The place of the entry is in the error around it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[expect(missing_docs, reason = "the messages say it")]
pub enum TreeError {
    #[error("{subject} has {count} {unit}; at most {most} are accepted")]
    Limit { subject: &'static str, unit: &'static str, count: usize, most: usize },
    #[error("the name \"{name}\" {why}; give relative names without \"..\", of 1 to 255 bytes each")]
    Name { name: String, why: &'static str },
    #[error("\"{name}\" is not the name of an extended attribute; use user., trusted., security. or an ACL")]
    XattrName { name: String },
    #[error(
        "its directory \"{name}\" is another kind of file; put a directory or a symlink to one before it"
    )]
    NotADirectory { name: String },
    #[error("the path passes more than 40 symlinks or 4096 names; remove their loop")]
    Loop,
    #[error("it is a hard link to \"{target}\", which {why}; put its target before it")]
    Link { target: String, why: &'static str },
    #[error("the root of the tree is not a directory here; put only attributes of a directory there")]
    Root,
}

/// Checks a count against its limit.
///
/// # Errors
/// [`TreeError::Limit`].
pub(crate) fn within(
    subject: &'static str,
    unit: &'static str,
    count: usize,
    most: usize,
) -> Result<(), TreeError> {
    if count > most { Err(TreeError::Limit { subject, unit, count, most }) } else { Ok(()) }
}

/// Returns the begin of a name or path for a message, with escapes as in Rust.
pub(crate) fn shown(name: &[u8]) -> String {
    const LONGEST: usize = 200;
    let begin = name.get(..name.len().min(LONGEST)).unwrap_or_default();
    format!("{}{}", begin.escape_ascii(), if name.len() > LONGEST { "..." } else { "" })
}
