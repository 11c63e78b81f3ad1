//! `./x chaos`: servers are killed at random while programs run.

use std::time::Duration;

use anyhow::Result;
use tests::chaos::{self, Until};
use tests::suite::Bench;
use tests::suites;

use crate::cli;
use crate::laboratory::Laboratory;
use crate::setup;
use crate::tree::Tree;

/// Status 0 if nothing was lost.
pub fn run(tree: &Tree, options: cli::Chaos) -> Result<u8> {
    setup::programs()?;
    let laboratory = Laboratory { tree, jailhouse: None };
    let mut bench = Bench::new(&laboratory, "chaos", Some(suites::CRASH_MACHINE))?;
    let until = match options.kills {
        Some(kills) => Until::Kills(kills),
        None => Until::Time(Duration::from_secs(60 * options.minutes)),
    };
    let done = chaos::run(&mut bench, options.seed, until)?;
    println!("{done}: nothing was lost");
    Ok(0)
}
