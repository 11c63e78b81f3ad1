//! How often guests exit, by reason: Linux idle and under load, what single acts of Linux take, and the real-time processor while a program
//! wakes up 1000 times a second, on a machine in xAPIC mode and on one in x2APIC mode.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use tests::vm::Vm;

use super::Figure;
use super::hypervisor::{OURS, machine};
use super::realm::text;
use crate::guest;
use crate::tree::Tree;

/// How long it is looked.
const SPAN: Duration = Duration::from_secs(10);
const LOAD: &str =
    "stress-ng --cpu 1 --vm 1 --vm-bytes 64M --pipe 1 --timer 1 --quiet >/dev/null 2>&1 & echo $! > /tmp/load";
const PROGRAM: &str = "crtos run /usr/bin/cyclictest -q -p 90 -i 1000 -D 300 >/tmp/cycles 2>&1 & echo $! > /tmp/program
    for round in $(seq 300); do crtos ps | grep -q cyclictest && exit 0; sleep 0.1; done; exit 1";

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

/// Measures on both machines.
pub fn measure(tree: &Tree) -> Result<Vec<Figure>> {
    let mut figures = Vec::new();
    for x2apic in [false, true] {
        let mode = if x2apic { "x2apic" } else { "xapic" };
        let mut machine = machine(tree, &format!("bench-{mode}"))?;
        if x2apic {
            guest::use_x2apic(tree, &mut machine)?;
        }
        let mut vm = guest::boot(&machine)?;
        guest::bring_up(&mut vm)?;
        for (name, start, stop) in [("idle", "true", "true"), ("load", LOAD, "kill $(cat /tmp/load)")] {
            script(&mut vm, start)?;
            let counts = rates(&mut vm, "root", None)?;
            script(&mut vm, stop)?;
            figures.extend(counts.into_iter().filter(|(reason, count)| *count > 0 || reason == "total").map(
                |(reason, count)| {
                    Figure::new(format!("hypervisor.exits.linux.{mode}.{name}.{reason}"), count, "per second")
                },
            ));
        }
        for (name, count, program) in ACTS {
            let before = counts(&mut vm, "root", Some(ITS_CPU))?;
            text(&mut vm, &["taskset", "-c", &ITS_CPU.to_string(), "python3", "-c", program])?;
            let after = counts(&mut vm, "root", Some(ITS_CPU))?;
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
        script(&mut vm, PROGRAM)?;
        // It maps its memory and reports its options first.
        std::thread::sleep(Duration::from_secs(2));
        let counts = rates(&mut vm, "srtos", Some(OURS))?;
        let cycles = script(
            &mut vm,
            "kill -INT $(cat /tmp/program); tail --pid=$(cat /tmp/program) -f /dev/null; cat /tmp/cycles",
        )?;
        if tests::cyclictest::parse(&cycles)?.cycles < 1000 {
            bail!("the program did not wake up often enough:\n{cycles}");
        }
        for (reason, count) in counts.into_iter().filter(|(reason, count)| *count > 0 || reason == "total") {
            let name = format!("hypervisor.exits.rt_cpu.{mode}.{reason}");
            let figure = Figure::new(name, count, "per second");
            figures.push(if x2apic { figure.at_most(0) } else { figure });
        }
        guest::power_off(vm)?;
    }
    Ok(figures)
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
