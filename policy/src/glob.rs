//! Globs over paths of the share: their syntax, and the paths that they match.
//!
//! A path is a list of components. Each component is a name on the host: bytes, usually UTF-8. `*`,
//! `?` and classes match characters. A byte that is not part of valid UTF-8 counts as one
//! character. No literal and no class matches it, except a negated class.

/// A compiled glob.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Glob {
    segments: Vec<Segment>,
}

/// The part of a glob between two slashes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Segment {
    /// `**`: any number of components. It is never the last segment: `**` at the end of a glob
    /// means at least one component, so an `AnyName` follows it.
    AnyDepth,
    /// `*`: any single component.
    AnyName,
    /// A component that matches a pattern.
    Name(Component),
}

/// The pattern of one component, other than `*`.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Component {
    items: Vec<Item>,
}

/// An element of a component's pattern.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum Item {
    /// Any number of characters.
    Star,
    /// Any single character.
    One,
    /// This character.
    Is(char),
    /// Any single character in the ranges or, if negated, outside all of them.
    Class {
        /// Whether the class begins with `!` or `^`.
        negated: bool,
        /// First and last character of each range, both included.
        ranges: Vec<(char, char)>,
    },
}

/// An error in a glob.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[expect(missing_docs, reason = "the messages describe the variants")]
pub enum GlobError {
    #[error("a path begins with /, the root of the share")]
    NotAbsolute,
    #[error("an empty component matches nothing: remove the double or final slash")]
    EmptyComponent,
    #[error("{0:?} is not a name and matches nothing")]
    Dots(String),
    #[error("{0:?}: ** must be a whole component")]
    StarsWithin(String),
    #[error("{0:?}: a bracket is not closed or is empty; write a literal [ as [[]")]
    Bracket(String),
    #[error("{0:?}: a range ends before it begins")]
    Range(String),
    #[error(
        "{text:?}: {character} has no meaning; write [{character}] for the character, or two rules for alternatives"
    )]
    Reserved { text: String, character: char },
    #[error("{0:?}: a name has at most {NAME_MAX} bytes and no NUL")]
    NoName(String),
    #[error("{0:?}: a component with wildcards has at most {ITEMS_MAX} characters and wildcards")]
    Long(String),
    #[error("a path has at most {SEGMENTS_MAX} components; ** stands for any number of them")]
    Deep,
}

/// Maximum number of characters and wildcards in a component with wildcards. Its positions,
/// including the one after the end, are the bits of a `u64`.
const ITEMS_MAX: usize = 63;
/// Maximum number of components in a glob. `**` covers deeper trees.
const SEGMENTS_MAX: usize = 64;
/// Maximum length of a name in bytes (`NAME_MAX` of Linux).
const NAME_MAX: usize = 255;

/// A character, or a byte that is not part of a character.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Symbol(u32);

impl Symbol {
    /// Number of the symbol for byte 0. All characters have lower numbers.
    const BYTES: u32 = 0x11_0000;

    /// Returns the symbol with this number.
    pub(crate) const fn of(number: u32) -> Self {
        Self(number)
    }

    /// Returns the number of the symbol.
    pub(crate) const fn number(self) -> u32 {
        self.0
    }

    /// Splits a name into symbols.
    pub(crate) fn all(name: &[u8]) -> impl Iterator<Item = Self> {
        name.utf8_chunks().flat_map(|chunk| {
            let bytes = chunk.invalid().iter().map(|byte| Self(Self::BYTES | u32::from(*byte)));
            chunk.valid().chars().map(|character| Self(u32::from(character))).chain(bytes)
        })
    }
}

impl Glob {
    /// Parses a glob.
    ///
    /// # Errors
    /// [`GlobError`] if the glob is malformed, too long, or can match nothing.
    pub(crate) fn parse(text: &str) -> Result<Self, GlobError> {
        let below = text.strip_prefix('/').ok_or(GlobError::NotAbsolute)?;
        let mut segments = Vec::new();
        if !below.is_empty() {
            for part in below.split('/') {
                let segment = Segment::parse(part)?;
                // `**/**` is `**`.
                if segment != Segment::AnyDepth || segments.last() != Some(&Segment::AnyDepth) {
                    segments.push(segment);
                }
            }
        }
        // A final `**` matches everything below a directory, but not the directory.
        if segments.last() == Some(&Segment::AnyDepth) {
            segments.push(Segment::AnyName);
        }
        if segments.len() > SEGMENTS_MAX {
            return Err(GlobError::Deep);
        }
        Ok(Self { segments })
    }

    /// Returns the segments.
    pub(crate) fn segments(&self) -> &[Segment] {
        &self.segments
    }

    /// Returns whether the glob matches a path, given by its components.
    pub(crate) fn matches(&self, path: &[&[u8]]) -> bool {
        matches_from(&self.segments, path)
    }
}

/// Returns whether these segments match these components completely.
fn matches_from(segments: &[Segment], path: &[&[u8]]) -> bool {
    let Some((first, rest)) = segments.split_first() else { return path.is_empty() };
    match (first, path.split_first()) {
        (Segment::AnyDepth, None) => matches_from(rest, path),
        (Segment::AnyDepth, Some((_, below))) => matches_from(rest, path) || matches_from(segments, below),
        (Segment::AnyName | Segment::Name(_), None) => false,
        (Segment::AnyName, Some((_, below))) => matches_from(rest, below),
        (Segment::Name(component), Some((name, below))) => {
            component.matches(name) && matches_from(rest, below)
        }
    }
}

impl Segment {
    /// Parses the text between two slashes.
    fn parse(part: &str) -> Result<Self, GlobError> {
        match part {
            "" => Err(GlobError::EmptyComponent),
            "." | ".." => Err(GlobError::Dots(part.to_owned())),
            "**" => Ok(Self::AnyDepth),
            "*" => Ok(Self::AnyName),
            _ if part.contains("**") => Err(GlobError::StarsWithin(part.to_owned())),
            _ => Component::parse(part).map(Self::Name),
        }
    }
}

impl Component {
    /// Parses the text between two slashes, other than `*` and `**`.
    fn parse(part: &str) -> Result<Self, GlobError> {
        let mut items = Vec::new();
        let mut rest = part.chars();
        while let Some(character) = rest.next() {
            items.push(match character {
                '*' => Item::Star,
                '?' => Item::One,
                '[' => {
                    let (item, after) = class(part, rest.as_str())?;
                    rest = after.chars();
                    item
                }
                '{' | '}' | '\\' | ']' => {
                    return Err(GlobError::Reserved { text: part.to_owned(), character });
                }
                literal => Item::Is(literal),
            });
        }
        let component = Self { items };
        match component.literal() {
            Some(name) if name.len() > NAME_MAX || name.contains(&0) => {
                Err(GlobError::NoName(part.to_owned()))
            }
            Some(name) if name == b"." || name == b".." => Err(GlobError::Dots(part.to_owned())),
            None if component.items.len() > ITEMS_MAX => Err(GlobError::Long(part.to_owned())),
            Some(_) | None => Ok(component),
        }
    }

    /// Returns the only name that a component without wildcards matches.
    pub(crate) fn literal(&self) -> Option<Vec<u8>> {
        let mut name = String::new();
        for item in &self.items {
            match item {
                Item::Is(character) => name.push(*character),
                Item::Star | Item::One | Item::Class { .. } => return None,
            }
        }
        Some(name.into_bytes())
    }

    /// Returns whether the component matches a name.
    pub(crate) fn matches(&self, name: &[u8]) -> bool {
        match self.literal() {
            Some(literal) => literal == name,
            None => self.accepts(Symbol::all(name).fold(self.start(), |at, symbol| self.step(at, symbol))),
        }
    }

    /// Returns the set of positions before the first character of a name, one bit for each.
    pub(crate) fn start(&self) -> u64 {
        self.closure(1)
    }

    /// Returns the positions after one more character.
    pub(crate) fn step(&self, at: u64, symbol: Symbol) -> u64 {
        #[cfg(test)]
        STEPS.set(STEPS.get().saturating_add(1));
        let mut next = 0;
        for (bit, item) in bits().zip(&self.items) {
            if at & bit != 0 {
                next |= match item {
                    Item::Star => bit,
                    _ if item.matches(symbol) => bit << 1,
                    Item::One | Item::Is(_) | Item::Class { .. } => 0,
                };
            }
        }
        self.closure(next)
    }

    /// Returns whether a name may end at one of these positions.
    pub(crate) fn accepts(&self, at: u64) -> bool {
        bits().nth(self.items.len()).is_some_and(|end| at & end != 0)
    }

    /// Adds the symbols at which a new range of symbols begins. At each position of its pattern,
    /// the component matches either all symbols of a range or none.
    ///
    /// These are, for each literal character and for each range of a class, the first symbol and
    /// the first symbol after the last.
    pub(crate) fn add_range_boundaries(&self, into: &mut impl Extend<u32>) {
        for item in &self.items {
            match item {
                Item::Star | Item::One => {}
                Item::Is(character) => into.extend(range_boundaries(*character, *character)),
                Item::Class { ranges, .. } => {
                    into.extend(ranges.iter().flat_map(|(first, last)| range_boundaries(*first, *last)));
                }
            }
        }
    }

    /// Adds the position after each star, because a star may match zero characters.
    fn closure(&self, mut at: u64) -> u64 {
        for (bit, item) in bits().zip(&self.items) {
            if *item == Item::Star && at & bit != 0 {
                at |= bit << 1;
            }
        }
        at
    }
}

#[cfg(test)]
std::thread_local! {
    /// Number of calls of [`Component::step`] on this thread.
    pub(crate) static STEPS: std::cell::Cell<u64> = const { std::cell::Cell::new(0) };
}

/// Returns each single bit, from the lowest.
fn bits() -> impl Iterator<Item = u64> {
    (0..u64::BITS).map(|index| 1_u64 << index)
}

/// Returns the first symbol of a range, and the first symbol after it.
fn range_boundaries(first: char, last: char) -> [u32; 2] {
    [u32::from(first), u32::from(last).saturating_add(1)]
}

impl Item {
    /// Returns whether the item matches a symbol. A star matches any.
    fn matches(&self, Symbol(symbol): Symbol) -> bool {
        match self {
            Self::Star | Self::One => true,
            Self::Is(character) => u32::from(*character) == symbol,
            Self::Class { negated, ranges } => {
                let in_ranges = ranges
                    .iter()
                    .any(|(first, last)| (u32::from(*first)..=u32::from(*last)).contains(&symbol));
                in_ranges != *negated
            }
        }
    }
}

/// Parses a class of the component `part`. `rest` is the text after its `[`. Returns the class and
/// the text after its `]`.
fn class<'a>(part: &str, rest: &'a str) -> Result<(Item, &'a str), GlobError> {
    let not_closed = || GlobError::Bracket(part.to_owned());
    let (negated, inside) = match rest.strip_prefix(['!', '^']) {
        Some(inside) => (true, inside),
        None => (false, rest),
    };
    let mut characters = inside.chars();
    let mut ranges = Vec::new();
    loop {
        let first = characters.next().ok_or_else(not_closed)?;
        // A `]` directly after the opening bracket is a character of the class.
        if first == ']' && !ranges.is_empty() {
            return Ok((Item::Class { negated, ranges }, characters.as_str()));
        }
        let last = match characters.as_str().strip_prefix('-') {
            Some(after) if !after.starts_with(']') => {
                characters = after.chars();
                characters.next().ok_or_else(not_closed)?
            }
            Some(_) | None => first,
        };
        if last < first {
            return Err(GlobError::Range(part.to_owned()));
        }
        ranges.push((first, last));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn matches(glob: &str, path: &str) -> bool {
        let components: Vec<&[u8]> =
            path.split('/').filter(|part| !part.is_empty()).map(str::as_bytes).collect();
        Glob::parse(glob).unwrap().matches(&components)
    }

    #[test]
    fn glob_matches_the_expected_paths() {
        for (glob, path, matched) in [
            ("/", "/", true),
            ("/", "/etc", false),
            ("/etc", "/etc", true),
            ("/etc/**", "/etc", false),
            ("/etc/**", "/etc/ssl/certs", true),
            ("/**", "/", false),
            ("/**", "/a", true),
            ("/**/x", "/x", true),
            ("/**/x", "/a/b/x", true),
            ("/a/**/b", "/a/b", true),
            ("/a/**/b", "/a/1/2/b", true),
            ("/a/**/b", "/a/1/2/c", false),
            ("/*", "/a", true),
            ("/*", "/a/b", false),
            ("/*.txt", "/.txt", true),
            ("/*.txt", "/a.txt.txt", true),
            ("/*.txt", "/a.txt2", false),
            ("/?", "/ä", true),
            ("/?", "/ab", false),
            ("/[a-c]x", "/bx", true),
            ("/[!a-c]x", "/bx", false),
            ("/[^a-c]x", "/dx", true),
            ("/[]]", "/]", true),
            ("/[*]", "/*", true),
            ("/[*]", "/a", false),
            ("/[a-]", "/-", true),
        ] {
            assert_eq!(matches(glob, path), matched, "{glob} {path}");
        }
    }

    #[test]
    fn question_mark_matches_one_invalid_byte() {
        let glob = Glob::parse("/a?").unwrap();
        assert!(glob.matches(&[b"a\xff"]));
        assert!(!glob.matches(&[b"a\xff\xfe"]));
    }

    #[test]
    fn malformed_glob_is_refused() {
        for (glob, expected) in [
            ("etc", "begins with /"),
            ("", "begins with /"),
            ("/a//b", "empty component"),
            ("/a/", "empty component"),
            ("/a/../b", "not a name"),
            ("/.", "not a name"),
            ("/a**", "whole component"),
            ("/[a", "not closed"),
            ("/[]", "not closed"),
            ("/[b-a]", "ends before"),
            ("/{a,b}", "[{]"),
            ("/a\\*", "[\\]"),
        ] {
            let error = Glob::parse(glob).unwrap_err().to_string();
            assert!(error.contains(expected), "{glob}: {error}");
        }
        for long in [format!("/{}", "a".repeat(256)), format!("/{}*", "a".repeat(63)), "/a".repeat(65)] {
            Glob::parse(&long).unwrap_err();
        }
    }
}
