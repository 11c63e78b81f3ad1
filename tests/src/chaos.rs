//! Servers are killed at random while programs run, and nothing may be lost.
//!
//! Which server dies when comes from a seed. The load: one program that appends lines, one that copies a large file, short ones one after
//! the other, and cyclictest. Killing `linux` ends the programs that run (status 137); what they had written by then must be whole.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use crate::random::Random;
use crate::suite::Bench;
use crate::suites::support::{in_use, noise, same};

/// Servers that are killed, and how often of ten times.
const TARGETS: [(&str, u64); 3] = [("vfs-proxy", 5), ("heartbeat", 3), ("linux", 2)];
/// Kills between two looks at the clock.
const BATCH: usize = 10;
/// Lines that each appending program writes.
const LINES: usize = 300;
/// Status of a program that ended with the personality.
const KILLED: &str = "137";

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
        crtos run /usr/bin/cyclictest -q -p 90 -i 1000 -l 1000 > cyclictest 2>> errors
        echo cyclictest $n $? >> statuses; n=$((n + 1)); done) &
    wait; touch ended"#;

/// Kills servers for that long. What was done, in a sentence.
pub fn run(bench: &mut Bench<'_>, seed: u64, time: Duration) -> Result<String> {
    let mut random = Random::new(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1);
    bench.limit = Duration::from_secs(300);
    fs::write(bench.scratch.join("large"), noise(4 << 20))?;
    fs::write(bench.scratch.join("load"), LOAD)?;
    bench.ok("crtos run /bin/true")?;
    let (before, born) = (in_use(bench)?, generations(bench)?);
    bench.ok("setsid /bin/bash ./load $PWD </dev/null >/dev/null 2>&1 & true")?;
    let mut kills = BTreeMap::<&str, u64>::new();
    let end = Instant::now() + time;
    while Instant::now() < end {
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
    let programs = check(&bench.scratch)?;
    same("what is in use", in_use(bench)?, before)?;
    let log = fs::read(bench.vm()?.logs().join("hypervisor.log"))?;
    same("kernel panics", String::from_utf8_lossy(&log).matches("panicked").count(), 0)?;
    bench.ok("crtos run /bin/true")?;
    let total: u64 = kills.values().sum();
    Ok(format!("seed {seed}: {total} kills {kills:?} while {programs} programs ran"))
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

/// What the programs have left behind; how many there were.
fn check(scratch: &Path) -> Result<usize> {
    let statuses = fs::read_to_string(scratch.join("statuses"))?;
    for line in statuses.lines() {
        let words: Vec<&str> = line.split_whitespace().collect();
        let [what, number, status] = words[..] else { bail!("{line}") };
        if status != "0" && status != KILLED {
            bail!("{what} {number} ended with status {status}");
        }
        if what == "lines" {
            let text = fs::read_to_string(scratch.join(format!("lines.{number}")))?;
            let count = if status == "0" { LINES } else { text.lines().count() };
            let expected: String = (0..count).map(|line| format!("line {line}\n")).collect();
            same(&format!("lines of program {number}"), text == expected, true)?;
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
    Ok(statuses.lines().count())
}
