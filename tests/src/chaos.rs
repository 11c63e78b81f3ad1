//! Servers are killed at random while programs run, and nothing may be lost.
//!
//! Which server dies when comes from a seed. The load: one program that appends lines, one that copies a large file, short ones one after
//! the other, and cyclictest. None of them may notice: each ends with status 0, and its files are whole. Beside them a server beats that uses nothing but the kernel: it must go on beating.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use crate::cyclictest;
use crate::random::Random;
use crate::suite::Bench;
use crate::suites::support::{in_use, noise, same};

/// Servers that are killed, and how often of ten times.
const TARGETS: [(&str, u64); 3] = [("vfs-proxy", 5), ("heartbeat", 3), ("linux", 2)];
/// Kills between two looks at the clock.
const BATCH: usize = 10;
/// Lines that each appending program writes.
const LINES: usize = 300;

/// The load: each loop ends when `going` is gone, and leaves a status for each program that it ran.
const LOAD: &str = r#"
    cd "$1"; touch going
    (n=0; while [ -e going ]; do
        crtos run /bin/sh -c 'i=0; while [ $i -lt 300 ]; do echo line $i || exit 9; i=$((i+1)); done' > lines.$n 2>> errors
        echo lines $n $? >> statuses; n=$((n + 1)); done) &
    (n=0; while [ -e going ]; do
        crtos run /bin/cp large copy 2>> errors; status=$?
        echo copy $n $status >> statuses; n=$((n + 1))
        if [ $status = 0 ]; then cmp large copy >> differences || echo $n >> differences; fi; done) &
    (n=0; while [ -e going ]; do crtos run /bin/true 2>> errors; echo true $n $? >> statuses; n=$((n + 1)); done) &
    (n=0; while [ -e going ]; do
        crtos run /usr/bin/cyclictest -q -p 90 -i 1000 -l 1000 > cyclictest.$n 2>> errors
        echo cyclictest $n $? >> statuses; n=$((n + 1)); done) &
    wait; touch ended"#;

/// When it has been enough.
#[derive(Clone, Copy, Debug)]
pub enum Until {
    /// So much time has passed.
    Time(Duration),
    /// So many servers were killed.
    Kills(u64),
}

/// Kills servers until it is enough. What was done, in a sentence.
pub fn run(bench: &mut Bench<'_>, seed: u64, until: Until) -> Result<String> {
    let mut random = Random::new(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1);
    bench.limit = Duration::from_secs(600);
    fs::write(bench.scratch.join("large"), noise(4 << 20))?;
    fs::write(bench.scratch.join("load"), LOAD)?;
    bench.ok("crtos run /bin/true")?;
    let (before, born) = (in_use(bench)?, generations(bench)?);
    bench.ok("setsid /bin/bash ./load $PWD </dev/null >/dev/null 2>&1 & true")?;
    let mut kills = BTreeMap::<&str, u64>::new();
    let start = Instant::now();
    let is_enough = |kills: &BTreeMap<&str, u64>| match until {
        Until::Time(time) => start.elapsed() >= time,
        Until::Kills(number) => kills.values().sum::<u64>() >= number,
    };
    while !is_enough(&kills) {
        let mut script = String::new();
        for _ in 0..BATCH {
            let mut ticket = random.below(TARGETS.iter().map(|(_, share)| share).sum());
            for (server, share) in TARGETS {
                if ticket < share {
                    *kills.entry(server).or_default() += 1;
                    script
                        .push_str(&format!("crtos server kill {server} || exit 1; sleep 0.{:03}\n", random.below(400)));
                    break;
                }
                ticket -= share;
            }
        }
        bench.ok(&script)?;
    }
    bench.ok("rm going; for i in $(seq 2000); do [ -e ended ] && exit 0; sleep 0.1; done; crtos ps; exit 1")?;
    for (server, generation) in generations(bench)? {
        let expected = born.get(&server).unwrap_or(&0) + kills.get(server.as_str()).unwrap_or(&0);
        same(&format!("generation of {server}"), generation, expected)?;
    }
    let (programs, latest) = check(&bench.scratch)?;
    same("what is in use", in_use(bench)?, before)?;
    let log = fs::read(bench.vm()?.logs().join("hypervisor.log"))?;
    let log = String::from_utf8_lossy(&log);
    same("kernel panics", log.matches("panicked").count(), 0)?;
    let (beats, missed) = beats(&log).context("the server that beats has said nothing")?;
    // A host that has no time for the emulator stops the realm too: run it on a quiet one.
    same(&format!("missed beats of {beats}"), missed, 0)?;
    bench.ok("crtos run /bin/true")?;
    let total: u64 = kills.values().sum();
    Ok(format!(
        "seed {seed}: {total} kills {kills:?} in {} s while {programs} programs ran and {beats} beats came, none missed; \
         cyclictest's latest wake-up came {latest} µs late",
        start.elapsed().as_secs()
    ))
}

/// How often each server was started before.
fn generations(bench: &mut Bench<'_>) -> Result<BTreeMap<String, u64>> {
    let list = bench.ok("crtos server list")?;
    let mut all = BTreeMap::new();
    for line in list.lines().skip(1) {
        let words: Vec<&str> = line.split_whitespace().collect();
        let [name, _, state, ..] = words[..] else { bail!("crtos server list: {line}") };
        same(name, state, "running")?;
        if let Some(generation) = words.get(3) {
            all.insert(name.to_owned(), generation.parse().with_context(|| line.to_owned())?);
        }
    }
    Ok(all)
}

/// Beats of the server that nobody kills, and how many it missed: the last of its lines "beat N" or "beat N, M missed".
fn beats(log: &str) -> Option<(u64, u64)> {
    let said = log.lines().rev().find_map(|line| line.split_once("mortal: beat "))?.1.trim();
    let (beats, missed) = said.split_once(", ").unwrap_or((said, "0 missed"));
    Some((beats.parse().ok()?, missed.strip_suffix(" missed")?.parse().ok()?))
}

/// What the programs have left behind: how many there were, and the latest wake-up of a cyclictest that came to its end, in µs.
fn check(scratch: &Path) -> Result<(usize, i64)> {
    let mut latest = 0;
    let statuses = fs::read_to_string(scratch.join("statuses"))?;
    for line in statuses.lines() {
        let words: Vec<&str> = line.split_whitespace().collect();
        let [what, number, status] = words[..] else { bail!("{line}") };
        if status != "0" {
            bail!("{what} {number} ended with status {status}");
        }
        if what == "lines" {
            let text = fs::read_to_string(scratch.join(format!("lines.{number}")))?;
            let expected: String = (0..LINES).map(|line| format!("line {line}\n")).collect();
            same(&format!("lines of program {number}"), text == expected, true)?;
        }
    }
    for line in statuses.lines() {
        if let Some(number) = line.strip_prefix("cyclictest ").and_then(|rest| rest.strip_suffix(" 0")) {
            let said = fs::read_to_string(scratch.join(format!("cyclictest.{number}")))?;
            latest = latest.max(cyclictest::parse(&said)?.max);
        }
    }
    let kinds = ["lines", "copy", "true", "cyclictest"];
    for kind in kinds {
        if !statuses.lines().any(|line| line.starts_with(kind) && line.ends_with(" 0")) {
            bail!("no {kind} came to its end");
        }
    }
    same("copies that differ", fs::read_to_string(scratch.join("differences"))?, String::new())?;
    same("messages", fs::read_to_string(scratch.join("errors"))?, String::new())?;
    Ok((statuses.lines().count(), latest))
}

#[cfg(test)]
mod unit {
    use super::beats;

    #[test]
    fn the_last_line_counts() {
        assert_eq!(beats("mortal: beat 20\nmortal: beat 40\nheartbeat: beat 60"), Some((40, 0)));
        assert_eq!(beats("mortal: beat 20\nmortal: beat 40, 3 missed"), Some((40, 3)));
        assert_eq!(beats(""), None);
    }
}
