//! Cells that talk: messages of the hypervisor and their answers (`hypervisor/inmates/message.rs`), and shared memory devices with
//! interrupts between cells, and between a cell and Linux (`hypervisor/inmates/ivshmem.rs`, `peers.rs`).

use std::fs;

use anyhow::{Result, bail};
use hypervisor_abi::config::CellFlags;

use super::inmates::{Console, FIRST, SECOND, THIRD, create, prepare, wait_for_state};
use super::support::same;
use crate::inmate::Inmate;
use crate::suite::{Bench, State, Suite, Wanted, case, said};

/// Under the PREEMPT_RT kernel.
pub const SUITE: Suite = Suite {
    name: "messages",
    wanted: Some(Wanted::new(State::Installed)),
    cases: &[
        case("approved", approved),
        case("denied", denied),
        case("timeout", timeout),
        case("passive", passive),
        case("locked", locked),
        case("printless", printless),
        case("doorbells", doorbells),
        case("three_peers", three_peers),
        case("memory_by_bar", memory_by_bar),
        case("output_sections_only", output_sections_only),
        case("one_shot", one_shot),
        case("linux_doorbells", linux_doorbells),
        case("give_back", give_back),
        case("dmesg", |bench| bench.dmesg_is_clean()),
    ],
};

/// Gives a cell its image and command line, and starts it.
fn run(bench: &mut Bench<'_>, cell: &str, image: &str, line: &str) -> Result<()> {
    let image = bench.scratch.join(image);
    bench
        .ok(&format!("crtos cell load {cell} -s '{line}' -a 0x1000 {} && crtos cell start {cell}", image.display()))
        .map(drop)
}

/// A cell with the message inmate, running.
fn message(bench: &mut Bench<'_>, inmate: &Inmate, line: &str) -> Result<Console> {
    prepare(bench)?;
    create(bench, inmate)?;
    let mut console = Console::now(bench)?;
    run(bench, inmate.name, "message.bin", line)?;
    console.wait_for("message inmate: flags")?;
    Ok(console)
}

fn first() -> Inmate {
    Inmate::new("first", &[3], FIRST)
}

fn second() -> Inmate {
    Inmate::new("second", &[2], SECOND)
}

/// A command that a cell does not allow.
fn refused(bench: &mut Bench<'_>, command: &str) -> Result<()> {
    let output = bench.sh(command)?;
    let text = String::from_utf8_lossy(&output.stderr);
    if output.status != 1 || !text.contains("lock") {
        bail!("{command}: not refused\n{}", said(&output));
    }
    Ok(())
}

/// Requests are approved; a cell hears of others that come and go.
fn approved(bench: &mut Bench<'_>) -> Result<()> {
    let mut console = message(bench, &first(), "approve")?;
    create(bench, &second())?;
    same("message", console.wait_for("message inmate: message")?, "00000002".into())?;
    bench.ok("crtos cell destroy second")?;
    same("message", console.wait_for("message inmate: message")?, "00000002".into())?;
    bench.ok("crtos cell shutdown first")?;
    same("message", console.wait_for("message inmate: message")?, "00000001".into())?;
    wait_for_state(bench, "first", "shut down")?;
    bench.ok("crtos cell destroy first").map(drop)
}

/// A cell that refuses goes on, whatever is wanted of it.
fn denied(bench: &mut Bench<'_>) -> Result<()> {
    let mut console = message(bench, &first(), "deny")?;
    refused(bench, "crtos cell shutdown first")?;
    console.wait_for("message inmate: message")?;
    wait_for_state(bench, "first", "running")?;
    refused(bench, "crtos cell destroy first")?;
    wait_for_state(bench, "first", "running")?;
    bench.ok("crtos cell destroy first")?;
    same("CPUs of Linux", bench.ok("nproc")?, "4\n".into())
}

/// A cell that does not answer has failed, and is destroyed.
fn timeout(bench: &mut Bench<'_>) -> Result<()> {
    message(bench, &Inmate { reply_timeout: 100_000, ..first() }, "silent")?;
    bench.ok("crtos cell shutdown first")?;
    wait_for_state(bench, "first", "failed")?;
    let why = bench.ok("crtos cell why first")?;
    if !why.contains("no answer to a message") {
        bail!("the reason is not named:\n{why}");
    }
    bench.ok("crtos cell destroy first").map(drop)
}

/// A passive cell is not asked.
fn passive(bench: &mut Bench<'_>) -> Result<()> {
    // For ever, if it were.
    message(bench, &Inmate { reply_timeout: 0, ..first() }.passive(), "silent")?;
    create(bench, &second())?;
    wait_for_state(bench, "first", "running")?;
    bench.ok("crtos cell destroy first && crtos cell destroy second").map(drop)
}

/// Nobody comes or goes while a cell is locked; it may go itself.
fn locked(bench: &mut Bench<'_>) -> Result<()> {
    message(bench, &first(), "locked")?;
    wait_for_state(bench, "first", "running, locked")?;
    let file = bench.scratch.join("second.cell");
    fs::write(&file, second().config()?)?;
    refused(bench, &format!("crtos cell create {}", file.display()))?;
    same("CPUs of Linux", bench.ok("nproc")?, "3\n".into())?;
    bench.ok("crtos cell destroy first").map(drop)
}

/// Who may not print does not, and is told so.
fn printless(bench: &mut Bench<'_>) -> Result<()> {
    prepare(bench)?;
    create(bench, &Inmate { flags: CellFlags::empty(), ..first() })?;
    run(bench, "first", "message.bin", "printless")?;
    // Its state says that it was told: it has failed otherwise.
    wait_for_state(bench, "first", "shut down")?;
    bench.ok("crtos cell destroy first").map(drop)
}

/// Doorbells and states between two cells; one that goes is seen to go.
fn doorbells(bench: &mut Bench<'_>) -> Result<()> {
    prepare(bench)?;
    create(bench, &first().linked(0, 2))?;
    create(bench, &second().linked(1, 2))?;
    let mut console = Console::now(bench)?;
    run(bench, "first", "ivshmem.bin", "answer")?;
    same("peer", console.wait_for("ivshmem inmate: peer")?, "00000000".into())?;
    run(bench, "second", "ivshmem.bin", "ring")?;
    same("peer", console.wait_for("ivshmem inmate: peer")?, "00000001".into())?;
    let text = console.wait_for("ivshmem inmate: answers")?;
    same("answers", text, "00000064".into())?;
    bench.ok("crtos cell shutdown second")?;
    same("state of who was shut down", console.wait_for("state of the other")?, "00000000".into())?;
    // And back again.
    run(bench, "second", "ivshmem.bin", "ring")?;
    console.wait_for("ivshmem inmate: answers")?;
    bench.ok("crtos cell destroy second")?;
    same("state of who is gone", console.wait_for("state of the other")?, "00000000".into())?;
    bench.ok("crtos cell destroy first").map(drop)
}

/// Three cells on one link: each sees the others' states and output sections, only who is rung is interrupted, and who goes, comes
/// back, or writes to another's section is seen by both others.
fn three_peers(bench: &mut Bench<'_>) -> Result<()> {
    prepare(bench)?;
    let third = Inmate::new("third", &[1], THIRD);
    let cells = [first(), second(), third].into_iter().zip(0..).map(|(cell, own)| cell.linked(own, 3));
    let cells: Vec<Inmate> = cells.collect();
    let console = Console::now(bench)?;
    for cell in &cells {
        create(bench, cell)?;
        run(bench, cell.name, "peers.bin", "ring")?;
    }
    for own in 0..3 {
        let said = |what: &str| console.clone().wait_for(&format!("peers inmate {own}: {what}"));
        same("output sections", said("of 3 sees")?, "a0 a1 a2".to_owned())?;
        same("interrupts", said("rung")?, "100".to_owned())?;
    }
    let told = |bench: &mut Bench<'_>, states: &str, change: &dyn Fn(&mut Bench<'_>) -> Result<()>| {
        let console = Console::now(bench)?;
        change(bench)?;
        (0..2).try_for_each(|own| console.clone().wait_for(&format!("peers inmate {own}: states {states}")).map(drop))
    };
    told(bench, "2 2 0", &|bench| bench.ok("crtos cell destroy third").map(drop))?;
    told(bench, "2 2 1", &|bench| {
        create(bench, &cells[2])?;
        run(bench, "third", "peers.bin", "write")
    })?;
    wait_for_state(bench, "third", "failed")?;
    let why = bench.ok("crtos cell why third")?;
    if !why.contains("to write 0x52002000") {
        bail!("not stopped for writing to the first one's section:\n{why}");
    }
    told(bench, "2 2 0", &|bench| bench.ok("crtos cell destroy third").map(drop))?;
    told(bench, "2 2 2", &|bench| {
        create(bench, &cells[2])?;
        run(bench, "third", "peers.bin", "come")
    })?;
    bench.ok("crtos cell destroy third && crtos cell destroy second && crtos cell destroy first").map(drop)
}

/// A cell finds its shared memory by BAR 2, and cannot move it; the other finds it by the address in its capability.
fn memory_by_bar(bench: &mut Bench<'_>) -> Result<()> {
    prepare(bench)?;
    create(bench, &first().linked(0, 2).by_memory_bar())?;
    create(bench, &second().linked(1, 2))?;
    let shown = bench.ok(&format!("crtos config show {}", bench.scratch.join("first.cell").display()))?;
    if !shown.contains("BAR 2 of 0x4000 bytes") {
        bail!("crtos config show does not name BAR 2:\n{shown}");
    }
    let console = Console::now(bench)?;
    run(bench, "first", "peers.bin", "ring")?;
    run(bench, "second", "peers.bin", "ring")?;
    let said = |own: u32, what: &str| console.clone().wait_for(&format!("peers inmate {own}: {what}"));
    let bar = "52000000 size 4000 elsewhere 152000000 memory a0 back 52000000";
    same("BAR 2", said(0, "BAR 2 at")?, bar.to_owned())?;
    for own in 0..2 {
        same("output sections", said(own, "of 2 sees")?, "a0 a1".to_owned())?;
        same("interrupts", said(own, "rung")?, "100".to_owned())?;
    }
    if console.text()?.contains("peers inmate 1: BAR 2") {
        bail!("a BAR 2 where the capability has the address:\n{}", console.text()?);
    }
    bench.ok("crtos cell destroy second && crtos cell destroy first").map(drop)
}

/// A link needs no section that all write, as those of network drivers do not.
fn output_sections_only(bench: &mut Bench<'_>) -> Result<()> {
    prepare(bench)?;
    let console = Console::now(bench)?;
    for (cell, own) in [first(), second()].into_iter().zip(0..) {
        create(bench, &cell.linked(own, 2).without_common_section())?;
    }
    run(bench, "first", "peers.bin", "ring")?;
    run(bench, "second", "peers.bin", "ring")?;
    for own in 0..2 {
        let said = |what: &str| console.clone().wait_for(&format!("peers inmate {own}: {what}"));
        same("output sections", said("of 2 sees")?, "a0 a1".to_owned())?;
        same("interrupts", said("rung")?, "100".to_owned())?;
    }
    bench.ok("crtos cell destroy second && crtos cell destroy first").map(drop)
}

/// In one-shot mode an interrupt takes the permission for the next one away.
fn one_shot(bench: &mut Bench<'_>) -> Result<()> {
    prepare(bench)?;
    create(bench, &first().linked(0, 2))?;
    let mut console = Console::now(bench)?;
    run(bench, "first", "ivshmem.bin", "one-shot")?;
    same("of three doorbells", console.wait_for("ivshmem inmate: one-shot")?, "00000001".into())?;
    same("interrupt control", console.wait_for("ivshmem inmate: control")?, "00000000".into())?;
    same("with permission", console.wait_for("ivshmem inmate: allowed again")?, "00000002".into())?;
    bench.ok("crtos cell destroy first").map(drop)
}

/// How many interrupts of its end of the link Linux has had: state changes and doorbells.
fn of_linux(bench: &mut Bench<'_>) -> Result<Vec<u64>> {
    let lines = bench.ok("grep 'crtos' /proc/interrupts")?;
    let sums =
        lines.lines().map(|line| line.split_whitespace().skip(1).map_while(|word| word.parse::<u64>().ok()).sum());
    Ok(sums.collect())
}

/// Between a cell and Linux, whose driver has the other end of the default system's link.
fn linux_doorbells(bench: &mut Bench<'_>) -> Result<()> {
    prepare(bench)?;
    let composed = bench.ok("od -An -v -tx1 /usr/lib/crtos/srtos.cell")?;
    let composed: Vec<u8> =
        composed.split_whitespace().map(|byte| u8::from_str_radix(byte, 16)).collect::<Result<_, _>>()?;
    create(bench, &first().with_link(&composed)?)?;
    let before = of_linux(bench)?;
    let mut console = Console::now(bench)?;
    run(bench, "first", "ivshmem.bin", "knock")?;
    same("peer", console.wait_for("ivshmem inmate: peer")?, "00000001".into())?;
    console.wait_for("ivshmem inmate: knocked")?;
    let after = of_linux(bench)?;
    let [states_before, bells_before] = before[..] else { bail!("not two vectors: {before:?}") };
    let [states, bells] = after[..] else { bail!("not two vectors: {after:?}") };
    if states <= states_before || bells <= bells_before {
        bail!("no interrupt of Linux: {before:?}, then {after:?}");
    }
    // Its driver goes and comes again: the cell is told, with the state.
    bench.ok("echo 0000:00:0e.0 > /sys/bus/pci/drivers/crtos-shadow/unbind")?;
    same("state of Linux", console.wait_for("state of the other")?, "00000000".into())?;
    bench.ok("echo 0000:00:0e.0 > /sys/bus/pci/drivers/crtos-shadow/bind")?;
    same("state of Linux", console.wait_for("state of the other")?, "00000003".into())?;
    bench.ok("crtos cell destroy first").map(drop)
}

fn give_back(bench: &mut Bench<'_>) -> Result<()> {
    bench.ok("crtos disable")?;
    same("CPUs of Linux", bench.ok("nproc")?, "4\n".into())
}
