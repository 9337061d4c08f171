//! Collects the functions, constants and variants of the project's types, to check `Type::item` in
//! documents.
//!
//! This reads lines in the format of rustfmt: a block ends at the first line that is not indented
//! deeper than its first line.

use std::collections::BTreeSet;

use super::source::Source;

/// Returns `Type::item` for every item that is defined in a block of the type itself.
pub(super) fn all(sources: &[Source]) -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    for source in sources.iter().filter(|source| source.is_rust()) {
        let lines: Vec<&str> = source.code.lines().collect();
        for (index, line) in lines.iter().enumerate() {
            let Some(block) = Block::at(line) else { continue };
            let inside = lines.iter().skip(index + 1).take_while(|line| !block.ends_at(line));
            found.extend(
                inside.filter_map(|line| block.item(line)).map(|item| format!("{}::{item}", block.of)),
            );
        }
    }
    found
}

/// Returns `Type::item` if a text in backticks has this form. Arguments in parentheses are ignored.
pub(super) fn named(text: &str) -> Option<&str> {
    let path = text.split('(').next().unwrap_or(text);
    let (of, item) = path.split_once("::")?;
    let is_type = of.starts_with(|c: char| c.is_ascii_uppercase()) && word(of) == of;
    (is_type && !item.is_empty() && word(item) == item).then_some(path)
}

/// Lines that belong to one type.
struct Block<'l> {
    of: &'l str,
    indent: usize,
    /// Whether it is an enum: its variants have no keyword.
    variants: bool,
}

impl<'l> Block<'l> {
    fn at(line: &'l str) -> Option<Self> {
        let text = line.trim_start();
        let indent = line.len() - text.len();
        let text = text.strip_prefix("pub").map_or(text, |rest| match rest.split_once(' ') {
            Some((_scope, rest)) => rest,
            None => rest,
        });
        let (keyword, rest) = text.split_at(word(text).len());
        let of = match keyword {
            "impl" => {
                let rest = past_generics(rest.trim_start());
                let own = rest.split_once(" for ").map_or(rest, |(_trait, own)| own).trim_start();
                let path = own.split(['<', '{', ' ']).next().unwrap_or_default();
                path.rsplit("::").next().unwrap_or_default()
            }
            "trait" | "struct" | "enum" => word(rest.trim_start()),
            _ => return None,
        };
        (!of.is_empty()).then_some(Self { of, indent, variants: keyword == "enum" })
    }

    fn ends_at(&self, line: &str) -> bool {
        let text = line.trim_start();
        // A type without a block ends where the next item begins.
        !text.is_empty()
            && line.len() - text.len() <= self.indent
            && !text.starts_with("where")
            && text != "{"
    }

    /// Returns the name of the item that a line of the block defines.
    fn item(&self, line: &'l str) -> Option<&'l str> {
        let text = line.trim_start();
        let after = |keyword: &str| {
            let (before, rest) = text.split_once(keyword)?;
            let alone = before.chars().all(|c| c.is_ascii_lowercase() || " ():_".contains(c));
            let name = word(rest);
            (alone && !name.is_empty() && name != "fn").then_some(name)
        };
        let own = line.len() - text.len() == self.indent + 4;
        let variant = || Some(word(text)).filter(|name| name.starts_with(|c: char| c.is_ascii_uppercase()));
        own.then(|| after("fn ").or_else(|| after("const ")).or_else(|| variant().filter(|_| self.variants)))
            .flatten()
    }
}

/// Returns the identifier at the start of `text`.
fn word(text: &str) -> &str {
    let end = text.find(|c: char| !c.is_ascii_alphanumeric() && c != '_').unwrap_or(text.len());
    text.get(..end).unwrap_or_default()
}

/// Returns the rest of `text` after a leading `<...>`, or all of `text`.
fn past_generics(text: &str) -> &str {
    if !text.starts_with('<') {
        return text;
    }
    let mut depth = 0_usize;
    for (at, c) in text.char_indices() {
        match c {
            '<' => depth += 1,
            '>' if !text.get(..at).unwrap_or_default().ends_with('-') => depth -= 1,
            _ => {}
        }
        if depth == 0 {
            return text.get(at + 1..).unwrap_or_default();
        }
    }
    ""
}

#[cfg(test)]
mod tests {
    use super::*;

    fn items(code: &str) -> Vec<String> {
        all(&[Source::new("daemon/src/a.rs", code)]).into_iter().collect()
    }

    #[test]
    fn functions_belong_to_the_type_and_not_to_the_trait() {
        let code = "impl<F: Fn() -> u8> crate::Job for Worker<F> {\n    fn run(&self) {\n        fn inner() {}\n    }\n}\n\
                    fn free() {}\n";
        assert_eq!(items(code), ["Worker::run"]);
    }

    #[test]
    fn traits_variants_and_constants_are_items() {
        let code = "pub trait Sink {\n    fn send(\n        &mut self,\n    );\n}\npub(super) enum Body<'a> {\n    Bytes(u8),\n}\n\
                    impl Lane {\n    pub(super) const EXPRESS: Self = Self(1);\n    pub const fn next() {}\n}\n";
        assert_eq!(items(code), ["Body::Bytes", "Lane::EXPRESS", "Lane::next", "Sink::send"]);
    }

    #[test]
    fn type_without_a_block_has_no_items_of_the_next() {
        assert_eq!(items("struct A(u8);\n\nimpl B {\n    fn b() {}\n}\n"), ["B::b"]);
    }

    #[test]
    fn only_a_type_and_one_item_are_a_name() {
        assert_eq!(named("Ring::begin"), Some("Ring::begin"));
        assert_eq!(named("Body::InPlace(n)"), Some("Body::InPlace"));
        for other in ["ring::begin", "std::fs::File", "A::b::c", "A", "A::", "Vec<u8>::new"] {
            assert_eq!(named(other), None, "{other}");
        }
    }
}
