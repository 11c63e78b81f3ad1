//! Guest instructions from the image's first to `init`'s report that all servers are ready.

use std::time::Duration;

use anyhow::Result;
use tests::counter::Counters;
use tests::standalone::Standalone;

use super::Figure;
use crate::build;
use crate::tree::Tree;

const LIMIT: Duration = Duration::from_secs(120);

/// Boots the image alone. When it is ready it waits for interrupts, which executes nothing.
pub fn measure(tree: &Tree) -> Result<Vec<Figure>> {
    let plugin = build::library(tree, "the instruction counter", "counter")?;
    let realm = build::realm(tree, &build::manifest(tree, "default")?)?;
    let logs = tree.new_log_directory("bench-boot")?;
    let counters = Counters::create(&logs.join("counters"))?;
    let mut machine = Standalone::new(realm.directory.join("srtos.elf"), logs).counting();
    machine.arguments.extend(counters.arguments(&plugin).map(Into::into));
    let mut running = machine.boot()?;
    running.wait_for(tests::realm::READY, LIMIT)?;
    Ok(vec![Figure::new("boot.to_init_ready", counters.read(1)?[0], "instructions")])
}
