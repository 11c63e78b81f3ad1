//! `crtos cell …`: the life of a cell. Without names and files, the cell of the real-time realm is meant.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, bail};
use clap::Subcommand;
use hypervisor_abi::check::{self, Finding, Role};
use hypervisor_abi::config::CellConfig;
use hypervisor_abi::hypercall::{CpuStat, InfoType};

use super::load::{composed, load};
use crate::board::Board;
use crate::hypervisor::{CellInfo, Hypervisor};
use crate::realm::{self, Realm};
use crate::{cell_state, config, files, linux, watch, why};

const DEFAULT: &str = "srtos";
/// States of a cell that runs.
const RUNNING: i32 = 0;
/// And lets nobody come or go.
const LOCKED: i32 = 1;
/// State of a cell that was stopped, or says that it has failed.
const FAILED: i32 = 3;
/// Longest time from start to life, in software emulation on a busy machine.
const BOOT: Duration = Duration::from_secs(30);

#[derive(Subcommand)]
pub enum Command {
    /// Make a cell: its processors leave Linux
    Create {
        /// Cell configuration; the default is made from the manifest and this machine
        config: Option<PathBuf>,
        /// Leave it to the hypervisor to find what is wrong with it
        #[arg(long)]
        unchecked: bool,
    },
    /// Load images and strings into a cell (which stops it)
    Load {
        /// Name or id
        #[arg(default_value = DEFAULT)]
        cell: String,
        /// Each is FILE, FILE@ADDRESS or -s STRING, with -a ADDRESS behind it if it is not to lie at the cell's reset address; the
        /// default is the composed image
        #[arg(value_name = "IMAGE | -s STRING [-a ADDRESS]", trailing_var_arg = true, allow_hyphen_values = true)]
        images: Vec<String>,
    },
    /// Start a loaded cell; for the real-time realm's own, wait until it can run programs, and watch it if its manifest wants that
    Start {
        /// Name or id
        #[arg(default_value = DEFAULT)]
        cell: String,
    },
    /// Stop a cell
    Shutdown {
        /// Name or id
        #[arg(default_value = DEFAULT)]
        cell: String,
    },
    /// Destroy a cell: its processors come back to Linux
    Destroy {
        /// Name or id
        #[arg(default_value = DEFAULT)]
        cell: String,
    },
    /// Start a Linux in a cell: make the cell, if it is not there, load it anew, start it. The kernel must be built with CONFIG_JAILHOUSE_GUEST
    Linux {
        /// Cell configuration
        config: PathBuf,
        /// The kernel (bzImage)
        kernel: PathBuf,
        /// Its initial file system
        #[arg(short, long, value_name = "FILE")]
        initrd: Option<PathBuf>,
        /// Its command line
        #[arg(short, long, value_name = "STRING", default_value = "")]
        cmdline: String,
    },
    /// List the cells
    List,
    /// Watch the real-time realm's cell until it is stopped, and start it anew when it fails, as its manifest says; `start` does this in the background
    Watch,
    /// Say why a cell was stopped: the instruction, what it wanted, what it was allowed
    Why {
        /// Name or id
        #[arg(default_value = DEFAULT)]
        cell: String,
    },
    /// Show what the hypervisor and the real-time side count
    Stats {
        /// Name or id; the default is all cells and the real-time side
        cell: Option<String>,
    },
}

pub fn cell(command: &Command) -> Result<()> {
    let hypervisor = Hypervisor::open()?;
    match command {
        Command::Create { config, unchecked } => create(&hypervisor, config.as_ref(), *unchecked),
        Command::Load { cell, images } => load(&hypervisor, cell, images),
        Command::Start { cell } => start(&hypervisor, cell),
        Command::Shutdown { cell } => stop(&hypervisor, cell, || hypervisor.shutdown(cell)),
        Command::Destroy { cell } => stop(&hypervisor, cell, || hypervisor.destroy(cell)),
        Command::Linux { config, kernel, initrd, cmdline } => {
            linux(&hypervisor, config, kernel, initrd.as_deref(), cmdline)
        }
        Command::Watch => {
            drop(hypervisor);
            watch()
        }
        Command::List => list(&hypervisor),
        Command::Why { cell } => why(&hypervisor, cell),
        Command::Stats { cell } => stats(&hypervisor, cell.as_deref()),
    }
}

/// Does what stops a cell; if it is the one that may be watched, nobody watches it afterwards.
pub(super) fn stop(hypervisor: &Hypervisor, cell: &str, way: impl FnOnce() -> Result<()>) -> Result<()> {
    let watched = hypervisor.cell(cell).is_ok_and(|info| info.name() == DEFAULT);
    way()?;
    if watched { watch::settle() } else { Ok(()) }
}

fn create(hypervisor: &Hypervisor, config: Option<&PathBuf>, unchecked: bool) -> Result<()> {
    let config = match config {
        Some(path) if unchecked => files::read(path)?,
        Some(path) => {
            let (bytes, _) = config::read(path)?;
            let cell = CellConfig::parse(&bytes).map_err(|error| anyhow!("{}: {error}", path.display()))?;
            check(hypervisor, &cell).with_context(|| path.display().to_string())?;
            bytes
        }
        None => {
            let (layout, machine) = (files::layout()?, files::machine()?);
            let cpus = image::cell::cell_cpus(&layout, &machine);
            if cpus.len() < layout.cpus as usize {
                bail!(
                    "the cell wants {} processors besides the first, and only {} are online: bring more online, or lower cpus in the manifest",
                    layout.cpus,
                    cpus.len()
                );
            }
            image::cell::inmate_config(&layout, &cpus, Some(&machine))
                .context("the cell's configuration cannot be made")?
        }
    };
    hypervisor.create(&config).map(|_| ())
}

/// Refuses what cannot be right, by itself or beside the cells that are there.
fn check(hypervisor: &Hypervisor, cell: &CellConfig<'_>) -> Result<()> {
    let first = |finding: Option<Finding>| finding.map_or(Ok(()), |finding| Err(anyhow!("{finding}")));
    first(check::first_error(|found| check::cell(cell, Role::NonRoot, found)))?;
    for other in hypervisor.cells()?.iter().skip(1) {
        let bytes = hypervisor.config(&other.id.to_string())?;
        let config = CellConfig::parse(&bytes).map_err(|error| anyhow!("{error}"))?;
        if let Some(finding) = check::first_error(|found| check::beside(&[config, *cell], found)) {
            bail!("beside cell \"{}\": {}", other.name(), finding.problem);
        }
    }
    Ok(())
}

fn start(hypervisor: &Hypervisor, cell: &str) -> Result<()> {
    hypervisor.start(cell)?;
    let info = hypervisor.cell(cell)?;
    if info.name() != DEFAULT {
        return Ok(());
    }
    let realm = Realm::open()?;
    if realm.status()?.state == realm::ABSENT || realm.wait(BOOT)? {
        return watch::begin();
    }
    let info = hypervisor.cell(cell)?;
    bail!(
        "cell \"{cell}\" is {} but its real-time system has not come up within {} seconds: see `crtos log`",
        describe(hypervisor, &info),
        BOOT.as_secs()
    );
}

fn linux(hypervisor: &Hypervisor, config: &Path, kernel: &Path, initrd: Option<&Path>, cmdline: &str) -> Result<()> {
    let (bytes, _) = config::read(config)?;
    let cell = CellConfig::parse(&bytes).map_err(|error| anyhow!("{}: {error}", config.display()))?;
    let name = cell.name();
    let (kernel, initrd) = (files::read(kernel)?, initrd.map(files::read).transpose()?);
    let guest = linux::Guest { kernel: &kernel, initrd: initrd.as_deref(), command_line: cmdline };
    // Before anything is done to a cell.
    let images = linux::images(&cell, &guest)?;
    match hypervisor.cell(name) {
        Ok(_) if hypervisor.config(name)? != bytes => {
            bail!("cell \"{name}\" was made from another configuration: destroy it first (crtos cell destroy)")
        }
        Ok(_) => {}
        Err(_) => {
            check(hypervisor, &cell).with_context(|| config.display().to_string())?;
            hypervisor.create(&bytes)?;
        }
    }
    hypervisor.load(name, &images)?;
    hypervisor.start(name)
}

/// Starts the cell anew each time that it has failed, until the manifest says that it is enough, or somebody stops it.
fn watch() -> Result<()> {
    let policy = files::restart()?;
    let lock = watch::become_it()?;
    let mut history = watch::History::default();
    loop {
        // Opened anew each time, and not open at the end: then the driver can be unloaded.
        let hypervisor = Hypervisor::open()?;
        let Ok(info) = hypervisor.cell(DEFAULT) else { break };
        if info.state == FAILED {
            let state = describe(&hypervisor, &info);
            if !history.failed(&policy, Instant::now()) {
                watch::say(&format!("cell \"{DEFAULT}\" is {state}, and not started anew: it has failed too often"));
                break;
            }
            watch::say(&format!("cell \"{DEFAULT}\" is {state}: it is started anew"));
            if let Err(error) = anew(&hypervisor) {
                watch::say(&format!("cell \"{DEFAULT}\" cannot be started anew: {error:#}"));
                break;
            }
        } else if !matches!(info.state, RUNNING | LOCKED) {
            break;
        }
        drop(hypervisor);
        std::thread::sleep(watch::LOOK);
    }
    drop(lock);
    Ok(())
}

/// A new life of the cell.
fn anew(hypervisor: &Hypervisor) -> Result<()> {
    hypervisor.destroy(DEFAULT)?;
    create(hypervisor, None, false)?;
    hypervisor.load(DEFAULT, &[composed()?])?;
    hypervisor.start(DEFAULT)?;
    // If it does not come up, it fails again, or a look at it shows what is wrong.
    if Realm::open()?.wait(BOOT)? {
        watch::say(&format!("cell \"{DEFAULT}\" runs again"));
    }
    Ok(())
}

/// State, and the reason if it failed.
fn describe(hypervisor: &Hypervisor, cell: &CellInfo) -> String {
    let state = cell_state::state(cell.state);
    match (cell.state, hypervisor.failure(cell.id)) {
        (FAILED, Ok(failure)) if failure.reason != 0 => {
            let reason = cell_state::failure(failure.reason);
            format!(
                "{state} ({reason} at {:#x}, processor {}, instruction {:#x})",
                failure.address, failure.cpu, failure.ip
            )
        }
        _ => state.to_owned(),
    }
}

fn why(hypervisor: &Hypervisor, name: &str) -> Result<()> {
    let info = hypervisor.cell(name)?;
    let failure = hypervisor.failure(info.id)?;
    if failure.reason == 0 {
        let says = if info.state == FAILED { ", as it says itself: the hypervisor has not stopped it" } else { "" };
        println!("cell \"{}\" is {}{says}", info.name(), cell_state::state(info.state));
        return Ok(());
    }
    let bytes = hypervisor.config(&info.id.to_string())?;
    let config = CellConfig::parse(&bytes).map_err(|error| anyhow!("{error}"))?;
    print!("cell         {} (id {})\n{}", info.name(), info.id, why::report(&failure, &config));
    Ok(())
}

fn cpu_list(cpus: &[u32]) -> String {
    cpus.iter().map(u32::to_string).collect::<Vec<_>>().join(",")
}

fn list(hypervisor: &Hypervisor) -> Result<()> {
    let cells = hypervisor.cells()?;
    if cells.is_empty() {
        bail!("the hypervisor is not enabled: run `crtos enable` first");
    }
    println!("{:<4} {:<20} {:<10} STATE", "ID", "NAME", "CPUS");
    for cell in cells {
        let state = describe(hypervisor, &cell);
        println!("{:<4} {:<20} {:<10} {state}", cell.id, cell.name(), cpu_list(&cell.cpus()));
    }
    Ok(())
}

fn stats(hypervisor: &Hypervisor, only: Option<&str>) -> Result<()> {
    let cells = match only {
        Some(cell) => vec![hypervisor.cell(cell)?],
        None => hypervisor.cells()?,
    };
    if cells.is_empty() {
        bail!("the hypervisor is not enabled: run `crtos enable` first");
    }
    if only.is_none() {
        println!("hypervisor.pool_pages {}", hypervisor.info(InfoType::MemPoolSize as u32)?);
        println!("hypervisor.pool_used {}", hypervisor.info(InfoType::MemPoolUsed as u32)?);
        println!("hypervisor.cells {}", hypervisor.info(InfoType::NumCells as u32)?);
    }
    for cell in cells {
        for cpu in cell.cpus() {
            for stat in CpuStat::ALL {
                println!("{}.cpu{cpu}.{} {}", cell.name(), stat.name(), hypervisor.cpu_info(cpu, stat.code())?);
            }
        }
    }
    if only.is_none_or(|cell| cell == DEFAULT) {
        realm_stats()?;
    }
    Ok(())
}

fn realm_stats() -> Result<()> {
    let realm = Realm::open()?;
    let status = realm.status()?;
    let state = match status.state {
        realm::UP if status.silent_ms > realm::SILENT_MS => "silent",
        realm::UP => "up",
        realm::DOWN => "down",
        _ => "absent",
    };
    println!("shadow.state {state}");
    for (name, value) in [
        ("slots", u64::from(status.slots)),
        ("processes", u64::from(status.processes)),
        ("pool_pages", status.pool_pages),
        ("pages_mapped", status.pages_mapped),
        ("pages_pinned", status.pages_pinned),
        ("requests", status.requests),
        ("responses", status.responses),
        ("requests_dropped", status.dropped),
        ("silent_ms", status.silent_ms),
    ] {
        println!("shadow.{name} {value}");
    }
    if status.state != realm::UP {
        return Ok(());
    }
    let counters = realm.counters()?;
    for (name, value) in [
        ("tsc_khz", counters.tsc_khz),
        ("pool_pages", counters.pool_pages),
        ("pool_free", counters.pool_free),
        ("pool_quarantine", counters.pool_quarantine),
        ("mirror_nodes", counters.mirror_nodes),
        ("processes_started", counters.processes_started),
        ("processes", counters.processes),
        ("free_capabilities", counters.free_capabilities),
        ("requests_sent", counters.requests_sent),
        ("responses_dropped", counters.responses_dropped),
    ] {
        println!("realtime.{name} {value}");
    }
    // An image may have no board.
    if let Ok(board) = Board::read(&realm) {
        println!("supervisor.free_capabilities {}", board.free_capabilities);
    }
    Ok(())
}
