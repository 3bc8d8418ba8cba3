//! A lower floor never imports a higher one.

use std::collections::BTreeMap;

use crate::lexer;
use crate::paths::{self, Named};
use crate::tree::Source;

/// The floors from the bottom, as in `docs/architecture.md`. A new module at the root of the engine
/// gets a place here.
const FLOORS: &[(&str, u8)] = &[
    ("sync", 0),
    ("storage", 1),
    ("page", 2),
    ("segment", 3),
    ("log", 4),
    ("memtable", 4),
    ("state", 5),
    ("merge", 5),
    ("transaction", 6),
    ("cursor", 6),
    ("keyspace", 6),
    ("database", 6),
    ("batch", 6),
    ("builder", 6),
    ("bytes", 6),
    ("changed", 6),
    ("compare", 6),
    ("conditional", 6),
    ("copy", 6),
    ("estimate", 6),
    ("key_bounds", 6),
    ("progress", 6),
    ("range", 6),
    ("scan", 6),
    ("shared", 6),
    ("snapshot", 6),
    ("stream", 6),
    ("stats", 6),
];

/// At the side: all may import them; they import each other and floor 0.
const SIDE: [&str; 4] = ["codec", "error", "types", "options"];

/// Where one module of a floor may import another of the same.
const NEIGHBOURS: [(&str, &str); 1] = [("merge", "state")];
const PUBLIC_FACE: u8 = 6;

/// The names that the root of the crate exports, and the modules that they come from.
pub struct Exports(BTreeMap<String, String>);

impl Exports {
    pub fn read(lib: &str) -> Exports {
        let named = paths::named(&lexer::code(lib));
        let pairs = named.into_iter().filter_map(|named| {
            let mut parts = named.parts.into_iter().skip_while(|part| part == "crate");
            let module = parts.next()?;
            Some((parts.last()?, module))
        });
        Exports(pairs.collect())
    }
}

pub fn findings(source: &Source, exports: &Exports) -> Vec<String> {
    let module = source.module();
    let Some(own) = module.first() else {
        return Vec::new();
    };
    if rank(own).is_none() {
        return vec![format!("{}: module {own} has no floor: give it one here", source.path)];
    }
    let mut findings = Vec::new();
    for named in paths::named(&source.code) {
        let Some(name) = root_name(&module, &named) else {
            continue;
        };
        let target = exports.0.get(&name).filter(|_| rank(&name).is_none()).unwrap_or(&name);
        if let Some(fault) = fault(own, target) {
            findings.push(format!(
                "{}:{}: {}: {fault}",
                source.path,
                named.line,
                named.parts.join("::")
            ));
        }
    }
    findings
}

/// The name at the root of the crate that a path leads through; none when it stays below or
/// belongs to another crate.
fn root_name(module: &[String], named: &Named) -> Option<String> {
    let first = named.parts.first()?;
    if first == "crate" {
        return named.parts.get(1).cloned();
    }
    let up_count = named.parts.iter().take_while(|part| *part == "super").count();
    if up_count == 0 || up_count < module.len() + named.inline_depth {
        return None;
    }
    named.parts.get(up_count).cloned()
}

/// The floor; `None` inside for a module at the side, `None` outside for one without a place.
fn rank(module: &str) -> Option<Option<u8>> {
    if SIDE.contains(&module) {
        return Some(None);
    }
    FLOORS.iter().find(|(name, _)| *name == module).map(|(_, floor)| Some(*floor))
}

fn fault(own: &str, target: &str) -> Option<String> {
    let Some(target_rank) = rank(target) else {
        return Some(format!("{target} has no floor"));
    };
    match (rank(own).flatten(), target_rank) {
        (_, None) => None,
        (None, Some(0)) => None,
        (None, Some(_)) => Some("a module at the side imports only its like and sync".to_owned()),
        (Some(_), Some(_)) if own == target => None,
        (Some(own_floor), Some(floor)) if own_floor > floor => None,
        (Some(PUBLIC_FACE), Some(PUBLIC_FACE)) => None,
        _ if NEIGHBOURS.contains(&(own, target)) => None,
        (Some(own_floor), Some(floor)) if own_floor == floor => {
            Some(format!("{own} and {target} share floor {floor} and may not import this way"))
        }
        (Some(own_floor), Some(floor)) => Some(format!("floor {own_floor} imports floor {floor}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIB: &str = "pub use error::{Error, Result};\npub use database::Database;\n";

    fn fault_count(path: &str, text: &str) -> usize {
        let source = Source::new(&format!("crates/sapwood/src/{path}"), text);
        findings(&source, &Exports::read(LIB)).len()
    }

    #[test]
    fn an_upward_import_is_found_however_it_is_written() {
        for text in [
            "use crate::segment::Leaf;",
            "use crate::{error::Error, segment::Leaf};",
            "fn a() { crate::segment::leaf() }",
            "use super::super::segment::Leaf;",
            "mod tests { use super::super::super::segment::Leaf; }",
            "use crate::Database;",
        ] {
            assert_eq!(fault_count("page/cache.rs", text), 1, "{text}");
        }
    }

    #[test]
    fn downward_sideways_and_outward_paths_are_fine() {
        for text in [
            "use crate::storage::Storage;",
            "use crate::{Error, Result, types::PageNumber};",
            "use super::block::Block;",
            "use super::super::storage::Storage;",
            "use std::collections::BTreeMap;",
            "// use crate::segment::Leaf;",
            "const TEXT: &str = \"crate::segment::Leaf\";",
            "mod tests { use super::*; use super::super::block::Block; }",
        ] {
            assert_eq!(fault_count("page/cache.rs", text), 0, "{text}");
        }
    }

    #[test]
    fn modules_of_one_floor_keep_their_rules() {
        assert_eq!(fault_count("log/writer.rs", "use crate::memtable::Table;"), 1);
        assert_eq!(fault_count("memtable/table.rs", "use crate::log::Record;"), 1);
        assert_eq!(fault_count("state/mod.rs", "use crate::merge::Plan;"), 1);
        assert_eq!(fault_count("merge/plan.rs", "use crate::state::State;"), 0);
        assert_eq!(fault_count("keyspace.rs", "use crate::database::Database;"), 0);
    }

    #[test]
    fn the_side_imports_only_its_like_and_the_lowest_floor() {
        assert_eq!(fault_count("error.rs", "use crate::types::Epoch;"), 0);
        assert_eq!(fault_count("options.rs", "use crate::sync::Arc;"), 0);
        assert_eq!(fault_count("options.rs", "use crate::storage::Storage;"), 1);
    }

    #[test]
    fn a_module_without_a_floor_is_found() {
        assert_eq!(fault_count("attic.rs", ""), 1);
        assert_eq!(fault_count("page/mod.rs", "use crate::attic::Box;"), 1);
    }
}
