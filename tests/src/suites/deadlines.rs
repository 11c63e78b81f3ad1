//! Deadlines while servers die: in a machine whose time is the number of instructions executed, so that a busy host misses none.

use std::time::Duration;

use anyhow::{Context, Result, bail};

use super::support::{crtos_run, same};
use crate::cyclictest;
use crate::random::Random;
use crate::suite::{Bench, Suite, case};

/// With one processor for each realm.
pub const SUITE: Suite = Suite {
    name: "deadlines",
    wanted: Some(super::COUNTING_MACHINE),
    cases: &[case("kills", kills), case("dmesg", |bench| bench.dmesg_is_clean())],
};

/// Orders to kill that are given while cyclictest runs, if it runs for so long.
const KILLS: u64 = 150;
/// Wake-ups of cyclictest.
const LOOPS: u64 = 5_000;
/// Microseconds from one to the next. The processors take turns, so the clock counts what either does: this is a millisecond for each.
const PERIOD: u64 = 2_000;

/// Servers that programs need for their calls, or do not need at all, are killed over and over: cyclictest misses no deadline, the heartbeat that
/// nobody kills no beat, and a program that appends lines sees nothing of it.
fn kills(bench: &mut Bench<'_>) -> Result<()> {
    bench.limit = Duration::from_secs(400);
    crtos_run(bench, &["/bin/true"], b"")?;
    let mut random = Random::new(0x9e37_79b9_7f4a_7c15);
    // The program begins before cyclictest and ends after it: to start or to end one is work of the personality, and takes its time.
    let mut script = format!(
        "touch going
         crtos run /bin/sh -c 'i=0; while [ -e going ]; do echo line $i || exit 9; i=$((i+1)); done' > lines 2> errors & lines=$!
         for i in $(seq 100); do [ -s lines ] && break; sleep 0.1; done
         crtos run /usr/bin/cyclictest -q -m -p 90 -i {PERIOD} -l {LOOPS} > times & times=$!
         for i in $(seq 100); do crtos ps | grep -q cyclictest && break; sleep 0.1; done
         sleep 1; kills=0\n"
    );
    for _ in 0..KILLS {
        let server = if random.below(3) == 0 { "heartbeat" } else { "vfs-proxy" };
        script.push_str(&format!(
            "kill -0 $times 2>/dev/null && {{ crtos server kill {server} || exit 97; kills=$((kills + 1)); sleep 0.{:03}; }}\n",
            random.below(80)
        ));
    }
    script.push_str("wait $times || exit 96; rm going; wait $lines || exit 95; cat errors >&2; echo $kills; cat times");
    let said = bench.sh(&script)?;
    if said.status != 0 {
        bail!("status {}: {}", said.status, crate::suite::said(&said));
    }
    let text = String::from_utf8_lossy(&said.stdout).into_owned();
    let (number, times) = text.split_once('\n').context("kills, and what cyclictest says")?;
    let latency = cyclictest::parse(times)?;
    eprintln!("    {number} kills; cyclictest woke up {} times, at most {} µs late", latency.cycles, latency.max);
    if number.parse::<u64>()? < 50 {
        bail!("only {number} kills while cyclictest ran");
    }
    same("cycles", latency.cycles, LOOPS)?;
    if latency.max >= PERIOD as i64 {
        bail!("cyclictest woke up {} µs late", latency.max);
    }
    let lines = std::fs::read_to_string(bench.scratch.join("lines"))?;
    let wanted: String = (0..lines.lines().count()).map(|line| format!("line {line}\n")).collect();
    same("lines as written", lines == wanted, true)?;
    same(
        "missed beats",
        bench.vm()?.console()?.lines().filter(|line| line.starts_with("mortal:")).find(|line| line.contains("missed")),
        None,
    )
}
