//! The commands, one file each.

mod bench;
mod cargo_sources;
mod compact;
mod count;
mod create;
mod delete;
mod export;
mod get;
mod import;
mod info;
mod log;
mod page;
mod put;
mod scan;
mod segments;
mod space;
mod tree;
mod verify;

use crate::Outcome;
use crate::args::{Arguments, Command};

/// Runs the command that was asked for.
pub fn run(arguments: &Arguments) -> Outcome {
    let json = arguments.json;
    match &arguments.command {
        Command::Info(of) => info::run(&of.file, json),
        Command::Segments(of) => segments::run(&of.file, json),
        Command::Tree(of) => tree::run(of, json),
        Command::Page(of) => page::run(of, json),
        Command::Space(of) => space::run(of, json),
        Command::Log(of) => log::run(of, json),
        Command::Verify(of) => verify::run(&of.file, json),
        Command::Create(of) => create::run(of, json),
        Command::Import(of) => import::run(of, json),
        Command::Export(of) => export::run(of, json),
        Command::Get(of) => get::run(of, json),
        Command::Put(of) => put::run(of, json),
        Command::Delete(of) => delete::run(of, json),
        Command::Scan(of) => scan::run(of, json),
        Command::Count(of) => count::run(of, json),
        Command::Compact(of) => compact::run(of, json),
        Command::Bench(of) => bench::run(of, json),
    }
}
