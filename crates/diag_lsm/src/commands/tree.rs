//! `tree`: the shape of a segment's trees, by depth.

use std::io::Write;
use std::process::ExitCode;

use sapwood::segment::key_range::KeyRanges;
use serde::Serialize;

use crate::Outcome;
use crate::args::TreeArguments;
use crate::file::{DurableFile, look_steadily};
use crate::output::{self, Table};
use crate::shape::{Depth, leaf_count, shape};
use crate::units;

#[derive(Serialize)]
struct Tree {
    segment: u64,
    keyspace: Option<String>,
    level: String,
    tree: &'static str,
    depths: Vec<Depth>,
}

pub fn run(arguments: &TreeArguments, json: bool) -> Outcome {
    let look = |file: &DurableFile| Ok(trees(file, arguments.segment));
    let trees = look_steadily(&arguments.file, look, |trees: &Vec<Tree>| {
        trees.iter().flat_map(|tree| &tree.depths).all(|depth| depth.unreadable == 0)
    })?;
    if let (Some(number), true) = (arguments.segment, trees.is_empty()) {
        return Err(format!("there is no segment {number}; `segments` lists them").into());
    }
    if json {
        output::json(&trees)?;
    } else {
        print(&trees)?;
    }
    let depths = trees.iter().flat_map(|tree| &tree.depths);
    let mut status = ExitCode::SUCCESS;
    for error in depths.filter_map(|depth| depth.first_error.as_ref()) {
        eprintln!("diag_lsm: {error}");
        status = ExitCode::FAILURE;
    }
    Ok(status)
}

fn trees(file: &DurableFile, asked_for: Option<u64>) -> Vec<Tree> {
    let mut trees = Vec::new();
    let none = KeyRanges::new();
    let mut segments = file.segments();
    segments.retain(|(_, _, segment)| asked_for.is_none_or(|number| number == segment.number));
    let bar = output::progress(leaf_count(&segments), "looking at leaves");
    for (keyspace, level, segment) in segments {
        let both =
            [("points", &segment.points, &*segment.promoted), ("ranges", &segment.ranges, &none)];
        for (tree, root, promoted) in both {
            let Some(root) = root else { continue };
            trees.push(Tree {
                segment: segment.number,
                keyspace: keyspace.map(|number| file.keyspace_name(number)),
                level: level.clone(),
                tree,
                depths: shape(&file.pages, root, keyspace, promoted, &bar),
            });
        }
    }
    bar.finish_and_clear();
    trees
}

fn print(trees: &[Tree]) -> std::io::Result<()> {
    let mut out = output::out();
    for tree in trees {
        let keyspace = tree.keyspace.as_deref().unwrap_or("(all)");
        writeln!(
            out,
            "segment {} of {keyspace}, level {}: {}",
            tree.segment, tree.level, tree.tree
        )?;
        let mut table = Table::new(
            1,
            &[
                "",
                "nodes",
                "pages",
                "children",
                "least",
                "most",
                "fill",
                "sidecar",
                "dead",
                "unreadable",
            ],
        );
        for depth in &tree.depths {
            let name = match depth.height {
                0 => "leaves".to_owned(),
                1 => "lowest parents".to_owned(),
                height => format!("parents, height {height}"),
            };
            let average = depth.children.checked_div(depth.nodes).unwrap_or(0);
            table.row(vec![
                name,
                units::count(depth.nodes),
                units::count(depth.pages),
                units::count(average),
                units::count(depth.children_min),
                units::count(depth.children_max),
                units::percent(depth.used_bytes, depth.usable_bytes),
                units::count(depth.sidecar_pages),
                units::count(depth.dead),
                units::count(depth.unreadable),
            ]);
        }
        table.print(&mut out)?;
        writeln!(out)?;
    }
    out.flush()
}
