//! The commands, one file each.

mod info;
mod log;
mod page;
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
    }
}
