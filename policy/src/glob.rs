//! Globs over paths of the share: their text, and what they match.
//!
//! A path is a list of components, each a name of the host's: bytes, mostly UTF-8. `*`, `?` and classes stand for
//! characters; a byte that is no UTF-8 counts as one character, which no literal and no class matches.

/// A compiled glob.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Glob {
    segments: Vec<Segment>,
}

/// What stands between two slashes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Segment {
    /// `**`: any number of components. Never the last one: there it is at least one component.
    AnyDepth,
    /// `*`: any one component.
    AnyName,
    /// One component of this form.
    Name(Component),
}

/// The form of one component, other than `*`.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Component {
    items: Vec<Item>,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum Item {
    /// Any characters, or none.
    Star,
    /// One character.
    One,
    Is(char),
    Class {
        negated: bool,
        /// First and last, both included.
        ranges: Vec<(char, char)>,
    },
}

/// A glob that cannot be meant.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[expect(missing_docs, reason = "the messages say it")]
pub enum GlobError {
    #[error("a path begins with /: that of the share's root")]
    NotAbsolute,
    #[error("an empty component matches nothing: there is no name between two slashes, or after the last")]
    EmptyComponent,
    #[error("{0:?} is no name and matches nothing")]
    Dots(String),
    #[error("** stands alone between slashes: {0:?}")]
    StarsWithin(String),
    #[error("{0:?}: a bracket is not closed, or holds nothing; write a literal [ as [[]")]
    Bracket(String),
    #[error("{0:?}: a range ends before it begins")]
    Range(String),
    #[error(
        "{text:?}: {character} has no meaning here; write two rules, or the character itself as [{character}]"
    )]
    Reserved { text: String, character: char },
    #[error("{0:?}: a name has at most 255 bytes, none of them NUL")]
    NoName(String),
    #[error("{0:?}: more than {ITEMS_MAX} characters and wildcards in one component with wildcards")]
    Long(String),
    #[error("more than {SEGMENTS_MAX} components")]
    Deep,
}

/// Positions in a component with wildcards fit a word, the one behind its end included.
const ITEMS_MAX: usize = 63;
/// Components of a glob; deeper trees are described by `**`.
const SEGMENTS_MAX: usize = 64;
/// Bytes of a name, `NAME_MAX`.
const NAME_MAX: usize = 255;

/// A character, or a byte that is part of none.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Symbol(u32);

impl Symbol {
    /// Behind the last character.
    const BYTES: u32 = 0x11_0000;

    pub(crate) const fn of(number: u32) -> Self {
        Self(number)
    }

    pub(crate) const fn number(self) -> u32 {
        self.0
    }

    /// The symbols of a name.
    pub(crate) fn all(name: &[u8]) -> impl Iterator<Item = Self> {
        name.utf8_chunks().flat_map(|chunk| {
            let bytes = chunk.invalid().iter().map(|byte| Self(Self::BYTES | u32::from(*byte)));
            chunk.valid().chars().map(|character| Self(u32::from(character))).chain(bytes)
        })
    }
}

impl Glob {
    /// Reads a glob.
    ///
    /// # Errors
    /// [`GlobError`] says what about it cannot be meant.
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
        // What is below, and not the directory itself.
        if segments.last() == Some(&Segment::AnyDepth) {
            segments.push(Segment::AnyName);
        }
        if segments.len() > SEGMENTS_MAX {
            return Err(GlobError::Deep);
        }
        Ok(Self { segments })
    }

    /// What stands between its slashes.
    pub(crate) fn segments(&self) -> &[Segment] {
        &self.segments
    }

    /// Whether it matches a path, given by its components.
    pub(crate) fn matches(&self, path: &[&[u8]]) -> bool {
        matches_from(&self.segments, path)
    }
}

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
    fn parse(part: &str) -> Result<Self, GlobError> {
        let mut items = Vec::new();
        let mut rest = part.chars();
        while let Some(character) = rest.next() {
            items.push(match character {
                '*' => Item::Star,
                '?' => Item::One,
                '[' => {
                    let (item, behind) = class(part, rest.as_str())?;
                    rest = behind.chars();
                    item
                }
                '{' | '}' | '\\' | ']' => {
                    return Err(GlobError::Reserved { text: part.to_owned(), character });
                }
                plain => Item::Is(plain),
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

    /// The one name that it matches, where it has no wildcard.
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

    /// Whether it matches a name.
    pub(crate) fn matches(&self, name: &[u8]) -> bool {
        match self.literal() {
            Some(literal) => literal == name,
            None => self.accepts(Symbol::all(name).fold(self.start(), |at, symbol| self.step(at, symbol))),
        }
    }

    /// The positions, a bit each, before the first character of a name.
    pub(crate) fn start(&self) -> u64 {
        self.and_behind_stars(1)
    }

    /// The positions after one character more.
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
        self.and_behind_stars(next)
    }

    /// Whether a name may end here.
    pub(crate) fn accepts(&self, at: u64) -> bool {
        bits().nth(self.items.len()).is_some_and(|end| at & end != 0)
    }

    /// Adds to `into` the first symbols of the stretches within which it treats all symbols alike.
    pub(crate) fn boundaries(&self, into: &mut impl Extend<u32>) {
        for item in &self.items {
            match item {
                Item::Star | Item::One => {}
                Item::Is(character) => into.extend(stretch(*character, *character)),
                Item::Class { ranges, .. } => {
                    into.extend(ranges.iter().flat_map(|(first, last)| stretch(*first, *last)));
                }
            }
        }
    }

    fn and_behind_stars(&self, mut at: u64) -> u64 {
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
    /// Steps that this thread has taken through single components.
    pub(crate) static STEPS: std::cell::Cell<u64> = const { std::cell::Cell::new(0) };
}

/// Single bits, the lowest first.
fn bits() -> impl Iterator<Item = u64> {
    (0..u64::BITS).map(|index| 1_u64 << index)
}

fn stretch(first: char, last: char) -> [u32; 2] {
    [u32::from(first), u32::from(last).saturating_add(1)]
}

impl Item {
    fn matches(&self, Symbol(symbol): Symbol) -> bool {
        match self {
            Self::Star | Self::One => true,
            Self::Is(character) => u32::from(*character) == symbol,
            Self::Class { negated, ranges } => {
                let within = ranges
                    .iter()
                    .any(|(first, last)| (u32::from(*first)..=u32::from(*last)).contains(&symbol));
                within != *negated
            }
        }
    }
}

/// A class, and what stands behind it. `rest` begins behind its `[`.
fn class<'a>(part: &str, rest: &'a str) -> Result<(Item, &'a str), GlobError> {
    let open = || GlobError::Bracket(part.to_owned());
    let (negated, inside) = match rest.strip_prefix(['!', '^']) {
        Some(inside) => (true, inside),
        None => (false, rest),
    };
    let mut characters = inside.chars();
    let mut ranges = Vec::new();
    loop {
        let first = characters.next().ok_or_else(open)?;
        // A bracket that closes at once is a literal one.
        if first == ']' && !ranges.is_empty() {
            return Ok((Item::Class { negated, ranges }, characters.as_str()));
        }
        let last = match characters.as_str().strip_prefix('-') {
            Some(behind) if !behind.starts_with(']') => {
                characters = behind.chars();
                characters.next().ok_or_else(open)?
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
    fn a_glob_matches_what_it_says() {
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
    fn a_byte_that_is_no_character_is_one_wildcard_long() {
        let glob = Glob::parse("/a?").unwrap();
        assert!(glob.matches(&[b"a\xff"]));
        assert!(!glob.matches(&[b"a\xff\xfe"]));
    }

    #[test]
    fn what_matches_nothing_is_refused() {
        for (glob, named) in [
            ("etc", "begins with /"),
            ("", "begins with /"),
            ("/a//b", "empty component"),
            ("/a/", "empty component"),
            ("/a/../b", "no name"),
            ("/.", "no name"),
            ("/a**", "stands alone"),
            ("/[a", "not closed"),
            ("/[]", "not closed"),
            ("/[b-a]", "ends before"),
            ("/{a,b}", "[{]"),
            ("/a\\*", "[\\]"),
        ] {
            let error = Glob::parse(glob).unwrap_err().to_string();
            assert!(error.contains(named), "{glob}: {error}");
        }
        for long in [format!("/{}", "a".repeat(256)), format!("/{}*", "a".repeat(63)), "/a".repeat(65)] {
            Glob::parse(&long).unwrap_err();
        }
    }
}
