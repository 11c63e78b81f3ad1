//! Guest instructions from a server's crash to its new instance being ready to run, and how much of that others notice. Time counts
//! instructions there, one a tick of the time-stamp counter, and `init` says how many ticks it took.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use tests::standalone::Standalone;

use super::Figure;
use crate::build;
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

/// Boots the two images alone.
pub fn measure(tree: &Tree) -> Result<Vec<Figure>> {
    let mut figures = ways(tree)?;
    figures.extend(bystander(tree)?);
    Ok(figures)
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
    use super::{disturbed, parse};

    #[test]
    fn a_line_is_read() {
        let line = "init: server a-b restarted, generation 2, 1234 ticks after its death";
        assert_eq!(parse(line), Some(("a-b".to_owned(), 1234)));
        assert_eq!(parse("init: server a restarted"), None);
        assert_eq!(disturbed("bystander: 9 beats, that is all; 400 to 1500 ticks late"), Some(1100));
    }
}
