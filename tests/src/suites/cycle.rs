//! The realm comes up and goes away again, under a Linux that is at work.

use std::slice::from_ref;
use std::time::Duration;

use anyhow::{Result, bail};

use super::support::{program, same};
use crate::realm::{BRING_UP, TAKE_DOWN, script};
use crate::suite::{Bench, Flavour, State, Suite, Wanted, case, long};

const MACHINE: Wanted = Wanted::new(State::Installed);

/// Under the PREEMPT_RT kernel.
pub const RT: Suite = Suite {
    name: "cycle",
    wanted: Some(MACHINE),
    cases: &[
        case("once", once),
        case("ten_under_load", |bench| under_load(bench, 10)),
        long("hundred_under_load", |bench| under_load(bench, 100)),
        case("cpus_come_back", cpus_come_back),
        case("exits_beside_fpu", exits_beside_fpu),
        case("processor_state", |bench| processor_state(bench, Flavour::Rt, 10)),
        long("processor_state_hundred", |bench| processor_state(bench, Flavour::Rt, 100)),
        case("dmesg", |bench| bench.dmesg_is_clean()),
    ],
};

/// Under the stock kernel.
pub const STOCK: Suite = Suite {
    name: "cycle-stock",
    wanted: Some(MACHINE.kernel(Flavour::Stock)),
    cases: &[
        case("once", once),
        case("ten_under_load", |bench| under_load(bench, 10)),
        case("processor_state", |bench| processor_state(bench, Flavour::Stock, 10)),
        case("dmesg", |bench| bench.dmesg_is_clean()),
    ],
};

/// Everything that Linux had before, it has again.
fn once(bench: &mut Bench<'_>) -> Result<()> {
    let state = "nproc; cat /sys/devices/system/cpu/online; lsmod | grep -c ^crtos; grep -c crtos /proc/iomem";
    let before = bench.sh(state)?.stdout;
    bench.ok(&format!("set -e\n{}", script(&BRING_UP)))?;
    same("CPUs of Linux", bench.ok("nproc")?, "3\n".into())?;
    same("a program", bench.ok("crtos run /bin/echo up")?, "up\n".into())?;
    bench.ok(&format!("set -e\n{}", script(&TAKE_DOWN)))?;
    let after = bench.sh(state)?.stdout;
    same(
        "the state of Linux",
        String::from_utf8_lossy(&after).into_owned(),
        String::from_utf8_lossy(&before).into_owned(),
    )
}

fn under_load(bench: &mut Bench<'_>, times: u32) -> Result<()> {
    let round = format!("{}crtos run /bin/true\n{}", script(&BRING_UP), script(&TAKE_DOWN));
    repeat_under_load(bench, times, &round)
}

/// Linux starts the CPU of a cell again each time the cell goes: INIT and two start-ups, which may come so close together that
/// the CPU sees them at once.
fn cpus_come_back(bench: &mut Bench<'_>) -> Result<()> {
    let ([before @ .., create, _, _], [_, destroy, after @ ..]) = (&BRING_UP, &TAKE_DOWN);
    bench.ok(&format!("set -e\n{}", script(before)))?;
    repeat_under_load(bench, 20, &(script(from_ref(create)) + &script(from_ref(destroy))))?;
    bench.ok(&format!("set -e\n{}", script(after))).map(drop)
}

/// The first processor enters and leaves the hypervisor while others load their FPU registers: QEMU, unless mended, spoils what it knows
/// of the first one then, which stops within a second.
fn exits_beside_fpu(bench: &mut Bench<'_>) -> Result<()> {
    let contend = program(bench, "contend")?;
    let ([before @ .., _, _, _], [_, _, after @ ..]) = (&BRING_UP, &TAKE_DOWN);
    bench
        .ok(&format!(
            "set -e\n{}
         taskset -c 1 {contend} fpu & taskset -c 2 {contend} fpu &
         taskset -c 0 {contend} exits 500
         kill %1 %2
         {}",
            script(before),
            script(after)
        ))
        .map(drop)
}

/// Whatever a processor holds is the same before and after it enters the hypervisor, before and after it leaves it, and over both: the
/// module compares on each processor, right there.
fn processor_state(bench: &mut Bench<'_>, kernel: Flavour, times: u32) -> Result<()> {
    let module = bench.builder.module("cpustate", kernel)?;
    let figures = "cd /sys/module/cpustate/parameters && cat checked wrong";
    bench.ok(&format!("insmod /usr/lib/crtos/crtos.ko && insmod {}", module.display()))?;
    repeat_under_load(bench, times, "crtos enable\ncrtos disable\n")?;
    let counts = bench.ok(figures)?;
    bench.ok("rmmod cpustate crtos")?;
    if counts != format!("{}\n0\n", 4 * 3 * times) {
        bail!("comparisons and differences: {counts}{}", bench.ok("dmesg | grep cpustate: | tail -n 20")?);
    }
    Ok(())
}

fn repeat_under_load(bench: &mut Bench<'_>, times: u32, round: &str) -> Result<()> {
    bench.limit = Duration::from_secs(60 * u64::from(times));
    let script = format!(
        "stress-ng --cpu 1 --vm 1 --vm-bytes 64M --pipe 1 --timer 1 --quiet & load=$!
         for round in $(seq {times}); do\n(set -e\n{round}) || {{ echo round $round >&2; kill $load; exit 1; }}
         kill -0 $load || {{ echo the load has ended >&2; exit 1; }}
         done
         kill $load; wait $load; exit 0"
    );
    let output = bench.sh(&script)?;
    if output.status != 0 {
        bail!("{}", crate::suite::said(&output));
    }
    Ok(())
}
