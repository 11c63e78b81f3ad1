//! An enable that fails, at whatever step, names the cause, and leaves Linux and its processors as they were.

use std::fs;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use hypervisor_abi::config::SystemConfig;

use super::commands;
use super::support::same;
use crate::suite::{Bench, Flavour, State, Suite, Wanted, case, said};

/// Under the PREEMPT_RT kernel.
pub const SUITE: Suite = Suite {
    name: "enable",
    wanted: Some(Wanted::new(State::Installed)),
    cases: &[
        case("hardware_check", commands::hardware_check),
        case("configurations", commands::configurations),
        case("bad_configurations", bad_configurations),
        case("short_of_memory", short_of_memory),
        case("dmesg", |bench| bench.dmesg_is_clean()),
    ],
};

/// Offsets in the system configuration.
mod offset {
    pub const REVISION: usize = 0x06;
    pub const MEMORY_START: usize = 0x0c;
    pub const MEMORY_SIZE: usize = 0x1c;
    pub const CONSOLE_ADDRESS: usize = 0x2c;
    pub const CONSOLE_KIND: usize = 0x2c + 0x0c;
    pub const MMCONFIG_BASE: usize = 0x4c;
    pub const UNIT_KIND: usize = 0x58;
    pub const UNIT_SIZE: usize = 0x58 + 12;
    pub const ROOT: usize = 0x164;
    /// In a cell's descriptor.
    pub const CPU_SET_SIZE: usize = 0x30;
    pub const MEMORY_REGIONS: usize = 0x34;
    pub const DESCRIPTOR: usize = 132;
}

/// The module that watches what processors hold, and a configuration that is good.
fn prepare(bench: &mut Bench<'_>) -> Result<Vec<u8>> {
    let module = bench.builder.module("cpustate", Flavour::Rt)?;
    bench.ok(&format!("insmod /usr/lib/crtos/crtos.ko && insmod {}", module.display()))?;
    let file = bench.scratch.join("good.cell");
    bench.ok(&format!("crtos enable --write-config {}", file.display()))?;
    Ok(fs::read(file)?)
}

/// After all failures it can still be enabled, and no processor has ever noticed anything.
fn conclude(bench: &mut Bench<'_>) -> Result<()> {
    bench.ok("crtos enable && crtos disable")?;
    let wrong = bench.ok("cat /sys/module/cpustate/parameters/wrong")?;
    if wrong != "0\n" {
        bail!("{}", bench.ok("dmesg | grep cpustate: | tail -n 20")?);
    }
    bench.ok("rmmod cpustate crtos").map(drop)
}

/// Whether the hypervisor took the configuration; what it and the driver said.
fn try_enable(bench: &mut Bench<'_>, config: &[u8]) -> Result<(bool, String)> {
    let file = bench.scratch.join("this.cell");
    fs::write(&file, config)?;
    let output =
        bench.sh(&format!("dmesg -C; crtos enable --config {}; status=$?; dmesg; exit $status", file.display()))?;
    let text = said(&output);
    if output.status == 0 {
        return Ok((true, text));
    }
    let state =
        "nproc; cat /sys/devices/system/cpu/online; grep -c 'crtos' /proc/iomem; lsmod | awk '/^crtos /{print $3}'";
    let left = bench.sh(state)?.stdout;
    same("what is left", String::from_utf8_lossy(&left).into_owned(), "4\n0-3\n0\n0\n".to_owned())?;
    Ok((false, text))
}

fn put(config: &mut [u8], at: usize, bytes: &[u8]) {
    config[at..at + bytes.len()].copy_from_slice(bytes);
}

/// What is wrong, what the report must name, and the change.
type Bad = (&'static str, &'static str, fn(&mut Vec<u8>));

const BAD: [Bad; 11] = [
    ("another revision", "revision", |config| put(config, offset::REVISION, &15u16.to_le_bytes())),
    ("half a file", "configuration", |config| config.truncate(config.len() / 2)),
    ("no such memory", "not reserved", |config| put(config, offset::MEMORY_START, &0x1000_0000u64.to_le_bytes())),
    ("memory that is not aligned", "bad hypervisor memory", |config| {
        put(config, offset::MEMORY_START, &0x5000_1000u64.to_le_bytes());
    }),
    ("no memory", "bad hypervisor memory", |config| put(config, offset::MEMORY_SIZE, &0u64.to_le_bytes())),
    ("a processor too few", "CPUs", |config| {
        let set = offset::ROOT + offset::DESCRIPTOR;
        config[set] &= !8;
    }),
    ("an IOMMU of no kind", "iommu_units", |config| {
        put(config, offset::UNIT_KIND, &9u32.to_le_bytes());
        put(config, offset::UNIT_SIZE, &0x1000u32.to_le_bytes());
    }),
    ("a console that is not there", "enable failed", |config| {
        put(config, offset::CONSOLE_ADDRESS, &u64::MAX.to_le_bytes());
        put(config, offset::CONSOLE_KIND, &[2, 0, 1, 0]);
    }),
    ("a configuration window beyond all memory", "enable failed", |config| {
        put(config, offset::MMCONFIG_BASE, &0xffff_ffff_fff0_0000u64.to_le_bytes());
    }),
    ("a region beyond all memory", "enable failed", |config| {
        let at = first_region(config);
        put(config, at + 16, &(1u64 << 60).to_le_bytes());
    }),
    ("a PCI function twice", "PCI", |config| {
        let parsed = SystemConfig::parse(config).ok();
        let functions = parsed.map(|system| {
            let functions = system.root_cell().pci_devices();
            let at = functions.as_ptr().addr() - config.as_ptr().addr();
            (at, size_of_val(&functions[0]))
        });
        if let Some((at, size)) = functions {
            config.copy_within(at..at + size, at + size);
        }
    }),
];

fn first_region(config: &[u8]) -> usize {
    let size = offset::ROOT + offset::CPU_SET_SIZE;
    let set = u32::from_le_bytes([config[size], config[size + 1], config[size + 2], config[size + 3]]);
    offset::ROOT + offset::DESCRIPTOR + set as usize
}

fn bad_configurations(bench: &mut Bench<'_>) -> Result<()> {
    let good = prepare(bench)?;
    let regions = &good[offset::ROOT + offset::MEMORY_REGIONS..][..4];
    if regions == [0; 4] {
        bail!("the root cell has no memory");
    }
    for (what, word, change) in BAD {
        let mut config = good.clone();
        change(&mut config);
        let (enabled, text) = try_enable(bench, &config).with_context(|| what.to_owned())?;
        if enabled || !text.contains(word) {
            bail!("{what}: enabled, or the report does not name \"{word}\":\n{text}");
        }
    }
    conclude(bench)
}

/// One page less than enough, and so on down to none: it runs out of memory at each place where it takes some.
fn short_of_memory(bench: &mut Bench<'_>) -> Result<()> {
    const PAGE: u64 = 4096;
    const STEPS: u64 = 14;
    bench.limit = Duration::from_secs(300);
    let good = prepare(bench)?;
    let with = |size: u64| {
        let mut config = good.clone();
        put(&mut config, offset::MEMORY_SIZE, &(size * PAGE).to_le_bytes());
        config
    };
    let whole = SystemConfig::parse(&good).map_err(|error| anyhow::anyhow!("{error}"))?.hypervisor_memory().size();
    // The least that is enough.
    let (mut less, mut enough) = (0, whole / PAGE);
    let mut failures = 0;
    while enough - less > 1 {
        let middle = less.midpoint(enough);
        let (enabled, text) = try_enable(bench, &with(middle)).with_context(|| format!("{middle} pages"))?;
        if enabled {
            bench.ok("crtos disable")?;
            enough = middle;
        } else {
            out_of_memory(middle, &text)?;
            failures += 1;
            less = middle;
        }
    }
    // The hypervisor's own need begins behind image, processors' areas and configuration: what the driver refuses is below.
    let mut refused_inside = 0;
    for step in 1..STEPS {
        let pages = enough.saturating_sub(1 + step * step / 2);
        let (enabled, text) = try_enable(bench, &with(pages)).with_context(|| format!("{pages} pages"))?;
        if enabled {
            bail!("{pages} pages are enough, and {less} are not");
        }
        out_of_memory(pages, &text)?;
        refused_inside += u32::from(text.contains("hypervisor refused"));
        failures += 1;
    }
    if refused_inside < 5 {
        bail!("of {failures} failures only {refused_inside} were inside the hypervisor");
    }
    conclude(bench)
}

fn out_of_memory(pages: u64, text: &str) -> Result<()> {
    if !text.contains("memory") {
        bail!("{pages} pages: the report does not name the memory:\n{text}");
    }
    Ok(())
}
