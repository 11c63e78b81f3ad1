//! A 32-bit flat image in a cell, as an i386 real-time system under Jailhouse expects its cell to be
//! (`hypervisor/inmates/flat32.c`): a verdict for each of its requirements.

use std::collections::BTreeMap;
use std::fs;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use hypervisor_abi::config::{IrqChip, Memory, MemoryFlags, PortRange};

use super::inmates::{Console, FIRST, create, load, prepare, wait_for_state};
use super::support::{function, same};
use crate::inmate::Inmate;
use crate::lan;
use crate::suite::{Bench, State, Suite, Wanted, case};

/// The network device that is passed to the cell.
const NIC: &str = "0000:00:1d.0";
const MAC: [u8; 6] = [0x52, 0x54, 0, 0x12, 0x34, 0x56];
const DMA: u64 = 0x5190_0000;
/// What the inmate said at its first start.
const VERDICTS: &str = "verdicts";

/// Under the PREEMPT_RT kernel.
pub const SUITE: Suite = Suite {
    name: "flat32",
    wanted: Some(Wanted {
        lan: Some("e1000,addr=1d.0,mac=52:54:00:12:34:56,romfile="),
        ..Wanted::new(State::Installed)
    }),
    cases: &[
        case("start", start),
        case("comm_region", |bench| verdict(bench, "comm_region")),
        case("comm_layout", |bench| verdict(bench, "comm_layout")),
        case("reset", |bench| verdict(bench, "reset")),
        case("entry", |bench| verdict(bench, "entry")),
        case("stack", |bench| verdict(bench, "stack")),
        case("address_lines", |bench| verdict(bench, "address_lines")),
        case("memory", |bench| verdict(bench, "memory")),
        case("console", |bench| verdict(bench, "console")),
        case("calibration", |bench| verdict(bench, "calibration")),
        case("timer", |bench| verdict(bench, "timer")),
        case("ticks", |bench| verdict(bench, "ticks")),
        case("end_of_interrupt", |bench| verdict(bench, "end_of_interrupt")),
        case("apic_page", |bench| verdict(bench, "apic_page")),
        case("apic_base", |bench| verdict(bench, "apic_base")),
        case("pci", |bench| verdict(bench, "pci")),
        case("pin_registers", |bench| verdict(bench, "pin_registers")),
        case("pins", |bench| verdict(bench, "pins")),
        case("link", |bench| verdict(bench, "link")),
        case("network", network),
        case("halt", halt),
        case("again", again),
        case("dmesg", |bench| bench.dmesg_is_clean()),
    ],
};

/// The cell: what such a system's configuration says.
fn cell(bench: &mut Bench<'_>) -> Result<Inmate> {
    let mut cell = Inmate::new("flat32", &[3], (FIRST.0, 8 << 20));
    cell.comm = 0x90_0000;
    cell.reset = 0xf_0000;
    cell.ports.push(PortRange::new(0x3f8, 8));
    // Pins 10 and 11 of old, and those of the slots.
    cell.chips.push(IrqChip::new(0xfec0_0000, 0, 0xff_0c00));
    // There is no IOMMU: what the device reads and writes lies where the machine has it.
    let flags = MemoryFlags::READ | MemoryFlags::WRITE | MemoryFlags::DMA;
    cell.regions.push(Memory::new(DMA, DMA, 0x1_0000, flags));
    function(bench, NIC, &mut cell)?;
    Ok(cell)
}

fn start(bench: &mut Bench<'_>) -> Result<()> {
    prepare(bench)?;
    let cell = cell(bench)?;
    create(bench, &cell)?;
    boot(bench)?;
    // One that is not met leaves the others' verdicts standing.
    fs::write(bench.scratch.join(VERDICTS), bench.vm()?.console()?)?;
    Ok(())
}

/// Loads both parts and starts them; waits until all verdicts are there.
fn boot(bench: &mut Bench<'_>) -> Result<()> {
    let mut console = Console::now(bench)?;
    load(bench, "flat32", "flat32-reset.bin@0xf0000")?;
    load(bench, "flat32", "flat32.bin@0x100000")?;
    bench.ok("crtos cell start flat32")?;
    console.wait_for("flat32: ready").map(drop)
}

/// The last verdict on each requirement.
fn verdicts(log: &str) -> BTreeMap<String, String> {
    let lines = log.lines().filter_map(|line| line.split_once("flat32: ")?.1.trim().split_once(' '));
    lines.map(|(name, verdict)| (name.to_owned(), verdict.to_owned())).collect()
}

fn verdict(bench: &mut Bench<'_>, name: &str) -> Result<()> {
    met(&fs::read_to_string(bench.scratch.join(VERDICTS)).context("the inmate did not start")?, name)
}

fn met(log: &str, name: &str) -> Result<()> {
    let verdicts = verdicts(log);
    let verdict = verdicts.get(name).context("the inmate did not come to this")?;
    if !verdict.starts_with("ok ") {
        bail!("{name}: {verdict}");
    }
    Ok(())
}

/// The same of what it is about to say.
fn comes_to(console: &mut Console, name: &str) -> Result<()> {
    let verdict = console.wait_for(&format!("flat32: {name} "))?;
    if !verdict.starts_with("ok ") {
        bail!("{name}: {verdict}");
    }
    Ok(())
}

/// It answers who asks for its address.
fn network(bench: &mut Bench<'_>) -> Result<()> {
    let mut console = Console::now(bench)?;
    let mut cable = bench.vm()?.lan()?;
    same("hardware address", lan::who_has(&mut cable, [10, 0, 0, 1], Duration::from_secs(30))?, MAC)?;
    comes_to(&mut console, "network")
}

/// Its end is an instruction: the cell is at rest, and Linux as it was.
fn halt(bench: &mut Bench<'_>) -> Result<()> {
    wait_for_state(bench, "flat32", "running")?;
    let mut console = Console::now(bench)?;
    bench.ok("crtos cell shutdown flat32")?;
    wait_for_state(bench, "flat32", "shut down")?;
    comes_to(&mut console, "halt")
}

/// From that state it starts as it did at first; then all is Linux's again.
fn again(bench: &mut Bench<'_>) -> Result<()> {
    boot(bench)?;
    let all = verdicts(&bench.vm()?.console()?);
    let failed: Vec<_> = all.into_iter().filter(|(_, verdict)| verdict.starts_with("FAILED")).collect();
    same("failed at the second start", failed, Vec::new())?;
    bench.ok("crtos cell destroy flat32 && crtos disable")?;
    same("processors of Linux", bench.ok("nproc")?, "4\n".into())
}
