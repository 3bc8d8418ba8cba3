//! Locks, atomics, threads, channels and time come from `sync`, files from `storage`.

use crate::paths;
use crate::tree::Source;

/// A path, and the one module that may name it.
const DOORS: [(&str, &str); 12] = [
    ("std::sync::Mutex", "sync"),
    ("std::sync::RwLock", "sync"),
    ("std::sync::Condvar", "sync"),
    ("std::sync::Barrier", "sync"),
    ("std::sync::mpsc", "sync"),
    ("std::sync::atomic", "sync"),
    ("std::thread", "sync"),
    ("std::time::Instant", "sync"),
    ("std::time::SystemTime", "sync"),
    ("parking_lot", "sync"),
    ("crossbeam_channel", "sync"),
    ("std::fs", "storage"),
];

/// Tests may use what they like: they own the threads and files that they need.
pub fn findings(source: &Source) -> Vec<String> {
    let module = source.module();
    let own = module.first().map_or("", String::as_str);
    let mut findings = Vec::new();
    for named in paths::named(&source.code) {
        let path = named.parts.join("::");
        let inside = |door: &str| path == door || path.starts_with(&format!("{door}::"));
        for (door, owner) in DOORS {
            if inside(door) && own != owner && named.line < source.tests_from() {
                findings.push(format!(
                    "{}:{}: {path} belongs to {owner}: use what crate::{owner} offers",
                    source.path, named.line
                ));
            }
        }
    }
    findings
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fault_count(path: &str, text: &str) -> usize {
        findings(&Source::new(&format!("crates/sapwood/src/{path}"), text)).len()
    }

    #[test]
    fn a_name_that_is_used_past_its_door_is_found() {
        for text in [
            "use std::sync::{Arc, Mutex};",
            "use std::{fs, io};",
            "fn a() { std::thread::yield_now() }",
            "use std::time::{Duration, Instant};",
            "use std::sync::atomic::{AtomicU64, Ordering};",
            "use parking_lot::Mutex;",
        ] {
            assert!(fault_count("page/cache.rs", text) > 0, "{text}");
        }
    }

    #[test]
    fn behind_its_door_and_in_tests_a_name_is_fine() {
        assert_eq!(fault_count("sync/mod.rs", "use std::thread;"), 0);
        assert_eq!(fault_count("storage/file.rs", "use std::fs::File;"), 0);
        assert_eq!(fault_count("storage/file.rs", "use std::thread;"), 1);
        assert_eq!(fault_count("page/mod.rs", "use std::sync::Arc; use std::time::Duration;"), 0);
        let tests = "#[cfg(test)]\nmod tests {\n    use std::thread;\n}\n";
        assert_eq!(fault_count("page/mod.rs", tests), 0);
    }
}
