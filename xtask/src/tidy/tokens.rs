//! Works on the tokens of a Rust file: removes the code that only tests compile, and finds the
//! lines that hold code.

use std::collections::BTreeSet;

use proc_macro2::{Delimiter, Group, TokenStream, TokenTree};

/// Conditions that a build of the product never meets.
const TEST_CONDITIONS: [&str; 3] = ["test", "fuzzing", "kani"];

/// Feature of a product crate that only tests switch on.
const TEST_FEATURE: &str = "\"test-utils\"";

/// Keywords of items and statements that end with a semicolon, even if they contain braces.
const UNTIL_SEMICOLON: [&str; 4] = ["use", "static", "type", "let"];

/// Keywords of items that end with their block, or with a semicolon.
const UNTIL_BLOCK: [&str; 9] =
    ["fn", "struct", "enum", "union", "impl", "trait", "mod", "unsafe", "macro_rules"];

/// Returns `tokens` without the items, fields and statements that carry an attribute such as
/// `#[cfg(test)]`.
pub(super) fn without_tests(tokens: TokenStream) -> TokenStream {
    let mut rest: Vec<TokenTree> = tokens.into_iter().collect();
    rest.reverse();
    let mut kept = Vec::new();
    while !rest.is_empty() {
        let attributes = take_attributes(&mut rest);
        if attributes.iter().any(|(_, attribute)| is_test_condition(attribute.stream())) {
            skip_item(&mut rest);
            continue;
        }
        for (pound, attribute) in attributes {
            kept.extend([pound, TokenTree::Group(attribute)]);
        }
        match rest.pop() {
            Some(TokenTree::Group(group)) => {
                let mut inner = Group::new(group.delimiter(), without_tests(group.stream()));
                inner.set_span(group.span());
                kept.push(TokenTree::Group(inner));
            }
            Some(token) => kept.push(token),
            None => {}
        }
    }
    kept.into_iter().collect()
}

/// Returns whether the inner attributes of a file say that only tests compile it.
pub(super) fn is_test_file(tokens: &TokenStream) -> bool {
    let all: Vec<TokenTree> = tokens.clone().into_iter().collect();
    all.windows(3).any(|window| match window {
        [pound, bang, TokenTree::Group(group)] => {
            is_punct(pound, '#') && is_punct(bang, '!') && is_test_condition(group.stream())
        }
        _ => false,
    })
}

/// Takes the outer attributes at the end of `rest`, which is in reverse order.
fn take_attributes(rest: &mut Vec<TokenTree>) -> Vec<(TokenTree, Group)> {
    let mut attributes = Vec::new();
    while let [.., TokenTree::Group(group), pound] = rest.as_slice() {
        if !is_punct(pound, '#') || group.delimiter() != Delimiter::Bracket {
            break;
        }
        attributes.push((pound.clone(), group.clone()));
        rest.truncate(rest.len() - 2);
    }
    attributes
}

/// Drops the item, field, arm or statement at the end of `rest`, which is in reverse order.
fn skip_item(rest: &mut Vec<TokenTree>) {
    let words: Vec<String> = rest
        .iter()
        .rev()
        .take_while(|token| !is_punct(token, ';') && !is_block(token))
        .filter_map(|token| match token {
            TokenTree::Ident(word) => Some(word.to_string()),
            TokenTree::Group(_) | TokenTree::Punct(_) | TokenTree::Literal(_) => None,
        })
        .take(4)
        .collect();
    let keyword = words.iter().find(|word| !matches!(word.as_str(), "pub" | "async" | "extern"));
    let keyword = keyword.map(String::as_str).unwrap_or_default();
    let is_constant = keyword == "const" && !words.iter().any(|word| word == "fn");
    let until_semicolon = is_constant || UNTIL_SEMICOLON.contains(&keyword);
    let until_block = !until_semicolon && (keyword == "const" || UNTIL_BLOCK.contains(&keyword));
    while let Some(token) = rest.pop() {
        let ended = is_punct(&token, ';')
            || (!until_semicolon && is_block(&token))
            || (!until_semicolon && !until_block && is_punct(&token, ','));
        if ended {
            break;
        }
    }
    if !until_semicolon && !until_block && rest.last().is_some_and(|token| is_punct(token, ',')) {
        rest.pop();
    }
}

fn is_punct(token: &TokenTree, wanted: char) -> bool {
    matches!(token, TokenTree::Punct(punct) if punct.as_char() == wanted)
}

fn is_block(token: &TokenTree) -> bool {
    matches!(token, TokenTree::Group(group) if group.delimiter() == Delimiter::Brace)
}

/// Returns whether `attribute` is a `cfg` that only a build for tests meets.
fn is_test_condition(attribute: TokenStream) -> bool {
    let tokens: Vec<TokenTree> = attribute.into_iter().collect();
    match tokens.as_slice() {
        [TokenTree::Ident(word), TokenTree::Group(group)] if word == "cfg" => {
            let tokens: Vec<TokenTree> = group.stream().into_iter().collect();
            is_test_predicate(&tokens)
        }
        _ => false,
    }
}

/// Returns whether the predicate of a `cfg` holds only in a build for tests.
fn is_test_predicate(tokens: &[TokenTree]) -> bool {
    match tokens {
        [TokenTree::Ident(word)] => TEST_CONDITIONS.contains(&word.to_string().as_str()),
        [TokenTree::Ident(word), _, TokenTree::Literal(value)] => {
            word == "feature" && value.to_string() == TEST_FEATURE
        }
        [TokenTree::Ident(word), TokenTree::Group(group)] => {
            let list: Vec<TokenTree> = group.stream().into_iter().collect();
            let mut parts = list
                .split(|token| is_punct(token, ','))
                .filter(|part| !part.is_empty())
                .map(is_test_predicate);
            match word.to_string().as_str() {
                "any" => parts.all(|test| test),
                "all" => parts.any(|test| test),
                _ => false,
            }
        }
        _ => false,
    }
}

/// Returns the numbers of the lines that have code. A comment is not code.
pub(super) fn code_lines(tokens: &TokenStream) -> BTreeSet<usize> {
    let mut lines = BTreeSet::new();
    add_lines(tokens, &mut lines);
    lines
}

/// Adds the lines of all tokens except doc comments.
fn add_lines(tokens: &TokenStream, lines: &mut BTreeSet<usize>) {
    let all: Vec<TokenTree> = tokens.clone().into_iter().collect();
    let mut rest = all.as_slice();
    while let Some((token, after)) = rest.split_first() {
        // The parser turns a doc comment into the tokens of `#[doc = "..."]`.
        rest = match after {
            [TokenTree::Group(group), after @ ..] if is_punct(token, '#') && is_doc(group) => after,
            [bang, TokenTree::Group(group), after @ ..]
                if is_punct(token, '#') && is_punct(bang, '!') && is_doc(group) =>
            {
                after
            }
            _ => {
                add_token(token, lines);
                after
            }
        };
    }
}

/// Adds the lines of a token, or of a group with its content.
fn add_token(token: &TokenTree, lines: &mut BTreeSet<usize>) {
    if let TokenTree::Group(group) = token {
        lines.insert(group.span_open().start().line);
        lines.insert(group.span_close().end().line);
        add_lines(&group.stream(), lines);
    } else {
        lines.extend(token.span().start().line..=token.span().end().line);
    }
}

fn is_doc(group: &Group) -> bool {
    let first = group.stream().into_iter().next();
    matches!(first, Some(TokenTree::Ident(word)) if word == "doc")
}

/// Returns the numbers of the lines with the word `wanted` in the code, in the order of the text.
pub(super) fn lines_of_word(tokens: &TokenStream, wanted: &str) -> Vec<usize> {
    let mut lines = Vec::new();
    for token in tokens.clone() {
        match token {
            TokenTree::Ident(word) if word == wanted => lines.push(word.span().start().line),
            TokenTree::Group(group) => lines.extend(lines_of_word(&group.stream(), wanted)),
            TokenTree::Ident(_) | TokenTree::Punct(_) | TokenTree::Literal(_) => {}
        }
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::*;

    fn product(code: &str) -> String {
        without_tests(code.parse().unwrap()).to_string()
    }

    fn plain(code: &str) -> String {
        code.parse::<TokenStream>().unwrap().to_string()
    }

    #[test]
    fn items_of_tests_are_removed_and_others_stay() {
        for item in [
            "mod tests { fn f() {} }",
            "mod tests;",
            "use a::{b, c};",
            "pub(crate) fn f<A, B>(a: A) -> B { b() }",
            "const A: B = B { c: 1 };",
            "const fn f() {}",
            "impl<A, B> C for D<A, B> {}",
            "struct A(u8, u8);",
            "static A: u8 = { 1 };",
        ] {
            let code = format!("/// Doc.\n#[cfg(test)]\n#[derive(A)] {item} fn stays() {{}}");
            assert_eq!(product(&code), plain("fn stays() {}"), "{item}");
        }
    }

    #[test]
    fn fields_arms_and_statements_of_tests_are_removed() {
        let code = "struct A { #[cfg(test)] a: B<u8>, b: u8 }";
        assert_eq!(product(code), plain("struct A { b: u8 }"));
        let code = "fn f() { match a { #[cfg(test)] A::B(x) => { c() }, A::C => d() } }";
        assert_eq!(product(code), plain("fn f() { match a { A::C => d() } }"));
        let code = "fn f() { #[cfg(test)] a::b(c); d() }";
        assert_eq!(product(code), plain("fn f() { d() }"));
    }

    #[test]
    fn only_conditions_that_no_product_meets_are_tests() {
        for (condition, test) in [
            ("test", true),
            ("fuzzing", true),
            ("feature = \"test-utils\"", true),
            ("any(test, feature = \"test-utils\")", true),
            ("all(test, target_os = \"linux\")", true),
            ("any(test, target_os = \"linux\")", false),
            ("not(test)", false),
            ("feature = \"wire\"", false),
        ] {
            assert_eq!(product(&format!("#[cfg({condition})] fn f() {{}}")).is_empty(), test, "{condition}");
        }
    }

    #[test]
    fn inner_attribute_marks_a_whole_file() {
        assert!(is_test_file(&"//! A.\n#![cfg(test)]\nfn f() {}".parse().unwrap()));
        assert!(!is_test_file(&"//! A.\n#[cfg(test)]\nmod tests;".parse().unwrap()));
    }

    #[test]
    fn comments_and_empty_lines_hold_no_code() {
        let code = "//! A.\n\n/// B.\nfn a() {} // c\n/* d\n */\nconst B: &str = \"x\n\ny\";\n";
        assert_eq!(code_lines(&code.parse().unwrap()).into_iter().collect::<Vec<_>>(), [4, 7, 8, 9]);
    }

    #[test]
    fn words_are_found_in_code_only() {
        let code = "//! unsafe.\n#![forbid(unsafe_code)]\nfn f() { \"unsafe\"; g(unsafe { h() }) }";
        assert_eq!(lines_of_word(&code.parse().unwrap(), "unsafe"), [3]);
    }
}
