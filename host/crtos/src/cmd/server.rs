//! `crtos server …`: the servers of the real-time realm, and orders to their supervisor.

use std::time::Duration;

use anyhow::{Result, bail};
use clap::Subcommand;
use ipc::board::{INIT, WAYS, order};

use crate::board::{self, Board};
use crate::realm::{self, Realm};

/// The supervisor looks at its servers far more often than that.
const SIGN_OF_LIFE: Duration = Duration::from_millis(500);

#[derive(Subcommand)]
pub enum Command {
    /// List the servers
    List,
    /// Take a server as crashed: what follows is its restart policy's matter
    Kill {
        /// Its name
        name: String,
    },
    /// Replace a server by a new instance, whatever its restart policy says
    Restart {
        /// Its name
        name: String,
    },
    /// Make a server, or init, crash (only if the image's manifest says crash_on_order = true)
    Crash {
        /// Its name
        name: String,
        /// In which way
        #[arg(long, value_parser = WAYS)]
        how: String,
    },
}

pub fn server(command: &Command) -> Result<()> {
    let realm = Realm::open()?;
    let board = Board::read(&realm)?;
    match command {
        Command::List => list(&realm, &board),
        Command::Kill { name } => board::order(&realm, order::KILL, board.index(name)?, 0),
        Command::Restart { name } => board::order(&realm, order::RESTART, board.index(name)?, 0),
        Command::Crash { name, how } => {
            let way = WAYS.iter().position(|way| way == how).unwrap_or_default();
            let server = if name == "init" { INIT } else { board.index(name)? };
            board::order(&realm, order::CRASH, server, way as u32)
        }
    }
}

fn list(realm: &Realm, board: &Board) -> Result<()> {
    if realm.status()?.state == realm::ABSENT {
        bail!("the hypervisor is not enabled: run `crtos enable` first");
    }
    let khz = realm.counters().map_or(1, |counters| counters.tsc_khz.max(1));
    println!("{:<32} {:>4} {:<12} {:>10} {:>7} {:>10}", "NAME", "PRIO", "STATE", "GENERATION", "CRASHES", "RESTART-US");
    println!("{:<32} {:>4} {:<12}", "init", "-", if supervises(realm, board)? { "running" } else { "silent" });
    for server in &board.servers {
        let restart = match server.restart_ticks {
            0 => "-".to_owned(),
            ticks => (ticks.saturating_mul(1000) / khz).to_string(),
        };
        println!(
            "{:<32} {:>4} {:<12} {:>10} {:>7} {:>10}",
            server.name,
            server.priority,
            server.state(),
            server.generation,
            server.crashes,
            restart
        );
    }
    Ok(())
}

/// Whether the supervisor's event loop still turns.
fn supervises(realm: &Realm, board: &Board) -> Result<bool> {
    std::thread::sleep(SIGN_OF_LIFE);
    Ok(Board::read(realm)?.turns != board.turns)
}
