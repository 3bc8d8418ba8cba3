//! The length of functions: 70 lines are the guide, a little above 100 nothing excuses.

use crate::lexer::{self, Token};
use crate::tree::Source;

const LINES_MAX: usize = 100;

pub fn findings(source: &Source) -> Vec<String> {
    let tokens = lexer::tokens(&source.code);
    let mut findings = Vec::new();
    for (at, token) in tokens.iter().enumerate() {
        if token.text != "fn" || !tokens.get(at + 1).is_some_and(Token::is_word) {
            continue;
        }
        let Some(last_line) = body_end(&tokens, at + 1) else {
            continue;
        };
        let line_count = last_line - token.line + 1;
        if line_count > LINES_MAX {
            findings.push(format!(
                "{}:{}: function {} has {line_count} lines, more than {LINES_MAX}",
                source.path,
                token.line,
                tokens[at + 1].text
            ));
        }
    }
    findings
}

/// The line of the brace that closes the body; none for a function without a body.
fn body_end(tokens: &[Token<'_>], name: usize) -> Option<usize> {
    let (mut brackets, mut braces) = (0, 0);
    for token in &tokens[name..] {
        match token.text {
            "(" | "[" => brackets += 1,
            ")" | "]" => brackets -= 1,
            ";" if brackets == 0 && braces == 0 => return None,
            "{" => braces += 1,
            "}" => {
                braces -= 1;
                if braces == 0 && brackets == 0 {
                    return Some(token.line);
                }
            }
            _ => {}
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(body_lines: usize) -> Vec<String> {
        let body = "    a[0; 2];\n".repeat(body_lines);
        let text = format!("trait T {{ fn none(&self); }}\nfn a(b: [u8; 2]) {{\n{body}}}\n");
        findings(&Source::new("a.rs", &text))
    }

    #[test]
    fn a_long_function_is_found_by_its_name() {
        let findings = found(LINES_MAX - 1);
        assert_eq!(findings.len(), 1);
        assert!(findings[0].starts_with("a.rs:2: function a has 101 lines"), "{findings:?}");
    }

    #[test]
    fn a_function_at_the_limit_passes() {
        assert_eq!(found(LINES_MAX - 2), Vec::<String>::new());
    }
}
