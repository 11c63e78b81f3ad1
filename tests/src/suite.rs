//! What a test is: a case of a suite; all cases of a suite share one machine.
//!
//! Every wait has a limit. A case whose machine has ended or hangs fails, and the next case gets a
//! new machine.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use crate::standalone::Standalone;
use crate::vm::{Output, Vm};
use crate::wire::Command;

/// Which of Debian's kernels.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Flavour {
    /// The PREEMPT_RT kernel.
    Rt,
    /// The stock kernel.
    Stock,
}

impl Flavour {
    /// Its name.
    pub fn name(self) -> &'static str {
        match self {
            Self::Rt => "rt",
            Self::Stock => "stock",
        }
    }
}

/// How far the machine is brought up before the first case.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// Debian's Linux, nothing of ours.
    Plain,
    /// The product's files are in place, nothing is loaded.
    Installed,
    /// Hypervisor enabled, cell running, `init` and its servers ready.
    Running,
}

/// The machine that a suite wants.
#[derive(Clone, Copy, Debug)]
pub struct Wanted {
    /// Linux.
    pub kernel: Flavour,
    /// Number of CPUs.
    pub cpus: u32,
    /// How far it is brought up.
    pub state: State,
    /// The image's manifest.
    pub manifest: &'static str,
    /// Changes to the rest of the machine: QEMU's `-cpu`, if not the default one.
    pub cpu: Option<&'static str>,
    /// Whether Linux and the cells use x2APIC, on a QEMU that emulates it.
    pub x2apic: bool,
    /// Whether time is counted in instructions, all processors' together, so that a busy host takes none of it.
    pub counting: bool,
    /// Added to the kernel's command line.
    pub option: Option<&'static str>,
    /// MiB of memory.
    pub memory: u32,
    /// Whether memory is reserved for hypervisor and cell.
    pub reserved: bool,
    /// Further devices: QEMU's `-device`.
    pub devices: &'static [&'static str],
    /// A network device with this side at the other end: QEMU's `-device`, without its `netdev`.
    pub lan: Option<&'static str>,
}

impl Wanted {
    /// The default machine in that state.
    pub const fn new(state: State) -> Self {
        Self {
            kernel: Flavour::Rt,
            cpus: 4,
            state,
            manifest: "default",
            cpu: None,
            option: None,
            memory: 2048,
            x2apic: false,
            counting: false,
            reserved: true,
            devices: &[],
            lan: None,
        }
    }

    /// The same with x2APIC.
    pub const fn x2apic(mut self) -> Self {
        self.x2apic = true;
        self
    }

    /// The same with another kernel.
    pub const fn kernel(mut self, kernel: Flavour) -> Self {
        self.kernel = kernel;
        self
    }
}

/// Makes what the suites need.
pub trait Builder {
    /// Boots a machine and brings it up as wanted. `work` is writable in it at the same path.
    fn boot(&self, wanted: &Wanted, name: &str, work: &Path) -> Result<Vm>;
    /// What boots the image of that manifest alone.
    fn standalone(&self, manifest: &str, name: &str) -> Result<Standalone>;
    /// A program of `src/bin`, built for Linux.
    fn program(&self, name: &str) -> Result<PathBuf>;
    /// A module for the kernel, built from `host/driver/tests/NAME/`.
    fn module(&self, name: &str, kernel: Flavour) -> Result<PathBuf>;
    /// Builds the inmates into that directory.
    fn inmates(&self, directory: &Path) -> Result<()>;
    /// The program behind `./x`.
    fn front_door(&self) -> Result<PathBuf>;
    /// An empty directory for that suite.
    fn scratch(&self, suite: &str) -> Result<PathBuf>;
    /// Where a build of Jailhouse lies.
    fn jailhouse(&self) -> Result<&Path>;
    /// The checkout.
    fn root(&self) -> &Path;
}

/// Cases that share a machine.
pub struct Suite {
    /// Its name.
    pub name: &'static str,
    /// The machine; none for suites that make their own.
    pub wanted: Option<Wanted>,
    /// The cases, in the order in which they run.
    pub cases: &'static [Case],
}

/// One test.
pub struct Case {
    /// Its name.
    pub name: &'static str,
    /// Whether it runs only when long tests are asked for.
    pub long: bool,
    /// The test.
    pub run: fn(&mut Bench<'_>) -> Result<()>,
}

/// A case that always runs.
pub const fn case(name: &'static str, run: fn(&mut Bench<'_>) -> Result<()>) -> Case {
    Case { name, long: false, run }
}

/// A case for long test runs.
pub const fn long(name: &'static str, run: fn(&mut Bench<'_>) -> Result<()>) -> Case {
    Case { name, long: true, run }
}

/// What a case works with: the machine, this side of it, and helpers for both.
pub struct Bench<'a> {
    /// Makes further machines.
    pub builder: &'a dyn Builder,
    /// Writable on both sides, at the same path.
    pub scratch: PathBuf,
    /// Longest time for one command; cases may change it for themselves.
    pub limit: Duration,
    wanted: Option<Wanted>,
    name: &'static str,
    vm: Option<Vm>,
    broken: bool,
}

/// Longest time for one command, unless the case says otherwise.
const LIMIT: Duration = Duration::from_secs(120);
const POWER_OFF: Duration = Duration::from_secs(60);

impl<'a> Bench<'a> {
    /// For cases named `name` with a machine as wanted, which is booted when it is first needed.
    pub fn new(builder: &'a dyn Builder, name: &'static str, wanted: Option<Wanted>) -> Result<Self> {
        let scratch = builder.scratch(name)?;
        Ok(Self { builder, scratch, limit: LIMIT, wanted, name, vm: None, broken: false })
    }
}

impl Bench<'_> {
    /// The machine, booted when it is first needed.
    pub fn vm(&mut self) -> Result<&mut Vm> {
        if self.vm.is_none() {
            let wanted = self.wanted.context("this suite has no machine")?;
            self.vm = Some(self.builder.boot(&wanted, self.name, &self.scratch)?);
        }
        self.vm.as_mut().context("booted above")
    }

    /// Runs `argv` in the machine with `input`.
    pub fn run(&mut self, argv: &[&str], input: &[u8]) -> Result<Output> {
        let command = Command {
            argv: argv.iter().map(Into::into).collect(),
            env: environment(),
            cwd: self.scratch.clone().into(),
            terminal: None,
        };
        let limit = self.limit;
        let result = self.vm()?.capture(&command, input, limit);
        // After an error of the harness nothing is known about the machine.
        self.broken |= result.is_err();
        result.with_context(|| argv.join(" "))
    }

    /// Runs a shell script in the machine.
    pub fn sh(&mut self, script: &str) -> Result<Output> {
        self.run(&["/bin/bash", "-c", script], b"")
    }

    /// Runs a shell script in the machine that must succeed; its output.
    pub fn ok(&mut self, script: &str) -> Result<String> {
        let output = self.sh(script)?;
        if output.status != 0 {
            bail!("status {} from: {script}\n{}", output.status, said(&output));
        }
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    }

    /// Runs a shell script on this side that must succeed; its output.
    pub fn here(&self, script: &str) -> Result<String> {
        let output = std::process::Command::new("/bin/bash")
            .args(["-c", script])
            .current_dir(&self.scratch)
            .env_clear()
            .envs(environment())
            .output()?;
        if !output.status.success() {
            bail!("{} from: {script}\n{}", output.status, String::from_utf8_lossy(&output.stderr));
        }
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    }

    /// Fails if the kernel has complained about anything that is a bug.
    pub fn dmesg_is_clean(&mut self) -> Result<()> {
        let log = self.ok("dmesg")?;
        let bad = complaints(&log);
        if !bad.is_empty() {
            bail!("the kernel complains:\n{}", bad.join("\n"));
        }
        Ok(())
    }

    /// Throws the machine away; the next command gets a new one.
    pub fn reboot(&mut self) {
        self.vm = None;
    }
}

/// What a test says of a command that should have done otherwise.
pub fn said(output: &Output) -> String {
    format!(
        "stdout: {}\nstderr: {}",
        String::from_utf8_lossy(&output.stdout).trim_end(),
        String::from_utf8_lossy(&output.stderr).trim_end()
    )
}

/// Lines of a kernel log that nobody wants to see.
pub fn complaints(log: &str) -> Vec<&str> {
    const BAD: [&str; 10] = [
        "BUG:",
        "WARNING: CPU",
        "Oops",
        "Call Trace",
        "general protection",
        "soft lockup",
        "rcu_preempt detected stalls",
        "rcu_sched detected stalls",
        "blocked for more than",
        "scheduling while atomic",
    ];
    log.lines().filter(|line| BAD.iter().any(|bad| line.contains(bad))).collect()
}

/// The environment of a login of root.
pub fn environment() -> Vec<(std::ffi::OsString, std::ffi::OsString)> {
    [
        ("PATH", "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"),
        ("HOME", "/root"),
        ("LANG", "C"),
        ("LC_ALL", "C"),
        ("TZ", "UTC"),
    ]
    .map(|(name, value)| (name.into(), value.into()))
    .into()
}

/// How many passed and failed.
#[derive(Clone, Copy, Debug, Default)]
pub struct Count {
    /// Passed.
    pub passed: usize,
    /// Failed.
    pub failed: usize,
}

/// Whether a test of that name is asked for.
pub fn selected(filter: &[String], name: &str) -> bool {
    filter.is_empty() || filter.iter().any(|word| name.contains(word.as_str()))
}

/// Runs the selected cases of `suite`, saying on standard error how each went.
pub fn run(builder: &dyn Builder, suite: &Suite, filter: &[String], with_long: bool) -> Result<Count> {
    let mut count = Count::default();
    let wanted =
        |case: &&Case| (with_long || !case.long) && selected(filter, &format!("{}::{}", suite.name, case.name));
    let cases: Vec<&Case> = suite.cases.iter().filter(wanted).collect();
    if cases.is_empty() {
        return Ok(count);
    }
    let mut bench = Bench::new(builder, suite.name, suite.wanted)?;
    for case in cases {
        let start = Instant::now();
        bench.limit = LIMIT;
        bench.broken = false;
        let result = (case.run)(&mut bench);
        let seconds = start.elapsed().as_secs_f32();
        match result {
            Ok(()) => {
                count.passed += 1;
                eprintln!("test {}::{} ... ok ({seconds:.1} s)", suite.name, case.name);
            }
            Err(error) => {
                count.failed += 1;
                eprintln!("test {}::{} ... FAILED ({seconds:.1} s)", suite.name, case.name);
                for line in format!("{error:#}").lines() {
                    eprintln!("    {line}");
                }
                if let Some(vm) = &bench.vm {
                    eprintln!("    logs in {}", vm.logs().display());
                }
                // Who knows in which state it has left the machine.
                bench.broken = true;
            }
        }
        if bench.broken {
            bench.reboot();
        }
    }
    if let Some(vm) = bench.vm.take()
        && let Err(error) = vm.power_off(POWER_OFF)
    {
        eprintln!("test {} ... FAILED at power-off: {error:#}", suite.name);
        count.failed += 1;
    }
    Ok(count)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_filter_selects_by_part_of_the_name() {
        assert!(selected(&[], "plain::status"));
        assert!(selected(&["status".into()], "plain::status"));
        assert!(!selected(&["realm".into()], "plain::status"));
    }

    #[test]
    fn complaints_are_found() {
        let log = "a: fine\n[ 1.0] WARNING: CPU: 1 PID: 2\n[ 1.1] Call Trace:\n";
        assert_eq!(complaints(log).len(), 2);
        assert!(complaints("Speculative Return Stack Overflow: WARNING: See").is_empty());
    }
}
