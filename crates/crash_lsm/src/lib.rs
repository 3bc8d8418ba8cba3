//! Crash and fault harness: models, workloads and simulated power cuts for Sapwood.
