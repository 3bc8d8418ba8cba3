//! The paths that code names, in `use` and elsewhere, with groups taken apart.

use crate::lexer::{self, Token};

/// A path such as `crate::page::cache`, as it stands, with the inline modules around it.
#[derive(Debug, PartialEq, Eq)]
pub struct Named {
    pub parts: Vec<String>,
    pub line: usize,
    /// How many inline modules of the file it stands in.
    pub inline_depth: usize,
}

/// Every path of the code with at least two parts.
pub fn named(code: &str) -> Vec<Named> {
    let tokens = lexer::tokens(code);
    let mut found = Vec::new();
    let mut braces: Vec<bool> = Vec::new();
    let mut at = 0;
    while at < tokens.len() {
        match tokens[at].text {
            "{" => braces.push(opens_module(&tokens, at)),
            "}" => drop(braces.pop()),
            _ => {}
        }
        let begins = tokens[at].is_word()
            && tokens.get(at + 1).is_some_and(|token| token.text == "::")
            && (at == 0 || tokens[at - 1].text != "::");
        if !begins {
            at += 1;
            continue;
        }
        let inline_depth = braces.iter().filter(|&&module| module).count();
        at = branch(&tokens, at, &[], inline_depth, &mut found);
    }
    found
}

fn opens_module(tokens: &[Token<'_>], brace: usize) -> bool {
    brace >= 2 && tokens[brace - 2].text == "mod" && tokens[brace - 1].is_word()
}

/// Reads one path or one branch of a group from `at`; gives the place behind it.
fn branch(
    tokens: &[Token<'_>],
    mut at: usize,
    before: &[String],
    inline_depth: usize,
    found: &mut Vec<Named>,
) -> usize {
    let mut parts = before.to_vec();
    let line = tokens[at].line;
    while let Some(token) = tokens.get(at) {
        if token.text == "{" {
            return group(tokens, at + 1, &parts, inline_depth, found);
        }
        if !token.is_word() && token.text != "*" {
            break;
        }
        if token.text != "self" || parts.is_empty() {
            parts.push(token.text.to_owned());
        }
        at += 1;
        if tokens.get(at).is_none_or(|token| token.text != "::") {
            break;
        }
        at += 1;
    }
    found.push(Named { parts, line, inline_depth });
    at
}

fn group(
    tokens: &[Token<'_>],
    mut at: usize,
    before: &[String],
    inline_depth: usize,
    found: &mut Vec<Named>,
) -> usize {
    while let Some(token) = tokens.get(at) {
        match token.text {
            "}" => return at + 1,
            "as" => at += 2,
            _ if token.is_word() => at = branch(tokens, at, before, inline_depth, found),
            _ => at += 1,
        }
    }
    at
}

#[test]
fn groups_are_taken_apart() {
    let found = named("use a::{b::C, d::{self, E as F}, g};\nfn h() { i::j() }");
    let paths: Vec<String> = found.iter().map(|named| named.parts.join("::")).collect();
    assert_eq!(paths, ["a::b::C", "a::d", "a::d::E", "a::g", "i::j"]);
    assert_eq!(found[4].line, 2);
}

#[test]
fn inline_modules_are_counted() {
    let found = named("mod a { use super::b; } fn c() { { super::d() } }");
    assert_eq!(found.iter().map(|named| named.inline_depth).collect::<Vec<_>>(), [1, 0]);
}
