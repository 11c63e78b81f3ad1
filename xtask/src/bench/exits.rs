//! How often guests exit, by reason: Linux idle and under load, what single acts of Linux take, and the real-time processor while a program
//! wakes up 1000 times a second, on a machine in xAPIC mode, on one in x2APIC mode, and on one in xAPIC mode whose real-time processor polls
//! while it is idle.

use std::collections::BTreeMap;
use std::fs;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use tests::vm::Vm;

use super::Figure;
use super::hypervisor::{OURS, machine};
use super::realm::text;
use crate::tree::Tree;
use crate::{build, guest};

/// How long it is looked.
const SPAN: Duration = Duration::from_secs(10);
/// Longest time until a program is at work.
const PATIENCE: Duration = Duration::from_secs(120);
/// So many calls of a program, none of which Linux answers, are sleeps.
const SLEEPS: u64 = 1000;
const LOAD: &str =
    "stress-ng --cpu 1 --vm 1 --vm-bytes 64M --pipe 1 --timer 1 --quiet >/dev/null 2>&1 & echo $! > /tmp/load";
/// Programs that wake up 1000 times a second, and what their figures are called by. That of `cyclictest` has a second, less urgent thread,
/// which wakes up 100 times a second.
const PROGRAMS: [(&str, &str, &str); 2] = [
    ("", "cyclictest", "/usr/bin/cyclictest -q -p 90 -i 1000 -D 300"),
    (
        "nanosleep.",
        "perl",
        "/usr/bin/perl -e '$SIG{INT} = sub { print \"$n\"; exit }; $p = pack(\"l\", 90); syscall(144, 0, 1, $p) == 0 or die;
            $t = pack(\"qq\", 0, 1000000); syscall(35, $t, 0), $n++ while 1'",
    ),
];
/// A second, of the program without a second thread.
const POLLING: u64 = 39;

/// A machine that is measured.
#[derive(Clone, Copy, PartialEq)]
enum Mode {
    Xapic,
    X2apic,
    Poll,
}

/// Acts of Linux that need no exit: what, how many, and the program that does them on [`ITS_CPU`].
const ACTS: [(&str, u64, &str); 3] = [
    ("system_calls", 500_000, "import os\nfor _ in range(500000): os.getppid()"),
    (
        "page_faults",
        100_000,
        "import mmap\nfor _ in range(10):\n m = mmap.mmap(-1, 10000 * 4096)\n for at in range(0, len(m), 4096): m[at] = 1\n m.close()",
    ),
    ("timers", 3_000, "import time\nfor _ in range(3000): time.sleep(0.001)"),
];
const ITS_CPU: usize = 1;
/// Interrupts that Linux sends to other processors: counted apart, with x2APIC.
const SENT: &str = "msr_x2apic_icr";
/// How `crtos cell stats` itself gets the figures: not counted.
const ASKED: &str = "hypercall";

/// Exits by reason.
type Counts = BTreeMap<String, u64>;

/// Measures on all machines.
pub fn measure(tree: &Tree) -> Result<Vec<Figure>> {
    let mut figures = Vec::new();
    for (mode, name) in [(Mode::Xapic, "xapic"), (Mode::X2apic, "x2apic"), (Mode::Poll, "poll")] {
        let manifest = if mode == Mode::Poll { polling(tree)? } else { build::manifest(tree, "default")? };
        let mut machine = machine(tree, &format!("bench-{name}"), manifest)?;
        if mode == Mode::X2apic {
            guest::use_x2apic(tree, &mut machine)?;
        }
        let mut vm = guest::boot(&machine)?;
        guest::bring_up(&mut vm)?;
        if mode != Mode::Poll {
            figures.extend(linux(&mut vm, name)?);
            figures.extend(acts(&mut vm, name, mode == Mode::X2apic)?);
        }
        for (program, process, command) in PROGRAMS {
            for (reason, count) in real_time(&mut vm, process, command)? {
                let figure =
                    Figure::new(format!("hypervisor.exits.rt_cpu.{name}.{program}{reason}"), count, "per second");
                figures.push(match mode {
                    Mode::X2apic => figure.at_most(0),
                    Mode::Poll if !program.is_empty() => figure.at_most(POLLING),
                    _ => figure,
                });
            }
        }
        guest::power_off(vm)?;
    }
    Ok(figures)
}

/// The default manifest, but for what the processor does while it is idle.
fn polling(tree: &Tree) -> Result<PathBuf> {
    let text = fs::read_to_string(build::manifest(tree, "default")?)?;
    let path = tree.new_log_directory("bench-poll-manifest")?.join("poll.toml");
    fs::write(&path, text.replacen("[system]\n", "[system]\nidle = \"poll\"\n", 1))?;
    Ok(path)
}

/// Linux's processors, idle and under load.
fn linux(vm: &mut Vm, mode: &str) -> Result<Vec<Figure>> {
    let mut figures = Vec::new();
    for (name, start, stop) in [("idle", "true", "true"), ("load", LOAD, "kill $(cat /tmp/load)")] {
        script(vm, start)?;
        let counts = rates(vm, "root", None)?;
        script(vm, stop)?;
        figures.extend(counts.into_iter().filter(|(reason, count)| *count > 0 || reason == "total").map(
            |(reason, count)| {
                Figure::new(format!("hypervisor.exits.linux.{mode}.{name}.{reason}"), count, "per second")
            },
        ));
    }
    Ok(figures)
}

/// What single acts of Linux take.
fn acts(vm: &mut Vm, mode: &str, x2apic: bool) -> Result<Vec<Figure>> {
    let mut figures = Vec::new();
    for (name, count, program) in ACTS {
        let before = counts(vm, "root", Some(ITS_CPU))?;
        text(vm, &["taskset", "-c", &ITS_CPU.to_string(), "python3", "-c", program])?;
        let after = counts(vm, "root", Some(ITS_CPU))?;
        let exits = |reason: &str| after.get(reason).unwrap_or(&0) - before.get(reason).unwrap_or(&0);
        let own = after.keys().filter(|reason| !["total", ASKED, SENT].contains(&reason.as_str()));
        let own = own.map(|reason| exits(reason)).sum();
        let name = format!("hypervisor.exits.linux.{mode}.thousand_{name}");
        let thousand = |name, exits: u64| Figure::new(name, (exits * 1000).div_ceil(count), "exits");
        if x2apic {
            figures.push(thousand(format!("{name}.sent"), exits(SENT)));
            figures.push(thousand(name, own).at_most(0));
        } else {
            figures.push(thousand(name, own));
        }
    }
    Ok(figures)
}

/// The real-time processor, while a program runs that does nothing but sleep and wake up.
fn real_time(vm: &mut Vm, process: &str, command: &str) -> Result<Vec<(String, u64)>> {
    script(vm, &format!("crtos run {command} >/tmp/report 2>&1 & echo $! > /tmp/program"))?;
    wait_until_it_sleeps(vm, process)?;
    let counts = rates(vm, "srtos", Some(OURS))?;
    let report =
        script(vm, "kill -INT $(cat /tmp/program); tail --pid=$(cat /tmp/program) -f /dev/null; cat /tmp/report")?;
    let wakes = match report.trim().parse() {
        Ok(count) => count,
        Err(_) => tests::cyclictest::parse(&report)?.cycles,
    };
    if wakes < 1000 {
        bail!("the program did not wake up often enough:\n{report}");
    }
    Ok(counts.into_iter().filter(|(reason, count)| *count > 0 || reason == "total").collect())
}

/// Waits until the program has mapped its memory and reported its options: then it calls Linux no more.
fn wait_until_it_sleeps(vm: &mut Vm, process: &str) -> Result<()> {
    let limit = Instant::now() + PATIENCE;
    // Since Linux was last called.
    let (mut remote_before, mut local_before) = (0, 0);
    loop {
        let said = text(vm, &["crtos", "ps"])?;
        let (remote, local) = calls(&said, process)?;
        if remote != remote_before {
            (remote_before, local_before) = (remote, local);
        } else if local >= local_before + SLEEPS {
            return Ok(());
        }
        if Instant::now() > limit {
            bail!("{process} does not just sleep and wake up:\n{said}");
        }
        std::thread::sleep(Duration::from_millis(100));
    }
}

/// Calls of a process that Linux has answered and that the real-time side has, out of `crtos ps`.
fn calls(said: &str, process: &str) -> Result<(u64, u64)> {
    let mut sums = (0, 0);
    for line in said.lines().filter(|line| line.ends_with(process)) {
        let mut columns = line.split_whitespace().skip(6);
        let mut column = || columns.next().and_then(|word| word.parse::<u64>().ok()).context(line.to_owned());
        sums.0 += column()?;
        sums.1 += column()?;
    }
    Ok(sums)
}

fn script(vm: &mut Vm, script: &str) -> Result<String> {
    text(vm, &["/bin/bash", "-c", script])
}

/// Exits a second of a cell's processors, or of one of them; rounded up, so that one in ten seconds is not none.
fn rates(vm: &mut Vm, cell: &str, cpu: Option<usize>) -> Result<Counts> {
    let start = Instant::now();
    let before = counts(vm, cell, cpu)?;
    std::thread::sleep(SPAN);
    let after = counts(vm, cell, cpu)?;
    let seconds = start.elapsed().as_secs_f64();
    let rate = |(reason, after): (String, u64)| {
        let count = after.saturating_sub(before.get(&reason).copied().unwrap_or(0));
        (reason, (count as f64 / seconds).ceil() as u64)
    };
    Ok(after.into_iter().map(rate).collect())
}

/// Lines `CELL.cpuN.vmexits_REASON COUNT`, summed up.
fn counts(vm: &mut Vm, cell: &str, cpu: Option<usize>) -> Result<Counts> {
    let said = text(vm, &["crtos", "cell", "stats", cell])?;
    let mut counts = Counts::new();
    for line in said.lines() {
        let Some((name, value)) = line.split_once(' ') else { continue };
        let Some((processor, reason)) = name.strip_prefix(cell).and_then(|rest| rest.split_once(".vmexits_")) else {
            continue;
        };
        if cpu.is_none_or(|cpu| processor == format!(".cpu{cpu}")) {
            *counts.entry(reason.to_owned()).or_default() += value.trim().parse::<u64>().context(line.to_owned())?;
        }
    }
    if counts.is_empty() {
        bail!("crtos cell stats {cell} has no counters:\n{said}");
    }
    Ok(counts)
}
