//! Guest instructions from a server's crash to its new instance being ready to run, in the image in which servers crash in every way
//! there is. Time counts instructions there, one a tick of the time-stamp counter, and `init` says how many ticks it took.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use tests::standalone::Standalone;

use super::Figure;
use crate::build;
use crate::tree::Tree;

const LIMIT: Duration = Duration::from_secs(300);
/// Restarts of the seven servers that crash, two each.
const RESTARTS: usize = 14;
/// What is promised for each server.
const MOST: u64 = 2_000_000;

/// Boots the image alone; the longest restart of each server.
pub fn measure(tree: &Tree) -> Result<Vec<Figure>> {
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

/// Server and ticks of "init: server NAME restarted, generation N, T ticks after its death".
fn parse(line: &str) -> Option<(String, u64)> {
    let (server, rest) = line.split_once("server ")?.1.split_once(" restarted, generation ")?;
    let ticks = rest.split_once(", ")?.1.split_once(" ticks")?.0;
    Some((server.to_owned(), ticks.parse().ok()?))
}

#[cfg(test)]
mod unit {
    use super::parse;

    #[test]
    fn a_line_is_read() {
        let line = "init: server a-b restarted, generation 2, 1234 ticks after its death";
        assert_eq!(parse(line), Some(("a-b".to_owned(), 1234)));
        assert_eq!(parse("init: server a restarted"), None);
    }
}
