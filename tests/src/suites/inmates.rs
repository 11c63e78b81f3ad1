//! Small inmates in cells of their own: what the hypervisor gives them, and that several live beside each other.

use std::fs;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use hypervisor_abi::config::{CellFlags, Memory, MemoryFlags, PciDevice};

use super::support::same;
use crate::inmate::Inmate;
use crate::suite::{Bench, State, Suite, Wanted, case};

/// Under the PREEMPT_RT kernel.
pub const SUITE: Suite = Suite {
    name: "inmates",
    wanted: Some(Wanted::new(State::Installed)),
    cases: &[
        case("timer", timer),
        case("neighbours", neighbours),
        case("smp", smp),
        case("linux", super::linux_cell::linux),
        case("test_device", test_device),
        case("failed_create", failed_create),
        case("give_back", give_back),
        case("dmesg", |bench| bench.dmesg_is_clean()),
    ],
};

/// The system's configuration, in the scratch directory.
pub const ROOT: &str = "root.config";

/// Longest time until an inmate has said or done something, in emulation on a busy machine.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// The first cell's memory: the start of what the default system keeps for its cell.
pub const FIRST: (u64, u64) = (0x5100_0000, 4 << 20);
/// A second cell's memory: behind that.
pub const SECOND: (u64, u64) = (0x5140_0000, 4 << 20);
/// A third cell's.
pub const THIRD: (u64, u64) = (0x5180_0000, 4 << 20);

/// The inmates, built into the scratch directory; hypervisor enabled with the configuration that the machine's own commands make,
/// which stays in the scratch directory as [`ROOT`].
pub fn prepare(bench: &mut Bench<'_>) -> Result<()> {
    bench.builder.inmates(&bench.scratch)?;
    let root = bench.scratch.join(ROOT);
    let root = root.display();
    let enable = format!("crtos config create {root} && crtos enable --config {root}");
    bench.ok(&format!("crtos cell list >/dev/null 2>&1 || {{ {enable}; }}")).map(drop)
}

/// Makes the cell.
pub fn create(bench: &mut Bench<'_>, inmate: &Inmate) -> Result<()> {
    let file = bench.scratch.join(inmate.name).with_extension("cell");
    fs::write(&file, inmate.config()?)?;
    bench.ok(&format!("crtos cell create {}", file.display())).map(drop)
}

/// Loads a file (or FILE@ADDRESS) of the scratch directory into a cell.
pub fn load(bench: &mut Bench<'_>, cell: &str, file: &str) -> Result<()> {
    let file = bench.scratch.join(file);
    bench.ok(&format!("crtos cell load {cell} {}", file.display())).map(drop)
}

/// Loads a file of the scratch directory into a cell and starts it.
pub fn start(bench: &mut Bench<'_>, cell: &str, file: &str) -> Result<()> {
    load(bench, cell, file)?;
    bench.ok(&format!("crtos cell start {cell}")).map(drop)
}

/// The hypervisor's console, as the UART gives it to this side.
#[derive(Clone)]
pub struct Console {
    /// Longest time until what is waited for is printed.
    pub patience: Duration,
    log: PathBuf,
    from: usize,
}

impl Console {
    /// From now on.
    pub fn now(bench: &mut Bench<'_>) -> Result<Self> {
        let log = bench.vm()?.logs().join("hypervisor.log");
        let from = fs::read(&log)?.len();
        Ok(Self { patience: PATIENCE, log, from })
    }

    /// What was printed since.
    pub fn text(&self) -> Result<String> {
        let bytes = fs::read(&self.log)?;
        Ok(String::from_utf8_lossy(bytes.get(self.from..).unwrap_or_default()).replace('\r', ""))
    }

    /// Waits for a line that contains `text`; gives what follows it on the line. What was printed up to there is done with.
    pub fn wait_for(&mut self, text: &str) -> Result<String> {
        let limit = Instant::now() + self.patience;
        loop {
            let bytes = fs::read(&self.log)?;
            let new = bytes.get(self.from..).unwrap_or_default();
            if let Some(at) = new.windows(text.len()).position(|window| window == text.as_bytes())
                && let Some(end) = new[at..].iter().position(|byte| *byte == b'\n')
            {
                self.from += at + end + 1;
                return Ok(String::from_utf8_lossy(&new[at + text.len()..at + end]).trim().to_owned());
            }
            if Instant::now() > limit {
                bail!("the console does not say \"{text}\":\n{}", self.text()?);
            }
            std::thread::sleep(Duration::from_millis(20));
        }
    }
}

/// Waits until the list of cells says `state` of `cell`.
pub fn wait_for_state(bench: &mut Bench<'_>, cell: &str, state: &str) -> Result<()> {
    let limit = Instant::now() + PATIENCE;
    loop {
        let list = bench.ok("crtos cell list")?;
        let line = list.lines().find(|line| line.split_whitespace().nth(1) == Some(cell)).context("no such cell")?;
        if line.contains(state) {
            return Ok(());
        }
        if Instant::now() > limit {
            bail!("cell {cell} is not \"{state}\":\n{list}");
        }
    }
}

fn timer(bench: &mut Bench<'_>) -> Result<()> {
    prepare(bench)?;
    create(bench, &Inmate::new("timer", &[3], FIRST))?;
    let mut console = Console::now(bench)?;
    start(bench, "timer", "timer.bin")?;
    console.wait_for("timer inmate: ticks 00000064")?;
    wait_for_state(bench, "timer", "running")?;
    bench.ok("crtos cell shutdown timer")?;
    wait_for_state(bench, "timer", "shut down")?;
    console.wait_for("inmate: shut down")?;
    // Once more; loaded anew, since an inmate's memory is as it left it.
    start(bench, "timer", "timer.bin")?;
    console.wait_for("timer inmate: hello")?;
    bench.ok("crtos cell destroy timer")?;
    let said = bench.ok("crtos console")?;
    for text in ["timer inmate: hello\n", "inmate: shut down\n", "\"timer\" destroyed\n"] {
        if !said.contains(text) {
            bail!("crtos console does not show \"{}\":\n{said}", text.trim());
        }
    }
    Ok(())
}

/// Two cells, made and destroyed in either order, each with the other alive.
fn neighbours(bench: &mut Bench<'_>) -> Result<()> {
    prepare(bench)?;
    let (first, second) = (Inmate::new("first", &[3], FIRST), Inmate::new("second", &[2], SECOND));
    create(bench, &first)?;
    create(bench, &second)?;
    same("CPUs of Linux", bench.ok("nproc")?, "2\n".into())?;
    let mut console = Console::now(bench)?;
    start(bench, "second", "guard.bin")?;
    console.wait_for("guard inmate: unchanged after")?;
    start(bench, "first", "timer.bin")?;
    console.wait_for("timer inmate: ticks")?;
    bench.ok("crtos cell destroy first")?;
    console.wait_for("guard inmate: unchanged after")?;
    create(bench, &first)?;
    start(bench, "first", "timer.bin")?;
    console.wait_for("timer inmate: ticks")?;
    bench.ok("crtos cell destroy second")?;
    console.wait_for("timer inmate: ticks")?;
    bench.ok("crtos cell destroy first").map(drop)
}

/// Two processors in one cell: start-up and interrupts between them, and nothing that they send to others arrives.
pub fn smp(bench: &mut Bench<'_>) -> Result<()> {
    prepare(bench)?;
    let inmate = Inmate::new("smp", &[2, 3], FIRST);
    create(bench, &inmate)?;
    let mut console = Console::now(bench)?;
    // Started, started anew while it runs, started after it was shut down, made anew.
    for round in 0..4 {
        start(bench, "smp", "smp.bin")?;
        console.wait_for("smp inmate: the second processor is there")?;
        same("interrupts", console.wait_for("smp inmate: interrupts")?, "000003e8".into())?;
        console.wait_for("smp inmate: the second processor is there again")?;
        memory_types(&console.wait_for("smp inmate: memory types ")?)?;
        match round {
            1 => bench.ok("crtos cell shutdown smp").map(drop)?,
            2 => {
                bench.ok("crtos cell destroy smp")?;
                same("CPUs of Linux", bench.ok("nproc")?, "4\n".into())?;
                create(bench, &inmate)?;
            }
            _ => {}
        }
    }
    bench.ok("crtos cell destroy smp")?;
    same("CPUs of Linux", bench.ok("nproc")?, "4\n".into())?;
    bench.ok("for cpu in 0 1 2 3; do taskset -c $cpu true || exit; done").map(drop)
}

/// A start switches a cell's caches off, by one bit beside the machine's own types; INIT and start-up leave all as it is.
fn memory_types(said: &str) -> Result<()> {
    const ON: u32 = 1 << 11;
    let words: Vec<_> = said.split(' ').map(|word| u32::from_str_radix(word, 16)).collect::<Result<_, _>>()?;
    let [found, first, second, table] = words[..] else { bail!("four words: {said}") };
    let types = (found & ON, first, second, table);
    same("memory types", types, (0, found | ON, found | ON, 0x0606_0606))?;
    // What firmware sets everywhere: memory without a type of its own is cached.
    same("default type", first & 0xff, 6)
}

/// What instructions do to the register of the test device is what they do to memory; who has no such device is stopped.
fn test_device(bench: &mut Bench<'_>) -> Result<()> {
    prepare(bench)?;
    let without = Inmate::new("moves", &[3], FIRST);
    create(bench, &Inmate { flags: without.flags | CellFlags::TEST_DEVICE, ..without.clone() })?;
    let mut console = Console::now(bench)?;
    start(bench, "moves", "moves.bin")?;
    let said = console.wait_for("moves inmate: instructions")?;
    if !said.ends_with(" wrong 00000000") {
        bail!("{said}: they differ from those on memory");
    }
    bench.ok("crtos cell destroy moves")?;
    create(bench, &without)?;
    start(bench, "moves", "moves.bin")?;
    wait_for_state(bench, "moves", "failed (access to memory outside of the cell at 0x4001ff8")?;
    bench.ok("crtos cell destroy moves").map(drop)
}

/// Configurations that fail at one step of the creation after the other, and what each is.
fn bad_configurations() -> Result<Vec<(String, Vec<u8>)>> {
    let good = Inmate::new("new", &[3], FIRST);
    let flags = MemoryFlags::READ | MemoryFlags::WRITE;
    let with_region = |region: Memory| Inmate { regions: vec![region], ..good.clone() };
    let with_function =
        |function: PciDevice, regions: Vec<Memory>| Inmate { functions: vec![function], regions, ..good.clone() };
    let mut all: Vec<(String, Vec<u8>)> = Vec::new();
    let mut add = |what: &str, inmate: Inmate| -> Result<()> {
        all.push((what.to_owned(), inmate.config()?));
        Ok(())
    };
    add("a name that is taken", Inmate { name: "second", ..good.clone() })?;
    add("no processor", Inmate { cpus: Vec::new(), ..good.clone() })?;
    add("processor 0", Inmate { cpus: vec![0, 3], ..good.clone() })?;
    add("a neighbour's processor", Inmate { cpus: vec![2, 3], ..good.clone() })?;
    add("a processor that there is not", Inmate { cpus: vec![3, 9], ..good.clone() })?;
    add("an unaligned region", with_region(Memory::new(0x5180_0800, 0x80_0000, 0x1000, flags)))?;
    add("a region in the hypervisor", with_region(Memory::new(0x5000_0000, 0x80_0000, 0x1000, flags)))?;
    add("a region over the local APIC", with_region(Memory::new(0x5180_0000, 0xfee0_0000, 0x1000, flags)))?;
    let comm = flags | MemoryFlags::COMM_REGION;
    add("a communication region of two pages", with_region(Memory::new(0, 0x500_0000, 0x2000, comm)))?;
    let lonely = PciDevice { shmem_peers: 1, ..PciDevice::ivshmem(0x78, 0, 0, 2, 0, 0) };
    add("a link with itself", with_function(lonely, Vec::new()))?;
    let sections = [0x1000, 0, 0x1000, 0x1000].map(|size| Memory::new(0x5180_0000, 0x80_0000, size, MemoryFlags::READ));
    let taken = PciDevice::ivshmem(0x70, 0, 0, 2, 0x4372, 2);
    add("Linux's end of the link", with_function(taken, sections.to_vec()))?;
    let beyond = PciDevice { kind: 1, bdf: 0xf8.into(), num_caps: 3.into(), ..PciDevice::default() };
    add("capabilities that there are not", with_function(beyond, Vec::new()))?;
    let whole = good.config()?;
    all.push(("half a file".to_owned(), whole[..whole.len() / 2].to_vec()));
    let mut newer = whole;
    newer[6] = 15;
    all.push(("a later revision".to_owned(), newer));
    Ok(all)
}

/// A cell with pages so far apart that the nested tables are many: three for each of `far`, two for each of `near`.
fn hungry(name: &'static str, cpu: u32, memory: (u64, u64), far: u64, near: u64) -> Inmate {
    let shared = MemoryFlags::READ | MemoryFlags::ROOTSHARED;
    // Each in half a terabyte of its own; each in a gigabyte of its own, all in the first half terabyte.
    let far = (1..=far).map(|n| n << 39);
    let near = (8..8 + near).map(|n| n << 30);
    let page = |at: u64| Memory::new(0x5200_0000, at, 0x1000, shared);
    Inmate { regions: far.chain(near).map(page).collect(), ..Inmate::new(name, &[cpu], memory) }
}

/// A creation that fails, at any step, gives everything back: pages, processors, memory, PCI functions.
fn failed_create(bench: &mut Bench<'_>) -> Result<()> {
    prepare(bench)?;
    let figure = |bench: &mut Bench<'_>, name: &str| -> Result<u64> {
        let figures = bench.ok(&format!("crtos cell stats | grep hypervisor.{name}"))?;
        Ok(figures.split_whitespace().nth(1).context("a figure")?.parse()?)
    };
    // What Linux's tables need to take one page out of a big one, they keep.
    let page = Memory::new(THIRD.0, 0x80_0000, 0x1000, MemoryFlags::READ);
    create(bench, &Inmate { regions: vec![page], ..Inmate::new("parted", &[3], FIRST) })?;
    bench.ok("crtos cell destroy parted")?;
    // A neighbour that leaves fewer pages than others need, which then run out of them at different places.
    create(bench, &hungry("second", 2, SECOND, 500, 500))?;
    let mut attempts = bad_configurations()?;
    let left = figure(bench, "pool_pages")? - figure(bench, "pool_used")?;
    for less in 0..5 {
        let inmate = hungry("new", 3, FIRST, left / 3 - less, 0);
        attempts.push((format!("more pages than there are ({less})"), inmate.config()?));
    }
    let state = "crtos cell stats | grep pool_used; nproc; crtos cell list; cat /sys/devices/system/cpu/online";
    let before = bench.ok(state)?;
    for (what, bytes) in attempts {
        let file = bench.scratch.join("bad.cell");
        fs::write(&file, bytes)?;
        let script = format!("crtos cell create --unchecked {} 2>&1 && exit 9; {state}", file.display());
        let output = bench.sh(&script)?;
        let said = String::from_utf8_lossy(&output.stdout);
        if output.status == 9 || !said.ends_with(&before) {
            bail!("{what}: created, or not given back:\n{said}instead of\n{before}");
        }
    }
    // All of it is still good for a cell; one that is loaded badly still starts.
    create(bench, &Inmate::new("new", &[3], FIRST))?;
    let image = bench.scratch.join("timer.bin");
    bench.ok(&format!("! crtos cell load new {}@0x10000000", image.display()))?;
    let mut console = Console::now(bench)?;
    start(bench, "new", "timer.bin")?;
    console.wait_for("timer inmate: ticks")?;
    bench.ok("crtos cell destroy new && crtos cell destroy second").map(drop)
}

fn give_back(bench: &mut Bench<'_>) -> Result<()> {
    prepare(bench)?;
    bench.ok("crtos disable")?;
    same("CPUs of Linux", bench.ok("nproc")?, "4\n".into())
}
