//! Figures of the hypervisor: how big it is, what a VM exit there and back takes, and what the life of a cell takes.
//!
//! Instructions are counted by a plug-in of QEMU, each processor's for itself, and those of the hypervisor apart.

mod source;

use std::fs;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use tests::counter::Counters;
use tests::inmate::Inmate;
use tests::suite::Flavour;
use tests::vm::Vm;

use super::realm::text;
use super::{Figure, size};
use crate::build::{self, BARE_METAL};
use crate::guest::{self, Kind};
use crate::tree::Tree;

const CPUS: usize = 4;
/// The processor of cells.
pub const OURS: usize = CPUS - 1;
const MEMORY: (u64, u64) = (0x5100_0000, 4 << 20);
/// The processor of the cell that doorbells go to.
const PEER: usize = CPUS - 2;
const MEMORY_OF_PEER: (u64, u64) = (0x5140_0000, 4 << 20);
/// Exits of a long run and of a short one; their difference counts.
const MANY: u32 = 6_000;
const FEW: u32 = 1_000;
/// Lives of cells, and enablings, that are measured.
const LIVES: usize = 3;
const PATIENCE: Duration = Duration::from_secs(120);
/// Where kind and number of exits lie in the inmate.
const PARAMETERS: usize = 0xff0;
/// Where the image's header has the size of a per-CPU area.
const PER_CPU: usize = 0x10;
/// What the exits are, and the most instructions that one may take there and back.
const KINDS: [(u32, &str, u64); 4] =
    [(1, "cpuid", 600), (2, "hypercall", 600), (3, "pci_config", 2_000), (END_OF_INTERRUPT, "apic_write", 2_000)];
const END_OF_INTERRUPT: u32 = 4;
const DOORBELL: u32 = 5;
const LISTENER: u32 = 6;
/// What the quotients of two measurements may differ by: a processor that waits while a cell is started spins in the hypervisor, some 100,000
/// instructions more or less on a busy machine, which are these for each of the exits.
const NOISE: u64 = 64;
/// The most instructions that a doorbell may take to the peer's handler.
const DOORBELL_MOST: u64 = 3_000;

/// Measures.
pub fn measure(tree: &Tree) -> Result<Vec<Figure>> {
    let mut figures = source::measure(&tree.root.join("hypervisor/src"))?;
    let realm = build::realm(tree, &build::manifest(tree, "default")?)?;
    let image = fs::read(&realm.hypervisor)?;
    let per_cpu = image.get(PER_CPU..PER_CPU + 8).and_then(|field| field.try_into().ok()).context("an image header")?;
    figures.push(size::hypervisor_text(&tree.target.join(BARE_METAL).join("release"))?);
    figures.push(Figure::new("hypervisor.per_cpu", u64::from_le_bytes(per_cpu), "bytes"));
    figures.extend(instructions(tree)?);
    Ok(figures)
}

/// The default machine, with the image of that manifest.
pub fn machine(tree: &Tree, name: &str, manifest: PathBuf) -> Result<tests::machine::Machine> {
    let kind = Kind { name: name.into(), flavour: Flavour::Rt, manifest: Some(manifest), reserved: true };
    let mut machine = guest::machine(tree, &kind)?;
    machine.cpus = CPUS as u32;
    Ok(machine)
}

/// What exits and the life of cells take.
fn instructions(tree: &Tree) -> Result<Vec<Figure>> {
    let mut machine = machine(tree, "bench-hypervisor", build::manifest(tree, "default")?)?;
    let counters = Counters::create(&machine.logs.join("counters"))?;
    let plugin = build::library(tree, "the instruction counter", "counter")?;
    machine.arguments.extend(counters.arguments(&plugin).map(Into::into));
    let scratch = machine.logs.join("inmates");
    build::inmates(tree, &scratch)?;
    machine.work = Some(scratch.clone());
    let mut vm = guest::boot(&machine)?;
    text(&mut vm, &["/sbin/insmod", "/usr/lib/crtos/crtos.ko"])?;

    let composed = build::realm(tree, &build::manifest(tree, "default")?)?.directory.join("srtos.cell");
    let composed = fs::read(&composed).with_context(|| composed.display().to_string())?;
    let inmate = Inmate::new("exits", &[OURS as u32], MEMORY).passive().with_link(&composed)?;
    let ringer = Inmate::new("exits", &[OURS as u32], MEMORY).passive().linked(1, 2);
    let listener = Inmate::new("listener", &[PEER as u32], MEMORY_OF_PEER).passive().linked(0, 2);
    let mut bench = Bench { vm: &mut vm, counters, scratch };
    bench.file("exits.cell", &inmate.config()?)?;
    bench.file("ringer.cell", &ringer.config()?)?;
    bench.file("listener.cell", &listener.config()?)?;
    let mut figures = bench.lives()?;
    figures.extend(bench.round_trips()?);
    figures.extend(bench.doorbell()?);
    guest::power_off(vm)?;
    Ok(figures)
}

/// How instructions are counted: all of each processor, or the hypervisor's.
type Count = fn(&Counters, usize) -> Result<Vec<u64>>;

struct Bench<'a> {
    vm: &'a mut Vm,
    counters: Counters,
    scratch: PathBuf,
}

impl Bench<'_> {
    fn path(&self, name: &str) -> String {
        self.scratch.join(name).display().to_string()
    }

    fn file(&self, name: &str, bytes: &[u8]) -> Result<()> {
        fs::write(self.scratch.join(name), bytes).with_context(|| self.path(name))
    }

    /// Instructions of the hypervisor while a command of Linux runs: on the processor that calls, and the most of any.
    fn while_running(&mut self, argv: &[&str]) -> Result<[u64; 2]> {
        let before = self.counters.hypervisor(CPUS)?;
        text(self.vm, &[&["taskset", "-c", "0"], argv].concat())?;
        let after = self.counters.hypervisor(CPUS)?;
        let each: Vec<u64> = after.iter().zip(&before).map(|(after, before)| after - before).collect();
        Ok([each[0], each.iter().copied().max().unwrap_or(0)])
    }

    /// Enable, create, load, start, destroy, disable: what the calling processor takes of the hypervisor, what it waits for others
    /// included. Enabling and disabling are all processors' work: the longest counts.
    fn lives(&mut self) -> Result<Vec<Figure>> {
        let mut samples: [(&str, Vec<u64>); 5] =
            ["enable", "cell_create", "cell_start", "cell_destroy", "disable"].map(|name| (name, Vec::new()));
        let (config, image) = (self.path("exits.cell"), self.path("exits.bin"));
        for _ in 0..LIVES {
            samples[0].1.push(self.while_running(&["crtos", "enable"])?[1]);
            // The first cell's processor measures the clocks, once.
            for warm in [false, true] {
                let create = self.while_running(&["crtos", "cell", "create", &config])?[0];
                text(self.vm, &["crtos", "cell", "load", "exits", &image])?;
                let start = self.while_running(&["crtos", "cell", "start", "exits"])?[0];
                text(self.vm, &["crtos", "cell", "shutdown", "exits"])?;
                let destroy = self.while_running(&["crtos", "cell", "destroy", "exits"])?[0];
                if warm {
                    [create, start, destroy].into_iter().zip(&mut samples[1..4]).for_each(|(n, (_, all))| all.push(n));
                }
            }
            samples[4].1.push(self.while_running(&["crtos", "disable"])?[1]);
        }
        Ok(samples
            .into_iter()
            .map(|(name, mut all)| {
                all.sort_unstable();
                let median = all[all.len() / 2];
                Figure::new(format!("hypervisor.life.{name}"), median, "instructions").of([
                    median,
                    all[0],
                    all[all.len() - 1],
                    all.len() as u64,
                ])
            })
            .collect())
    }

    /// Instructions from an instruction that exits to the one behind it.
    fn round_trips(&mut self) -> Result<Vec<Figure>> {
        text(self.vm, &["crtos", "enable"])?;
        text(self.vm, &["crtos", "cell", "create", &self.path("exits.cell")])?;
        let empty = self.round(0, Counters::read)?[OURS];
        let mut figures = Vec::new();
        for (kind, name, most) in KINDS {
            let exit = self.round(kind, Counters::read)?[OURS].saturating_sub(empty);
            figures.push(Figure::new(format!("hypervisor.exit.{name}"), exit, "instructions").at_most(most));
        }
        text(self.vm, &["crtos", "cell", "destroy", "exits"])?;
        text(self.vm, &["crtos", "disable"])?;
        Ok(figures)
    }

    /// Instructions of the hypervisor from the one that rings to the first of the handler, in another cell on another processor. Two
    /// halves: what the exit takes the processor that rings, and what the other one takes. That one has an exit of its own for each
    /// doorbell, behind the handler: the end of the interrupt, which is measured apart and does not count.
    fn doorbell(&mut self) -> Result<[Figure; 3]> {
        text(self.vm, &["crtos", "enable"])?;
        text(self.vm, &["crtos", "cell", "create", &self.path("listener.cell")])?;
        text(self.vm, &["crtos", "cell", "create", &self.path("ringer.cell")])?;
        let end = self.round(END_OF_INTERRUPT, Counters::hypervisor)?[OURS];
        self.start("listener", LISTENER, 0, "exits inmate: listens")?;
        let each = self.round(DOORBELL, Counters::hypervisor)?;
        for cell in ["exits", "listener"] {
            text(self.vm, &["crtos", "cell", "destroy", cell])?;
        }
        text(self.vm, &["crtos", "disable"])?;
        if each[PEER] + NOISE < end {
            bail!("{} instructions of the peer for a doorbell, {end} for the end of its interrupt alone", each[PEER]);
        }
        let (rings, hears) = (each[OURS], each[PEER].saturating_sub(end));
        let figure = |name: &str, value| Figure::new(format!("hypervisor.exit.{name}"), value, "instructions");
        Ok([
            figure("doorbell", rings + hears).at_most(DOORBELL_MOST),
            figure("doorbell.ringing", rings),
            figure("doorbell.peer", hears),
        ])
    }

    /// Instructions of one round of the inmate's loop, on each processor, as `count` counts them.
    fn round(&mut self, kind: u32, count: Count) -> Result<Vec<u64>> {
        let (few, many) = (self.whole_run(kind, FEW, count)?, self.whole_run(kind, MANY, count)?);
        Ok(many.iter().zip(&few).map(|(many, few)| many.saturating_sub(*few) / u64::from(MANY - FEW)).collect())
    }

    /// Instructions of a whole run.
    fn whole_run(&mut self, kind: u32, rounds: u32, count: Count) -> Result<Vec<u64>> {
        let before = count(&self.counters, CPUS)?;
        self.start("exits", kind, rounds, "exits inmate: done")?;
        let after = count(&self.counters, CPUS)?;
        Ok(after.iter().zip(&before).map(|(after, before)| after - before).collect())
    }

    /// Starts the inmate in that cell, and waits until it says so.
    fn start(&mut self, cell: &str, kind: u32, rounds: u32, until: &str) -> Result<()> {
        let mut inmate = fs::read(self.scratch.join("exits.bin"))?;
        let parameters = [kind, rounds].map(u32::to_le_bytes).concat();
        inmate.get_mut(PARAMETERS..PARAMETERS + 8).context("the inmate has parameters")?.copy_from_slice(&parameters);
        self.file("this.bin", &inmate)?;
        text(self.vm, &["crtos", "cell", "load", cell, &self.path("this.bin")])?;
        let said = self.vm.console()?.len();
        text(self.vm, &["crtos", "cell", "start", cell])?;
        let limit = Instant::now() + PATIENCE;
        while !self.vm.console()?.get(said..).is_some_and(|new| new.contains(until)) {
            if Instant::now() > limit {
                bail!("the inmate does not say \"{until}\"; logs in {}", self.vm.logs().display());
            }
            std::thread::sleep(Duration::from_millis(50));
        }
        Ok(())
    }
}
