//! A file for tidy: its text, its code without comments and literals, and the paths in its code.
//!
//! This reads tokens and does not parse Rust. That is enough for rules about names.

use std::path::Path;

/// File of the project.
#[derive(Debug)]
pub(crate) struct Source {
    /// Path from the root of the workspace, with `/`.
    pub(super) file: String,
    pub(super) text: String,
    /// `text` with comments and the contents of literals replaced by spaces. Lines and columns
    /// stay.
    pub(super) code: String,
}

/// Path such as `std::fs::read`, with its line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct NamedPath {
    pub(super) line: usize,
    pub(super) segments: Vec<String>,
}

impl Source {
    pub(crate) fn new(file: &str, text: &str) -> Self {
        let code = if is_rust(file) { blank(text) } else { String::new() };
        Self { file: file.to_owned(), text: text.to_owned(), code }
    }

    pub(super) fn is_rust(&self) -> bool {
        is_rust(&self.file)
    }

    pub(super) fn is_document(&self) -> bool {
        has_extension(&self.file, "md")
    }

    /// Returns the lines of the text with their numbers, from 1.
    pub(super) fn lines(&self) -> impl Iterator<Item = (usize, &str)> {
        self.text.lines().enumerate().map(|(index, line)| (index + 1, line))
    }

    /// Returns the product code of this file: the code before its test module, and no code of a
    /// test file.
    pub(crate) fn product_code(&self) -> &str {
        let name = self.file.rsplit('/').next().unwrap_or_default();
        let in_tests = self.file.split('/').any(|folder| folder == "tests" || folder == "fuzz");
        if in_tests || name == "tests.rs" || name.ends_with("_tests.rs") {
            return "";
        }
        let end = self.code.find("#[cfg(test)]").unwrap_or(self.code.len());
        self.code.get(..end).unwrap_or_default()
    }
}

fn is_rust(file: &str) -> bool {
    has_extension(file, "rs")
}

fn has_extension(file: &str, wanted: &str) -> bool {
    Path::new(file).extension().is_some_and(|extension| extension == wanted)
}

/// Returns all paths of two or more segments in `code`, with groups in braces expanded.
pub(super) fn paths(code: &str) -> Vec<NamedPath> {
    let mut reader = Reader { tokens: tokens(code), next: 0 };
    let mut found = Vec::new();
    while let Some((line, token)) = reader.take() {
        if let Token::Word(word) = token {
            reader.path(line, vec![word], &mut found);
        }
    }
    found.retain(|path| path.segments.len() > 1);
    found
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Token {
    Word(String),
    Separator,
    Open,
    Close,
    Other,
}

struct Reader {
    tokens: Vec<(usize, Token)>,
    next: usize,
}

impl Reader {
    fn take(&mut self) -> Option<(usize, Token)> {
        let token = self.tokens.get(self.next).cloned();
        self.next += 1;
        token
    }

    fn peek(&self, ahead: usize) -> Option<&Token> {
        self.tokens.get(self.next + ahead).map(|(_, token)| token)
    }

    /// Continues the path `segments`: `::word` extends it, `::{` starts one path for each member.
    fn path(&mut self, line: usize, mut segments: Vec<String>, found: &mut Vec<NamedPath>) {
        while self.peek(0) == Some(&Token::Separator) {
            match self.peek(1).cloned() {
                Some(Token::Word(word)) => {
                    segments.push(word);
                    self.next += 2;
                }
                Some(Token::Open) => {
                    self.next += 2;
                    self.group(&segments, found);
                    return;
                }
                Some(Token::Separator | Token::Close | Token::Other) | None => break,
            }
        }
        found.push(NamedPath { line, segments });
    }

    fn group(&mut self, prefix: &[String], found: &mut Vec<NamedPath>) {
        while let Some((line, token)) = self.take() {
            match token {
                // The next word is the local name of the import.
                Token::Word(word) if word == "as" => self.next += 1,
                Token::Word(word) => {
                    let mut segments = prefix.to_vec();
                    segments.push(word);
                    self.path(line, segments, found);
                }
                Token::Close => return,
                Token::Open | Token::Separator | Token::Other => {}
            }
        }
    }
}

fn tokens(code: &str) -> Vec<(usize, Token)> {
    let mut tokens = Vec::new();
    for (index, line) in code.lines().enumerate() {
        let mut rest = line;
        while let Some(first) = rest.chars().next() {
            let (token, len) = if first.is_alphanumeric() || first == '_' {
                let end = rest.find(|c: char| !c.is_alphanumeric() && c != '_').unwrap_or(rest.len());
                (Some(Token::Word(rest.get(..end).unwrap_or_default().to_owned())), end)
            } else if rest.starts_with("::") {
                (Some(Token::Separator), 2)
            } else {
                let token = match first {
                    '{' => Some(Token::Open),
                    '}' => Some(Token::Close),
                    _ if first.is_whitespace() => None,
                    _ => Some(Token::Other),
                };
                (token, first.len_utf8())
            };
            tokens.extend(token.map(|token| (index + 1, token)));
            rest = rest.get(len..).unwrap_or_default();
        }
    }
    tokens
}

/// Kind of text at the current position of `blank`.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Within {
    Code,
    LineComment,
    BlockComment(u32),
    Text,
    RawText(usize),
}

fn blank(text: &str) -> String {
    let mut code = String::with_capacity(text.len());
    let mut within = Within::Code;
    let mut rest = text;
    while let Some(first) = rest.chars().next() {
        let (len, next) = step(rest, first, within);
        let taken = rest.get(..len).unwrap_or(rest);
        if within == Within::Code && next == Within::Code && !is_character_literal(taken) {
            code.push_str(taken);
        } else {
            code.extend(taken.chars().map(|c| if c == '\n' { '\n' } else { ' ' }));
        }
        within = next;
        rest = rest.get(taken.len()..).unwrap_or_default();
    }
    code
}

fn is_character_literal(taken: &str) -> bool {
    taken.len() > 1 && taken.starts_with('\'')
}

/// Returns the length of the next piece of `rest` in bytes, and the kind of text after it.
fn step(rest: &str, first: char, within: Within) -> (usize, Within) {
    let one = first.len_utf8();
    match within {
        Within::Code if rest.starts_with("//") => (2, Within::LineComment),
        Within::Code if rest.starts_with("/*") => (2, Within::BlockComment(1)),
        Within::Code if first == '"' => (1, Within::Text),
        Within::Code => match raw_text(rest) {
            Some((len, hashes)) => (len, Within::RawText(hashes)),
            None => (character_literal(rest).or_else(|| word(rest)).unwrap_or(one), Within::Code),
        },
        Within::LineComment if first == '\n' => (1, Within::Code),
        Within::BlockComment(depth) if rest.starts_with("/*") => (2, Within::BlockComment(depth + 1)),
        Within::BlockComment(1) if rest.starts_with("*/") => (2, Within::Code),
        Within::BlockComment(depth) if rest.starts_with("*/") => (2, Within::BlockComment(depth - 1)),
        Within::Text if first == '\\' => (1 + rest.chars().nth(1).map_or(0, char::len_utf8), Within::Text),
        Within::Text if first == '"' => (1, Within::Code),
        Within::RawText(hashes)
            if first == '"' && rest.get(1..).unwrap_or_default().starts_with(&"#".repeat(hashes)) =>
        {
            (1 + hashes, Within::Code)
        }
        Within::LineComment | Within::BlockComment(_) | Within::Text | Within::RawText(_) => (one, within),
    }
}

/// Recognizes the start of a raw string (`r"`, `br#"`). Returns its bytes up to the quote, and the
/// number of hashes.
fn raw_text(rest: &str) -> Option<(usize, usize)> {
    let after = rest.strip_prefix("br").or_else(|| rest.strip_prefix('r'))?;
    let hashes = after.len() - after.trim_start_matches('#').len();
    after.get(hashes..)?.starts_with('"').then(|| (rest.len() - after.len() + hashes + 1, hashes))
}

/// Returns the length of a whole word, so that an `r` at its end does not start a raw string.
fn word(rest: &str) -> Option<usize> {
    let end = rest.find(|c: char| !c.is_alphanumeric() && c != '_').unwrap_or(rest.len());
    (end > 0).then_some(end)
}

/// Returns the length of a character literal (`'x'`, `'\n'`, `'\u{1}'`). A lifetime has no closing
/// quote.
fn character_literal(rest: &str) -> Option<usize> {
    let inside = rest.strip_prefix('\'')?;
    let mut characters = inside.char_indices();
    let (_, first) = characters.next()?;
    if first == '\\' {
        let end = inside.get(2..)?.find('\'')?;
        return Some(end + 4);
    }
    characters.next().and_then(|(at, second)| (second == '\'').then_some(at + 2))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(code: &str) -> Vec<(usize, String)> {
        let code = Source::new("x.rs", code).code;
        paths(&code).into_iter().map(|path| (path.line, path.segments.join("::"))).collect()
    }

    #[test]
    fn groups_are_expanded_with_their_lines() {
        let expected = [(1, "std::io"), (2, "std::fs::File"), (2, "std::fs::read")];
        let expected = expected.map(|(line, path)| (line, path.to_owned()));
        assert_eq!(found("use std::{io,\n fs::{File, read as load}};"), expected);
    }

    #[test]
    fn comments_and_literals_contain_no_paths() {
        assert_eq!(
            found("// a::b\n/* c::d /* e::f */ g::h */ let x = (\"i::j\", r#\"k::\"l\"#, '\"', b\"m::n\");"),
            []
        );
    }

    #[test]
    fn code_after_a_lifetime_and_a_quote_is_still_code() {
        assert_eq!(
            found("fn f<'a>(x: &'a str) { x == '\\''; std::fs::read(x) }"),
            [(1, "std::fs::read".to_owned())]
        );
    }

    #[test]
    fn product_code_ends_at_the_test_module() {
        let source = Source::new("daemon/src/a.rs", "use a::b;\n#[cfg(test)]\nmod tests { use c::d; }");
        assert_eq!(paths(source.product_code()).len(), 1);
        assert_eq!(Source::new("daemon/tests/a.rs", "use a::b;").product_code(), "");
    }
}
