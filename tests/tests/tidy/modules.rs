//! No dead files: each file of the engine is declared as a module by the one above it.

use std::collections::BTreeSet;

use crate::lexer;
use crate::tree::Source;

/// The macro of `lib.rs` that declares the floors, one name after another.
const FLOORS_MACRO: &str = "floors";

pub fn findings(sources: &[Source]) -> Vec<String> {
    let mut declared: BTreeSet<Vec<String>> = BTreeSet::from([Vec::new()]);
    for source in sources {
        for name in declarations(&source.code) {
            let mut module = source.module();
            module.push(name);
            declared.insert(module);
        }
    }
    sources
        .iter()
        .filter(|source| !declared.contains(&source.module()))
        .map(|source| format!("{}: no module declares this file", source.path))
        .collect()
}

/// The names that `mod name;` and the macro for the floors declare.
fn declarations(code: &str) -> Vec<String> {
    let tokens = lexer::tokens(code);
    let mut names = Vec::new();
    for (at, token) in tokens.iter().enumerate() {
        let text = |ahead: usize| tokens.get(at + ahead).map_or("", |token| token.text);
        if token.text == "mod" && text(2) == ";" {
            names.push(text(1).to_owned());
        } else if token.text == FLOORS_MACRO && text(1) == "!" && text(2) == "{" {
            let inside = tokens[at + 3..].iter().take_while(|token| token.text != "}");
            names.extend(inside.filter(|token| token.is_word()).map(|t| t.text.to_owned()));
        }
    }
    names
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(files: &[(&str, &str)]) -> Vec<String> {
        let path = |name: &str| format!("crates/sapwood/src/{name}");
        let sources: Vec<Source> =
            files.iter().map(|(name, text)| Source::new(&path(name), text)).collect();
        findings(&sources)
    }

    #[test]
    fn a_file_that_no_module_declares_is_found() {
        let findings = found(&[
            ("lib.rs", "mod error;\nmacro_rules! floors { }\nfloors! { page, log }"),
            ("error.rs", ""),
            ("page/mod.rs", "pub mod cache; // mod dead;"),
            ("page/cache.rs", "mod tests;"),
            ("page/cache/tests.rs", ""),
            ("page/dead.rs", ""),
            ("log.rs", ""),
            ("attic.rs", ""),
        ]);
        assert_eq!(
            findings,
            [
                "crates/sapwood/src/page/dead.rs: no module declares this file",
                "crates/sapwood/src/attic.rs: no module declares this file",
            ]
        );
    }
}
