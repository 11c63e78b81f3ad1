//! The front door behind `./x`: sets the machine up, builds, boots, tests and measures.
//!
//! Standard output belongs to the program that is run; whatever we have to say goes to standard
//! error or into a log. Our own failures end with status 125, so that a command's are its own.

mod bench;
mod build;
mod check;
mod cli;
mod cmd;
mod guest;
mod laboratory;
mod run;
mod setup;
mod terminal;
mod tree;

use std::process::ExitCode;

use clap::Parser;

fn main() -> ExitCode {
    let cli = cli::Cli::parse();
    match cmd::dispatch(cli) {
        Ok(status) => ExitCode::from(status),
        Err(error) => {
            eprintln!("x: {error:#}");
            ExitCode::from(125)
        }
    }
}
