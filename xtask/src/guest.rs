//! The machine of this project: boots it, brings the real-time realm up in it, and runs commands in
//! it as the caller would.

use std::ffi::OsString;
use std::fs;
use std::io::IsTerminal;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use tests::machine::{Kernel, Machine};
use tests::realm::{BRING_UP, Step};
use tests::suite::{Flavour, environment};
use tests::vm::{NotStarted, Output, Streams, Vm};
use tests::{initramfs, wire};

use crate::cli::MachineOptions;
use crate::terminal::{self, RawTerminal};
use crate::tree::{Tree, say};
use crate::{build, run, setup};

/// Memory kept from Linux for the hypervisor and the sRTOS cell; image/manifests/ says what for.
const RESERVED: &str = "memmap=352M$0x50000000";
/// Booting takes 10 s; a machine shared with other work may be many times slower.
const BOOT_LIMIT: Duration = Duration::from_secs(300);
const STEP_LIMIT: Duration = Duration::from_secs(120);
const POWER_OFF_LIMIT: Duration = Duration::from_secs(60);

/// What kind of machine.
pub struct Kind {
    /// Its name in the logs.
    pub name: String,
    /// Linux.
    pub flavour: Flavour,
    /// The image whose files it gets; none for plain Linux.
    pub manifest: Option<PathBuf>,
    /// Whether memory is reserved for hypervisor and cell.
    pub reserved: bool,
}

/// Such a machine, everything for it built, not yet booted.
pub fn machine(tree: &Tree, kind: &Kind) -> Result<Machine> {
    setup::base()?;
    let kernel = setup::kernel::get(tree, kind.flavour)?;
    let initramfs = initramfs(tree, &kernel)?;
    let mend = build::library(tree, "what QEMU is mended by", "mend")?;
    let mut machine = Machine::new(kernel, initramfs, mend, tree.new_log_directory(&kind.name)?);
    if kind.reserved {
        machine.kernel_options.push(RESERVED.to_owned());
    }
    if let Some(manifest) = &kind.manifest {
        machine.files = build::product(tree, &machine.kernel, kind.flavour, manifest)?;
    }
    Ok(machine)
}

/// Makes a machine one whose Linux uses x2APIC. An emulated Intel IOMMU beside an AMD processor: the only one that Linux takes here.
pub fn use_x2apic(tree: &Tree, machine: &mut Machine) -> Result<()> {
    let qemu = setup::qemu::newer(tree)?;
    machine.qemu = qemu.program;
    machine.arguments.extend(qemu.arguments.map(OsString::from));
    machine.cpu.push_str(",+x2apic");
    machine.remapping = true;
    // Interrupts are remapped all the same; memory is not.
    machine.kernel_options.push("intel_iommu=off".to_owned());
    // Linux tries the timer's interrupt for as long as it counts to some number, and panics without: a busy host is too slow for that.
    machine.kernel_options.push("no_timer_check".to_owned());
    Ok(())
}

/// Makes a machine one whose time is the number of instructions that its processors have executed, in turns: what the host does beside does not
/// count. Only newer QEMUs do that with several processors.
pub fn count_time(tree: &Tree, machine: &mut Machine) -> Result<()> {
    let qemu = setup::qemu::newer(tree)?;
    machine.qemu = qemu.program;
    machine.arguments.extend(qemu.arguments.map(OsString::from));
    machine.accelerator = "tcg,thread=single".to_owned();
    // A nanosecond each.
    machine.arguments.extend(["-icount", "shift=0,sleep=off"].map(OsString::from));
    Ok(())
}

/// The machine that the options ask for.
pub fn machine_for_caller(tree: &Tree, options: &MachineOptions, name: &str) -> Result<Machine> {
    let manifest = if options.plain { None } else { Some(build::manifest(tree, &options.manifest)?) };
    let kind = Kind { name: name.to_owned(), flavour: options.kernel.into(), manifest, reserved: true };
    let mut machine = machine(tree, &kind)?;
    machine.cpus = options.smp;
    machine.kernel_options.extend(options.append.iter().cloned());
    machine.arguments = options.qemu.clone();
    if options.x2apic {
        use_x2apic(tree, &mut machine)?;
    }
    // The root itself stays read-only.
    if tree.caller != Path::new("/") {
        machine.work = Some(tree.caller.clone());
    }
    for file in &options.file {
        let mut parts = file.split(':');
        let (Some(from), Some(to)) = (parts.next(), parts.next()) else {
            bail!("--file wants FROM:TO[:MODE], not {file}");
        };
        let mode = u32::from_str_radix(parts.next().unwrap_or("755"), 8)?;
        machine.files.push((tree.caller.join(from), to.into(), mode));
    }
    Ok(machine)
}

/// Boots it.
pub fn boot(machine: &Machine) -> Result<Vm> {
    Vm::boot(machine, BOOT_LIMIT)
}

/// Brings the real-time realm up in a machine that has the files for it.
pub fn bring_up(vm: &mut Vm) -> Result<()> {
    for step in &BRING_UP {
        take(vm, step)?;
    }
    Ok(())
}

/// Takes one step in the machine; what it printed.
pub fn take(vm: &mut Vm, step: &Step) -> Result<Output> {
    let command = wire::Command {
        argv: step.argv.iter().map(Into::into).collect(),
        env: environment(),
        cwd: "/".into(),
        terminal: None,
    };
    let output = vm.capture(&command, b"", STEP_LIMIT).with_context(|| format!("could not {}", step.what))?;
    if output.status != 0 {
        bail!(
            "could not {}: {} (status {}); logs in {}",
            step.what,
            String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).trim(),
            output.status,
            vm.logs().display()
        );
    }
    Ok(output)
}

/// Runs `argv` in the machine with our own streams, environment and working directory; its status.
/// Signals sent to us go to it.
pub fn run_as_caller(tree: &Tree, vm: &mut Vm, argv: Vec<OsString>, limit: Option<u64>) -> Result<u8> {
    let interactive = std::io::stdin().is_terminal() && std::io::stdout().is_terminal();
    let command = wire::Command {
        argv,
        env: std::env::vars_os().collect(),
        cwd: tree.caller.clone().into(),
        terminal: interactive.then(terminal::size),
    };
    terminal::forward_signals(vm.events(), interactive)?;
    let raw = if interactive { Some(RawTerminal::new()?) } else { None };
    let streams = Streams {
        stdin: Box::new(std::io::stdin()),
        stdout: Box::new(std::io::stdout()),
        stderr: Box::new(std::io::stderr()),
    };
    let result = vm.exec(&command, streams, limit.map(Duration::from_secs));
    drop(raw);
    match result {
        Ok(status) => Ok(status as u8),
        Err(error) => match error.downcast::<NotStarted>() {
            Ok(NotStarted(why, status)) => {
                say(&why);
                Ok(status as u8)
            }
            Err(error) => Err(error),
        },
    }
}

/// Switches it off.
pub fn power_off(vm: Vm) -> Result<()> {
    vm.power_off(POWER_OFF_LIMIT)
}

/// The initramfs for that kernel, made anew when the agent has changed.
fn initramfs(tree: &Tree, kernel: &Kernel) -> Result<PathBuf> {
    let agent = agent(tree)?;
    let path = tree.build.join("initramfs").join(&kernel.release);
    let _guard = tree.lock("initramfs")?;
    let newer = || -> Option<bool> {
        let made = fs::metadata(&path).ok()?.modified().ok()?;
        Some(made > fs::metadata(&agent).ok()?.modified().ok()?)
    };
    if newer() != Some(true) {
        fs::create_dir_all(tree.build.join("initramfs"))?;
        let new = path.with_extension("new");
        fs::write(&new, initramfs::build(&kernel.modules, &agent)?)?;
        fs::rename(&new, &path)?;
    }
    Ok(path)
}

/// The machine's init program, linked statically.
fn agent(tree: &Tree) -> Result<PathBuf> {
    const TARGET: &str = "x86_64-unknown-linux-gnu";
    let target = tree.target.join("agent");
    run::quietly(
        Command::new("cargo")
            .args(["build", "--quiet", "--package", "tests", "--bin", "agent", "--target", TARGET])
            .env("RUSTFLAGS", "-C target-feature=+crt-static -C strip=symbols")
            .env("CARGO_TARGET_DIR", &target)
            .current_dir(&tree.root),
    )
    .context("building the machine's init program")?;
    Ok(target.join(TARGET).join("debug/agent"))
}
