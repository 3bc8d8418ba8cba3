//! `diag_lsm`: looks inside a Sapwood database file.

fn main() {}
