//! Sapwood beside its peers.

fn main() {}
