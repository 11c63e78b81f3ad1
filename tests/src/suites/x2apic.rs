//! A machine whose Linux uses x2APIC: the same work, and cells whose timer takes no VM exits.

use anyhow::{Context, Result, bail};

use super::inmates::{Console, FIRST, create, prepare, smp, start, wait_for_state};
use super::support::{crtos_run, same};
use crate::cyclictest;
use crate::inmate::Inmate;
use crate::suite::{Bench, State, Suite, Wanted, case, said};

/// The realm runs.
pub const RUNNING: Suite = Suite {
    name: "x2apic",
    wanted: Some(Wanted::new(State::Running).x2apic()),
    cases: &[
        case("linux_uses_it", linux_uses_it),
        case("program", program),
        case("timer_without_exits", program_without_exits),
        case("dmesg", |bench| bench.dmesg_is_clean()),
    ],
};

/// Small inmates.
pub const INMATES: Suite = Suite {
    name: "x2apic-inmates",
    wanted: Some(Wanted::new(State::Installed).x2apic()),
    cases: &[
        case("smp", smp),
        case("linux", super::linux_cell::linux),
        case("timer_without_exits", inmate_without_exits),
        case("cycle", cycle),
        case("dmesg", |bench| bench.dmesg_is_clean()),
    ],
};

fn linux_uses_it(bench: &mut Bench<'_>) -> Result<()> {
    let log = bench.ok("dmesg | grep -i x2apic")?;
    if !log.contains("x2apic enabled") && !log.contains("Enabled IRQ remapping in x2apic mode") {
        bail!("{log}");
    }
    Ok(())
}

fn program(bench: &mut Bench<'_>) -> Result<()> {
    same("a program", bench.ok("crtos run /bin/echo up")?, "up\n".into())?;
    let argv = ["/usr/bin/cyclictest", "-q", "-p", "90", "-i", "1000", "-l", "200"];
    let output = crtos_run(bench, &argv, b"")?;
    if output.status != 0 {
        bail!("{}", said(&output));
    }
    same("cycles", cyclictest::parse(&String::from_utf8_lossy(&output.stdout))?.cycles, 200)
}

/// A counter of a processor of a cell.
fn exits(bench: &mut Bench<'_>, cell: &str, cpu: u32, reason: &str) -> Result<u64> {
    let line = bench.ok(&format!("crtos cell stats {cell} | grep '^{cell}.cpu{cpu}.vmexits_{reason} '"))?;
    Ok(line.split_whitespace().nth(1).context("a figure")?.parse()?)
}

/// A program that wakes up by the timer all the time: its processor does not leave the cell for that.
fn program_without_exits(bench: &mut Bench<'_>) -> Result<()> {
    const ALL: [&str; 12] = [
        "total",
        "mmio",
        "management",
        "hypercall",
        "pio",
        "xapic",
        "cr",
        "cpuid",
        "xsetbv",
        "exception",
        "msr_other",
        "msr_x2apic_icr",
    ];
    let script = "crtos run /usr/bin/cyclictest -q -p 90 -i 1000 -D 60 > cyclictest.txt & program=$!
         until crtos ps | grep -q cyclictest; do kill -0 $program || exit 1; done
         sleep 2; crtos cell stats srtos; echo; sleep 10; crtos cell stats srtos
         kill -INT $program; wait $program";
    let said = bench.ok(script)?;
    let (before, after) = said.split_once("\n\n").context("two sets of figures")?;
    let figure = |text: &str, name: &str| -> Result<u64> {
        let name = format!("srtos.cpu3.vmexits_{name} ");
        let line = text.lines().find_map(|line| line.strip_prefix(&name)).context(name.clone())?;
        Ok(line.trim().parse()?)
    };
    let report = bench.ok("cat cyclictest.txt")?;
    // As many as an emulated machine manages, but it did run.
    let cycles = cyclictest::parse(&report)?.cycles;
    if cycles < 1000 {
        bail!("it woke up {cycles} times only");
    }
    let mut all = Vec::new();
    for name in ALL {
        all.push((name, figure(after, name)? - figure(before, name)?));
    }
    if all.iter().any(|(_, count)| *count != 0) {
        bail!("{cycles} wake-ups, exits in ten seconds of them: {all:?}");
    }
    Ok(())
}

/// Timer, end of interrupt, interrupts to itself.
fn inmate_without_exits(bench: &mut Bench<'_>) -> Result<()> {
    prepare(bench)?;
    create(bench, &Inmate::new("timer", &[3], FIRST))?;
    let mut console = Console::now(bench)?;
    start(bench, "timer", "timer.bin")?;
    console.wait_for("timer inmate: ticks")?;
    // It prints by hypercalls, so these go on.
    let counts = |bench: &mut Bench<'_>| -> Result<Vec<u64>> {
        let reasons = ["mmio", "xapic", "pio", "exception", "msr_other", "msr_x2apic_icr"];
        reasons.iter().map(|reason| exits(bench, "timer", 3, reason)).collect()
    };
    let before = counts(bench)?;
    for _ in 0..4 {
        let line = console.wait_for("timer inmate: ticks ")?;
        let (ticks, own) = line.split_once(" own ").context("two counts")?;
        let (ticks, own) = (u32::from_str_radix(ticks, 16)?, u32::from_str_radix(own, 16)?);
        if own < ticks {
            bail!("{ticks} ticks, {own} interrupts to itself");
        }
    }
    same("exits but for what it prints", counts(bench)?, before)?;
    wait_for_state(bench, "timer", "running")?;
    bench.ok("crtos cell destroy timer").map(drop)
}

/// The processors find their x2APICs as they left them.
fn cycle(bench: &mut Bench<'_>) -> Result<()> {
    prepare(bench)?;
    bench.ok("crtos disable && crtos enable && crtos disable && crtos enable && crtos disable")?;
    same("CPUs of Linux", bench.ok("nproc")?, "4\n".into())
}
