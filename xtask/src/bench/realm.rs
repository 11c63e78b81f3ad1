//! Figures of a running realm: instructions of a system call in each realm, and VM exits.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use tests::counter::Counters;
use tests::suite::{Flavour, environment};
use tests::vm::Vm;
use tests::wire;

use super::Figure;
use crate::build::{self, cargo};
use crate::guest::{self, Kind};
use crate::tree::Tree;

const LIMIT: Duration = Duration::from_secs(300);
const CPUS: usize = 4;
/// The realm has the highest CPU.
const OURS: usize = CPUS - 1;
const TIMES: u32 = 1_000;
/// Restarts of each server that are measured: as many as the manifest allows at once.
const RESTARTS: usize = 5;
/// What is promised for each server.
const MOST_RESTART: u64 = 2_000_000;

/// Boots the default machine with counted instructions and measures.
pub fn measure(tree: &Tree) -> Result<Vec<Figure>> {
    cargo(tree, "the benchmark program", &["build", "--release", "--package", "tests", "--bin", "repeat"])?;
    let repeat = tree.target.join("release/repeat");

    let kind = Kind {
        name: "bench".into(),
        flavour: Flavour::Rt,
        manifest: Some(build::manifest(tree, "default")?),
        reserved: true,
    };
    let mut machine = guest::machine(tree, &kind)?;
    machine.cpus = CPUS as u32;
    machine.files.push((repeat, PathBuf::from("/usr/local/bin/repeat"), 0o755));
    let counters = Counters::create(&machine.logs.join("counters"))?;
    let plugin = build::library(tree, "the instruction counter", "counter")?;
    machine.arguments.extend(counters.arguments(&plugin).map(Into::into));
    let mut vm = guest::boot(&machine)?;
    guest::bring_up(&mut vm)?;

    let mut figures = Vec::new();
    for (name, call) in
        [("remote.getppid", "getppid"), ("local.clock_gettime", "clock_gettime"), ("local.sched_yield", "sched_yield")]
    {
        let (ours, linux) = per_call(&mut vm, &counters, call)?;
        figures.push(Figure::new(format!("{name}.realtime"), ours, "instructions"));
        if call == "getppid" {
            figures.push(Figure::new(format!("{name}.linux"), linux, "instructions"));
        }
    }
    figures.extend(restarts(&mut vm, &counters)?);
    figures.extend(exits(&mut vm)?);
    guest::power_off(vm)?;
    Ok(figures)
}

/// Instructions that one more call takes, in the realm and in Linux: the median of three.
fn per_call(vm: &mut Vm, counters: &Counters, call: &str) -> Result<(u64, u64)> {
    let mut samples = Vec::new();
    for _ in 0..3 {
        let few = instructions(vm, counters, call, TIMES / 10)?;
        let many = instructions(vm, counters, call, TIMES / 10 + TIMES)?;
        let each = |few: u64, many: u64| many.saturating_sub(few) / u64::from(TIMES);
        samples.push((each(few.0, many.0), each(few.1, many.1)));
    }
    let median = |mut values: Vec<u64>| {
        values.sort_unstable();
        values[values.len() / 2]
    };
    Ok((median(samples.iter().map(|s| s.0).collect()), median(samples.iter().map(|s| s.1).collect())))
}

/// Instructions of one whole run, in the realm and in Linux.
fn instructions(vm: &mut Vm, counters: &Counters, call: &str, times: u32) -> Result<(u64, u64)> {
    let before = counters.read(CPUS)?;
    text(vm, &["crtos", "run", "--prio", "80", "/usr/local/bin/repeat", call, &times.to_string()])?;
    let after = counters.read(CPUS)?;
    let delta: Vec<u64> = after.iter().zip(&before).map(|(after, before)| after - before).collect();
    Ok((delta[OURS], delta[..OURS].iter().sum()))
}

/// Instructions of the realm's CPU from the order that ends a server until its new instance waits for work: the order is done only then, since
/// who makes the new instance is less urgent than that. A program runs meanwhile, so there is something to be kept.
fn restarts(vm: &mut Vm, counters: &Counters) -> Result<Vec<Figure>> {
    let start = "setsid crtos run /bin/sleep 1000 < /dev/null > /dev/null 2>&1 &
        for i in $(seq 100); do crtos ps | grep -q sleep && exit 0; sleep 0.1; done; exit 1";
    text(vm, &["/bin/bash", "-c", start])?;
    let mut figures = Vec::new();
    for server in ["vfs-proxy", "linux"] {
        let mut samples = Vec::new();
        for _ in 0..RESTARTS {
            let before = counters.read(CPUS)?[OURS];
            text(vm, &["crtos", "server", "kill", server])?;
            samples.push(counters.read(CPUS)?[OURS] - before);
        }
        samples.sort_unstable();
        let spread = [samples[RESTARTS / 2], samples[0], samples[RESTARTS - 1], RESTARTS as u64];
        let name = format!("faults.restart.{server}");
        figures.push(Figure::new(name, samples[RESTARTS - 1], "instructions").at_most(MOST_RESTART).of(spread));
    }
    // It has not noticed.
    text(vm, &["/bin/bash", "-c", "crtos ps | grep -q sleep"])?;
    Ok(figures)
}

/// VM exits of the realm's CPU while cyclictest wakes up 5000 times, by reason.
fn exits(vm: &mut Vm) -> Result<Vec<Figure>> {
    let before = exit_counts(vm)?;
    text(vm, &["crtos", "run", "/usr/bin/cyclictest", "-q", "-p", "90", "-i", "1000", "-l", "5000"])?;
    let after = exit_counts(vm)?;
    let mut figures = Vec::new();
    for ((name, before), (_, after)) in before.iter().zip(&after) {
        if after > before || name.ends_with("total") {
            figures.push(Figure::new(format!("exits.cyclictest_5000.{name}"), after - before, "exits"));
        }
    }
    Ok(figures)
}

/// The counters of the realm's CPU: lines `srtos.cpu3.REASON N`.
fn exit_counts(vm: &mut Vm) -> Result<Vec<(String, u64)>> {
    let said = text(vm, &["crtos", "cell", "stats", "srtos"])?;
    let prefix = format!("srtos.cpu{OURS}.");
    let mut counts = Vec::new();
    for line in said.lines().filter_map(|line| line.strip_prefix(&prefix)) {
        let (name, value) = line.split_once(' ').with_context(|| line.to_owned())?;
        counts.push((name.to_owned(), value.trim().parse()?));
    }
    if counts.is_empty() {
        bail!("crtos cell stats has no counters of the realm's CPU:\n{said}");
    }
    Ok(counts)
}

/// Runs a command that must succeed; its output.
pub fn text(vm: &mut Vm, argv: &[&str]) -> Result<String> {
    let command = wire::Command {
        argv: argv.iter().map(Into::into).collect(),
        env: environment(),
        cwd: "/".into(),
        terminal: None,
    };
    let output = vm.capture(&command, b"", LIMIT)?;
    if output.status != 0 {
        bail!("{}: status {}: {}", argv.join(" "), output.status, String::from_utf8_lossy(&output.stderr).trim());
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}
