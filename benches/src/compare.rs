//! Runs the measurements: rounds outside, workloads inside them, engines innermost and each time
//! beginning with another one, so that a slow minute of the machine falls on all of them.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use crate::engines::Name;
use crate::workload::{self, Measured, Workload};
use crate::{Outcome, Sizes};

pub struct Plan {
    pub sizes: Sizes,
    pub engines: Vec<Name>,
    /// What to report; all when empty.
    pub workloads: Vec<Workload>,
    pub rounds: u32,
    pub dir: PathBuf,
}

/// One line of the report: what is measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Metric {
    /// Operations in a second.
    Rate(Workload),
    /// Seconds from the end of a load until the engine is at rest.
    Settle(Workload),
    /// Bytes on the device after a load, at rest and closed.
    DiskBytes(Workload),
}

/// One figure of one engine in one round.
#[derive(Clone, Copy, Debug)]
pub struct Sample {
    pub metric: Metric,
    pub engine: Name,
    pub figure: f64,
}

const ORDER: [Workload; 7] = [
    Workload::SortedLoad,
    Workload::RandomLoad,
    Workload::DurableOne,
    Workload::DurableFour,
    Workload::ReadPresent,
    Workload::ReadAbsent,
    Workload::Scan,
];

impl Plan {
    fn wants(&self, workload: Workload) -> bool {
        self.workloads.is_empty() || self.workloads.contains(&workload)
    }

    /// What must run, in order: a load also when only something reads what it loads.
    fn needed(&self) -> Vec<Workload> {
        let reads_it = |load: Workload| {
            load.is_load()
                && ORDER
                    .iter()
                    .any(|&other| self.wants(other) && other.database() == load.database())
        };
        ORDER.into_iter().filter(|&workload| self.wants(workload) || reads_it(workload)).collect()
    }
}

pub fn run(plan: &Plan) -> Outcome<Vec<Sample>> {
    fs::create_dir_all(&plan.dir)?;
    let dir = tempfile::Builder::new().prefix("sapwood-benches-").tempdir_in(&plan.dir)?;
    let mut samples = Vec::new();
    for round in 0..plan.rounds {
        let round_dir = dir.path().join(round.to_string());
        for workload in plan.needed() {
            for turn in 0..plan.engines.len() {
                let engine = plan.engines[(turn + round as usize) % plan.engines.len()];
                let at = round_dir.join(engine.text()).join(workload.database());
                fs::create_dir_all(&at)?;
                eprintln!(
                    "round {} of {}: {} on {workload:?}",
                    round + 1,
                    plan.rounds,
                    engine.text()
                );
                let measured = run_child(plan, engine, workload, &at)?;
                if plan.wants(workload) {
                    collect(&mut samples, engine, workload, &measured, &at)?;
                }
            }
        }
        fs::remove_dir_all(&round_dir)?;
    }
    Ok(samples)
}

fn collect(
    samples: &mut Vec<Sample>,
    engine: Name,
    workload: Workload,
    measured: &Measured,
    at: &Path,
) -> Outcome<()> {
    let mut push = |metric, figure| {
        samples.push(Sample { metric, engine, figure });
    };
    push(Metric::Rate(workload), measured.operations as f64 / measured.seconds);
    if workload.is_load() {
        push(Metric::Settle(workload), measured.settle_seconds);
        push(Metric::DiskBytes(workload), workload::disk_bytes(at)? as f64);
    }
    Ok(())
}

fn run_child(plan: &Plan, engine: Name, workload: Workload, at: &Path) -> Outcome<Measured> {
    let workload_name = clap::ValueEnum::to_possible_value(&workload)
        .map(|value| value.get_name().to_owned())
        .ok_or("a workload without a name")?;
    let output = Command::new(std::env::current_exe()?)
        .args(["one", "--engine", engine.text(), "--workload", &workload_name])
        .arg("--at")
        .arg(at)
        .args(["--pairs", &plan.sizes.pairs.to_string()])
        .args(["--reads", &plan.sizes.reads.to_string()])
        .args(["--commits", &plan.sizes.commits.to_string()])
        .args(["--memory-mib", &plan.sizes.memory_mib.to_string()])
        .stdin(Stdio::null())
        .stderr(Stdio::inherit())
        .output()?;
    if !output.status.success() {
        return Err(format!("{} on {workload_name}: {}", engine.text(), output.status).into());
    }
    Ok(serde_json::from_slice(&output.stdout)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plan(workloads: Vec<Workload>) -> Plan {
        let sizes = Sizes { pairs: 1, reads: 1, commits: 1, memory_mib: 64 };
        Plan { sizes, engines: Vec::new(), workloads, rounds: 1, dir: PathBuf::new() }
    }

    #[test]
    fn reading_needs_the_load_of_the_same_database_only() {
        let needed = plan(vec![Workload::Scan]).needed();
        assert_eq!(needed, [Workload::RandomLoad, Workload::Scan]);
    }

    #[test]
    fn nothing_named_means_everything() {
        assert_eq!(plan(Vec::new()).needed(), ORDER);
    }
}
