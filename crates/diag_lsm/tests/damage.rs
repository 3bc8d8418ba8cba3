//! Every command on damaged files: it says what it can and goes on, its exit status is as
//! documented, its JSON is JSON, and it never panics.

// Helpers outside the test functions may fail as tests do.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod common;

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use common::{KEYS, PAGE_BYTES, killed, owners, run, text};
use sapwood::Database;
use sapwood::sync::Random;
use serde_json::Value;
use tempfile::TempDir;

/// What is damaged, and where.
#[derive(Debug)]
struct Damage {
    what: String,
    page: Option<usize>,
    bytes: Vec<u8>,
}

/// Runs the command in an address space of a quarter of a GiB, where the system offers that: what
/// asks for more memory than a small file could justify ends without a status.
fn run_in_little_memory(arguments: &[&str]) -> Output {
    if !cfg!(target_os = "linux") {
        return run(arguments);
    }
    let bounded = "ulimit -v 262144 && exec \"$0\" \"$@\"";
    let mut shell = Command::new("sh");
    shell.args(["-c", bounded, env!("CARGO_BIN_EXE_diag_lsm")]).args(arguments);
    shell.output().unwrap()
}

/// Runs a command as text and as JSON; neither may panic or give what is no JSON.
fn both(what: &str, arguments: &[&str]) -> [Output; 2] {
    [&[][..], &["--json"]].map(|json: &[&str]| {
        let all: Vec<&str> = arguments.iter().chain(json).copied().collect();
        let output = run_in_little_memory(&all);
        let (printed, errors) = (text(&output.stdout), text(&output.stderr));
        let told = format!("{what}, {all:?}: {printed}{errors}");
        assert!(matches!(output.status.code(), Some(0 | 1)), "{:?} {told}", output.status);
        assert!(!errors.contains("panicked"), "{told}");
        let is_verify = all[0] == "verify" && !printed.is_empty();
        if output.status.code() == Some(1) && !is_verify {
            assert!(errors.contains("diag_lsm: "), "no reason is said: {told}");
        }
        if !json.is_empty() && !printed.is_empty() {
            let by_line = matches!(all[0], "scan" | "export");
            let texts = if by_line { printed.lines().collect() } else { vec![printed.as_str()] };
            for text in texts {
                assert!(serde_json::from_str::<Value>(text).is_ok(), "no JSON: {told}");
            }
        }
        output
    })
}

fn damages(whole: &[u8], owners: &[char]) -> Vec<Damage> {
    let mut damages = Vec::new();
    let mut add = |what: &str, pages: &[usize], page: Option<usize>| {
        let mut bytes = whole.to_vec();
        for page in pages {
            bytes[page * PAGE_BYTES + 60] ^= 0x10;
        }
        damages.push(Damage { what: what.into(), page, bytes });
    };
    add("header slot 0", &[0], None);
    add("header slot 1", &[4], None);
    add("both header slots", &[0, 4], None);
    let of = |owner: char| -> Vec<usize> {
        (0..owners.len()).filter(|page| owners[*page] == owner).collect()
    };
    for (owner, what) in [('l', "leaf"), ('p', "parent"), ('f', "filter"), ('o', "value")] {
        let pages = of(owner);
        assert!(!pages.is_empty(), "no {what} in {owners:?}");
        for page in [pages[0], pages[pages.len() / 2], pages[pages.len() - 1]] {
            add(&format!("{what} at page {page}"), &[page], Some(page));
        }
    }
    let maps: Vec<usize> = of('H').into_iter().filter(|page| *page >= 8).collect();
    add("free map", &maps, None);
    add("log", &of('g'), None);
    for length in [0, 100, 5000, 9000, whole.len() / 4, whole.len() / 2, whole.len() - 3000] {
        let bytes = whole[..length].to_vec();
        damages.push(Damage { what: format!("cut at {length}"), page: None, bytes });
    }
    damages
}

#[test]
fn every_command_that_looks_goes_on_past_every_damage() {
    let folder = tempfile::tempdir().unwrap();
    let path = killed(folder.path());
    let file = path.display().to_string();
    let whole = fs::read(&path).unwrap();
    for damage in damages(&whole, &owners(&file)) {
        fs::write(&path, &damage.bytes).unwrap();
        let page = damage.page.unwrap_or(0).to_string();
        for command in ["info", "segments", "tree", "space", "log", "scan", "count", "export"] {
            both(&damage.what, &[command, &file]);
        }
        both(&damage.what, &["page", &file, &page, "--page-size", "1024"]);
        let verified = both(&damage.what, &["verify", &file]);
        // The slot that was not the newest may be torn after a crash, and a log may end anywhere.
        let may_be_sound = ["header slot", "log", "cut"];
        if !may_be_sound.iter().any(|what| damage.what.starts_with(what)) {
            assert_eq!(verified[0].status.code(), Some(1), "{}", damage.what);
        }
        if let Some(page) = damage.page {
            // It is the first page of the node that is named.
            let printed = text(&verified[0].stdout);
            let longest = if damage.what.starts_with("value") { 24 } else { 4 };
            let mut firsts = page.saturating_sub(longest)..=page;
            let is_named = firsts.any(|first| printed.contains(&format!("page {first},")));
            assert!(is_named, "{}: {printed}", damage.what);
        }
        // Nothing has been written.
        assert!(fs::read(&path).unwrap() == damage.bytes, "{}", damage.what);
    }
}

#[test]
fn every_command_that_opens_the_database_gives_an_answer_or_an_error() {
    let folder = tempfile::tempdir().unwrap();
    let path = killed(folder.path());
    let file = path.display().to_string();
    let pairs = folder.path().join("pairs.tsv").display().to_string();
    fs::write(&pairs, "a\t1\nb\t2\n").unwrap();
    let whole = fs::read(&path).unwrap();
    for damage in damages(&whole, &owners(&file)) {
        for arguments in [
            &["get", &file, "key 00007"][..],
            &["put", &file, "key 00007", "new"],
            &["delete", &file, "key 00007"],
            &["import", &file, &pairs],
            &["compact", &file],
        ] {
            fs::write(&path, &damage.bytes).unwrap();
            both(&damage.what, arguments);
        }
        if !damage.bytes.is_empty() {
            fs::write(&path, &damage.bytes).unwrap();
            for command in ["create", "bench"] {
                let [output, _] = both(&damage.what, &[command, &file]);
                assert_eq!(output.status.code(), Some(1), "{command} {}", damage.what);
            }
            assert!(fs::read(&path).unwrap() == damage.bytes, "{}", damage.what);
        }
    }
}

/// A file with a node of every kind: so many keyspaces that the state does not fit its slot, a
/// level, a young segment, and values in blocks of their own.
fn with_every_kind(path: &Path) {
    let (database, keyspace) = common::used(path);
    for number in 0..150 {
        database.keyspace(&format!("{number} {}", "name ".repeat(10))).unwrap();
    }
    for number in 0..20 {
        keyspace.put(format!("key {:05}+", number * 150), "between two keys of the level").unwrap();
    }
    drop(keyspace);
    database.close().unwrap();
}

/// What `page` says of a page, as JSON; what it says to people is not empty.
fn page_of(file: &str, page: usize) -> Value {
    let [printed, json] = both("", &["page", file, &page.to_string(), "--page-size", "1024"]);
    assert!(text(&printed.stdout).contains("what"), "{}", text(&printed.stdout));
    serde_json::from_slice(&json.stdout).unwrap()
}

fn field<'a>(page: &'a Value, name: &str) -> Option<&'a str> {
    let fields = page["fields"].as_array().unwrap().iter();
    fields.filter(|field| field[0] == name).find_map(|field| field[1].as_str())
}

#[test]
fn page_says_what_is_wrong_with_a_page_of_each_kind() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("data.db");
    with_every_kind(&path);
    let (file, whole) = (path.display().to_string(), fs::read(&path).unwrap());
    let mut first: BTreeMap<String, usize> = BTreeMap::new();
    for (page, owner) in owners(&file).into_iter().enumerate() {
        if !['.', 'g'].contains(&owner) {
            let output = run(&["page", &file, &page.to_string(), "--json"]);
            let found: Value = serde_json::from_slice(&output.stdout).unwrap();
            assert!(found["problem"].is_null(), "{found}");
            first.entry(found["what"].as_str().unwrap().to_owned()).or_insert(page);
        }
    }
    let sound = page_of(&file, 0);
    assert_eq!(sound["what"], "header slots");
    let damaged = |page: usize, at: usize| {
        let mut bytes = whole.clone();
        bytes[page * PAGE_BYTES + at] ^= 0x10;
        fs::write(&path, bytes).unwrap();
        page_of(&file, page)
    };
    for what in ["leaf", "parent", "filter piece", "overflow list", "filter", "free map"] {
        let page = first[what];
        // Behind the node's header, in the first bytes of its content.
        let found = damaged(page, 40);
        assert_eq!(found["what"], what, "{found}");
        let problem = found["problem"].as_str().or(field(&found, "no whole node"));
        assert!(problem.is_some_and(|told| told.contains("checksum")), "{what}: {found}");
        // Without its header it is no node, but it is known whose page it is.
        let found = damaged(page, 8);
        assert_eq!(found["what"], "no first page of a node", "{what}: {found}");
    }
    for (page, slot) in [(0, "slot 0"), (4, "slot 1")] {
        assert!(field(&sound, slot).unwrap().starts_with("generation"), "{sound}");
        let found = damaged(page, 60);
        assert_eq!(found["what"], "header slots");
        let told = field(&found, slot).unwrap();
        assert!(told.contains("checksum"), "{slot}: {found}");
    }
    fs::write(&path, &whole).unwrap();
    assert_eq!(run(&["verify", &file]).status.code(), Some(0));
}

/// Their streams may go over several blocks, of which the page knows nothing: what names them does.
/// It was only said whose such a page is.
#[test]
fn page_says_what_is_wrong_with_the_value_or_the_state_that_it_is_a_part_of() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("data.db");
    with_every_kind(&path);
    let (file, whole) = (path.display().to_string(), fs::read(&path).unwrap());
    let owners = owners(&file);
    for (owner, names) in [('o', ["all of it"; 2]), ('s', ["state of slot 0", "state of slot 1"])] {
        fs::write(&path, &whole).unwrap();
        let pages: Vec<usize> = (0..owners.len()).filter(|page| owners[*page] == owner).collect();
        assert!(pages.len() > 8, "{owner}: {pages:?}");
        let (first, middle) = (pages[0], pages[pages.len() / 2]);
        for page in [first, middle] {
            let sound = page_of(&file, page);
            assert!(sound["problem"].is_null(), "{sound}");
            let told = names.iter().find_map(|name| field(&sound, name)).unwrap();
            assert!(told.contains("right"), "{sound}");
            let value = field(&sound, "value").map(|told| told.contains("\"large "));
            assert_eq!(value, (owner == 'o').then_some(true), "{sound}");
        }
        for (page, at) in [(first, 8), (first, 60), (middle, 8), (middle, 60)] {
            let mut bytes = whole.clone();
            bytes[page * PAGE_BYTES + at] ^= 0x10;
            fs::write(&path, bytes).unwrap();
            let found = page_of(&file, page);
            let problem = found["problem"].as_str();
            let says = |problem: &str| problem.contains("checksum") || (page, at) == (first, 8);
            assert!(problem.is_some_and(says), "{owner}, page {page} at {at}: {found}");
            let verified = run(&["verify", &file]);
            assert_eq!(verified.status.code(), Some(1), "{}", text(&verified.stdout));
            // Of a sound page of the same, too.
            let other = page_of(&file, if page == first { middle } else { first });
            let is_same = owner == 's' || field(&other, "value") == field(&found, "value");
            assert_eq!(other["problem"].is_string(), is_same, "{other}");
        }
    }
}

/// Runs a command with its file changed in these places; its exit status and what it says on
/// standard error. What it prints is the rest of what it has to say.
fn with_damage(arguments: &[&str], whole: &[u8], places: &[usize]) -> (i32, String) {
    let mut bytes = whole.to_vec();
    places.iter().for_each(|place| bytes[*place] ^= 0x10);
    fs::write(arguments[1], bytes).unwrap();
    let [output, json] = both("", arguments);
    assert_eq!(output.status.code(), json.status.code(), "{arguments:?}");
    assert!(text(&output.stdout).lines().count() > 2, "{}", text(&output.stdout));
    fs::write(arguments[1], whole).unwrap();
    (output.status.code().unwrap(), text(&output.stderr))
}

/// It printed what was wrong among the rest, with exit status 0.
#[test]
fn page_fails_where_what_it_shows_cannot_be_read() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("data.db");
    with_every_kind(&path);
    let (file, whole) = (path.display().to_string(), fs::read(&path).unwrap());
    let owners = owners(&file);
    let pages = |owner: char| -> Vec<usize> {
        (0..owners.len()).filter(|page| owners[*page] == owner).collect()
    };
    let shown = |page: usize, places: &[usize]| {
        let (status, errors) = with_damage(&["page", &file, &page.to_string()], &whole, places);
        assert_eq!(status == 0, errors.is_empty(), "page {page}: {status} {errors}");
        (status, errors)
    };
    for owner in ['l', 'p', 'f', 'o', 's'] {
        let page = pages(owner)[0];
        assert_eq!(shown(page, &[]).0, 0, "{owner}");
        let (status, errors) = shown(page, &[page * PAGE_BYTES + 60]);
        assert_eq!(status, 1, "{owner}");
        assert!(errors.contains("checksum"), "{owner}: {errors}");
    }
    // Of the two homes of a free map the state names one.
    let homes: Vec<usize> = pages('H').into_iter().filter(|page| *page >= 8).collect();
    let damaged = |page: &&usize| shown(**page, &[**page * PAGE_BYTES + 60]).0 == 1;
    let firsts: Vec<&usize> = homes.iter().filter(damaged).collect();
    assert_eq!(firsts.len(), 1, "of {homes:?}");
    // The page itself is sound, but whose it is cannot be told.
    let (leaf, parents) = (pages('l')[0], pages('p'));
    let places: Vec<usize> = parents.iter().map(|parent| parent * PAGE_BYTES + 60).collect();
    let (status, errors) = shown(leaf, &places);
    assert_eq!(status, 1);
    assert!(errors.contains("damaged parent"), "{errors}");
    for (page, slot) in [(0, "header slot 0"), (4, "header slot 1")] {
        let (status, errors) = shown(0, &[page * PAGE_BYTES + 60]);
        assert_eq!(status, 1, "{slot}");
        assert!(errors.contains(slot) && errors.contains("checksum"), "{slot}: {errors}");
    }
}

/// It printed what was wrong among the rest, with exit status 0.
#[test]
fn info_fails_where_a_slot_or_a_map_cannot_be_read() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("closed.db");
    with_every_kind(&path);
    let (file, whole) = (path.display().to_string(), fs::read(&path).unwrap());
    let owners = owners(&file);
    let info = |places: &[usize]| {
        let (status, errors) = with_damage(&["info", &file], &whole, places);
        assert_eq!(status == 0, errors.is_empty(), "{status} {errors}");
        (status, errors)
    };
    assert_eq!(info(&[]).0, 0);
    let maps = (8..owners.len()).filter(|page| owners[*page] == 'H');
    let maps: Vec<usize> = maps.map(|page| page * PAGE_BYTES + 60).collect();
    for (places, told) in [
        (&maps[..], "free map"),
        (&[60], "header slot 0: wrong checksum"),
        (&[4 * PAGE_BYTES + 60], "header slot 1: wrong checksum"),
    ] {
        let (status, errors) = info(places);
        assert_eq!(status, 1, "{told}");
        assert!(errors.contains(told), "{told}: {errors}");
    }
    // What a crash may have torn is no damage.
    let path = killed(folder.path());
    let (file, whole) = (path.display().to_string(), fs::read(&path).unwrap());
    for place in [60, 4 * PAGE_BYTES + 60] {
        for arguments in [&["info", &file][..], &["page", &file, "0"]] {
            let (status, errors) = with_damage(arguments, &whole, &[place]);
            assert_eq!((status, errors.as_str()), (0, ""), "{arguments:?}");
        }
    }
}

/// They showed the state before it, with exit status 0. A crash does not do that: a slot is written
/// when its state is on disk.
#[test]
fn info_and_page_fail_where_the_newest_state_cannot_be_read_and_show_the_one_before_it() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("data.db");
    let (database, keyspace) = common::used(&folder.path().join("used.db"));
    // Too many for a state that lies in its slot.
    for number in 0..150 {
        database.keyspace(&format!("{number} {}", "name ".repeat(10))).unwrap();
    }
    for key in ["first", "second"] {
        keyspace.put(key, "value").unwrap();
        database.flush().unwrap();
        database.sync().unwrap();
    }
    fs::copy(folder.path().join("used.db"), &path).unwrap();
    drop(keyspace);
    database.close().unwrap();
    let (file, whole) = (path.display().to_string(), fs::read(&path).unwrap());
    let state = owners(&file).iter().position(|owner| *owner == 's').unwrap();
    for arguments in [&["info", &file][..], &["page", &file, "0"]] {
        assert_eq!(with_damage(arguments, &whole, &[]).0, 0, "{arguments:?}");
        let (status, errors) = with_damage(arguments, &whole, &[state * PAGE_BYTES + 60]);
        assert_eq!(status, 1, "{arguments:?}");
        assert!(errors.contains("the newest state cannot be read"), "{arguments:?}: {errors}");
    }
}

fn lines(output: &Output) -> Vec<String> {
    text(&output.stdout).lines().map(str::to_owned).collect()
}

#[test]
fn scan_count_and_export_leave_out_what_is_damaged_and_nothing_else() {
    let folder = tempfile::tempdir().unwrap();
    let path = killed(folder.path());
    let file = path.display().to_string();
    let whole = fs::read(&path).unwrap();
    let all: BTreeSet<String> = lines(&run(&["scan", &file, "--keys-only"])).into_iter().collect();
    assert_eq!(all.len(), KEYS as usize + 3 + 50);
    fs::write(&path, &whole).unwrap();
    let mut losses = Vec::new();
    for damage in damages(&whole, &owners(&file)) {
        let is_value = damage.what.starts_with("value");
        if !(is_value || ["leaf", "parent"].iter().any(|what| damage.what.starts_with(what))) {
            continue;
        }
        let read = |arguments: &[&str]| {
            fs::write(&path, &damage.bytes).unwrap();
            run(arguments)
        };
        let forwards = read(&["scan", &file]);
        let backwards = read(&["scan", &file, "--reverse"]);
        let counted = read(&["count", &file]);
        let exported = read(&["export", &file]);
        for output in [&forwards, &backwards, &exported] {
            assert_eq!(output.status.code(), Some(1), "{}", damage.what);
            let errors = text(&output.stderr);
            let page = damage.page.unwrap();
            let mut firsts = page.saturating_sub(4)..=page;
            let is_named = firsts.any(|first| errors.contains(&format!("page {first} ")));
            assert!(is_named || is_value, "{}: {errors}", damage.what);
            assert!(errors.contains("left out"), "{}: {errors}", damage.what);
        }
        assert_eq!(counted.status.code(), Some(i32::from(!is_value)), "{}", damage.what);
        let (mut reversed, lines_exported) = (lines(&backwards), lines(&exported));
        reversed.reverse();
        let forwards = lines(&forwards);
        assert!(forwards.is_sorted());
        assert_eq!(forwards, reversed, "{}", damage.what);
        let keys: BTreeSet<String> =
            forwards.iter().map(|line| line.split('\t').next().unwrap().to_owned()).collect();
        assert!(keys.is_subset(&all));
        assert_eq!(lines_exported.len(), keys.len());
        let lost = all.len() - keys.len();
        let without_value = if is_value { keys.len() + lost } else { keys.len() };
        assert_eq!(text(&counted.stdout).trim().replace(',', ""), without_value.to_string());
        if damage.what.starts_with("leaf") {
            // The last leaf stands in the way of what the log has behind it.
            let of_log = if keys.iter().any(|key| key.starts_with("late")) { 0 } else { 50 };
            let of_leaf = lost - of_log;
            assert!((1..=20).contains(&of_leaf), "{}: {lost} keys are lost", damage.what);
        }
        if is_value {
            assert_eq!(lost, 1, "{}", damage.what);
        }
        losses.push(lost);
        // What lies in the middle of the damage can be asked for too.
        let missing = all.difference(&keys).next().unwrap().clone();
        let got = read(&["get", &file, &missing]);
        assert_eq!(got.status.code(), Some(1));
        assert!(text(&got.stderr).contains("damaged"), "{}", text(&got.stderr));
    }
    assert!(losses.len() >= 9 && losses.iter().any(|lost| *lost > 20), "{losses:?}");
}

/// Reading needs no map; of the log alone is lost what it holds.
#[test]
fn a_damaged_map_hides_no_pair_and_a_damaged_log_those_that_it_holds() {
    let folder = tempfile::tempdir().unwrap();
    let path = killed(folder.path());
    let file = path.display().to_string();
    let whole = fs::read(&path).unwrap();
    let all = lines(&run(&["scan", &file]));
    let in_segments = |line: &&String| !line.starts_with("late");
    let durable: Vec<String> = all.iter().filter(in_segments).cloned().collect();
    assert!(durable.len() < all.len());
    for damage in damages(&whole, &owners(&file)) {
        let (status, expected) = match damage.what.as_str() {
            "free map" => (0, &all),
            "log" => (1, &durable),
            _ => continue,
        };
        fs::write(&path, &damage.bytes).unwrap();
        for command in ["scan", "export", "count"] {
            let output = run(&[command, &file]);
            let errors = text(&output.stderr);
            assert_eq!(output.status.code(), Some(status), "{command}: {errors}");
            assert_eq!(errors.contains("since the last durable state is left out"), status == 1);
            match command {
                "count" => {
                    let count = text(&output.stdout).trim().replace(',', "");
                    assert_eq!(count, expected.len().to_string());
                }
                _ => assert_eq!(lines(&output).len(), expected.len(), "{command}"),
            }
        }
        assert!(fs::read(&path).unwrap() == damage.bytes, "{}", damage.what);
    }
}

/// Where the standard output was no terminal, what was to be read was estimated first, for
/// showing progress; where that could not be read, nothing was printed.
#[test]
fn a_range_of_a_damaged_file_is_read_as_far_as_it_goes() {
    let folder = tempfile::tempdir().unwrap();
    let path = killed(folder.path());
    let file = path.display().to_string();
    let whole = fs::read(&path).unwrap();
    let sound = lines(&run(&["scan", &file]));
    let mut found_beside_damage = 0;
    for damage in damages(&whole, &owners(&file)) {
        if !["leaf", "parent", "value"].iter().any(|what| damage.what.starts_with(what)) {
            continue;
        }
        fs::write(&path, &damage.bytes).unwrap();
        let all = lines(&run(&["scan", &file]));
        for (start, end) in [
            ("key 00000", "key 00100"),
            ("key 00050", "key 01500"),
            ("key 01450", "key 01550"),
            ("key 02950", "large 1"),
            ("large 0", "late 00010"),
        ] {
            let told = format!("{}, {start} to {end}", damage.what);
            let within = |lines: &[String]| -> Vec<String> {
                let lies_within = |line: &&String| line.as_str() >= start && line.as_str() < end;
                lines.iter().filter(lies_within).cloned().collect()
            };
            let range = ["--start", start, "--end", end];
            let read = |more: &[&str]| run(&[more, &[&file], &range].concat());
            let (forwards, backwards) = (read(&["scan"]), read(&["scan", "--reverse"]));
            let expected = within(&all);
            assert_eq!(lines(&forwards), expected, "{told}: {}", text(&forwards.stderr));
            let mut reversed = lines(&backwards);
            reversed.reverse();
            assert_eq!(reversed, expected, "{told}: {}", text(&backwards.stderr));
            if expected.len() < within(&sound).len() {
                assert_eq!(forwards.status.code(), Some(1), "{told}");
                assert_eq!(backwards.status.code(), Some(1), "{told}");
                found_beside_damage += expected.len();
            }
            let counted = read(&["count"]);
            let counted: u64 = text(&counted.stdout).trim().replace(',', "").parse().unwrap();
            let is_value = damage.what.starts_with("value");
            let keys = if is_value { within(&sound).len() } else { expected.len() };
            assert_eq!(counted, keys as u64, "{told}");
        }
    }
    assert!(found_beside_damage > 1000, "{found_beside_damage} pairs");
}

/// A database whose young segment has so many pairs behind each of many keys of its level that
/// several of its leaves begin in one of the level's.
fn with_young_pairs(folder: &Path) -> PathBuf {
    let (made, path) = (folder.join("made.db"), folder.join("data.db"));
    let (database, keyspace) = common::used(&made);
    let value = |number: u32| format!("young {number:05} ").repeat(9);
    let mut batch = database.batch();
    for number in 1450..1550 {
        for more in ["w", "x", "y", "z"] {
            batch.put(&keyspace, format!("key {number:05} {more}"), value(number)).unwrap();
        }
    }
    batch.commit().unwrap();
    database.flush().unwrap();
    database.sync().unwrap();
    // A close might merge them.
    fs::copy(&made, &path).unwrap();
    drop(keyspace);
    database.close().unwrap();
    path
}

/// The page of the level's leaf that has a key, and the first and the last number of its keys.
fn leaf_of(whole: &[u8], owners: &[char], number: u32) -> (usize, u32, u32) {
    let holds = |page: usize, number: u32| {
        let value = format!("{number:0>100}");
        let content = &whole[page * PAGE_BYTES..][..PAGE_BYTES];
        content.windows(value.len()).any(|window| window == value.as_bytes())
    };
    let page = (0..owners.len()).find(|page| owners[*page] == 'l' && holds(*page, number));
    let page = page.unwrap();
    let numbers: Vec<u32> = (0..KEYS).filter(|number| holds(page, *number)).collect();
    (page, numbers[0], numbers[numbers.len() - 1])
}

/// The walk met a damaged leaf again at the beginning of every other leaf that lay in it, and told
/// and counted it each time; and it went on behind the range's end, and told what is damaged there.
/// Pairs of other segments between a damaged leaf and the key before it were left out.
#[test]
fn each_damage_is_told_once_and_only_where_it_hides_something() {
    let folder = tempfile::tempdir().unwrap();
    let path = with_young_pairs(folder.path());
    let (file, whole) = (path.display().to_string(), fs::read(&path).unwrap());
    let sound = lines(&run(&["scan", &file, "--keys-only"]));
    let segments = run(&["segments", &file, "--json"]);
    let segments: Value = serde_json::from_slice(&segments.stdout).unwrap();
    let mut segments = segments.as_array().unwrap().iter();
    assert!(segments.any(|row| row["level"] == "young" && row["leaves"].as_u64() > Some(40)));
    let owners = owners(&file);
    let (leaf, first, last) = leaf_of(&whole, &owners, 1500);
    let (next_leaf, next_first, next_last) = leaf_of(&whole, &owners, last + 1);
    assert!(first < 1500 && next_first == last + 1 && next_last < 1549, "{first} to {next_last}");
    let mut bytes = whole.clone();
    [leaf, next_leaf].iter().for_each(|page| bytes[page * PAGE_BYTES + 60] ^= 0x10);
    fs::write(&path, bytes).unwrap();

    let is_lost = |line: &str| {
        let number = line.strip_prefix("key ").and_then(|rest| rest[..5].parse::<u32>().ok());
        number.is_some_and(|number| (first..=next_last).contains(&number))
    };
    let commands: [&[&str]; 3] =
        [&["scan", "--keys-only"], &["scan", "--keys-only", "--reverse"], &["count"]];
    let key = |number: u32| format!("key {number:05}");
    let (none, both) = (String::new(), vec![leaf, next_leaf]);
    for (start, end, told) in [
        (none.clone(), none.clone(), both.clone()),
        (none.clone(), key(first - 1) + "~", Vec::new()),
        (none.clone(), key(1500), vec![leaf]),
        (key(1500) + " x", key(1500) + " z", vec![leaf]),
        (key(last), key(next_first) + "~", both),
        (key(next_last), none.clone(), vec![next_leaf]),
        (key(next_last + 1), none.clone(), Vec::new()),
    ] {
        let lies_within = |line: &&String| **line >= start && (end.is_empty() || **line < end);
        let expected: Vec<String> =
            sound.iter().filter(lies_within).filter(|line| !is_lost(line)).cloned().collect();
        let mut range = vec!["--start", &start];
        if !end.is_empty() {
            range.extend(["--end", &end]);
        }
        for command in commands {
            let output = run(&[command, &[&file], &range].concat());
            let errors = text(&output.stderr);
            let what = format!("{command:?} from {start:?} to {end:?}: {errors}");
            assert_eq!(output.status.code(), Some(i32::from(!told.is_empty())), "{what}");
            for page in [leaf, next_leaf] {
                let of_page = format!("damaged leaf at page {page} ");
                let count = errors.lines().filter(|line| line.contains(&of_page)).count();
                assert_eq!(count, usize::from(told.contains(&page)), "{what}");
            }
            assert_eq!(errors.contains("in one place"), told.len() == 1, "{what}");
            assert_eq!(errors.contains("in 2 places"), told.len() == 2, "{what}");
            if command[0] == "count" {
                let counted = text(&output.stdout).trim().replace(',', "");
                assert_eq!(counted, expected.len().to_string(), "{what}");
                continue;
            }
            let mut found = lines(&output);
            if command.contains(&"--reverse") {
                found.reverse();
            }
            let (of_found, of_expected) = (found.iter(), expected.iter());
            let missing: Vec<_> = of_expected.filter(|line| !found.contains(line)).collect();
            let further: Vec<_> = of_found.filter(|line| !expected.contains(line)).collect();
            assert!(found == expected, "{what} without {missing:?}, with {further:?}");
        }
    }
    // An export has no range.
    let errors = text(&run(&["export", &file]).stderr);
    assert_eq!(errors.matches("damaged leaf").count(), 2, "{errors}");
    assert!(errors.contains("in 2 places"), "{errors}");
}

/// As long as no range of a segment has been promoted, its parents are not needed to say how much
/// it holds.
#[test]
fn an_export_goes_past_damage_in_a_segment_that_is_being_promoted() {
    let folder = tempfile::tempdir().unwrap();
    let (made, path) = (folder.path().join("made.db"), folder.path().join("data.db"));
    let builder = Database::builder().page_size(PAGE_BYTES as u32).leaf_bytes(1024);
    let builder = builder.region_bytes(4 << 20).merge_threads(0);
    let database = builder.open(&made).unwrap();
    let keyspace = database.keyspace("default").unwrap();
    let file = path.display().to_string();
    let mut value = [0; 100];
    for seed in 0..2 {
        // What there is already is a level, so that the next has to be merged into it.
        database.compact().unwrap();
        let (mut random, mut batch) = (Random::from_seed(seed), database.batch());
        for number in 0..KEYS {
            random.fill(&mut value);
            batch.put(&keyspace, format!("key {number:05}"), value).unwrap();
        }
        batch.commit().unwrap();
        database.flush().unwrap();
    }
    keyspace.compact("key 01000".."key 02000", &mut |_, _| true).unwrap();
    fs::copy(&made, &path).unwrap();
    drop(keyspace);
    database.close().unwrap();
    let segments = run(&["segments", &file, "--json"]);
    let segments: Value = serde_json::from_slice(&segments.stdout).unwrap();
    assert_eq!(segments[0]["level"], "young", "{segments}");
    assert_eq!(segments[0]["promoted_ranges"], 1, "{segments}");
    let (whole, owners) = (fs::read(&path).unwrap(), owners(&file));
    let parents: Vec<usize> = (0..owners.len()).filter(|page| owners[*page] == 'p').collect();
    for page in &parents {
        let mut bytes = whole.clone();
        bytes[page * PAGE_BYTES + 60] ^= 0x10;
        fs::write(&path, bytes).unwrap();
        let output = run(&["export", &file]);
        let errors = text(&output.stderr);
        assert_eq!(output.status.code(), Some(1), "page {page}: {errors}");
        assert!(errors.contains("left out"), "page {page}: {errors}");
    }
    assert!(parents.len() > 3, "{parents:?}");
}

/// A value that is too long to be read before it is written.
#[test]
fn an_export_over_an_earlier_one_keeps_what_it_cannot_replace() {
    let folder = tempfile::tempdir().unwrap();
    let name = |name: &str| folder.path().join(name).display().to_string();
    let (from, to, file) = (name("from"), name("to"), name("data.db"));
    fs::create_dir(&from).unwrap();
    let mut long = vec![0; 12 << 20];
    Random::from_seed(5).fill(&mut long);
    fs::write(format!("{from}/long"), &long).unwrap();
    fs::write(format!("{from}/short"), "x").unwrap();
    assert!(run(&["import", &file, &from]).status.success());
    let export = || run(&["export", &file, &to, "--form", "folder"]);
    assert!(export().status.success());
    assert!(fs::read(format!("{to}/long")).unwrap() == long);
    let mut bytes = fs::read(&file).unwrap();
    let middle = &long[6 << 20..][..64];
    let at = bytes.windows(64).position(|window| window == middle).unwrap();
    bytes[at] ^= 1;
    fs::write(&file, &bytes).unwrap();
    let again = export();
    assert_eq!(again.status.code(), Some(1), "{}", text(&again.stderr));
    assert!(fs::read(format!("{to}/long")).unwrap() == long, "it was whole before");
    let mut left: Vec<_> =
        fs::read_dir(&to).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    left.sort();
    assert_eq!(left, ["long", "short"]);
}

/// The superuser may open everything, so that the command runs as somebody else then.
#[test]
#[cfg(unix)]
fn a_file_without_permission_is_told_with_its_cause() {
    use std::os::unix::fs::{MetadataExt, PermissionsExt};
    use std::os::unix::process::CommandExt;

    let folder = TempDir::new().unwrap();
    let path = killed(folder.path());
    fs::set_permissions(&path, fs::Permissions::from_mode(0o000)).unwrap();
    fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o755)).unwrap();
    let is_superuser = fs::metadata(&path).unwrap().uid() == 0;
    for name in ["info", "verify", "count", "compact"] {
        let mut command = Command::new(env!("CARGO_BIN_EXE_diag_lsm"));
        if is_superuser {
            command.uid(65534);
        }
        let output = command.arg(name).arg(&path).output().unwrap();
        let errors = text(&output.stderr);
        assert_eq!(output.status.code(), Some(1), "{name}: {errors}");
        assert!(errors.to_lowercase().contains("permission denied"), "{name}: {errors}");
        assert!(errors.contains("data.db"), "{name}: {errors}");
    }
    // One that may be read only is told what may be done with it.
    fs::set_permissions(&path, fs::Permissions::from_mode(0o444)).unwrap();
    let mut command = Command::new(env!("CARGO_BIN_EXE_diag_lsm"));
    if is_superuser {
        command.uid(65534);
    }
    let output = command.arg("put").arg(&path).args(["key", "value"]).output().unwrap();
    let errors = text(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{errors}");
    assert!(errors.contains("permission denied") && errors.contains("`scan`"), "{errors}");
    assert!(!errors.contains("read_only"), "{errors}");
}

#[test]
fn a_directory_is_told_apart() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().display().to_string();
    for command in ["info", "verify", "space", "count", "compact", "scan"] {
        let output = run(&[command, &path]);
        assert_eq!(output.status.code(), Some(1));
        assert!(text(&output.stderr).contains("directory"), "{}", text(&output.stderr));
    }
}
