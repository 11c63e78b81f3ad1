//! The command line.

use std::ffi::OsString;
use std::path::PathBuf;

use clap::{Args, Parser, Subcommand, ValueEnum};
use tests::suite::Flavour;

/// Stock Linux programs in a real-time realm beside Linux: build it, try it, test it, measure it.
///
/// All of it runs in QEMU, in software emulation. What is missing on this machine is installed, after saying so.
#[derive(Parser)]
#[command(name = "x", bin_name = "./x")]
pub struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub command: Verb,
}

/// The commands.
#[derive(Subcommand)]
pub enum Verb {
    /// Show the main job: stock Debian programs run in the real-time realm, beside the Linux they came from.
    Demo(Demo),
    /// Test everything: unit tests, lints, and the suites that boot machines.
    Test(Test),
    /// Run a command in the real-time realm, with this terminal's input, output, environment and directory.
    Run(Run),
    /// Boot the machine with the real-time realm up, and run a script or a shell in its Linux.
    Vm(Vm),
    /// Boot the real-time image alone, without Linux and hypervisor.
    Srtos(Srtos),
    /// Kill servers at random while programs run, and see that nothing is lost.
    Chaos(Chaos),
    /// Draw the timeline of one kill of a server, from a real run.
    Picture(Picture),
    /// Measure.
    Bench(Bench),
    /// Work with images and manifests (what `crtos image` does).
    #[command(disable_help_flag = true)]
    Image(Image),
    /// Build everything.
    Build(Build),
}

/// Which of Debian's kernels Linux runs.
#[derive(Clone, Copy, Debug, ValueEnum)]
pub enum KernelOption {
    /// The PREEMPT_RT kernel.
    Rt,
    /// The stock kernel.
    Stock,
}

impl From<KernelOption> for Flavour {
    fn from(option: KernelOption) -> Self {
        match option {
            KernelOption::Rt => Self::Rt,
            KernelOption::Stock => Self::Stock,
        }
    }
}

/// What every command that boots Linux takes.
#[derive(Args, Clone)]
pub struct MachineOptions {
    /// Debian's kernel to boot.
    #[arg(long, value_enum, default_value = "rt")]
    pub kernel: KernelOption,
    /// Number of CPUs; the realm gets the highest.
    #[arg(long, default_value_t = 4, value_name = "N", value_parser = clap::value_parser!(u32).range(2..=32))]
    pub smp: u32,
    /// A machine with x2APIC, which Linux and the cells then use (QEMU 10).
    #[arg(long)]
    pub x2apic: bool,
    /// The image: a file, or the name of one that ships (in image/manifests/).
    #[arg(long, default_value = "default", value_name = "M")]
    pub manifest: String,
    /// Boot plain Linux: no hypervisor, no cell.
    #[arg(long, hide = true)]
    pub plain: bool,
    /// Put the product's files in place, and load nothing.
    #[arg(long, hide = true)]
    pub installed: bool,
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
    #[arg(long, hide = true, value_name = "SECONDS")]
    pub timeout: Option<u64>,
}

/// `./x vm`
#[derive(Args)]
pub struct Vm {
    /// Run this file as root; its output and exit status are the caller's. A shell without it.
    #[arg(long, value_name = "FILE")]
    pub script: Option<PathBuf>,
    /// The machine.
    #[command(flatten)]
    pub machine: MachineOptions,
}

/// `./x run`
#[derive(Args)]
pub struct Run {
    /// Real-time priority of the program.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=99))]
    pub prio: Option<u32>,
    /// Scheduling policy of the program.
    #[arg(long, value_name = "POLICY", value_parser = ["fifo", "rr"])]
    pub policy: Option<String>,
    /// The machine.
    #[command(flatten)]
    pub machine: MachineOptions,
    /// The command and its arguments.
    #[arg(required = true, trailing_var_arg = true, allow_hyphen_values = true, value_name = "CMD")]
    pub command: Vec<OsString>,
}

/// `./x demo`
#[derive(Args)]
pub struct Demo {
    /// Debian's kernel to boot.
    #[arg(long, value_enum, default_value = "rt")]
    pub kernel: KernelOption,
}

/// `./x test`
#[derive(Args)]
pub struct Test {
    /// Also the long versions of the suites.
    #[arg(long)]
    pub long: bool,
    /// Also the image under Jailhouse itself: a directory with its jailhouse.ko (for Debian's stock kernel), jailhouse and jailhouse-amd.bin.
    #[arg(long, value_name = "DIR")]
    pub jailhouse: Option<PathBuf>,
    /// Only list what there is.
    #[arg(long)]
    pub list: bool,
    /// Only tests with one of these in their name.
    pub filter: Vec<String>,
}

/// `./x srtos`
#[derive(Args)]
pub struct Srtos {
    /// The image: a file, or the name of one that ships (in image/manifests/).
    #[arg(long, default_value = "default", value_name = "M")]
    pub manifest: String,
    /// Switch off after this many seconds.
    #[arg(long, value_name = "SECONDS")]
    pub timeout: Option<u64>,
    /// Further QEMU argument (repeatable).
    #[arg(long, hide = true, allow_hyphen_values = true)]
    pub qemu: Vec<OsString>,
}

/// `./x bench`
#[derive(Args)]
pub struct Bench {
    /// Only this group.
    pub group: Option<String>,
    /// One JSON object a line.
    #[arg(long)]
    pub json: bool,
    /// Fail if a promised figure is missed.
    #[arg(long)]
    pub check: bool,
}

/// `./x chaos`
#[derive(Args)]
pub struct Chaos {
    /// What the kills come from: the same seed gives the same ones.
    #[arg(long, default_value_t = 1, value_name = "S")]
    pub seed: u64,
    /// How long.
    #[arg(long, default_value_t = 5, value_name = "M", value_parser = clap::value_parser!(u64).range(1..=1440))]
    pub minutes: u64,
    /// How many servers are killed, however long it takes.
    #[arg(long, value_name = "N", conflicts_with = "minutes")]
    pub kills: Option<u64>,
}

/// `./x picture`
#[derive(Args)]
pub struct Picture {
    /// Where the drawing (SVG) goes; the one in docs/ if absent.
    #[arg(value_name = "FILE")]
    pub file: Option<PathBuf>,
}

/// `./x image`
#[derive(Args)]
pub struct Image {
    /// Handed to `crtos image`.
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    pub arguments: Vec<OsString>,
}

/// `./x build`
#[derive(Args)]
pub struct Build {
    /// The image: a file, or the name of one that ships (in image/manifests/).
    #[arg(long, default_value = "default", value_name = "M")]
    pub manifest: String,
}
