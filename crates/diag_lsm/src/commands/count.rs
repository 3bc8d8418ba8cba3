//! `count`: the keys of a range, without those that cannot be read; exit status 1 then.

use serde_json::json;

use crate::Outcome;
use crate::args::RangeArguments;
use crate::salvage::{self, Walk};
use crate::{database, output, units};

pub fn run(arguments: &RangeArguments, json: bool) -> Outcome {
    let bounds = database::bounds(arguments)?;
    let (database, keyspace, before) = database::open_past_damage(&arguments.at)?;
    let bar = output::busy("counting");
    let (count, problems) = match keyspace.count::<Vec<u8>>(bounds.clone()) {
        Ok(count) => (count, 0),
        Err(error) if error.is_corruption() => {
            let path = &arguments.at.file;
            let (reverse, values) = (false, false);
            let walk = Walk { path, keyspace: &keyspace, bounds: &bounds, reverse, values };
            let mut count = 0;
            let problems = walk.run(&mut |_, _| {
                count += 1;
                Ok(true)
            })?;
            (count, problems)
        }
        Err(error) => return Err(error.into()),
    };
    let problems = before + problems;
    bar.finish_and_clear();
    database.close()?;
    if json {
        output::json(&json!({ "count": count, "problems": problems }))?;
    } else {
        println!("{}", units::count(count));
    }
    Ok(salvage::status(problems))
}
