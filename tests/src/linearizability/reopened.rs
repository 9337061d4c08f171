//! Close-to-open: an open sees what was written and closed before it was called. Files are written
//! whole and read whole, each between an open and a close.

use std::fmt;

/// A file as it was stored or seen, from the call of open to the return of close.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Passage<T> {
    /// Whose it was.
    pub client: usize,
    /// When the open was called.
    pub called: u64,
    /// When the close had returned.
    pub returned: u64,
    /// All of the file.
    pub value: T,
}

/// An open that saw what it should not.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Late<T> {
    /// What it saw.
    pub seen: Passage<T>,
    /// What it might have seen.
    pub stored: Vec<Passage<T>>,
}

impl<T: fmt::Debug> fmt::Display for Late<T> {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(out, "{:?}\nis none of what could be seen then:", self.seen)?;
        self.stored.iter().try_for_each(|stored| writeln!(out, "  {stored:?}"))
    }
}

/// Whether each of `seen` is one of `stored` that was begun before it ended, and that no other has
/// come wholly between.
///
/// # Errors
/// The first that is not.
pub fn check<T: Clone + Eq>(stored: &[Passage<T>], seen: &[Passage<T>]) -> Result<(), Box<Late<T>>> {
    for one in seen {
        let may_be_seen = |other: &&Passage<T>| {
            let is_replaced =
                stored.iter().any(|next| other.returned < next.called && next.returned < one.called);
            other.called < one.returned && !is_replaced
        };
        let possible: Vec<_> = stored.iter().filter(may_be_seen).cloned().collect();
        if !possible.iter().any(|other| other.value == one.value) {
            return Err(Box::new(Late { seen: one.clone(), stored: possible }));
        }
    }
    Ok(())
}
