//! Every item of the public face has an example in its documentation, what it shows of its fields
//! may get more of them, and every option stands in `docs/options.md`.

use crate::tree::{ENGINE, Source};

/// The files whose public items applications use.
const FACE: [&str; 15] = [
    "batch",
    "builder",
    "bytes",
    "changed",
    "conditional",
    "cursor",
    "database",
    "error",
    "keyspace",
    "options",
    "progress",
    "range",
    "snapshot",
    "stats",
    "stream",
];
const TRANSACTION: &str = "transaction/transaction";
/// More files with structures that applications are given.
const REPORTS: [&str; 2] = ["merge/verify/problem", "merge/verify/report"];

/// Public items of these files are a part of the crate only.
const INSIDE: [&str; 4] =
    ["doc(hidden)", "cfg(feature = \"internals\")", "pub(crate)", "pub(super)"];

/// A public function or type, with the lines above it.
struct Item {
    path: String,
    line: usize,
    name: String,
    takes_and_gives_itself: bool,
    has_open_fields: bool,
    head: Vec<String>,
}

impl Item {
    fn has_example(&self) -> bool {
        self.head.iter().any(|line| line.trim().starts_with("/// ```"))
    }
}

/// Whether the structure whose body begins here shows a field.
fn has_open_fields(body: &[&str]) -> bool {
    let body = body.iter().take_while(|line| line.starts_with("    "));
    body.into_iter().any(|line| line.starts_with("    pub "))
}

fn items(source: &Source) -> Vec<Item> {
    let lines: Vec<&str> = source.text.lines().collect();
    let end = source.tests_from().min(lines.len() + 1) - 1;
    let mut items = Vec::new();
    for (index, line) in lines[..end].iter().enumerate() {
        let Some(rest) = line.trim_start().strip_prefix("pub ") else { continue };
        let rest = rest.trim_start_matches("const ").trim_start_matches("unsafe ");
        let mut words = rest.split([' ', '(', '<', ':', '{', ';']);
        let (Some(kind), Some(name)) = (words.next(), words.next()) else { continue };
        if !["fn", "struct", "enum", "trait", "type"].contains(&kind) {
            continue;
        }
        let is_head = |line: &&&str| {
            let line = line.trim_start();
            line.starts_with("//") || line.starts_with("#[")
        };
        let head: Vec<String> =
            lines[..index].iter().rev().take_while(is_head).map(|line| line.to_string()).collect();
        if head.iter().any(|line| INSIDE.iter().any(|mark| line.contains(mark))) {
            continue;
        }
        items.push(Item {
            path: source.path.clone(),
            line: index + 1,
            name: name.to_owned(),
            takes_and_gives_itself: rest.contains("(mut self"),
            has_open_fields: kind == "struct" && has_open_fields(&lines[index + 1..end]),
            head,
        });
    }
    items
}

fn is_of(source: &Source, names: &[&str]) -> bool {
    names.iter().any(|name| source.path == format!("{ENGINE}/{name}.rs"))
}

/// The public items without an example.
pub fn without_example(sources: &[Source]) -> Vec<String> {
    let face =
        sources.iter().filter(|source| is_of(source, &FACE) || is_of(source, &[TRANSACTION]));
    let all: Vec<Item> = face.flat_map(items).collect();
    let missing = all.iter().filter(|item| !item.has_example());
    let mut findings: Vec<String> = missing
        .map(|item| format!("{}:{}: {} has no example", item.path, item.line, item.name))
        .collect();
    if all.len() < 20 {
        findings.push(format!("only {} public items were found", all.len()));
    }
    findings
}

/// The structures with public fields to which none could be added later.
pub fn exhaustive(sources: &[Source]) -> Vec<String> {
    let files = sources.iter().filter(|source| is_of(source, &FACE) || is_of(source, &REPORTS));
    let open: Vec<Item> = files.flat_map(items).filter(|item| item.has_open_fields).collect();
    let closed = |item: &&Item| !item.head.iter().any(|line| line.contains("#[non_exhaustive]"));
    let mut findings: Vec<String> = open
        .iter()
        .filter(closed)
        .map(|item| format!("{}:{}: {} is not #[non_exhaustive]", item.path, item.line, item.name))
        .collect();
    if open.len() < 10 {
        findings.push(format!("only {} structures with public fields were found", open.len()));
    }
    findings
}

/// The options that the page does not name as the first thing in a row.
pub fn options_not_in(page: &str, sources: &[Source]) -> Vec<String> {
    let files = sources.iter().filter(|source| is_of(source, &["builder", "options"]));
    let options: Vec<Item> = files.flat_map(items).filter(|i| i.takes_and_gives_itself).collect();
    let mut findings: Vec<String> = options
        .iter()
        .filter(|option| !page.lines().any(|l| l.starts_with(&format!("| `{}` |", option.name))))
        .map(|option| format!("docs/options.md: no row for {}", option.name))
        .collect();
    if options.len() < 5 {
        findings.push(format!("only {} options were found", options.len()));
    }
    findings
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = "/// A.\n/// ```\n/// a();\n/// ```\n#[must_use]\npub fn a() {}\n\n/// B.\n\
        pub fn b(mut self, n: u8) {}\n\n/// C.\n#[doc(hidden)]\npub fn c() {}\n\
        #[cfg(test)]\nmod tests {\n    pub fn d() {}\n}\n";

    #[test]
    fn an_item_without_example_is_named_with_its_line() {
        let findings = without_example(&[Source::new("crates/sapwood/src/batch.rs", TEXT)]);
        assert_eq!(findings[0], "crates/sapwood/src/batch.rs:9: b has no example");
        assert_eq!(findings.len(), 2, "and that there are few: {findings:?}");
        assert_eq!(without_example(&[Source::new("crates/sapwood/src/log.rs", TEXT)]).len(), 1);
    }

    #[test]
    fn a_structure_that_could_get_no_field_is_named() {
        let text = "pub struct A {\n    /// B.\n    pub b: u8,\n}\n\n\
            pub struct C {\n    d: u8,\n}\n\n\
            #[non_exhaustive]\npub struct E {\n    pub f: u8,\n}\n";
        let findings = exhaustive(&[Source::new("crates/sapwood/src/stats.rs", text)]);
        assert_eq!(findings[0], "crates/sapwood/src/stats.rs:1: A is not #[non_exhaustive]");
        assert_eq!(findings.len(), 2, "and that there are few: {findings:?}");
    }

    #[test]
    fn an_option_without_a_row_is_named() {
        let sources = [Source::new("crates/sapwood/src/builder.rs", TEXT)];
        assert_eq!(options_not_in("| `a` | x |\n", &sources)[0], "docs/options.md: no row for b");
        assert_eq!(options_not_in("| `b` | x |\n", &sources).len(), 1);
    }
}
