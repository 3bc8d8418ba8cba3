//! Just enough of Rust's grammar: what is code, and its words.

/// A word or a mark of the code, and the line, from 1, where it stands. `::` is one mark.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Token<'a> {
    pub text: &'a str,
    pub line: usize,
}

impl Token<'_> {
    pub fn is_word(&self) -> bool {
        self.text.starts_with(|c: char| c.is_alphanumeric() || c == '_')
    }
}

/// `text` with comments and the insides of literals as blanks; lines stay where they are.
pub fn code(text: &str) -> String {
    let chars: Vec<char> = text.chars().collect();
    let mut out = String::with_capacity(text.len());
    let mut at = 0;
    while at < chars.len() {
        let end = skipped_end(&chars, at);
        if end == at {
            out.push(chars[at]);
            at += 1;
            continue;
        }
        for &c in &chars[at..end] {
            out.push(if c == '\n' { '\n' } else { ' ' });
        }
        at = end;
    }
    out.lines().map(str::trim_end).collect::<Vec<_>>().join("\n")
}

/// The end of the comment or literal that begins at `at`; `at` where none does.
fn skipped_end(chars: &[char], at: usize) -> usize {
    let next = |ahead: usize| chars.get(at + ahead).copied().unwrap_or('\0');
    match chars[at] {
        '/' if next(1) == '/' => line_end(chars, at),
        '/' if next(1) == '*' => block_comment_end(chars, at),
        '"' => string_end(chars, at + 1),
        '\'' if next(1) == '\\' => char_end(chars, at + 3),
        '\'' if next(2) == '\'' => at + 3,
        'r' | 'b' | 'c' if at == 0 || !is_word_char(chars[at - 1]) => raw_string_end(chars, at),
        _ => at,
    }
}

fn is_word_char(c: char) -> bool {
    c.is_alphanumeric() || c == '_'
}

fn line_end(chars: &[char], from: usize) -> usize {
    chars[from..].iter().position(|&c| c == '\n').map_or(chars.len(), |offset| from + offset)
}

fn block_comment_end(chars: &[char], from: usize) -> usize {
    let mut depth = 0;
    let mut at = from;
    while at < chars.len() {
        match (chars[at], chars.get(at + 1)) {
            ('/', Some('*')) => (depth, at) = (depth + 1, at + 2),
            ('*', Some('/')) => (depth, at) = (depth - 1, at + 2),
            _ => at += 1,
        }
        if depth == 0 {
            return at;
        }
    }
    at
}

fn string_end(chars: &[char], from: usize) -> usize {
    let mut at = from;
    while at < chars.len() {
        match chars[at] {
            '\\' => at += 2,
            '"' => return at + 1,
            _ => at += 1,
        }
    }
    chars.len()
}

fn char_end(chars: &[char], from: usize) -> usize {
    let tail = chars.get(from..).unwrap_or_default();
    tail.iter().position(|&c| c == '\'').map_or(chars.len(), |offset| from + offset + 1)
}

fn raw_string_end(chars: &[char], from: usize) -> usize {
    let mut at = from;
    if matches!(chars[at], 'b' | 'c') {
        at += 1;
    }
    if chars.get(at) != Some(&'r') {
        return from;
    }
    at += 1;
    let hash_count = chars[at..].iter().take_while(|&&c| c == '#').count();
    at += hash_count;
    if chars.get(at) != Some(&'"') {
        return from;
    }
    let close: Vec<char> = std::iter::once('"').chain(vec!['#'; hash_count]).collect();
    let found = chars[at + 1..].windows(close.len()).position(|window| window == close);
    found.map_or(chars.len(), |offset| at + 1 + offset + close.len())
}

/// The words and marks of text that [`code`] made.
pub fn tokens(code: &str) -> Vec<Token<'_>> {
    let mut tokens = Vec::new();
    for (index, line) in code.lines().enumerate() {
        let mut rest = line.trim_start();
        while let Some(first) = rest.chars().next() {
            let bytes = match first {
                c if is_word_char(c) => rest.find(|c| !is_word_char(c)).unwrap_or(rest.len()),
                ':' if rest.starts_with("::") => 2,
                c => c.len_utf8(),
            };
            tokens.push(Token { text: &rest[..bytes], line: index + 1 });
            rest = rest[bytes..].trim_start();
        }
    }
    tokens
}

#[test]
fn comments_and_literals_are_blanked_and_code_stays() {
    let text =
        "let a = \"x // \\\" y\"; // z\nlet b = '\\''; /* c /* d */ e */ let f: &'static str;\n";
    assert_eq!(
        code(text).split_whitespace().collect::<Vec<_>>().join(" "),
        "let a = ; let b = ; let f: &'static str;"
    );
    assert_eq!(code("let a = br#\"b\"c\"#;"), "let a =          ;");
    assert_eq!(code("let a = 'x';\n\"y\nz\" w"), "let a =    ;\n\n   w");
}

#[test]
fn words_know_their_lines() {
    let found = tokens("use a::{b,\n c}");
    let texts: Vec<&str> = found.iter().map(|token| token.text).collect();
    assert_eq!(texts, ["use", "a", "::", "{", "b", ",", "c", "}"]);
    assert_eq!(found[6].line, 2);
}
