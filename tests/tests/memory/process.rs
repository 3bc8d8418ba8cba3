//! What a process takes in memory, of tests that have one of their own.

use std::fs;
use std::path::PathBuf;

/// The folder of the database, in the process whose memory is looked at.
const FOLDER: &str = "SAPWOOD_TEST_MEMORY_IN";

/// Runs a test, of which the path in this binary is given, in a process of its own, whose memory is
/// that of this test alone; true in that process.
pub fn is_alone(test: &str) -> bool {
    if std::env::var_os(FOLDER).is_some() {
        return true;
    }
    let folder = tempfile::tempdir().unwrap();
    let mut other = std::process::Command::new(std::env::current_exe().unwrap());
    other.args(["--exact", test, "--test-threads", "1", "--nocapture"]);
    let output = other.env(FOLDER, folder.path()).output().unwrap();
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{said}{}", String::from_utf8_lossy(&output.stderr));
    assert!(said.contains("1 passed"), "{said}");
    false
}

/// The folder that a test has which is alone in its process.
pub fn folder() -> PathBuf {
    std::env::var_os(FOLDER).unwrap().into()
}

/// The most memory that this process has had resident.
pub fn peak_bytes() -> u64 {
    memory("VmHWM:")
}

/// What the system says of this process's memory, in bytes.
pub fn memory(of: &str) -> u64 {
    let status = fs::read_to_string("/proc/self/status").unwrap();
    let said = status.lines().find_map(|line| line.strip_prefix(of)).unwrap();
    said.split_whitespace().next().unwrap().parse::<u64>().unwrap() << 10
}
