//! Inmates that try to get out: each attempt has its verdict, Linux goes on on all its CPUs, and neither its memory nor a
//! neighbour's changes.

use std::fs;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use hypervisor_abi::config::PortRange;

use super::inmates::{Console, FIRST, SECOND, create, prepare, start, wait_for_state};
use super::support::same;
use crate::inmate::Inmate;
use crate::suite::{Bench, State, Suite, Wanted, case, long};

/// Under the PREEMPT_RT kernel.
pub const SUITE: Suite = Suite {
    name: "escape",
    wanted: Some(Wanted::new(State::Installed)),
    cases: &[
        case("attempts", attempts),
        long("hypercalls", |bench| {
            ready(bench)?;
            attempt(bench, &HYPERCALLS, 1_000_000)
        }),
        case("give_back", give_back),
        case("dmesg", |bench| bench.dmesg_is_clean()),
    ],
};

/// Where number, seed and count lie in the inmate.
const PARAMETERS: usize = 0xff0;
const SEED: u32 = 0x2545_f491;
/// Longest time for one of many steps of an attempt: a VM exit in emulation takes some 25 us, on a busy host many times that.
const STEP: Duration = Duration::from_millis(1);

/// What becomes of the cell.
#[derive(Clone, Copy)]
enum Verdict {
    /// The hypervisor stops it, and names this reason.
    Stopped(&'static str),
    /// It goes on; the attempt did nothing.
    Lives,
    /// It goes on, and got faults for it: so many undefined opcodes, at least so many protection faults.
    Faults(u32, u32),
    /// Nobody stops it, and it counts as failed: for what it says itself.
    Disqualified,
}
use Verdict::{Disqualified, Faults, Lives, Stopped};

struct Attempt {
    number: u8,
    what: &'static str,
    verdict: Verdict,
}

const fn attempt_of(number: u8, what: &'static str, verdict: Verdict) -> Attempt {
    Attempt { number, what, verdict }
}

const MEMORY: Verdict = Stopped("access to memory outside of the cell");
const PORT: Verdict = Stopped("access to a port that is not its own");
const INTERRUPT: Verdict = Stopped("interrupt to a processor outside of the cell");
const HYPERCALLS: Attempt = attempt_of(18, "makes senseless hypercalls", Lives);

/// In the order of the table in `hypervisor/inmates/escape.S`.
const ATTEMPTS: [Attempt; 34] = [
    attempt_of(0, "reads memory outside", MEMORY),
    attempt_of(1, "writes the state table", MEMORY),
    attempt_of(2, "writes what only Linux may write", MEMORY),
    attempt_of(3, "executes memory outside", MEMORY),
    attempt_of(4, "has page tables outside", MEMORY),
    attempt_of(5, "writes the interrupt controller", MEMORY),
    attempt_of(6, "writes the HPET", MEMORY),
    attempt_of(7, "writes the hypervisor", MEMORY),
    attempt_of(
        8,
        "reads emulated memory by a strange instruction",
        Stopped("access to device memory by an instruction that cannot be decoded"),
    ),
    attempt_of(9, "switches the machine off", PORT),
    attempt_of(10, "writes a port by a string instruction", PORT),
    attempt_of(11, "reads ports across the edge of what is watched", PORT),
    attempt_of(12, "faults three times", Stopped("triple fault")),
    attempt_of(13, "uses the virtualisation extension", Faults(7, 0)),
    attempt_of(14, "sleeps for ever", Lives),
    attempt_of(15, "asks what the processor can", Lives),
    attempt_of(16, "sets control registers to what cannot be", Faults(0, 3)),
    attempt_of(17, "reads and writes all model-specific registers", Faults(0, 1000)),
    HYPERCALLS,
    attempt_of(19, "sends INIT to all others", Lives),
    attempt_of(20, "sends an NMI to a processor of Linux", Lives),
    attempt_of(21, "sends an SMI to all", INTERRUPT),
    attempt_of(22, "has a timer that sends SMIs", INTERRUPT),
    attempt_of(23, "sends all kinds of interrupts to others", Lives),
    attempt_of(24, "poses as other processors", Lives),
    attempt_of(25, "moves its interrupt controller", Faults(0, 2)),
    attempt_of(26, "writes configuration space of all functions by ports", Lives),
    attempt_of(27, "writes configuration space of all functions by memory", Lives),
    attempt_of(28, "writes garbage to its shared memory device", Lives),
    attempt_of(29, "writes garbage to the communication region", Lives),
    attempt_of(30, "says that it is in a state that there is not", Disqualified),
    // The emulated processor lets it, and refuses to run it; a real one does not let it.
    attempt_of(31, "has caches that are off and write back", Stopped("invalid guest state")),
    attempt_of(32, "writes all registers of its interrupt controller", Lives),
    attempt_of(33, "resets the machine by the keyboard controller, which it has", PORT),
];

/// A program that counts, on each processor of Linux; a file that must stay as it is; a neighbour that watches its memory. Each case
/// begins with it, whichever are selected.
fn ready(bench: &mut Bench<'_>) -> Result<()> {
    prepare(bench)?;
    if bench.ok("crtos cell list")?.contains(" guard ") {
        return Ok(());
    }
    let composed = bench.ok("cat /usr/lib/crtos/srtos.cell | od -An -v -tx1")?;
    let composed: Vec<u8> =
        composed.split_whitespace().map(|byte| u8::from_str_radix(byte, 16)).collect::<Result<_, _>>()?;
    let mut inmate = Inmate::new("inmate", &[3], FIRST).with_link(&composed)?;
    inmate.ports.push(PortRange::new(0x64, 1));
    create(bench, &inmate)?;
    create(bench, &Inmate::new("guard", &[2], SECOND))?;
    start(bench, "guard", "guard.bin")?;
    bench.ok("for cpu in 0 1; do
             mkfifo /dev/shm/never.$cpu
             setsid taskset -c $cpu bash -c \"n=0
                 while :; do echo \\$((n += 1)) > /dev/shm/beat.$cpu; read -t 0.02 <> /dev/shm/never.$cpu; done\" \
                 </dev/null >/dev/null 2>&1 &
         done
         head -c 16M /dev/urandom > /dev/shm/witness; sha256sum /dev/shm/witness > /dev/shm/witness.sum")?;
    unchanged(bench)
}

/// The neighbour's memory and Linux's are as they were.
fn unchanged(bench: &mut Bench<'_>) -> Result<()> {
    let mut console = Console::now(bench)?;
    bench.ok("sha256sum --quiet -c /dev/shm/witness.sum")?;
    console.wait_for("guard inmate: unchanged after")?;
    wait_for_state(bench, "guard", "running")
}

fn attempt(bench: &mut Bench<'_>, attempt: &Attempt, count: u32) -> Result<()> {
    let mut inmate = fs::read(bench.scratch.join("escape.bin"))?;
    let parameters = [u32::from(attempt.number), SEED, count].map(u32::to_le_bytes).concat();
    let room = inmate.get_mut(PARAMETERS..PARAMETERS + parameters.len()).context("the inmate has parameters")?;
    room.copy_from_slice(&parameters);
    fs::write(bench.scratch.join("this.bin"), inmate)?;
    let mut console = Console::now(bench)?;
    console.patience += count * STEP;
    start(bench, "inmate", "this.bin")?;
    console.wait_for(&format!("escape inmate: {:08x}", attempt.number))?;
    let (state, reason) = match attempt.verdict {
        Stopped(reason) => {
            console.wait_for("\"inmate\" stopped")?;
            ("failed", reason)
        }
        Lives => {
            let faults = console.wait_for("escape inmate: survived")?;
            same("faults", faults.as_str(), "00000000 00000000")?;
            ("running", "running")
        }
        Disqualified => {
            console.wait_for("escape inmate: survived")?;
            ("failed", "as it says itself")
        }
        Faults(undefined, protection) => {
            let faults = console.wait_for("escape inmate: survived")?;
            let (first, second) = faults.split_once(' ').context("two numbers")?;
            same("undefined-opcode faults", u32::from_str_radix(first, 16)?, undefined)?;
            let got = u32::from_str_radix(second, 16)?;
            if got < protection {
                bail!("{got} protection faults, at least {protection} expected");
            }
            ("running", "running")
        }
    };
    // What is said of the cell; and every processor of Linux goes on.
    let said = bench.ok("crtos cell list | grep ' inmate '; crtos cell why inmate; echo processors $(nproc)
         for cpu in 0 1; do
             before=$(< /dev/shm/beat.$cpu)
             for n in $(seq 3000); do [ \"$(< /dev/shm/beat.$cpu)\" != \"$before\" ] && continue 2; sleep 0.02; done
             echo processor $cpu stands still; exit 1
         done")?;
    let list = said.lines().next().unwrap_or_default();
    if !list.contains(state) || !said.contains(reason) || !said.contains("processors 2\n") {
        bail!("not \"{state}\", \"{reason}\" and 2 processors:\n{said}");
    }
    Ok(())
}

fn attempts(bench: &mut Bench<'_>) -> Result<()> {
    // Addresses, commands, lines of the machine's devices; the status word changes by itself, the shared memory device is the
    // inmate's too.
    const DEVICES: &str = "cd /sys/bus/pci/devices; for f in *; do [ $f = 0000:00:0e.0 ] || \
        { echo $f; od -An -v -tx1 -N 6 $f/config; od -An -v -tx1 -j 8 -N 56 $f/config; }; done";
    ready(bench)?;
    let devices = bench.ok(DEVICES)?;
    let surprises = "dmesg | grep -ci 'unknown reason\\|nmi received\\|spurious' || true";
    let before = bench.ok(surprises)?;
    let mut wrong = Vec::new();
    for this in &ATTEMPTS {
        if let Err(error) = attempt(bench, this, 5000) {
            wrong.push(format!("an inmate that {}: {error:#}", this.what));
        }
    }
    if !wrong.is_empty() {
        bail!("{}", wrong.join("\n"));
    }
    same("configuration of the machine's devices", bench.ok(DEVICES)?, devices)?;
    same("interrupts that Linux did not expect", bench.ok(surprises)?, before)?;
    unchanged(bench)
}

fn give_back(bench: &mut Bench<'_>) -> Result<()> {
    ready(bench)?;
    unchanged(bench)?;
    // Not on the processor that the inmate had: QEMU's APIC keeps the errors that reads have left in its status register, whatever
    // is written there, and Linux takes them for errors of its own start-up interrupts.
    bench.ok("pkill -f '[/]dev/shm/beat'; taskset -pc 0,1 $$ > /dev/null
         crtos cell destroy inmate && crtos cell destroy guard && crtos disable")?;
    same("processors of Linux", bench.ok("nproc")?, "4\n".into())
}
