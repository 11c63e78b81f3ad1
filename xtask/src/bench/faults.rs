//! Guest instructions from a server's crash to its new instance being ready to run, and how much of that others notice. Time counts
//! instructions there, one a tick of the time-stamp counter, and `init` says how many ticks it took.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use tests::standalone::Standalone;
use tests::suite::{Flavour, environment};
use tests::wire;

use super::Figure;
use crate::build;
use crate::guest::{self, Kind};
use crate::tree::Tree;

const LIMIT: Duration = Duration::from_secs(90);
/// Restarts of the seven servers that crash in the image in which they crash in every way there is, two each.
const RESTARTS: usize = 14;
/// What is promised for each server.
const MOST: u64 = 2_000_000;
/// What is promised to a thread that is more urgent than who dies.
const MOST_DISTURBED: u64 = 1_500;
/// Restarts of each server in the image with the bystander.
const SEEN: usize = 8;

/// What is promised of a Linux that is dead, in microseconds of guest time.
const MOST_DEAD: u64 = 10_000;

/// Boots the two images alone, and the one with Linux.
pub fn measure(tree: &Tree) -> Result<Vec<Figure>> {
    let mut figures = ways(tree)?;
    figures.extend(bystander(tree)?);
    figures.push(dead_linux(tree)?);
    Ok(figures)
}

/// How long Linux has shown no sign of life when that is noticed: it panics while a program waits for it. The manifest that faults are
/// tested with, with less patience.
fn dead_linux(tree: &Tree) -> Result<Figure> {
    const PATIENT: &str = "silent-ms=2000";
    let text = std::fs::read_to_string(build::manifest(tree, "crash")?)?;
    if !text.contains(PATIENT) {
        bail!("crash.toml does not say {PATIENT}");
    }
    let kind = Kind { name: "dead-linux".into(), flavour: Flavour::Rt, manifest: None, reserved: true };
    let directory = tree.new_log_directory("bench-dead-linux")?;
    let manifest = directory.join("dead-linux.toml");
    std::fs::write(
        &manifest,
        text.replace(PATIENT, "silent-ms=5")
            .replace("silent=eio", "silent=wait")
            .replace("name = \"crash\"", "name = \"dead-linux\""),
    )?;
    let machine = guest::machine(tree, &Kind { manifest: Some(manifest), ..kind })?;
    let mut vm = guest::boot(&machine)?;
    guest::bring_up(&mut vm)?;
    let script = "echo 0 > /proc/sys/kernel/panic
        setsid /bin/bash -c 'sleep 1000 | crtos run /bin/cat' < /dev/null > /dev/null 2>&1 &
        for i in $(seq 100); do crtos ps | grep -q cat && break; sleep 0.1; done
        setsid /bin/bash -c 'sleep 1; echo c > /proc/sysrq-trigger' < /dev/null > /dev/null 2>&1 &";
    let command = wire::Command {
        argv: ["/bin/bash", "-c", script].map(Into::into).into(),
        env: environment(),
        cwd: "/".into(),
        terminal: None,
    };
    let output = vm.capture(&command, b"", LIMIT)?;
    if output.status != 0 {
        bail!("cannot make Linux panic: {}", String::from_utf8_lossy(&output.stderr));
    }
    let deadline = Instant::now() + LIMIT;
    let said = |name: &str| -> Result<String> {
        Ok(String::from_utf8_lossy(&std::fs::read(vm.logs().join(name))?).into_owned())
    };
    loop {
        std::thread::sleep(Duration::from_millis(200));
        let console = said("hypervisor.log")?;
        let last = console.lines().rev().find(|line| line.contains("vfs-proxy: Linux "));
        if said("linux.log")?.contains("Kernel panic")
            && let Some(us) = last.and_then(silence)
        {
            // What it notices late because it does not look all the time is in the figure; a pulse of Linux that it saw late is not.
            return Ok(Figure::new("faults.dead_linux", us, "us of guest time").at_most(MOST_DEAD));
        }
        if Instant::now() > deadline {
            bail!("nobody has noticed that Linux is dead");
        }
    }
}

/// The time in "vfs-proxy: Linux is silent: no sign of life for N us; …".
fn silence(line: &str) -> Option<u64> {
    line.split_once("no sign of life for ")?.1.split_once(" us")?.0.parse().ok()
}

/// The longest restart of each server.
fn ways(tree: &Tree) -> Result<Vec<Figure>> {
    let realm = build::realm(tree, &build::manifest(tree, "faults")?)?;
    let logs = tree.new_log_directory("bench-faults")?;
    let mut running = Standalone::new(realm.directory.join("srtos.elf"), logs).counting().boot()?;
    let mut longest = BTreeMap::new();
    for _ in 0..RESTARTS {
        let line = running.wait_for(" restarted, generation ", LIMIT)?;
        let (server, ticks) = parse(&line).with_context(|| line.clone())?;
        let most: &mut u64 = longest.entry(server).or_default();
        *most = ticks.max(*most);
    }
    if longest.len() * 2 != RESTARTS {
        bail!("restarts of {} servers: {longest:?}", longest.len());
    }
    let figure = |(server, ticks)| Figure::new(format!("faults.restart.{server}"), ticks, "instructions").at_most(MOST);
    Ok(longest.into_iter().map(figure).collect())
}

/// How much later than undisturbed a thread beats that is more urgent than those that die beside it, and what their restarts take with
/// its beats.
fn bystander(tree: &Tree) -> Result<Vec<Figure>> {
    let realm = build::realm(tree, &build::manifest(tree, "bystander")?)?;
    let logs = tree.new_log_directory("bench-bystander")?;
    let mut running = Standalone::new(realm.directory.join("srtos.elf"), logs).counting().boot()?;
    let line = running.wait_for(" ticks late", LIMIT)?;
    let disturbed = disturbed(&line).with_context(|| line.clone())?;
    let mut figures = vec![Figure::new("faults.bystander", disturbed, "instructions").at_most(MOST_DISTURBED)];
    for server in ["small", "large"] {
        let restarts: Vec<u64> = running
            .said()
            .iter()
            .filter_map(|line| parse(line))
            .filter(|(name, _)| name == server)
            .map(|(_, ticks)| ticks)
            .collect();
        if restarts.len() < SEEN {
            bail!("{} restarts of \"{server}\" while the bystander beat", restarts.len());
        }
        let longest = restarts.iter().copied().max().unwrap_or_default();
        figures.push(Figure::new(format!("faults.restart.{server}"), longest, "instructions").at_most(MOST));
    }
    Ok(figures)
}

/// Server and ticks of "init: server NAME restarted, generation N, T ticks after its death".
fn parse(line: &str) -> Option<(String, u64)> {
    let (server, rest) = line.split_once("server ")?.1.split_once(" restarted, generation ")?;
    let ticks = rest.split_once(", ")?.1.split_once(" ticks")?.0;
    Some((server.to_owned(), ticks.parse().ok()?))
}

/// The difference in "… that is all; A to B ticks late".
fn disturbed(line: &str) -> Option<u64> {
    let (least, most) = line.split_once("; ")?.1.strip_suffix(" ticks late")?.split_once(" to ")?;
    most.parse::<u64>().ok()?.checked_sub(least.parse().ok()?)
}

#[cfg(test)]
mod unit {
    use super::{disturbed, parse, silence};

    #[test]
    fn a_line_is_read() {
        let line = "init: server a-b restarted, generation 2, 1234 ticks after its death";
        assert_eq!(parse(line), Some(("a-b".to_owned(), 1234)));
        assert_eq!(parse("init: server a restarted"), None);
        assert_eq!(silence("vfs-proxy: Linux is silent: no sign of life for 5600 us; 1 calls ended"), Some(5600));
        assert_eq!(disturbed("bystander: 9 beats, that is all; 400 to 1500 ticks late"), Some(1100));
    }
}
