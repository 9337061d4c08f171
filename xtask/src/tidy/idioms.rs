//! Finds idioms: phrases that a reader has to translate into a plain statement.

use super::fault::Fault;
use super::source::Source;

/// Idioms in lower case, each with its remedy. A phrase in quotes or backticks is permitted.
const IDIOMS: [(&str, &str); 26] = [
    ("all the same", "say that the values are equal, or `anyway`"),
    ("anew", "say `again`"),
    ("are all one", "say that the result is ignored, or that the values are equal"),
    ("by no means", "say `not`"),
    ("ever so", "give the number"),
    ("for want of", "say `without`"),
    ("goes for", "repeat the statement"),
    ("hear of", "say `learn` or `receive`"),
    ("hears of", "say `learns` or `receives`"),
    ("in vain", "say what fails"),
    ("is all one", "say that the result is ignored, or that the values are equal"),
    ("is no more", "say that it has ended or is removed"),
    ("let go", "say `release`"),
    ("lets go", "say `releases`"),
    ("once and for all", "say `once`"),
    ("so late", "give the time or the limit"),
    ("so to speak", "name the thing"),
    ("speaks of", "say `names`"),
    ("tells of", "say `reports`"),
    ("that is none", "say which values are invalid"),
    ("the house", "name the process, the share or the folder"),
    ("thereby", "say `so`"),
    ("upon", "say `on` or `when`"),
    ("what became of", "name the result"),
    ("what becomes of", "name the result"),
    ("what nobody", "name the thread, the request, the guest or the host"),
];

/// Longer phrases in which an idiom has its literal meaning.
const LITERAL: [&str; 4] = ["based upon", "is all one line", "is no more than", "so later"];

/// Adds a fault for each idiom in the lines of prose of one file. An idiom may begin on one line
/// and end on the next line.
pub(super) fn check(source: &Source, lines: &[(usize, &str)], faults: &mut Vec<Fault>) {
    let lines: Vec<_> = lines.iter().map(|(number, line)| (*number, plain_words(line))).collect();
    for (at, (number, line)) in lines.iter().enumerate() {
        let next = lines.get(at + 1).filter(|(next, _)| *next == number + 1);
        let next = next.map_or("", |(_, line)| line.as_str());
        let both = format!(" {line} {next} ");
        for (idiom, remedy) in IDIOMS {
            let wanted = format!(" {idiom} ");
            let mut begins = both.match_indices(&wanted).map(|(begin, _)| begin);
            // An idiom that begins on the next line is found when that line comes first.
            if begins.any(|begin| begin <= line.len() && !is_literal(&both, begin, wanted.len())) {
                faults.push(Fault::new(&source.file, *number, format!("\"{idiom}\" in prose: {remedy}")));
            }
        }
    }
}

/// Returns whether a phrase of [`LITERAL`] covers the idiom at `begin`.
fn is_literal(text: &str, begin: usize, len: usize) -> bool {
    LITERAL.iter().any(|phrase| {
        text.match_indices(&format!(" {phrase} "))
            .any(|(start, whole)| start <= begin && begin + len <= start + whole.len())
    })
}

/// Returns the words of a line in lower case, with one space between two words. `_` stands for a
/// text in quotes or backticks.
fn plain_words(line: &str) -> String {
    let outside: String = line.split(['`', '"']).step_by(2).collect::<Vec<_>>().join(" _ ");
    let words = outside.split(|c: char| !c.is_alphanumeric() && c != '_').filter(|word| !word.is_empty());
    words.collect::<Vec<_>>().join(" ").to_lowercase()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn faults(text: &str) -> Vec<String> {
        let source = Source::new("a.md", text);
        let lines: Vec<_> = source.lines().collect();
        let mut faults = Vec::new();
        check(&source, &lines, &mut faults);
        faults.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn idiom_is_found_within_and_across_lines() {
        let text = "So late a\nlock. It is all\none for want\n\nof it: thereby.\n";
        let begins: Vec<_> =
            faults(text).iter().filter_map(|fault| fault.get(..15).map(str::to_owned)).collect();
        assert_eq!(begins, ["a.md:1: \"so lat", "a.md:2: \"is all", "a.md:5: \"thereb"]);
    }

    #[test]
    fn quoted_and_literal_phrases_are_permitted() {
        let text = "Write \"so late\" or `let go`.\nThis is all one line, and it is no\nmore than that.\n";
        assert_eq!(faults(text), Vec::<String>::new());
    }
}
