//! The table of events in `docs/options.md` has every event of the sources, with its fields, and
//! no other.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use crate::root;

/// Target, level and message of an event.
type Name = (String, String, String);
type Fields = BTreeSet<String>;

/// What the table names in the same way and is no field.
const NO_FIELDS: [&str; 5] =
    ["close", "compact", "compact_to", "flush", "max_transaction_history_bytes"];

/// The arguments of a macro, from behind its parenthesis on: what stands between commas that no
/// parenthesis and no quotes enclose.
fn arguments(text: &str) -> Vec<&str> {
    let (mut depth, mut is_quoted, mut from) = (0, false, 0);
    let mut found = Vec::new();
    for (at, letter) in text.char_indices() {
        match letter {
            '"' => is_quoted = !is_quoted,
            _ if is_quoted => {}
            '(' => depth += 1,
            ')' if depth > 0 => depth -= 1,
            ',' if depth > 0 => {}
            ',' | ')' => {
                found.push(text[from..at].trim());
                from = at + 1;
                if letter == ')' {
                    break;
                }
            }
            _ => {}
        }
    }
    found.retain(|argument| !argument.is_empty());
    found
}

fn unquoted(text: &str) -> Option<&str> {
    text.strip_prefix('"')?.strip_suffix('"')
}

/// The event whose level and arguments these are.
fn event(level: &str, arguments: &[&str]) -> Option<(Name, Fields)> {
    let (target, rest) = arguments.split_first()?;
    let target = unquoted(target.strip_prefix("target: ")?)?;
    let (message, fields) = rest.split_last()?;
    let name = |field: &&str| {
        let name = field.split('=').next().unwrap_or_default();
        name.trim().trim_start_matches(['%', '?']).to_owned()
    };
    let event = (target.to_owned(), level.to_owned(), unquoted(message)?.to_owned());
    Some((event, fields.iter().map(name).collect()))
}

fn events_in(folder: &Path, found: &mut BTreeMap<Name, Fields>) {
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            events_in(&path, found);
            continue;
        }
        let text = std::fs::read_to_string(&path).unwrap();
        for piece in text.split("tracing::").skip(1) {
            let (level, rest) = piece.split_once("!(").unwrap_or((piece, ""));
            // Whether anybody wants an event may be asked for before.
            if level == "enabled" || level.starts_with("Level::") {
                continue;
            }
            assert!(["error", "warn", "info", "debug"].contains(&level), "no event: {level}");
            let Some((name, fields)) = event(level, &arguments(rest)) else {
                panic!("{}: an event without target or message: {rest}", path.display())
            };
            let before = found.insert(name.clone(), fields);
            assert_eq!(before, None, "{name:?} is told in two places");
        }
    }
}

/// A row of the table.
fn row(line: &str) -> (Name, Fields) {
    let cells: Vec<&str> = line.split('|').map(str::trim).collect();
    let &[_, target, level, message, when, _] = cells.as_slice() else { panic!("{line}") };
    let words = when.split('`').skip(1).step_by(2);
    let fields = words.filter(|word| !NO_FIELDS.contains(word)).map(str::to_owned).collect();
    ((target.trim_matches('`').to_owned(), level.to_owned(), message.to_owned()), fields)
}

#[test]
fn the_document_lists_every_event_with_its_fields_and_no_other() {
    let mut found = BTreeMap::new();
    events_in(Path::new(&root("crates/sapwood/src")), &mut found);
    let page = std::fs::read_to_string(root("docs/options.md")).unwrap();
    let section = page.split("## Events").nth(1).unwrap();
    let rows = section.lines().filter(|line| line.starts_with("| `sapwood::"));
    let listed: BTreeMap<Name, Fields> = rows.map(row).collect();
    assert!(found.len() > 15, "{found:?}");
    for (name, fields) in &found {
        assert_eq!(listed.get(name), Some(fields), "{name:?}");
    }
    assert_eq!(listed, found);
}

/// Each event is asked for, by its message, in one of the tests beside this one.
#[test]
fn each_event_is_told_in_a_test() {
    let mut found = BTreeMap::new();
    events_in(Path::new(&root("crates/sapwood/src")), &mut found);
    let tests = concat!(
        include_str!("../events.rs"),
        include_str!("faults.rs"),
        include_str!("mapping.rs"),
        include_str!("threads.rs")
    );
    let is_told = |message: &str| tests.contains(&format!("\"{message}\""));
    let missing: Vec<&Name> = found.keys().filter(|(.., message)| !is_told(message)).collect();
    assert!(missing.is_empty(), "{missing:?}");
}

#[test]
fn fields_are_what_stands_between_target_and_message() {
    let text =
        "\n target: \"a::b\",\n %error,\n n = f(1, (2)) as u64,\n t = ?x.by,\n \"m, (n)\"\n);";
    let (name, fields) = event("warn", &arguments(text)).unwrap();
    assert_eq!(name, ("a::b".to_owned(), "warn".to_owned(), "m, (n)".to_owned()));
    assert_eq!(fields, ["error", "n", "t"].map(str::to_owned).into());
    assert!(event("warn", &arguments("%error, \"m\");")).is_none(), "without target");
    assert!(event("warn", &arguments("target: \"a\", %error);")).is_none(), "without message");
}
