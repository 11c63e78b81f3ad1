//! Deadlines while servers die: in a machine whose time is the number of instructions executed, so that a busy host misses none.

use std::fs;
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
    cases: &[
        case("kills", kills),
        case("kills_of_linux", kills_of_linux),
        case("dmesg", |bench| bench.dmesg_is_clean()),
    ],
};

/// Wake-ups of cyclictest.
const LOOPS: u64 = 2_500;
/// Microseconds from one to the next. The processors take turns, so the clock counts what either does: this is a millisecond for each.
const PERIOD: u64 = 2_000;
/// Microseconds that a new instance takes until it serves, in turns as above.
const START: u64 = 2_000;

/// Servers that programs need for their calls, or do not need at all, are killed over and over: cyclictest misses no deadline.
fn kills(bench: &mut Bench<'_>) -> Result<()> {
    let (latest, _) = while_killing(bench, &["vfs-proxy", "vfs-proxy", "heartbeat"], 75)?;
    if latest >= PERIOD {
        bail!("cyclictest woke up {latest} µs late");
    }
    Ok(())
}

/// The server that wakes it up is killed: it comes no later than the longest restart, which ends when the new instance can run, and what that
/// takes to serve.
fn kills_of_linux(bench: &mut Bench<'_>) -> Result<()> {
    let (latest, longest) = while_killing(bench, &["linux"], 20)?;
    if latest > longest + START {
        bail!("cyclictest woke up {latest} µs late, and the longest restart took {longest} µs");
    }
    Ok(())
}

/// Kills servers while cyclictest runs: how late its latest wake-up came, and what the longest restart took, in µs. The heartbeat that nobody kills
/// must miss no beat, and a program that appends lines see nothing of it.
fn while_killing(bench: &mut Bench<'_>, servers: &[&str], kills: u64) -> Result<(u64, u64)> {
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
    for _ in 0..kills {
        let server = servers[random.below(servers.len() as u64) as usize];
        script.push_str(&format!(
            "kill -0 $times 2>/dev/null && {{ crtos server kill {server} || exit 97; kills=$((kills + 1)); sleep 0.{:03}; }}\n",
            random.below(80)
        ));
    }
    script.push_str("wait $times || exit 96; rm going; wait $lines || exit 95; cat errors >&2; echo $kills; cat times");
    let text = bench.ok(&script)?;
    let (number, times) = text.split_once('\n').context("kills, and what cyclictest says")?;
    let latency = cyclictest::parse(times)?;
    let console = bench.vm()?.console()?;
    let longest = longest_restart(&console, servers).context("the console says nothing of a restart")?;
    eprintln!(
        "    {number} kills, restarts of {longest} µs at most; {} wake-ups, at most {} µs late",
        latency.cycles, latency.max
    );
    if number.parse::<u64>()? < kills / 3 {
        bail!("only {number} kills while cyclictest ran");
    }
    same("cycles", latency.cycles, LOOPS)?;
    let lines = fs::read_to_string(bench.scratch.join("lines"))?;
    let wanted: String = (0..lines.lines().count()).map(|line| format!("line {line}\n")).collect();
    same("lines as written", lines == wanted, true)?;
    same("missed beats", console.lines().find(|line| line.starts_with("mortal:") && line.contains("missed")), None)?;
    Ok((latency.max.try_into()?, longest))
}

/// The longest restart of these servers that the console tells of, in µs.
fn longest_restart(console: &str, servers: &[&str]) -> Option<u64> {
    let number = |text: &str| text.split_whitespace().next()?.parse::<u64>().ok();
    let khz = number(console.split_once("kernel: cell, TSC ")?.1)?;
    let restarts =
        console.lines().filter_map(|line| line.strip_prefix("init: server ")?.split_once(" restarted, generation "));
    let ours = restarts.filter(|(server, _)| servers.contains(server));
    Some(ours.filter_map(|(_, rest)| number(rest.split_once(", ")?.1)).max()? * 1000 / khz)
}

#[cfg(test)]
mod unit {
    use super::longest_restart;

    #[test]
    fn the_longest_one_counts() {
        let console = "kernel: cell, TSC 2000 kHz, APIC 1 kHz\ninit: server a restarted, generation 1, 8 ticks after its death\n\
             init: server a restarted, generation 2, 6 ticks after its death\ninit: server b restarted, generation 1, 90 ticks after";
        assert_eq!(longest_restart(console, &["a"]), Some(4));
        assert_eq!(longest_restart(console, &["c"]), None);
    }
}
