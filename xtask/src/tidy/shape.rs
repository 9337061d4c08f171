//! Checks lengths, file headers, unsafe code, and texts that no file may contain.

use super::fault::Fault;
use super::source::Source;

/// Largest number of lines of a file.
const LINES_MAX: usize = 600;

/// The only files with `unsafe`. The header of each file gives the reason.
const UNSAFE_FILES: [&str; 10] = [
    "daemon/src/io_vectors.rs",
    "daemon/src/sys/descriptors.rs",
    "daemon/src/sys/fault_copy.rs",
    "daemon/src/sys/fs_verity.rs",
    "daemon/src/sys/inode_handle.rs",
    "daemon/src/sys/memory.rs",
    "daemon/src/sys/mounts.rs",
    "daemon/src/sys/process.rs",
    "daemon/src/sys/signals.rs",
    "daemon/src/sys/thread.rs",
];

/// Texts that only documents may contain. A row has the first half of a text, its second half and
/// the remedy. This file may not contain a whole text either.
const FORBIDDEN_IN_CODE: [(&str, &str, &str); 5] = [
    ("TO", "DO", "do it, or write an issue"),
    ("FIX", "ME", "fix it, or write an issue"),
    ("#[al", "low(", "use #[expect(lint, reason = \"...\")]"),
    ("#![al", "low(", "use #![expect(lint, reason = \"...\")]"),
    ("#[ign", "ore", "a test that cannot run fails and names the command that provides what it needs"),
];

/// Texts that no file may contain, in the form of [`FORBIDDEN_IN_CODE`].
const FORBIDDEN_EVERYWHERE: [(&str, &str, &str); 1] =
    [("/wo", "rk/", "an absolute path of one host: write the path from the root of the workspace")];

/// Returns the faults of all files.
pub(super) fn check(sources: &[Source]) -> Vec<Fault> {
    let mut faults = Vec::new();
    for source in sources {
        forbidden_texts(source, &mut faults);
        if source.is_rust() {
            syntax(source, &mut faults);
            header(source, &mut faults);
            length(source, &mut faults);
            unsafe_code(source, &mut faults);
        }
    }
    faults
}

/// Adds a fault for each forbidden text in a line.
fn forbidden_texts(source: &Source, faults: &mut Vec<Fault>) {
    if source.file.ends_with("Cargo.lock") {
        return;
    }
    let tables: &[&[_]] = if source.is_document() {
        &[&FORBIDDEN_EVERYWHERE]
    } else {
        &[&FORBIDDEN_EVERYWHERE, &FORBIDDEN_IN_CODE]
    };
    for (number, line) in source.lines() {
        for (front, back, remedy) in tables.iter().flat_map(|rows| rows.iter()) {
            let text = format!("{front}{back}");
            if line.contains(&text) {
                faults.push(Fault::new(&source.file, number, format!("`{text}`: {remedy}")));
            }
        }
    }
}

/// Checks that a Rust file parses.
fn syntax(source: &Source, faults: &mut Vec<Fault>) {
    if let Some(Err(error)) = &source.rust {
        faults.push(Fault::new(&source.file, error.line, format!("not Rust: {}", error.message)));
    }
}

/// Checks that a Rust file begins with a comment. Also checks that an integration test has
/// `#![cfg(test)]`, by which lints know that it is a test.
fn header(source: &Source, faults: &mut Vec<Fault>) {
    if !source.text.starts_with("//!") {
        let what = "the file has no header: start it with a `//!` comment that says what the file is for";
        faults.push(Fault::new(&source.file, 1, what));
    }
    let parts: Vec<_> = source.file.split('/').collect();
    let integration_test = matches!(parts.as_slice(), [.., "tests", _]);
    if integration_test && source.rust().is_some_and(|rust| !rust.is_test) {
        let what = "an integration test needs `#![cfg(test)]` after its header: \
                    without it, lints treat the functions as product code";
        faults.push(Fault::new(&source.file, 1, what));
    }
}

/// Checks the length of a Rust file, and that no attribute changes a lint about lengths.
fn length(source: &Source, faults: &mut Vec<Fault>) {
    let count = source.text.lines().count();
    if count > LINES_MAX {
        let what = format!("{count} lines, limit {LINES_MAX}: split the file");
        faults.push(Fault::new(&source.file, count, what));
    }
    for line in source.rust().into_iter().flat_map(|rust| &rust.length_lints) {
        let what = "this attribute changes a lint on the length of functions: remove it, and split a \
                    function that has more than 70 lines or five arguments";
        faults.push(Fault::new(&source.file, *line, what));
    }
}

/// Checks that only files in [`UNSAFE_FILES`] contain unsafe code.
fn unsafe_code(source: &Source, faults: &mut Vec<Fault>) {
    if UNSAFE_FILES.contains(&source.file.as_str()) {
        return;
    }
    for line in source.rust().into_iter().flat_map(|rust| &rust.unsafe_lines) {
        let what = "unsafe code in a file that is not in UNSAFE_FILES of xtask/src/tidy/shape.rs: \
                    use safe code, or move the unsafe code to one of those files";
        faults.push(Fault::new(&source.file, *line, what));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn faults(file: &str, text: &str) -> Vec<String> {
        check(&[Source::new(file, text)]).into_iter().map(|fault| fault.to_string()).collect()
    }

    #[test]
    fn file_without_a_header_is_a_fault() {
        assert_eq!(faults("daemon/src/a.rs", "use a::b;\n").len(), 1);
        assert_eq!(faults("daemon/src/a.rs", "//! A.\n").len(), 0);
    }

    #[test]
    fn integration_test_needs_cfg_test() {
        assert_eq!(faults("tests/tests/a.rs", "//! A.\n").len(), 1);
        assert_eq!(faults("tests/tests/a.rs", "//! A.\n#![cfg(test)]\n").len(), 0);
        assert_eq!(faults("tests/src/lib.rs", "//! A.\n").len(), 0);
    }

    #[test]
    fn file_of_601_lines_is_a_fault() {
        let text = "//! A.\n".repeat(601);
        assert!(faults("daemon/src/a.rs", &text)[0].contains("601 lines"));
        assert_eq!(faults("daemon/src/a.rs", &"//! A.\n".repeat(600)).len(), 0);
    }

    #[test]
    fn unsafe_is_found_in_code_but_not_in_comments() {
        assert_eq!(faults("daemon/src/a.rs", "//! A.\nfn f() { unsafe { g() } }\n").len(), 1);
        assert_eq!(faults("daemon/src/a.rs", "//! unsafe.\n#![forbid(unsafe_code)]\n").len(), 0);
    }

    #[test]
    fn file_that_does_not_parse_is_a_fault() {
        assert!(faults("daemon/src/a.rs", "//! A.\nfn {\n")[0].starts_with("daemon/src/a.rs:2: not Rust"));
    }

    #[test]
    fn suppressed_length_lint_is_a_fault() {
        let text = "//! A.\n#[expect(\n    clippy::too_many_lines,\n    reason = \"long\"\n)]\nfn f() {}\n";
        assert_eq!(faults("daemon/src/a.rs", text).len(), 1);
    }

    #[test]
    fn forbidden_word_is_a_fault_with_its_line() {
        let text = format!("//! A.\n// {}{} later\n", "TO", "DO");
        assert!(faults("daemon/src/a.rs", &text)[0].starts_with("daemon/src/a.rs:2: "));
    }
}
