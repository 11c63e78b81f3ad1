//! `crtos cell linux`: what a kernel is given, as a kernel of ours (`hypervisor/inmates/bzimage.S`) says it.

use std::fs;

use anyhow::{Context, Result, bail};
use hypervisor_abi::config::{IrqChip, PortRange};

use super::inmates::{Console, FIRST, prepare};
use super::support::same;
use crate::inmate::Inmate;
use crate::suite::{Bench, said};

const COMMAND_LINE: &str = "console=ttyS0 the rest";
const INITRD: &[u8] = b"an initial file system that is no multiple of anything";
/// Where the cell starts, and from there on where the loader puts what it was told.
const BASE: u64 = 0x10_0000;
const PARAMETERS: u64 = BASE + 0x7000;
const DUMPED: usize = 0x1400;

/// What the kernel has printed.
struct Given {
    entry: String,
    parameters: Vec<u8>,
    initrd: Vec<u8>,
    /// What the hypervisor said of the clocks: kHz of TSC and APIC timer.
    clocks: [u64; 2],
}

impl Given {
    fn parse(text: &str) -> Result<Self> {
        let (before, dump) = text.split_once("00000010 ").context("no selector")?;
        let mut lines = dump.lines();
        let entry = lines.next().unwrap_or_default().trim().to_owned();
        let mut bytes = Vec::new();
        for line in lines.take_while(|line| !line.starts_with("kernel: done")) {
            for at in (0..line.len()).step_by(2) {
                bytes.push(u8::from_str_radix(line.get(at..at + 2).context("two digits")?, 16)?);
            }
        }
        let initrd = bytes.split_off(DUMPED.min(bytes.len()));
        let words: Vec<_> = before.split(" starts, ").last().unwrap_or_default().split_whitespace().collect();
        let ["TSC", tsc, "kHz,", "APIC", apic, "kHz", ..] = words[..] else { bail!("no clocks: {before}") };
        Ok(Self { entry, parameters: bytes, initrd, clocks: [tsc.parse()?, apic.parse()?] })
    }

    /// So many bytes, as a number.
    fn field(&self, at: usize, size: usize) -> u64 {
        self.parameters[at..at + size].iter().rev().fold(0, |value, byte| value << 8 | u64::from(*byte))
    }
}

/// Two processors: where the kernel is entered, and that it finds its memory, files, command line and what it cannot ask anybody.
pub fn linux(bench: &mut Bench<'_>) -> Result<()> {
    prepare(bench)?;
    let mut inmate = Inmate::new("linux", &[2, 3], FIRST);
    inmate.ports.push(PortRange::new(0x3f8, 8));
    inmate.chips.push(IrqChip::new(0xfec0_0000, 0, 1 << 4));
    fs::write(bench.scratch.join("linux.cell"), inmate.config()?)?;
    inmate.ports.clear();
    fs::write(bench.scratch.join("other.cell"), inmate.config()?)?;
    fs::write(bench.scratch.join("initrd"), INITRD)?;
    let command = format!("crtos cell linux linux.cell bzimage.bin -i initrd -c '{COMMAND_LINE}'");
    // It makes the cell, and starts it anew.
    for _ in 0..2 {
        let console = Console::now(bench)?;
        bench.ok(&command)?;
        console.clone().wait_for("kernel: done")?;
        given(&Given::parse(&console.text()?)?)?;
    }
    let output = bench.sh("crtos cell linux other.cell bzimage.bin")?;
    if output.status != 1 || !String::from_utf8_lossy(&output.stderr).contains("another configuration") {
        bail!("the cell is there already, and is another: {}", said(&output));
    }
    bench.ok("crtos cell destroy linux").map(drop)
}

fn given(given: &Given) -> Result<()> {
    // Data and stack selector, where the kernel prefers to be, its parameters, and no machine check banks.
    same("entry", given.entry.as_str(), "00000018 00000018 00200200 00107000 00000000")?;
    let field = |at: usize, size| given.field(at, size);
    same("start of the initial file system", given.initrd.as_slice(), &INITRD[..16])?;
    // At the end of the memory, below the communication region.
    same("where it lies", [field(0x218, 4), field(0x21c, 4)], [FIRST.1 - 0x1000, INITRD.len() as u64])?;
    same("header", [field(0x1fe, 2), field(0x202, 4), field(0x206, 2)], [0xaa55, 0x5372_6448, 0x20c])?;
    same("loader, command line", [field(0x210, 1), field(0x228, 4)], [0xff, PARAMETERS + 0x1200])?;
    let line = &given.parameters[0x1200..];
    same("command line", line.split(|byte| *byte == 0).next(), Some(COMMAND_LINE.as_bytes()))?;
    let range = |n: usize| [field(0x2d0 + 20 * n, 8), field(0x2d8 + 20 * n, 8), field(0x2e0 + 20 * n, 4)];
    same("memory", (field(0x1e8, 1), range(0), range(1)), (2, [0, FIRST.1, 1], [0x400_0000, 0x1000, 2]))?;
    // The record about the cell.
    same("record", field(0x250, 8), PARAMETERS + 0x1000)?;
    same("next, type, length", [field(0x1000, 8), field(0x1008, 4), field(0x100c, 4)], [0, 6, 284])?;
    let record = |at: usize, size| field(0x1010 + at, size);
    same("versions", [record(0, 2), record(2, 2)], [2, 1])?;
    same("PM timer, processors, window", [record(4, 2), record(6, 2), record(8, 8)], [0x608, 2, 0xb000_0000])?;
    same("clocks", [record(16, 4), record(20, 4)], given.clocks)?;
    same("interrupt controller, first UART", [record(24, 1), record(280, 4)], [1, 1])?;
    let mut ids = [record(25, 1), record(26, 1)];
    ids.sort_unstable();
    same("APIC ids", (ids, record(27, 8)), ([2, 3], 0))
}
