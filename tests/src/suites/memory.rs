//! The hypervisor in memory that was taken from the running Linux: nothing was set aside at boot.

use std::time::Duration;

use anyhow::{Context, Result, bail};

use super::support::same;
use crate::suite::{Bench, State, Suite, Wanted, case, long, said};

/// Under the PREEMPT_RT kernel.
pub const SUITE: Suite = Suite {
    name: "memory",
    wanted: Some(Wanted { reserved: false, memory: 3072, option: Some("nokaslr"), ..Wanted::new(State::Installed) }),
    cases: &[
        case("refused", refused),
        case("three_times", three_times),
        long("twenty_under_load", twenty_under_load),
        case("dmesg", |bench| bench.dmesg_is_clean()),
    ],
};

/// One round of the realm's life in taken memory.
const ROUND: &str = "crtos enable --memory 768M > took && crtos cell create && crtos cell load && crtos cell start &&
    [ \"$(crtos run /bin/echo up)\" = up ] && crtos cell shutdown && crtos cell destroy && crtos disable --unload";

/// What Linux has: a line with the kilobytes, and one for each memory block that is off line.
const HAS: &str = "grep MemTotal: /proc/meminfo; grep -L '^online' /sys/devices/system/memory/memory*/state || true";

/// Bytes that Linux has.
fn total(bench: &mut Bench<'_>) -> Result<u64> {
    bytes(&bench.ok("grep MemTotal: /proc/meminfo")?)
}

fn bytes(line: &str) -> Result<u64> {
    let kilobytes: u64 = line.split_whitespace().nth(1).context("a figure")?.parse()?;
    Ok(kilobytes << 10)
}

/// What cannot be taken is left, in words, and nothing is missing afterwards.
fn refused(bench: &mut Bench<'_>) -> Result<()> {
    let state = "cat /sys/devices/system/memory/memory*/state | sort | uniq -c; lsmod | grep -c ^crtos";
    let before = (total(bench)?, bench.sh(state)?.stdout);
    for (command, words) in [
        ("crtos enable --memory 64M", "this system needs"),
        ("crtos enable --memory 1T", "unit"),
        ("crtos enable --memory 64G", "memory blocks of 128 MiB"),
        ("crtos enable --memory 768M --config /dev/null", "cannot be used with"),
    ] {
        let output = bench.sh(command)?;
        if output.status == 0 || !String::from_utf8_lossy(&output.stderr).contains(words) {
            bail!("{command}: not refused with \"{words}\"\n{}", said(&output));
        }
        same("memory of Linux", (total(bench)?, bench.sh(state)?.stdout), before.clone())?;
    }
    Ok(())
}

/// Linux has what it had: `said` is what [`HAS`] printed. When blocks are removed for the first time, it gains what describes their
/// pages: that was set aside at boot, and comes from its memory from then on.
fn restored(said: &str, before: u64) -> Result<u64> {
    let now = bytes(said)?;
    if now < before || now - before > (768 << 20) / 64 {
        bail!("Linux had {before} bytes, and has {now}");
    }
    same("memory off line", said.lines().skip(1).count(), 0)?;
    Ok(now)
}

fn three_times(bench: &mut Bench<'_>) -> Result<()> {
    let mut before = total(bench)?;
    for round in 0..3 {
        bench.ok(ROUND)?;
        let took = bench.ok("grep -c '^took memory' took")?;
        same("blocks taken", took.trim(), "6")?;
        let now = restored(&bench.ok(HAS)?, before)?;
        if round > 0 {
            same("memory of Linux after a later round", now, before)?;
        }
        before = now;
    }
    Ok(())
}

/// Linux works, and its page cache is full.
fn twenty_under_load(bench: &mut Bench<'_>) -> Result<()> {
    bench.limit = Duration::from_secs(2400);
    let before = total(bench)?;
    let output = bench.sh(&format!(
        "stress-ng --cpu 1 --vm 1 --vm-bytes 256M --pipe 1 --timer 1 --quiet & load=$!
         (while :; do find /usr -xdev -type f -print0 | xargs -0 cat; done) > /dev/null 2>&1 & readers=$!
         for round in $(seq 20); do
             ({ROUND}) > /dev/null || {{ echo round $round >&2; cat took >&2; kill $load $readers; exit 1; }}
             kill -0 $load || {{ echo the load has ended >&2; exit 1; }}
             {HAS}; echo
         done
         kill $load $readers; wait $load; exit 0"
    ))?;
    if output.status != 0 {
        bail!("{}", said(&output));
    }
    let said = String::from_utf8(output.stdout)?;
    let rounds: Vec<&str> = said.trim_end().split("\n\n").collect();
    same("rounds", rounds.len(), 20)?;
    for (round, said) in (1..).zip(rounds) {
        restored(said, before).with_context(|| format!("after round {round}"))?;
    }
    Ok(())
}
