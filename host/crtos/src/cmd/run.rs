//! `crtos run`: runs a program in the real-time realm as if it ran here.
//!
//! Its descriptors, arguments, environment, working directory and credentials are this process's, which stays as its proxy in
//! Linux; its exit status becomes ours, and if a signal ended it, that signal ends us. Policy and priority are those of this
//! process (`chrt` sets them) unless options say otherwise.

use std::ffi::OsString;
use std::process::ExitCode;

use anyhow::{Context, Result, anyhow, bail};
use clap::{Args, ValueEnum};

use crate::program::{self, ProgramError};
use crate::{proxy, sys};

/// Exit status for failures of our own.
pub const FAILED: u8 = 125;
const NOT_EXECUTABLE: u8 = 126;
const NOT_FOUND: u8 = 127;

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Policy {
    Other,
    Fifo,
    Rr,
}

#[derive(Args)]
pub struct Arguments {
    /// Real-time priority, 1 to 99
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=99))]
    prio: Option<u16>,
    /// Scheduling policy; fifo if only a priority is given
    #[arg(long)]
    policy: Option<Policy>,
    /// The program and its arguments
    #[arg(trailing_var_arg = true, allow_hyphen_values = true, required = true, value_name = "CMD")]
    command: Vec<OsString>,
}

/// Policy and priority to run with.
fn scheduling(policy: Option<Policy>, priority: Option<u16>, inherited: (u16, u16)) -> Result<(u16, u16)> {
    match (policy, priority) {
        (None, None) => Ok(match inherited {
            (policy @ (1 | 2), priority) => (policy, priority),
            _ => (0, 0),
        }),
        (Some(Policy::Other), None) => Ok((0, 0)),
        (Some(Policy::Other), Some(_)) => {
            bail!("policy other has no priority: leave out --prio, or use --policy fifo or rr")
        }
        (policy, priority) => {
            let number = if policy == Some(Policy::Rr) { 2 } else { 1 };
            Ok((number, priority.unwrap_or(inherited.1.max(1))))
        }
    }
}

fn start(arguments: &Arguments, program: program::Program) -> Result<()> {
    let inherited = sys::scheduling().context("cannot read the scheduling policy")?;
    let (policy, priority) = scheduling(arguments.policy, arguments.prio, inherited)?;
    if (policy, priority) != inherited {
        sys::set_scheduling(policy, priority).map_err(|error| {
            anyhow!("cannot set priority {priority}: {error}; run this as root, or raise the limit (ulimit -r)")
        })?;
    }
    proxy::run(&program, policy, priority)
}

pub fn run(arguments: &Arguments) -> ExitCode {
    let path = std::env::var_os("PATH");
    let (text, code) = match program::find(&arguments.command, path.as_deref()) {
        Err(error @ ProgramError::NotFound(_)) => (error.to_string(), NOT_FOUND),
        Err(error @ ProgramError::NotExecutable(_)) => (error.to_string(), NOT_EXECUTABLE),
        Ok(program) => match start(arguments, program) {
            Ok(()) => return ExitCode::SUCCESS,
            Err(error) => (format!("{error:#}"), FAILED),
        },
    };
    eprintln!("crtos: {text}");
    ExitCode::from(code)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn options_go_before_what_is_inherited() {
        assert_eq!(scheduling(None, None, (0, 0)).unwrap(), (0, 0));
        assert_eq!(scheduling(None, None, (3, 0)).unwrap(), (0, 0));
        assert_eq!(scheduling(None, None, (2, 7)).unwrap(), (2, 7));
        assert_eq!(scheduling(None, Some(90), (2, 7)).unwrap(), (1, 90));
        assert_eq!(scheduling(Some(Policy::Rr), None, (1, 7)).unwrap(), (2, 7));
        assert_eq!(scheduling(Some(Policy::Rr), None, (0, 0)).unwrap(), (2, 1));
        assert_eq!(scheduling(Some(Policy::Other), None, (1, 7)).unwrap(), (0, 0));
        assert!(scheduling(Some(Policy::Other), Some(1), (0, 0)).is_err());
    }
}
