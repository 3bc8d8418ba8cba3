//! The built command on temporary databases: output, JSON, exit status, damage.

// Helpers outside the test functions may fail as tests do.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use serde_json::Value;
use tempfile::TempDir;

/// A folder with a database of 3,000 pairs and some large values.
struct Given {
    folder: TempDir,
}

fn run(arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_diag_lsm")).args(arguments).output().unwrap()
}

fn text(output: &Output) -> String {
    String::from_utf8(output.stdout.clone()).unwrap()
}

fn errors(output: &Output) -> String {
    String::from_utf8(output.stderr.clone()).unwrap()
}

fn code(output: &Output) -> i32 {
    output.status.code().unwrap()
}

/// Runs a command that must succeed; what it prints.
fn good(arguments: &[&str]) -> String {
    let output = run(arguments);
    assert_eq!(code(&output), 0, "{arguments:?}: {}{}", text(&output), errors(&output));
    text(&output)
}

fn good_json(arguments: &[&str]) -> Value {
    let mut all = arguments.to_vec();
    all.push("--json");
    let printed = good(&all);
    serde_json::from_str(&printed)
        .unwrap_or_else(|error| panic!("{arguments:?}: {error}: {printed}"))
}

impl Given {
    fn empty() -> Given {
        Given { folder: tempfile::tempdir().unwrap() }
    }

    fn new() -> Given {
        let given = Given::empty();
        let mut lines = String::new();
        for number in 0..3000 {
            lines += &format!("key {number:05}\tvalue of {number}\n");
        }
        let noise = |seed: u64| {
            let mut state = seed;
            let step = |_| {
                state = state.wrapping_mul(0x5851_f42d_4c95_7f2d).wrapping_add(1);
                char::from(b'0' + (state >> 60) as u8)
            };
            (0..40_000).map(step).collect::<String>()
        };
        for number in 0..5 {
            lines += &format!("large {number}\t{}\n", noise(number));
        }
        fs::write(given.path("pairs.tsv"), lines).unwrap();
        good(&["import", &given.name("data.db"), &given.name("pairs.tsv")]);
        given
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn name(&self, name: &str) -> String {
        self.path(name).display().to_string()
    }
}

fn flip(path: &Path, offset: usize) {
    let mut bytes = fs::read(path).unwrap();
    bytes[offset] ^= 0x10;
    fs::write(path, bytes).unwrap();
}

#[test]
fn every_inspection_prints_text_and_json() {
    let given = Given::new();
    let file = given.name("data.db");
    let info = good_json(&["info", &file]);
    assert_eq!(info["keyspaces"][0]["name"], "default");
    assert_eq!(info["page_size"], 4096);
    let levels = info["keyspaces"][0]["levels"].as_array().unwrap();
    let young = info["young"]["entries"].as_u64().unwrap();
    let entries: u64 = levels.iter().map(|level| level["entries"].as_u64().unwrap()).sum();
    assert_eq!(entries + young, 3005);
    let segments = good_json(&["segments", &file]);
    assert!(segments[0]["leaves"].as_u64().unwrap() > 1);
    assert_eq!(segments[0]["unreadable_nodes"], 0);
    let tree = good_json(&["tree", &file]);
    assert!(tree[0]["depths"].as_array().unwrap().len() > 1);
    let number = segments[0]["number"].as_u64().unwrap().to_string();
    assert_eq!(good_json(&["tree", &file, &number])[0]["segment"], segments[0]["number"]);
    let space = good_json(&["space", &file]);
    assert_eq!(space["pages"]["used, but by nothing"], 0);
    assert!(space["pages"]["overflow values"].as_u64().unwrap() > 0, "{space}");
    let sum: u64 = space["pages"].as_object().unwrap().values().filter_map(Value::as_u64).sum();
    assert_eq!(sum, space["file_pages"].as_u64().unwrap());
    assert!(good_json(&["log", &file])["records"].is_array());
    let verified = good_json(&["verify", &file]);
    assert_eq!(verified["clean"], true);
    assert_eq!(verified["entries"], 3005);
    assert_eq!(verified["overflow_values"], 5);
    for command in ["info", "segments", "tree", "space", "log", "verify"] {
        let printed = good(&[command, &file]);
        assert!(printed.lines().count() > 1, "{command}: {printed}");
    }
    assert!(good(&["verify", &file]).contains("nothing is wrong"));
    assert_eq!(code(&run(&["tree", &file, "999"])), 1);
}

#[test]
fn every_page_can_be_decoded() {
    let given = Given::new();
    let file = given.name("data.db");
    let pages = good_json(&["space", &file])["file_pages"].as_u64().unwrap();
    let mut kinds = std::collections::BTreeSet::new();
    // The log takes most of the file: its pages are tried here and there.
    for page in (0..20).chain((20..pages).step_by(7)).chain(pages - 60..pages) {
        let page = good_json(&["page", &file, &page.to_string()]);
        assert!(page["problem"].is_null(), "{page}");
        kinds.insert(page["what"].as_str().unwrap().to_owned());
    }
    for kind in ["header slots", "free map"] {
        assert!(kinds.contains(kind), "{kind} in {kinds:?}");
    }
    assert!(good(&["page", &file, "0"]).contains("generation"));
    let beyond = run(&["page", &file, &pages.to_string()]);
    assert_eq!(code(&beyond), 1);
    assert!(errors(&beyond).contains("the last is"));
}

#[test]
fn pairs_are_put_read_counted_scanned_and_deleted() {
    let given = Given::empty();
    let file = given.name("new.db");
    let created = good_json(&["create", &file, "--keyspace", "default", "--keyspace", "other"]);
    assert_eq!(created["keyspaces"][1], "other");
    assert_eq!(code(&run(&["create", &file])), 1, "it is there already");
    for (key, value) in [("a", "1"), ("b", "2"), ("bb", "3"), ("c", "4")] {
        good(&["put", &file, key, value]);
    }
    good(&["put", &file, "00ff", "80", "--hex", "--keyspace", "other"]);
    assert_eq!(good(&["get", &file, "b"]), "2\n");
    assert_eq!(good_json(&["get", &file, "b"])["value"], "2");
    let hex = good_json(&["get", &file, "00ff", "--hex", "--keyspace", "other"]);
    assert_eq!((&hex["key_hex"], &hex["value_hex"]), (&"00ff".into(), &"80".into()));
    let absent = run(&["get", &file, "x"]);
    assert_eq!(code(&absent), 1);
    assert!(errors(&absent).contains("no such key"));
    assert_eq!(good(&["count", &file]), "4\n");
    assert_eq!(good_json(&["count", &file, "--prefix", "b"])["count"], 2);
    assert_eq!(good(&["scan", &file, "--start", "b", "--end", "c"]), "b\t2\nbb\t3\n");
    assert_eq!(good(&["scan", &file, "--reverse", "--limit", "1", "--keys-only"]), "c\n");
    let lines = good(&["scan", &file, "--json"]);
    let pairs: Vec<Value> = lines.lines().map(|l| serde_json::from_str(l).unwrap()).collect();
    assert_eq!(pairs.len(), 4);
    assert_eq!(pairs[0]["key"], "a");
    assert_eq!(good_json(&["delete", &file, "b"])["was_there"], true);
    assert_eq!(good_json(&["delete", &file, "b"])["was_there"], false);
    assert_eq!(good(&["count", &file]), "3\n");
    let unknown = run(&["count", &file, "--keyspace", "none"]);
    assert_eq!(code(&unknown), 1);
    assert!(errors(&unknown).contains("none"));
    good(&["compact", &file]);
    assert!(good_json(&["compact", &file])["bytes_after"].as_u64().unwrap() > 0);
    good(&["compact", &file, "--keyspace", "default", "--start", "a", "--end", "b"]);
    good(&["compact", &file, "--keyspace", "default", "--prefix", "61", "--hex"]);
    assert_eq!(code(&run(&["compact", &file, "--keyspace", "none"])), 1);
    assert_eq!(code(&run(&["compact", &file, "--start", "a"])), 2);
    assert_eq!(good(&["count", &file]), "3\n");
    good(&["verify", &file]);
}

#[test]
fn a_clean_copy_holds_the_same_and_replaces_nothing() {
    let given = Given::new();
    let (file, copy) = (given.name("source.db"), given.name("copy.db"));
    good(&["create", &file, "--keyspace", "default", "--keyspace", "more"]);
    for key in ["a", "b", "c"] {
        good(&["put", &file, key, "value"]);
    }
    good(&["delete", &file, "b"]);
    assert!(good_json(&["compact", &file, "--to", &copy])["bytes_after"].as_u64().unwrap() > 0);
    assert_eq!(good(&["scan", &copy]), good(&["scan", &file]));
    assert_eq!(good(&["count", &copy, "--keyspace", "more"]), "0\n");
    good(&["verify", &copy]);
    let again = run(&["compact", &file, "--to", &copy]);
    assert_eq!(code(&again), 1);
    assert!(errors(&again).contains("exists already"), "{}", errors(&again));
    assert_eq!(code(&run(&["compact", &file, "--to", &copy, "--keyspace", "more"])), 2);
}

#[test]
fn what_is_exported_can_be_imported_in_every_form() {
    let given = Given::new();
    let file = given.name("data.db");
    let expected = good(&["scan", &file]);
    for form in ["tsv", "csv", "jsonl"] {
        let (out, copy) = (given.name(&format!("out.{form}")), given.name(&format!("{form}.db")));
        assert_eq!(good_json(&["export", &file, &out])["entries"], 3005);
        let imported = good_json(&["import", &copy, &out]);
        assert_eq!(imported["entries"], 3005);
        assert_eq!(good(&["scan", &copy]), expected, "{form}");
        assert_eq!(good(&["export", &file, "--form", form]), fs::read_to_string(&out).unwrap());
    }
    let (folder, copy) = (given.name("folder"), given.name("folder.db"));
    good(&["export", &file, &folder, "--form", "folder"]);
    assert_eq!(fs::read_to_string(given.path("folder/key 00007")).unwrap(), "value of 7");
    assert!(good(&["import", &copy, &folder]).contains("next"));
    assert_eq!(good(&["scan", &copy]), expected);
}

#[test]
fn lines_come_from_standard_input() {
    let given = Given::empty();
    let file = given.name("lines.db");
    let mut child = Command::new(env!("CARGO_BIN_EXE_diag_lsm"))
        .args(["import", &file, "-", "--form", "lines"])
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .spawn()
        .unwrap();
    child.stdin.take().unwrap().write_all(b"one\ntwo\nthree\n").unwrap();
    assert!(child.wait().unwrap().success());
    assert_eq!(good(&["scan", &file, "--keys-only"]), "one\nthree\ntwo\n");
    let form = run(&["import", &file]);
    assert_eq!(code(&form), 2);
    assert!(errors(&form).contains("--form"));
}

#[test]
fn a_flipped_bit_makes_verify_fail_and_name_the_page() {
    let given = Given::new();
    let path = given.path("data.db");
    let file = given.name("data.db");
    let whole = fs::read(&path).unwrap();
    let map = good_json(&["space", &file]);
    assert_eq!(map["pages_per_character"], 1);
    let owners: Vec<char> = map["regions"][0].as_str().unwrap().chars().collect();
    for owner in ['l', 'p', 'f', 'o'] {
        let page = owners.iter().position(|found| *found == owner).unwrap();
        flip(&path, page * 4096 + 50);
        let output = run(&["verify", &file]);
        assert_eq!(code(&output), 1, "{owner}");
        let printed = text(&output);
        assert!(printed.contains(&format!("page {page}")), "{owner}: {printed}");
        let output = run(&["verify", &file, "--json"]);
        assert_eq!(code(&output), 1);
        let report: Value = serde_json::from_str(&text(&output)).unwrap();
        assert_eq!(report["clean"], false);
        assert!(report["problems"].as_array().unwrap().iter().any(|p| p["page"] == page as u64));
        // The others go on past it.
        for command in ["info", "segments", "tree", "log"] {
            let output = run(&[command, &file, "--json"]);
            serde_json::from_str::<Value>(&text(&output)).unwrap();
        }
        fs::write(&path, &whole).unwrap();
    }
    good(&["verify", &file]);
    // Each header slot alone is enough to read the state, but the damage is told.
    for slot in [0, 4096] {
        flip(&path, slot + 20);
        assert_eq!(code(&run(&["verify", &file])), 1);
        let info = run(&["info", &file]);
        assert_eq!(code(&info), 1);
        assert!(text(&info).contains("default"), "{}", text(&info));
        fs::write(&path, &whole).unwrap();
    }
    // A free map that is damaged does not hide the rest.
    let home = owners.iter().rposition(|found| *found == 'H').unwrap();
    for page in 2..=home {
        flip(&path, page * 4096 + 40);
    }
    let output = run(&["verify", &file]);
    assert_eq!(code(&output), 1);
    assert!(text(&output).contains("free map"), "{}", text(&output));
    assert!(text(&output).contains("3,005"));
    let info = run(&["info", &file]);
    assert_eq!(code(&info), 1);
    assert!(text(&info).contains("default") && errors(&info).contains("free map"));
}

#[test]
fn what_is_no_database_is_told_so() {
    let given = Given::empty();
    fs::write(given.path("notes.txt"), "Some text.\n".repeat(2000)).unwrap();
    let file = given.name("notes.txt");
    for command in ["info", "segments", "tree", "space", "log", "verify", "count", "scan"] {
        let output = run(&[command, &file]);
        assert_eq!(code(&output), 1, "{command}");
        assert!(errors(&output).contains("not a Sapwood database"), "{}", errors(&output));
    }
    let absent = given.name("absent");
    for command in ["info", "verify", "count", "compact"] {
        let output = run(&[command, &absent]);
        assert_eq!(code(&output), 1, "{command}");
        assert!(errors(&output).contains("does not exist"), "{}", errors(&output));
    }
    assert!(!given.path("absent").exists());
}

/// The library's advice names calls of its own, which are no help on the command line.
#[test]
fn advice_names_commands_and_options() {
    let given = Given::empty();
    let (file, absent) = (given.name("data.db"), given.name("absent.db"));
    for command in ["info", "verify", "scan", "count", "compact", "export"] {
        let output = run(&[command, &absent]);
        assert_eq!(code(&output), 1, "{command}");
        let told = errors(&output);
        assert!(told.contains("absent.db does not exist; `diag_lsm create`"), "{command}: {told}");
        assert!(!told.contains("create(true)"), "{command}: {told}");
    }
    good(&["create", &file]);
    let mut child = Command::new(env!("CARGO_BIN_EXE_diag_lsm"))
        .args(["put", &file, "key", "--budget", "4"])
        .stdin(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    child.stdin.take().unwrap().write_all(&vec![7; 3 << 20]).unwrap();
    let output = child.wait_with_output().unwrap();
    assert_eq!(code(&output), 1);
    let told = errors(&output);
    assert!(told.contains("--budget") && !told.contains("put_stream"), "{told}");
    // What a killed process has left in the log takes more memory than a small budget has.
    let database = sapwood::Database::builder().merge_threads(0).open(&file).unwrap();
    let keyspace = database.keyspace("default").unwrap();
    let mut batch = database.batch();
    for number in 0..10_000_u32 {
        batch.put(&keyspace, number.to_be_bytes(), [7; 1000]).unwrap();
    }
    batch.commit().unwrap();
    fs::copy(&file, given.path("killed.db")).unwrap();
    let output = run(&with_budget(&["count", &given.name("killed.db")]));
    assert_eq!(code(&output), 1);
    let told = errors(&output);
    assert!(told.contains("--budget") && !told.contains("memory_budget"), "{told}");
    drop(keyspace);
    database.close().unwrap();
}

#[test]
fn wrong_usage_has_a_status_of_its_own() {
    for arguments in [
        &["nonsense"][..],
        &[],
        &["info"],
        &["page", "file", "ten"],
        &["scan", "file", "--prefix", "a", "--start", "b"],
        &["import", "file", "--form", "xml"],
        &["bench", "file", "--batch", "0"],
        &["bench", "file", "--count", "0"],
    ] {
        assert_eq!(code(&run(arguments)), 2, "{arguments:?}");
    }
    assert!(good(&["--help"]).contains("verify"));
}

/// Much of it was found only when the file had been made, and some only by the engine.
#[test]
fn wrong_usage_opens_and_makes_nothing() {
    let given = Given::empty();
    let (new, folder, lines) = (given.name("new.db"), given.name("folder"), given.name("lines"));
    fs::create_dir(&folder).unwrap();
    fs::write(&lines, "line\n").unwrap();
    let (name, key) = ("n".repeat(1025), "k".repeat(16_385));
    let hex_key = "6b".repeat(16_385);
    for arguments in [
        &["import", &new][..],
        &["import", &new, &lines],
        &["import", &new, "--form", "folder"],
        &["import", &new, "-", "--form", "folder"],
        &["import", &new, &lines, "--form", "folder"],
        &["import", &new, &folder, "--form", "tsv"],
        &["import", &new, &folder, "--keyspace", &name],
        &["create", &new, "--compression", "99"],
        &["create", &new, "--compression=-1"],
        &["create", &new, "--filter-bits", "99"],
        &["create", &new, "--page-size", "1000"],
        &["create", &new, "--page-size", "131072"],
        &["create", &new, "--reserved-bytes", "7"],
        &["create", &new, "--reserved-bytes", "264"],
        &["create", &new, "--keyspace", &name],
        &["bench", &new, "--page-size", "1000"],
        &["page", &new, "0", "--page-size", "3000"],
        &["get", &new, "0", "--hex"],
        &["delete", &new, "xy", "--hex"],
        &["put", &new, "xy", "00", "--hex"],
        &["put", &new, "00", "xy", "--hex"],
        &["put", &new, "key", "value", "--keyspace", &name],
        &["put", &new, &key, "value"],
        &["get", &new, &key],
        &["get", &new, &hex_key, "--hex"],
        &["delete", &new, &key],
        &["scan", &new, "--prefix", "xy", "--hex"],
        &["scan", &new, "--start", "b", "--end", "a"],
        &["count", &new, "--start", "b", "--end", "a"],
        &["compact", &new, "--keyspace", "default", "--start", "b", "--end", "a"],
        &["compact", &new, "--keyspace", "default", "--end", "xy", "--hex"],
        &["export", &new, "--form", "folder"],
        &["export", &new, "-", "--form", "folder", "--json"],
    ] {
        let output = run(arguments);
        assert_eq!(code(&output), 2, "{arguments:?}: {}", errors(&output));
        assert!(!errors(&output).is_empty() && output.stdout.is_empty(), "{arguments:?}");
        assert!(!given.path("new.db").exists(), "{arguments:?}");
    }
    // What stands at the edge of each limit is made.
    let most = ["--page-size", "1024", "--reserved-bytes", "256", "--compression", "22"];
    good(&[&["create", &new, "--filter-bits", "32", "--keyspace", &name[1..]], &most[..]].concat());
    let least = ["--page-size", "65536", "--compression", "0", "--filter-bits", "0"];
    good(&[&["create", &given.name("other.db")], &least[..]].concat());
    // Equal ends are an empty range.
    assert_eq!(good(&["scan", &given.name("other.db"), "--start", "b", "--end", "b"]), "");
    let before = fs::read(&new).unwrap();
    let onto_itself = run(&["export", &new, &new, "--keyspace", &name[1..]]);
    assert_eq!(code(&onto_itself), 2, "{}", errors(&onto_itself));
    assert!(fs::read(&new).unwrap() == before, "an export has replaced its own source");
    // What is wrong is told before a file that is there is opened, too.
    for arguments in [
        &["put", &new, "key", "value", "--keyspace", &name][..],
        &["import", &new, &lines, "--form", "lines", "--keyspace", &name],
        &["put", &new, &key, "value", "--keyspace", &name[1..]],
        &["get", &new, &key, "--keyspace", &name[1..]],
        &["delete", &new, &key, "--keyspace", &name[1..]],
    ] {
        let output = run(arguments);
        assert_eq!(code(&output), 2, "{}", errors(&output));
        assert!(errors(&output).contains("too long: the limit is"), "{}", errors(&output));
        assert!(fs::read(&new).unwrap() == before, "{}", arguments[0]);
    }
    // The longest of each is taken.
    let longest = &key[1..];
    good(&["put", &new, longest, "value", "--keyspace", &name[1..]]);
    assert_eq!(good(&["get", &new, longest, "--keyspace", &name[1..]]), "value\n");
    good(&["delete", &new, longest, "--keyspace", &name[1..]]);
}

#[test]
fn a_small_bench_measures_and_verifies() {
    let given = Given::empty();
    let file = given.name("bench.db");
    let common =
        ["bench", &file, "--count", "20000", "--reads", "500", "--budget", "8", "--verify"];
    let results = good_json(&common);
    assert_eq!(results["verified"], true);
    assert_eq!(results["phases"].as_array().unwrap().len(), 3);
    assert!(results["write_amplification"].as_f64().unwrap() > 0.1);
    assert!(results["phases"][0]["latency"]["p99"].as_f64().unwrap() > 0.0);
    assert!(!given.path("bench.db").exists());
    let mut sorted = common.to_vec();
    sorted.extend(["--order", "sorted", "--keep"]);
    assert!(good(&sorted).contains("peak memory"));
    assert_eq!(good(&["count", &file]), "20,000\n");
    assert_eq!(code(&run(&sorted)), 1, "it is there already");
}

/// Whatever failed once the file was made left it there, and the next run was refused.
#[test]
fn a_bench_that_fails_leaves_its_file_only_when_it_is_to_be_kept() {
    let given = Given::empty();
    let file = given.name("bench.db");
    // A commit takes at most a quarter of the budget.
    let failing = ["bench", &file, "--budget", "4", "--count", "1", "--value-bytes", "4000000"];
    for (keep, is_kept) in [(&[][..], false), (&["--keep"], true)] {
        let output = run(&[&failing, keep].concat());
        assert_eq!(code(&output), 1, "{}", errors(&output));
        assert!(errors(&output).contains("too many for one commit"), "{}", errors(&output));
        assert_eq!(given.path("bench.db").exists(), is_kept);
    }
    // What was there before is nobody's to remove.
    let output = run(&failing);
    assert!(errors(&output).contains("exists already"), "{}", errors(&output));
    assert!(given.path("bench.db").exists());
    // One pair is enough.
    assert!(good(&["bench", &given.name("one.db"), "--count", "1"]).contains("load"));
}

/// As the system measures it: what the engine counts, what the allocator and the compressor take
/// beside that, and the process itself.
#[cfg(target_os = "linux")]
#[test]
fn a_process_that_loads_and_reads_stays_within_a_fifth_above_its_budget() {
    const MIB: u64 = 1 << 20;
    let given = Given::empty();
    let file = given.name("bench.db");
    let results = good_json(&[
        "bench", &file, "--count", "600000", "--order", "random", "--batch", "1000", "--reads",
        "100000", "--budget", "64",
    ]);
    let peak_bytes = results["peak_memory_bytes"].as_u64().unwrap();
    let limit_bytes = 64 * MIB * 6 / 5;
    assert!(peak_bytes > 48 * MIB, "too little is written to say anything: {peak_bytes} bytes");
    assert!(peak_bytes <= limit_bytes, "{peak_bytes} of {limit_bytes} bytes");
}

fn with_budget<'a>(arguments: &[&'a str]) -> Vec<&'a str> {
    [arguments, &["--budget", "8"]].concat()
}

#[test]
fn values_above_their_share_of_the_budget_go_in_and_out_as_streams() {
    let given = Given::empty();
    let (folder, file) = (given.path("in"), given.name("data.db"));
    fs::create_dir(&folder).unwrap();
    let mut state = 1_u64;
    let noise: String = std::iter::repeat_with(|| {
        state = state.wrapping_mul(0x5851_f42d_4c95_7f2d).wrapping_add(1);
        char::from(b'0' + (state >> 60) as u8)
    })
    .take(3 << 20)
    .collect();
    fs::write(folder.join("long"), &noise).unwrap();
    fs::write(folder.join("short"), "a few bytes").unwrap();
    let from = folder.display().to_string();
    good(&with_budget(&["import", &file, &from]));
    assert_eq!(good(&with_budget(&["get", &file, "long"])), format!("{noise}\n"));
    assert_eq!(good_json(&with_budget(&["get", &file, "long"]))["value"], noise);
    for form in ["tsv", "csv", "jsonl", "folder"] {
        let (out, copy) = (given.name(&format!("out.{form}")), given.name(&format!("{form}.db")));
        good(&with_budget(&["export", &file, &out, "--form", form]));
        good(&with_budget(&["import", &copy, &out, "--form", form]));
        assert!(good(&with_budget(&["scan", &copy])).contains(&noise[noise.len() - 1000..]));
        assert_eq!(good(&["count", &copy]), "2\n", "{form}");
        assert_eq!(good(&["verify", &copy, "--json"]).matches("\"clean\": true").count(), 1);
    }
    let space = good_json(&["space", &file, "--width", "512"]);
    let regions = space["regions"].as_array().unwrap();
    let owners = regions.iter().flat_map(|region| region.as_str().unwrap().chars());
    let values = owners.enumerate().filter(|(_, owner)| *owner == 'o').map(|(at, _)| at);
    let values: Vec<usize> = values.collect();
    let per_character = space["pages_per_character"].as_u64().unwrap() as usize;
    flip(&given.path("data.db"), values[values.len() / 2] * per_character * 4096 + 100);
    for form in ["tsv", "folder"] {
        let out = given.name(&format!("damaged.{form}"));
        let output = run(&with_budget(&["export", &file, &out, "--form", form]));
        assert_eq!(code(&output), 1);
        assert!(errors(&output).contains("the value of key \"long\""), "{}", errors(&output));
        assert!(errors(&output).contains("in one place"), "{}", errors(&output));
    }
    assert!(fs::read_to_string(given.path("damaged.tsv")).unwrap().starts_with("short\t"));
    assert!(!given.path("damaged.folder/long").exists(), "a part of a value was left");
    assert!(given.path("damaged.folder/short").exists());
}
