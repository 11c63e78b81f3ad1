//! `./x srtos`: the image alone in QEMU, its console on our standard output.

use std::io::Write;
use std::time::{Duration, Instant};

use anyhow::Result;
use tests::standalone::Standalone;

use crate::tree::{Tree, say};
use crate::{build, cli, setup};

/// Without a limit, it runs until it switches itself off or is interrupted.
const FOR_EVER: Duration = Duration::from_secs(365 * 24 * 3600);

/// Boots it.
pub fn run(tree: &Tree, options: cli::Srtos) -> Result<u8> {
    setup::base()?;
    let manifest = build::manifest(tree, &options.manifest)?;
    let realm = build::realm(tree, &manifest)?;
    let mut machine = Standalone::new(realm.directory.join("srtos.elf"), tree.new_log_directory("srtos")?);
    machine.arguments = options.qemu;
    let mut running = machine.boot()?;
    let limit = options.timeout.map(Duration::from_secs);
    let deadline = Instant::now() + limit.unwrap_or(FOR_EVER);
    let mut out = std::io::stdout();
    loop {
        match running.line(deadline) {
            Ok(Some(line)) => {
                if writeln!(out, "{line}").and_then(|()| out.flush()).is_err() {
                    return Ok(0); // nobody listens any more
                }
            }
            Ok(None) => break,
            Err(_) => {
                say("time is up");
                return Ok(0);
            }
        }
    }
    let (status, _) = running.finish(Duration::from_secs(10))?;
    // 0 is a power-off; a value written to the debug-exit port comes as 2n + 1.
    Ok(match status.code() {
        Some(code) => (code >> 1) as u8,
        None => 125,
    })
}
