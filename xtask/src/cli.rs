//! The command line.

use std::ffi::OsString;
use std::path::PathBuf;

use clap::{Args, Parser, Subcommand, ValueEnum};

/// Real-time Linux programs beside Linux: build, try, test and measure.
#[derive(Parser)]
#[command(name = "x", disable_help_subcommand = false)]
pub struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub command: Verb,
}

/// The commands.
#[derive(Subcommand)]
pub enum Verb {
    /// Boot the machine with hypervisor and sRTOS cell, and run a script or a shell in its Linux.
    Vm(Vm),
}

/// Which kernel Linux runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Flavour {
    /// Debian's PREEMPT_RT kernel.
    Rt,
    /// Debian's stock kernel.
    Stock,
}

/// What every command that boots Linux takes.
#[derive(Args, Clone)]
pub struct MachineOptions {
    /// Debian's kernel to boot.
    #[arg(long, value_enum, default_value = "rt")]
    pub kernel: Flavour,
    /// Number of CPUs.
    #[arg(long, default_value_t = 4, value_parser = clap::value_parser!(u32).range(2..=32))]
    pub smp: u32,
    /// Boot plain Linux: no hypervisor, no cell.
    #[arg(long, hide = true)]
    pub plain: bool,
    /// Further options for the Linux kernel (repeatable).
    #[arg(long, hide = true)]
    pub append: Vec<String>,
    /// Further QEMU argument (repeatable).
    #[arg(long, hide = true, allow_hyphen_values = true)]
    pub qemu: Vec<OsString>,
    /// Copy a file into the machine: FROM:TO[:MODE] (repeatable).
    #[arg(long, hide = true, value_name = "FROM:TO[:MODE]")]
    pub file: Vec<String>,
    /// Give up after this many seconds.
    #[arg(long, hide = true)]
    pub timeout: Option<u64>,
}

/// `./x vm`
#[derive(Args)]
pub struct Vm {
    /// Run this file as root; its output and exit status are the caller's. A shell without it.
    #[arg(long)]
    pub script: Option<PathBuf>,
    /// The machine.
    #[command(flatten)]
    pub machine: MachineOptions,
}
