//! `crtos`: the Linux side's one command.
//!
//! `enable` and `disable` put the hypervisor under the running Linux and take it away again; `cell` makes, loads, starts and
//! destroys cells; `run` runs a program in the real-time realm as if it ran here; `ps`, `log` and `cell stats` show what goes on there;
//! `server` and `crash` deal with its servers.
//!
//! Exit status: 0, or 1 with one sentence on stderr. `run` has its own: the program's, or 125 (our failure), 126 (not a program
//! for this machine), 127 (no such program).

mod board;
mod cell_state;
mod cmd;
mod config;
mod files;
mod hypervisor;
mod linux;
mod memory;
mod module;
mod program;
mod proxy;
mod realm;
mod sys;
mod watch;
mod why;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

#[derive(Parser)]
#[command(version, about = "Runs programs in the real-time realm beside this Linux")]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Put the hypervisor under this Linux
    Enable(cmd::enable::Arguments),
    /// Take the hypervisor away
    Disable(cmd::disable::Arguments),
    /// Make, load, start, stop, destroy and list cells
    #[command(subcommand)]
    Cell(cmd::cell::Command),
    /// Show, check, convert and create binary configurations of systems and cells
    #[command(subcommand)]
    Config(cmd::config::Command),
    /// Say what this machine has of what the hypervisor needs
    Hardware(cmd::hardware::Arguments),
    /// Run a program in the real-time realm
    Run(cmd::run::Arguments),
    /// List the real-time processes and threads
    Ps,
    /// Show the console of the real-time realm
    Log(cmd::log::Arguments),
    /// List, kill and restart the servers of the real-time realm
    #[command(subcommand)]
    Server(cmd::server::Command),
    /// Show the crash reports of the servers
    #[command(subcommand)]
    Crash(cmd::crash::Command),
    /// Show the console of the hypervisor, and of cells that print through it
    Console(cmd::console::Arguments),
    /// Check, build and compare images and their manifests
    #[command(subcommand)]
    Image(image::cli::Command),
}

fn main() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => {
            let ours = std::env::args_os().nth(1).is_some_and(|verb| verb == "run");
            let _ = error.print();
            return ExitCode::from(if error.use_stderr() { if ours { cmd::run::FAILED } else { 2 } } else { 0 });
        }
    };
    let result = match cli.command {
        Command::Enable(arguments) => cmd::enable::enable(&arguments),
        Command::Disable(arguments) => cmd::disable::disable(&arguments),
        Command::Cell(command) => cmd::cell::cell(&command),
        Command::Config(command) => cmd::config::config(&command),
        Command::Hardware(arguments) => cmd::hardware::hardware(&arguments),
        Command::Run(arguments) => return cmd::run::run(&arguments),
        Command::Ps => cmd::ps::ps(),
        Command::Log(arguments) => cmd::log::log(&arguments),
        Command::Server(command) => cmd::server::server(&command),
        Command::Crash(command) => cmd::crash::crash(&command),
        Command::Console(arguments) => cmd::console::console(&arguments),
        Command::Image(command) => image::cli::run(&command).map(|text| print!("{text}")).map_err(anyhow::Error::from),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("crtos: {error:#}");
            ExitCode::FAILURE
        }
    }
}
