//! The targets of `fuzz/`: always with the mutator that comes with them, and with libFuzzer where this machine has it
//! (a nightly toolchain and `cargo install cargo-fuzz`).

use std::process::Command;

use ::tests::suite::Count;
use anyhow::{Context, Result};

use super::Outcome;
use crate::run;
use crate::tree::{Tree, say};

const TARGETS: [&str; 2] = ["manifest", "blob"];
/// For each target and each way.
const SECONDS: u64 = 300;

/// Runs them.
pub fn run(tree: &Tree) -> Result<Outcome> {
    let mut count = Count::default();
    let logs = tree.new_log_directory("fuzz")?;
    let command = |arguments: &[&str]| {
        let mut command = Command::new("cargo");
        command.args(arguments).current_dir(tree.root.join("fuzz")).env("CARGO_TARGET_DIR", tree.target.join("fuzz"));
        command
    };
    let seconds = SECONDS.to_string();
    for target in TARGETS {
        let mutate =
            ["run", "--quiet", "--release", "--no-default-features", "--bin", "mutate", "--", target, &seconds];
        let said = run::text(&mut command(&mutate)).with_context(|| format!("mutated input for {target}"))?;
        say(said.trim());
        count.passed += 1;
    }
    if run::quietly(&mut command(&["+nightly", "fuzz", "--version"])).is_err() {
        say("no libFuzzer here: cargo install cargo-fuzz, with a nightly toolchain");
        return Ok(Outcome::Counted(count));
    }
    for target in TARGETS {
        let limit = format!("-max_total_time={SECONDS}");
        let output = run::quietly(&mut command(&["+nightly", "fuzz", "run", target, "--", &limit]))?;
        std::fs::write(logs.join(target), [output.stdout, output.stderr].concat())?;
        count.passed += 1;
    }
    Ok(Outcome::Counted(count))
}
