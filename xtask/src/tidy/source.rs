//! A file for tidy: its text and, of a Rust file, its items, imports and calls.

use std::collections::BTreeSet;
use std::path::Path;

use proc_macro2::TokenStream;

use super::calls::{self, Function};
#[cfg(test)]
use super::fault::Fault;
use super::items;
use super::scope::Scope;
use super::tokens;

/// Lints that limit the length of a function and of its list of arguments.
const LENGTH_LINTS: [&str; 2] = ["too_many_lines", "too_many_arguments"];

/// File of the project.
#[derive(Debug)]
pub(crate) struct Source {
    /// Path from the root of the workspace, with `/`.
    pub(super) file: String,
    pub(super) text: String,
    /// Content of a Rust file, or the error of the parser. `None` for other files.
    pub(super) rust: Option<Result<Rust, SyntaxError>>,
}

/// Content of a Rust file.
#[derive(Debug, Default)]
pub(super) struct Rust {
    /// Whether `#![cfg(test)]` says that only tests compile the file.
    pub(super) is_test: bool,
    /// Content of the module without its unit tests. For the file of a test suite, all of its
    /// content.
    pub(super) scope: Scope,
    /// `Type::item` for each item in a block of the type, tests included.
    pub(super) items: BTreeSet<String>,
    /// Functions of product code.
    pub(super) functions: Vec<Function>,
    /// Number of lines of code that is not part of a test.
    product_lines: usize,
    /// Lines with the keyword `unsafe`.
    pub(super) unsafe_lines: Vec<usize>,
    /// Lines with the name of a lint in [`LENGTH_LINTS`]. Only an attribute can contain such a
    /// name.
    pub(super) length_lints: Vec<usize>,
}

/// Place and text of an error of the parser.
#[derive(Debug)]
pub(super) struct SyntaxError {
    pub(super) line: usize,
    pub(super) message: String,
}

impl Source {
    /// Returns the file with this path from the root of the workspace and this text.
    pub(crate) fn new(file: &str, text: &str) -> Self {
        let rust = has_extension(file, "rs").then(|| Rust::parse(text));
        Self { file: file.to_owned(), text: text.to_owned(), rust }
    }

    /// Returns the content of a Rust file that parses.
    pub(super) fn rust(&self) -> Option<&Rust> {
        self.rust.as_ref()?.as_ref().ok()
    }

    pub(super) fn is_rust(&self) -> bool {
        self.rust.is_some()
    }

    pub(super) fn is_document(&self) -> bool {
        has_extension(&self.file, "md")
    }

    /// Returns whether the file belongs to the harness, to a suite, to a fuzz target or to the unit
    /// tests of a module.
    pub(super) fn is_test_code(&self) -> bool {
        let name = self.file.rsplit('/').next().unwrap_or_default();
        let in_tests = self.file.split('/').any(|folder| folder == "tests" || folder == "fuzz");
        in_tests
            || name == "tests.rs"
            || name.ends_with("_tests.rs")
            || self.rust().is_some_and(|rust| rust.is_test)
    }

    /// Returns the lines of the text with their numbers, from 1.
    pub(super) fn lines(&self) -> impl Iterator<Item = (usize, &str)> {
        self.text.lines().enumerate().map(|(index, line)| (index + 1, line))
    }

    /// Returns the number of lines of product code: without tests, comments and empty lines.
    pub(crate) fn product_lines(&self) -> usize {
        self.rust().filter(|_| !self.is_test_code()).map_or(0, |rust| rust.product_lines)
    }
}

impl Rust {
    /// Parses the text of a Rust file.
    fn parse(text: &str) -> Result<Self, SyntaxError> {
        let all: TokenStream =
            text.parse().map_err(|error: proc_macro2::LexError| SyntaxError::at(error.span(), &error))?;
        let product = tokens::without_tests(all.clone());
        let parse = |tokens| syn::parse2(tokens).map_err(|error| SyntaxError::at(error.span(), &error));
        let product_file: syn::File = parse(product.clone())?;
        let all_file: syn::File = parse(all.clone())?;
        Ok(Self {
            is_test: tokens::is_test_file(&all),
            scope: Scope::of(&product_file),
            items: items::of(&all_file),
            functions: calls::of(&product_file),
            product_lines: tokens::code_lines(&product).len(),
            unsafe_lines: tokens::lines_of_word(&all, "unsafe"),
            length_lints: LENGTH_LINTS.iter().flat_map(|lint| tokens::lines_of_word(&all, lint)).collect(),
        })
    }
}

impl SyntaxError {
    fn at(span: proc_macro2::Span, error: &dyn std::fmt::Display) -> Self {
        Self { line: span.start().line, message: error.to_string() }
    }
}

fn has_extension(file: &str, wanted: &str) -> bool {
    Path::new(file).extension().is_some_and(|extension| extension == wanted)
}

/// Runs a check on files, given by name and text, and returns the lines that report its faults.
#[cfg(test)]
pub(super) fn faults_of(check: impl Fn(&[Source]) -> Vec<Fault>, files: &[(&str, &str)]) -> Vec<String> {
    let sources: Vec<_> = files.iter().map(|(file, text)| Source::new(file, text)).collect();
    check(&sources).into_iter().map(|fault| fault.to_string()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn product_lines_leave_out_tests_comments_and_empty_lines() {
        let text = "//! A.\n\nuse a::b;\n#[cfg(test)]\nmod tests { use c::d; }";
        assert_eq!(Source::new("daemon/src/a.rs", text).product_lines(), 1);
        for file in ["daemon/tests/a.rs", "tests/src/a.rs", "daemon/src/tests.rs", "daemon/src/a_tests.rs"] {
            assert_eq!(Source::new(file, text).product_lines(), 0, "{file}");
        }
    }

    #[test]
    fn file_that_does_not_parse_is_an_error() {
        for (text, line) in [("fn a() {}\nfn b(", 2), ("fn a() {}\nfn 7() {}\n", 2)] {
            let error = Source::new("daemon/src/a.rs", text).rust.unwrap().unwrap_err();
            assert_eq!(error.line, line, "{}", error.message);
        }
    }
}
