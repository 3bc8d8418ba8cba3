//! What the commands that look say of a file that is in use, of one that is written all the while,
//! and of one that a killed process has left.

// Helpers outside the test functions may fail as tests do.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod common;

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Output;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::{self, JoinHandle};

use common::{KEYS, PAGE_BYTES, killed, owners, run, text, used};
use sapwood::{Compression, Database, Durability, Isolation, Keyspace, KeyspaceOptions};
use serde_json::Value;
use tempfile::TempDir;

/// Runs a command that must succeed, as JSON.
fn good(arguments: &[&str]) -> Value {
    let output = run(&[arguments, &["--json"]].concat());
    assert_eq!(output.status.code(), Some(0), "{arguments:?}: {}", text(&output.stderr));
    serde_json::from_slice(&output.stdout).unwrap()
}

#[test]
fn a_file_in_use_is_looked_at_without_its_lock_and_not_opened() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("used.db");
    let (database, keyspace) = used(&path);
    let file = path.display().to_string();
    let before = fs::read(&path).unwrap();
    let info = good(&["info", &file]);
    assert_eq!(info["closed_cleanly"], false);
    assert_eq!(good(&["segments", &file])[0]["entries"], KEYS + 3);
    assert_eq!(good(&["tree", &file])[0]["depths"][0]["unreadable"], 0);
    assert_eq!(good(&["page", &file, "0"])["what"], "header slots");
    assert_eq!(good(&["space", &file])["problems"].as_array().unwrap().len(), 0);
    assert!(good(&["log", &file])["record_count"].as_u64().unwrap() >= 50);
    assert_eq!(good(&["verify", &file])["clean"], true);
    assert!(fs::read(&path).unwrap() == before, "looking has changed the file");
    for command in ["put", "compact"] {
        let arguments = [command, &file, "a", "b"];
        let output = run(if command == "put" { &arguments } else { &arguments[..2] });
        assert_eq!(output.status.code(), Some(1));
        let errors = text(&output.stderr);
        assert!(errors.contains("used.db is in use by another process"), "{errors}");
    }
    keyspace.put("more", "v").unwrap();
    drop(keyspace);
    database.close().unwrap();
}

#[test]
fn the_records_of_a_killed_process_are_listed() {
    let folder = tempfile::tempdir().unwrap();
    let file = killed(folder.path()).display().to_string();
    let log = good(&["log", &file]);
    let records = log["records"].as_array().unwrap();
    let commits: Vec<&Value> = records.iter().filter(|r| r["kind"] == "commit").collect();
    assert_eq!(commits.len(), 50);
    assert!(commits.iter().all(|record| record["operations"] == 1));
    let numbers: Vec<u64> = commits.iter().map(|r| r["sequence"].as_u64().unwrap()).collect();
    assert!(numbers.windows(2).all(|two| two[1] == two[0] + 1), "{numbers:?}");
    let few = good(&["log", &file, "--limit", "3"]);
    assert_eq!(few["records"].as_array().unwrap().len(), 3);
    assert_eq!(few["record_count"], log["record_count"]);
    let printed = text(&run(&["log", &file]).stdout);
    assert!(printed.contains("1 put"), "{printed}");
    // What only the log has is found by those that open the file.
    assert_eq!(good(&["count", &file, "--prefix", "late"])["count"], 50);
    let scanned = run(&["scan", &file, "--prefix", "late 0000", "--reverse", "--keys-only"]);
    assert_eq!(text(&scanned.stdout).lines().next(), Some("late 00009"));
    assert_eq!(text(&scanned.stdout).lines().count(), 10);
}

/// It opened the file as for any other compaction: what was in the log was flushed, and the file
/// was closed cleanly.
#[test]
fn a_clean_copy_leaves_its_source_as_it_is_and_is_made_beside_readers() {
    let folder = tempfile::tempdir().unwrap();
    let name = |name: &str| folder.path().join(name).display().to_string();
    let file = killed(folder.path()).display().to_string();
    let before = fs::read(&file).unwrap();
    let copied = |copy: &str| {
        let printed = good(&["compact", &file, "--to", copy]);
        assert_eq!(printed["bytes_before"], before.len());
        assert_eq!(good(&["verify", copy])["clean"], true);
        assert_eq!(good(&["count", copy])["count"], KEYS + 3 + 50);
        assert!(fs::read(&file).unwrap() == before, "the source has changed");
    };
    copied(&name("copy.db"));
    let reader = Database::builder().read_only(true).open(&file).unwrap();
    copied(&name("beside.db"));
    reader.close().unwrap();
    // Beside a writer it is refused, as by the other commands that read pairs.
    let writer = Database::builder().create(false).open(&file).unwrap();
    let output = run(&["compact", &file, "--to", &name("none.db")]);
    assert_eq!(output.status.code(), Some(1));
    assert!(text(&output.stderr).contains("in use"), "{}", text(&output.stderr));
    assert!(!folder.path().join("none.db").exists());
    writer.close().unwrap();
}

#[test]
fn first_pages_of_every_kind_are_decoded() {
    let folder = tempfile::tempdir().unwrap();
    let file = killed(folder.path()).display().to_string();
    let mut kinds: BTreeMap<String, u64> = BTreeMap::new();
    for (page, owner) in owners(&file).into_iter().enumerate() {
        if !['l', 'p', 'f', 'o', 'H'].contains(&owner) {
            continue;
        }
        let page = good(&["page", &file, &page.to_string()]);
        assert!(page["problem"].is_null(), "{page}");
        let what = page["what"].as_str().unwrap().to_owned();
        let lines = page["line_count"].as_u64().unwrap();
        if what == "leaf" || what == "parent" {
            assert!(lines > 0, "{page}");
        }
        *kinds.entry(what).or_default() += lines;
    }
    // Each key stands in one leaf, and each leaf in a parent.
    assert_eq!(kinds["leaf"], u64::from(KEYS) + 3);
    let segments = good(&["segments", &file]);
    assert!(kinds["parent"] >= segments[0]["leaves"].as_u64().unwrap());
    for kind in ["header slots", "free map", "filter piece", "overflow value"] {
        assert!(kinds.contains_key(kind), "{kind} in {kinds:?}");
    }
}

/// Errors name a keyspace by its number, which was printed only as JSON.
#[test]
fn info_prints_the_number_and_the_filter_bits_of_each_keyspace() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("data.db");
    let database = Database::open(&path).unwrap();
    for (name, bits) in [("first", 10), ("a longer name", 7), ("dropped", 3)] {
        let options = KeyspaceOptions::default().filter_bits(bits);
        let keyspace = database.keyspace_with(name, options).unwrap();
        keyspace.put("key", "value").unwrap();
    }
    database.flush().unwrap();
    database.compact().unwrap();
    let first = database.existing_keyspace("first").unwrap();
    first.put("young", "value").unwrap();
    drop(first);
    database.flush().unwrap();
    database.drop_keyspace("dropped").unwrap();
    database.sync().unwrap();
    let file = path.display().to_string();
    let (info, printed) = (good(&["info", &file]), text(&run(&["info", &file]).stdout));
    let table: Vec<&str> = printed.lines().skip_while(|line| !line.is_empty()).skip(1).collect();
    // A cell ends where its column does.
    let cell = |line: &str, name: &str| {
        let end = table[0].find(name).unwrap() + name.len();
        let start = line[..end].rfind("  ").map_or(0, |at| at + 2);
        line[start..end].trim().to_owned()
    };
    let keyspaces = info["keyspaces"].as_array().unwrap();
    assert!(keyspaces.len() >= 2, "{info}");
    for keyspace in keyspaces {
        let number = keyspace["number"].to_string();
        let name = match keyspace["dropped"] == true {
            true => format!("#{number} (dropped)"),
            false => keyspace["name"].as_str().unwrap().to_owned(),
        };
        let line = table.iter().find(|line| line.starts_with(&name)).unwrap();
        assert_eq!(cell(line, "number"), number, "{printed}");
        assert_eq!(cell(line, "filter bits"), keyspace["filter_bits"].to_string(), "{printed}");
    }
    let all = table.iter().find(|line| line.starts_with("(all)")).unwrap();
    assert_eq!((cell(all, "number"), cell(all, "filter bits")), ("-".into(), "-".into()));
    database.close().unwrap();
}

#[test]
fn segments_show_tombstones_fill_and_leaves_per_parent() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("data.db");
    let (database, keyspace) = used(&path);
    let file = path.display().to_string();
    for number in (0..KEYS).step_by(100) {
        keyspace.delete(format!("key {number:05}")).unwrap();
    }
    keyspace.delete_range("key 01001".."key 01010").unwrap();
    database.flush().unwrap();
    let segments = good(&["segments", &file]);
    let of_level = |level: &str| {
        let mut rows = segments.as_array().unwrap().iter().filter(|row| row["level"] == level);
        let row = rows.next().unwrap();
        assert!(rows.next().is_none(), "{segments}");
        row
    };
    let (young, last) = (of_level("young"), of_level("last"));
    // Of the fifty in the log nothing is deleted; a range has one tombstone.
    assert_eq!((&young["entries"], &young["tombstones"]), (&(50 + 30 + 1).into(), &31.into()));
    assert_eq!((&last["entries"], &last["tombstones"]), (&(KEYS + 3).into(), &0.into()));
    for row in [young, last] {
        let fill = row["leaf_fill_percent"].as_f64().unwrap();
        assert!((30.0..=100.0).contains(&fill), "{row}");
    }
    // Each is one page, as is each parent; the highest has the lowest below it.
    let count = |owner: char| owners(&file).into_iter().filter(|found| *found == owner).count();
    let leaves = last["leaves"].as_u64().unwrap();
    assert_eq!(leaves + young["leaves"].as_u64().unwrap(), count('l') as u64);
    let per_parent = last["leaves_per_parent"].as_f64().unwrap();
    assert_eq!(last["height"], 2, "{last}");
    let tree = good(&["tree", &file, &last["number"].to_string()]);
    let lowest = tree[0]["depths"][1]["nodes"].as_u64().unwrap();
    assert!(lowest > 1 && lowest < count('p') as u64, "{tree}");
    assert!((per_parent - leaves as f64 / lowest as f64).abs() < 1e-9, "{last}");
    let printed = text(&run(&["segments", &file]).stdout);
    let is_young = |line: &&str| line.contains("young");
    assert!(printed.lines().find(is_young).unwrap().contains(" 31 "), "{printed}");
    drop(keyspace);
    database.close().unwrap();
}

/// Pairs in the keyspace that nobody touches.
const STILL: u32 = 10_000;
/// So often a file is looked at until some states have moved meanwhile.
const TURNS_MAX: u64 = 100;
/// Keys that are written over and over.
const BUSY: u64 = 3000;

/// A database that a thread writes until this is dropped.
struct Written {
    folder: TempDir,
    end: Arc<AtomicBool>,
    rounds: Arc<AtomicU64>,
    thread: Option<JoinHandle<()>>,
}

fn open(path: &Path) -> Database {
    let builder = Database::builder().page_size(PAGE_BYTES as u32).leaf_bytes(1024);
    builder.region_bytes(4 << 20).memory_budget(4 << 20).merge_threads(2).open(path).unwrap()
}

impl Written {
    /// Makes the keyspace that nobody touches, hands its file to `damage`, and begins to write.
    fn begin(damage: impl FnOnce(&str)) -> Written {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("data.db");
        let database = open(&path);
        let still = database.keyspace("still").unwrap();
        for number in 0..STILL {
            still.put(format!("key {number:05}"), format!("{number:0>100}")).unwrap();
        }
        for number in 0..5_u8 {
            still.put(format!("large {number}"), vec![number; 9000]).unwrap();
        }
        drop(still);
        database.flush().unwrap();
        database.compact().unwrap();
        database.close().unwrap();
        damage(&path.display().to_string());
        let (end, rounds) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
        let database = open(&path);
        let busy = database.keyspace("busy").unwrap();
        #[allow(clippy::disallowed_methods)]
        let thread = thread::spawn({
            let (end, rounds) = (end.clone(), rounds.clone());
            move || {
                while !end.load(Ordering::Relaxed) {
                    let round = rounds.fetch_add(1, Ordering::Relaxed);
                    write(&database, &busy, round);
                }
                drop(busy);
                database.close().unwrap();
            }
        });
        Written { folder, end, rounds, thread: Some(thread) }
    }

    fn path(&self) -> PathBuf {
        self.folder.path().join("data.db")
    }

    fn end(mut self) -> TempDir {
        self.end.store(true, Ordering::Relaxed);
        self.thread.take().unwrap().join().unwrap();
        let Written { folder, .. } = self;
        folder
    }
}

/// A few hundred operations, of which much is flushed at once: small and large values, deletions of
/// keys and ranges.
fn write(database: &Database, busy: &Keyspace, round: u64) {
    let key = |step: u64| format!("key {:05}", (round * 37 + step * 1013) % BUSY);
    let mut batch = database.batch();
    for step in 0..100 {
        batch.put(busy, key(step), format!("{round:0>120}")).unwrap();
    }
    for step in 100..110 {
        batch.delete(busy, key(step)).unwrap();
    }
    for step in 110..113 {
        batch.put(busy, key(step), vec![round as u8; 6000 + step as usize]).unwrap();
    }
    if round.is_multiple_of(7) {
        let (first, end) = (key(113), format!("{}x", key(113)));
        batch.delete_range(busy, first..end).unwrap();
    }
    let durability = if round.is_multiple_of(3) { Durability::Sync } else { Durability::Memory };
    batch.commit_with(durability).unwrap();
    if round.is_multiple_of(2) {
        database.flush().unwrap();
        database.sync().unwrap();
    }
}

fn told(arguments: &[&str], output: &Output) -> String {
    let (printed, errors) = (text(&output.stdout), text(&output.stderr));
    format!("{arguments:?}, {:?}: {printed}{errors}", output.status.code())
}

#[test]
fn nothing_is_said_to_be_wrong_with_a_sound_file_that_is_written() {
    let written = Written::begin(|_| {});
    let file = written.path().display().to_string();
    let before = generation(&file);
    let mut written_meanwhile = 0;
    for turn in 0..TURNS_MAX {
        if turn >= 15 && written_meanwhile > 2 {
            break;
        }
        let page = (turn * 97 % 1500).to_string();
        for arguments in [
            &["info", &file][..],
            &["segments", &file],
            &["tree", &file],
            &["space", &file],
            &["log", &file],
            &["page", &file, &page],
            // It fails least often when it is wrong.
            &["verify", &file],
            &["verify", &file],
            &["verify", &file],
            &["verify", &file],
        ] {
            let arguments = [arguments, &["--json"]].concat();
            let output = run(&arguments);
            let told = told(&arguments, &output);
            assert_eq!(output.status.code(), Some(0), "{told}");
            assert!(output.stderr.is_empty(), "{told}");
            let found: Value = serde_json::from_slice(&output.stdout).unwrap();
            match arguments[0] {
                "info" => {
                    assert!(found["problem"].is_null(), "{told}");
                    assert!(found["free_map_problem"].is_null(), "{told}");
                }
                "page" => assert!(found["problem"].is_null(), "{told}"),
                "verify" => {
                    assert_eq!(found["clean"], true, "{told}");
                    assert!(found["entries"].as_u64() >= Some(u64::from(STILL)), "{told}");
                    let unmoved = found["written_meanwhile"] == false;
                    assert!(found["space_checked"] == true || !unmoved, "{told}");
                    written_meanwhile += u64::from(found["written_meanwhile"] == true);
                }
                _ => {}
            }
        }
    }
    assert!(written_meanwhile > 0, "no state has moved while the file was checked");
    assert!(generation(&file) > before + 20, "the file was hardly written");
    let rounds = written.rounds.load(Ordering::Relaxed);
    let folder = written.end();
    let output = run(&["verify", &folder.path().join("data.db").display().to_string()]);
    assert_eq!(output.status.code(), Some(0), "{}, {rounds} rounds", text(&output.stdout));
}

fn generation(file: &str) -> u64 {
    let output = run(&["info", file, "--json"]);
    let info: Value = serde_json::from_slice(&output.stdout).unwrap();
    info["generation"].as_u64().unwrap()
}

#[test]
fn damage_beside_a_writer_is_found_where_it_is() {
    for owner in ['l', 'p', 'f', 'o'] {
        let (mut damaged, mut written_meanwhile) = (0, 0);
        let written = Written::begin(|file| {
            let owners = owners(file);
            let of_owner = (0..owners.len()).filter(|page| owners[*page] == owner);
            let pages: Vec<usize> = of_owner.collect();
            damaged = pages[pages.len() / 2];
            let mut bytes = fs::read(file).unwrap();
            bytes[damaged * PAGE_BYTES + 60] ^= 0x10;
            fs::write(file, bytes).unwrap();
        });
        let file = written.path().display().to_string();
        for turn in 0..TURNS_MAX {
            if turn >= 5 && written_meanwhile > 0 {
                break;
            }
            let output = run(&["verify", &file, "--json"]);
            let told = told(&["verify"], &output);
            assert_eq!(output.status.code(), Some(1), "{owner} at {damaged}: {told}");
            let found: Value = serde_json::from_slice(&output.stdout).unwrap();
            written_meanwhile += u64::from(found["written_meanwhile"] == true);
            let problems = found["problems"].as_array().unwrap();
            for problem in problems {
                let page = problem["page"].as_u64().unwrap() as usize;
                assert!((page..page + 12).contains(&damaged), "{owner} at {damaged}: {told}");
                assert_eq!(problem["keyspace"], "still", "{told}");
            }
            assert_eq!(problems.len(), 1, "{owner} at {damaged}: {told}");
        }
        written.end();
        assert!(written_meanwhile > 0, "{owner}: no state has moved while the file was checked");
    }
}

#[test]
fn what_a_large_transaction_wrote_is_shown_as_named_by_the_log() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("data.db");
    let builder = Database::builder().page_size(PAGE_BYTES as u32).leaf_bytes(1024);
    let builder = builder.region_bytes(4 << 20).merge_threads(0).transaction_bytes(4 << 10);
    let database = builder.open(&path).unwrap();
    let keyspace = {
        let plain = KeyspaceOptions::default().compression(Compression::None);
        database.keyspace_with("default", plain).unwrap()
    };
    database.flush().unwrap();
    database.sync().unwrap();
    let file = path.display().to_string();
    let named = |file: &str| {
        let space = good(&["space", file]);
        space["pages"]["limbo: named by the log only"].as_u64().unwrap()
    };
    assert_eq!(named(&file), 0);
    let mut transaction = database.begin(Isolation::Snapshot).unwrap();
    for number in 0..2000 {
        transaction.put(&keyspace, format!("key {number:05}"), format!("{number:0>100}")).unwrap();
    }
    transaction.commit_with(Durability::Sync).unwrap();
    let log = good(&["log", &file]);
    let records = log["records"].as_array().unwrap();
    assert!(records.iter().any(|record| record["kind"] == "commit by reference"), "{log}");
    // At most nine pairs to a page.
    assert!(named(&file) > 2000 / 9, "{} pages", named(&file));
    drop(keyspace);
    database.close().unwrap();
}
