//! Model of close-to-open: an open sees the data that was written and closed before it was called.
//! Each file is written and read as a whole, between an open and a close.

use std::fmt;

/// File as it was written or read, from the call of open to the return of close.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FileAccess<T> {
    /// Client that opened the file.
    pub client: usize,
    /// Time of the call of open.
    pub called: u64,
    /// Time of the return of close.
    pub returned: u64,
    /// Content of the file.
    pub value: T,
}

/// Open that saw a wrong value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StaleOpen<T> {
    /// The open and the value that it saw.
    pub seen: FileAccess<T>,
    /// The stored values that it was allowed to see.
    pub stored: Vec<FileAccess<T>>,
}

impl<T: fmt::Debug> fmt::Display for StaleOpen<T> {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(out, "{:?}\nis none of the values that this open was allowed to see:", self.seen)?;
        self.stored.iter().try_for_each(|stored| writeln!(out, "  {stored:?}"))
    }
}

/// Checks that each access in `seen` read a value of `stored`. The access that stored the value
/// must have begun before the access that read it ended, and no other store may lie completely
/// between the two.
///
/// # Errors
/// [`StaleOpen`]: the first open that saw another value.
pub fn check<T: Clone + Eq>(
    stored: &[FileAccess<T>],
    seen: &[FileAccess<T>],
) -> Result<(), Box<StaleOpen<T>>> {
    for open in seen {
        let may_be_seen = |value: &&FileAccess<T>| {
            let is_replaced =
                stored.iter().any(|next| value.returned < next.called && next.returned < open.called);
            value.called < open.returned && !is_replaced
        };
        let possible: Vec<_> = stored.iter().filter(may_be_seen).cloned().collect();
        if !possible.iter().any(|value| value.value == open.value) {
            return Err(Box::new(StaleOpen { seen: open.clone(), stored: possible }));
        }
    }
    Ok(())
}
