//! The image alone, without Linux and hypervisor: it boots, and its kernel keeps its promises.
//!
//! The kernel's tests run where time is counted in instructions, so that they repeat exactly and no beat of a bystander can be late
//! by the host's doing.

use std::sync::OnceLock;
use std::time::Duration;

use anyhow::{Context, Result, bail};

use super::support::same;
use crate::realm::READY;
use crate::suite::{Bench, Suite, case, long};

/// Standalone boots.
pub const SUITE: Suite = Suite {
    name: "srtos",
    wanted: None,
    cases: &[
        case("default", |bench| boots(bench, "default")),
        case("minimal", |bench| boots(bench, "minimal")),
        case("device", |bench| device(bench, EDU, "edu")),
        case("polling_idle", polling_idle),
        case("kernel", |bench| said(bench, "selftest: all passed")),
        case("crime_null_read", |bench| verdict(bench, "read of nothing")),
        case("crime_read_only_write", |bench| verdict(bench, "write to read-only")),
        case("crime_data_execution", |bench| verdict(bench, "execution of data")),
        case("crime_wild_jump", |bench| verdict(bench, "jump into nowhere")),
        case("crime_stack_overflow", |bench| verdict(bench, "push below the stack")),
        case("crime_undefined_instruction", |bench| verdict(bench, "undefined instruction")),
        case("crime_division_by_zero", |bench| verdict(bench, "division by zero")),
        case("crime_port", |bench| verdict(bench, "port without right")),
        case("crime_halt", |bench| verdict(bench, "halt")),
        case("crime_machine_register", |bench| verdict(bench, "machine register")),
        case("crime_interrupts_off", |bench| verdict(bench, "interrupts off")),
        case("crime_non_canonical", |bench| verdict(bench, "non-canonical address")),
        case("crime_kernel_read", |bench| verdict(bench, "read of the kernel")),
        case("crime_kernel_jump", |bench| verdict(bench, "jump into the kernel")),
        case("crime_misaligned_vector", |bench| verdict(bench, "misaligned vector access")),
        case("crime_breakpoint", |bench| verdict(bench, "breakpoint")),
        case("crime_single_step", |bench| verdict(bench, "single step")),
        case("crime_old_system_call", |bench| verdict(bench, "interrupt of Linux's old calls")),
        case("crime_capability_not_held", |bench| verdict(bench, "a capability it does not hold")),
        case("crime_too_few_rights", |bench| verdict(bench, "a capability with too few rights")),
        case("crime_wrong_type", |bench| verdict(bench, "a capability of another type")),
        case("crime_no_such_call", |bench| verdict(bench, "a call that is none")),
        case("crime_dead_partner", |bench| verdict(bench, "message to a dead partner")),
        case("crime_untold", |bench| verdict(bench, "fault without a handler")),
        case("crime_endless_loop", |bench| verdict(bench, "endless loop over budget")),
        case("crime_irq_storm", |bench| verdict(bench, "irq storm")),
        case("full_message", |bench| said(bench, "selftest: 64 words and 3 capabilities went both ways")),
        case("revoke_ten_thousand", |bench| said(bench, "selftest: revoke of 10000 descendants:")),
        case("unmap_gigabyte", |bench| said(bench, "selftest: unmapping of 1 GiB:")),
        case("large_pages", |bench| said(bench, "selftest: large pages:")),
        case("dirty_pages", |bench| said(bench, "selftest: dirty pages: exactly those written, each time")),
        case("hostile", |bench| hostile(bench, 100_000)),
        long("hostile_ten_million", |bench| hostile(bench, 10_000_000)),
    ],
};

const LIMIT: Duration = Duration::from_secs(120);

/// A PCI function of the machine, given by the manifest: its registers and its interrupt reach the server that holds them.
const EDU: &str = r#"
[system]
name = "edu"

[cell]
name = "srtos"
hypervisor_memory = { physical = 0x5000_0000, size = "16 MiB" }
private = { physical = 0x5100_0000, guest = 0x0, size = "48 MiB" }
comm_region = 0x0400_0000
pm_timer = 0x608

[pci.edu]
id = "1234:11e8"
bdf = "00:04.0"
bars = [{ bar = 0, address = 0xfea0_0000, size = "1 MiB" }]
msi = true

[memory.registers]
section = "edu.bar0"

[init]
stack = "64 KiB"
heap = "1 MiB"
priority = 250

[[server]]
name = "edu"
priority = 100
stack = "32 KiB"
console = true
memory = [{ region = "registers", access = "rw" }]
irqs = [{ name = "done", device = "edu", vector = 0, bits = 4 }]
"#;

/// A server that wakes up by deadlines.
const HEARTBEAT: &str = r#"
[[server]]
name = "heartbeat"
priority = 90
stack = "32 KiB"
untyped = "64 KiB"
vault = "4 KiB"
console = true
args = ["period-ms=2", "report=500"]
"#;

/// Interrupts come and deadlines pass on a processor that does not halt.
fn polling_idle(bench: &mut Bench<'_>) -> Result<()> {
    let manifest = EDU.replace("[system]", "[system]\nidle = \"poll\"") + HEARTBEAT;
    device(bench, &manifest, "polling")
}

fn device(bench: &mut Bench<'_>, text: &str, name: &str) -> Result<()> {
    let manifest = bench.scratch.join(format!("{name}.toml"));
    std::fs::write(&manifest, text)?;
    let mut machine = bench.builder.standalone(&manifest.to_string_lossy(), name)?;
    machine.arguments.extend(["-device", "edu,addr=04.0"].map(Into::into));
    let mut running = machine.boot()?;
    same("registers", running.wait_for("edu: identity", LIMIT)?, "edu: identity 0x10000ed, inverse 0xedcba987".into())?;
    for number in 1..=3 {
        let line = running.wait_for("edu: interrupt", LIMIT)?;
        same("interrupt", line, format!("edu: interrupt {number}: bits 0x4, cause {number:#x}"))?;
    }
    running.wait_for("edu: done", LIMIT)?;
    if text.contains(HEARTBEAT) {
        running.wait_for("heartbeat: beat 500", LIMIT)?;
    }
    Ok(())
}

fn boots(bench: &mut Bench<'_>, manifest: &str) -> Result<()> {
    let mut running = bench.builder.standalone(manifest, "srtos")?.boot()?;
    running.wait_for(READY, LIMIT).map(drop)
}

/// What the kernel's test of itself says: one run serves all cases.
fn selftest(bench: &Bench<'_>) -> Result<&'static [String]> {
    static SAID: OnceLock<Vec<String>> = OnceLock::new();
    if let Some(said) = SAID.get() {
        return Ok(said);
    }
    let running = bench.builder.standalone("selftest", "selftest")?.counting().boot()?;
    let (_, said) = running.finish(LIMIT)?;
    Ok(SAID.get_or_init(|| said))
}

fn said(bench: &Bench<'_>, sign: &str) -> Result<()> {
    let said = selftest(bench)?;
    if !said.iter().any(|line| line.contains(sign)) {
        bail!("no \"{sign}\"; the console said:\n{}", said[said.len().saturating_sub(12)..].join("\n"));
    }
    Ok(())
}

/// The crime was reported as what it is, and the bystander noticed nothing.
fn verdict(bench: &Bench<'_>, crime: &str) -> Result<()> {
    said(bench, &format!("selftest: crime and verdict: {crime} "))
}

/// A process that makes so many random kernel calls, beside others that must not notice. The kernel checks itself at the end.
fn hostile(bench: &Bench<'_>, calls: u64) -> Result<()> {
    let mut machine = bench.builder.standalone("selftest", "hostile")?.counting();
    let seed = std::env::var("CRTOS_SEED").unwrap_or_else(|_| "0x9e3779b97f4a7c15".into());
    eprintln!("{calls} calls, CRTOS_SEED={seed}");
    machine.arguments.extend(["-fw_cfg".into(), format!("name=opt/crtos/hostile,string={calls} {seed}").into()]);
    let (_, said) = machine.boot()?.finish(Duration::from_secs(60 + calls / 2_000))?;
    let last = said.iter().rfind(|line| line.starts_with("hostile: ") || line.contains("panicked"));
    let last = last.context("it said nothing")?;
    let holds = said.iter().any(|line| line == "kernel: all invariants hold");
    if !last.starts_with("hostile: all is as it was") || !holds {
        bail!("{}", said[said.len().saturating_sub(8)..].join("\n"));
    }
    Ok(())
}
