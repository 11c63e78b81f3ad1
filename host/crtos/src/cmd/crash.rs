//! `crtos crash …`: the crash reports that the supervisor keeps, with names of functions if the image's symbols are there.

use std::fmt::Write;

use anyhow::{Result, bail};
use clap::Subcommand;
use image::symbols::{self, Function};
use ipc::Tag;
use ipc::board::{Report, cause, verdict};

use crate::board::{self, Board, Stored};
use crate::files;
use crate::realm::Realm;

#[derive(Subcommand)]
pub enum Command {
    /// List the reports that are kept
    List,
    /// Show a report
    Show {
        /// Its number
        number: u64,
    },
}

pub fn crash(command: &Command) -> Result<()> {
    let realm = Realm::open()?;
    let kept = Board::read(&realm)?.kept();
    match command {
        Command::List => {
            println!("{:>5} {:<20} {:>10} {:<10} {:<10} REASON", "N", "SERVER", "GENERATION", "CAUSE", "THEN");
            for number in kept {
                println!("{number:>5} {}", line(&board::report(&realm, number)?));
            }
            Ok(())
        }
        Command::Show { number } => match board::report(&realm, *number)? {
            _ if !kept.contains(number) => bail!("there is no report {number}; see `crtos crash list`"),
            Stored::Known(report) => {
                let symbols = std::fs::read_to_string(files::home().join(files::SYMBOLS)).unwrap_or_default();
                print!("{}", show(&report, &symbols));
                Ok(())
            }
            Stored::Other(version) => bail!("report {number} has version {version}, which this command cannot read"),
            Stored::Damaged => bail!("report {number} is damaged"),
        },
    }
}

fn cause(report: &Report) -> &'static str {
    match report.cause {
        cause::FAULT => "fault",
        cause::ORDER => "order",
        cause::SPIN => "spin",
        _ => "?",
    }
}

fn then(report: &Report) -> &'static str {
    match report.verdict {
        verdict::RESTARTED => "restarted",
        verdict::STAYS_DEAD => "stays dead",
        verdict::ESCALATED => "system failed",
        _ => "?",
    }
}

fn line(stored: &Stored) -> String {
    match stored {
        Stored::Known(report) => format!(
            "{:<20} {:>10} {:<10} {:<10} {}",
            board::field(&report.server),
            report.generation,
            cause(report),
            then(report),
            board::field(&report.reason)
        ),
        Stored::Other(version) => format!("(a report of version {version}, which this command cannot read)"),
        Stored::Damaged => "(damaged)".to_owned(),
    }
}

/// An address, with the function that it lies in.
fn named(functions: &[Function], address: u64) -> String {
    match symbols::find(functions, address) {
        Some((function, offset)) => format!("{address:#018x} {}+{offset:#x}", function.name),
        None => format!("{address:#018x}"),
    }
}

/// A report as text.
fn show(report: &Report, symbols: &str) -> String {
    let server = board::field(&report.server);
    let functions = symbols::of_server(symbols, &report.build_id, &server);
    let known = functions.as_deref().unwrap_or_default();
    let r = &report.registers;
    let khz = report.tsc_khz.max(1);
    let mut text = format!(
        "report {}: server {server}, generation {}\nreason    {}\ncause     {}, then {}\n",
        report.number,
        report.generation,
        board::field(&report.reason),
        cause(report),
        then(report)
    );
    // Writing to a string cannot fail.
    let _ = write!(
        text,
        "time      {} ms after the processor's start, {} ms of it used by this instance\nbuild     {}{}\n",
        report.tsc / khz,
        report.consumed / khz,
        symbols::hex(&report.build_id),
        if functions.is_some() { "" } else { " (no symbols of this build here)" }
    );
    if report.version > 1 {
        let _ = writeln!(text, "manifest  {}", symbols::hex(&report.manifest_digest));
        let _ = writeln!(text, "program   {}", symbols::hex(&report.program_digest));
    }
    if report.cause == cause::FAULT {
        let [vector, code, address] = report.fault;
        let _ = writeln!(text, "fault     vector {vector}, code {code:#x}, address {address:#x}");
    }
    let _ = writeln!(text, "rip       {}", named(known, r.rip));
    for row in [
        [("rax", r.rax), ("rbx", r.rbx), ("rcx", r.rcx), ("rdx", r.rdx)],
        [("rsi", r.rsi), ("rdi", r.rdi), ("rbp", r.rbp), ("rsp", r.rsp)],
        [("r8", r.r8), ("r9", r.r9), ("r10", r.r10), ("r11", r.r11)],
        [("r12", r.r12), ("r13", r.r13), ("r14", r.r14), ("r15", r.r15)],
        [("flags", r.rflags), ("fs", r.fs_base), ("gs", r.gs_base), ("", 0)],
    ] {
        for (name, value) in row.into_iter().filter(|(name, _)| !name.is_empty()) {
            let _ = write!(text, "{name:<6}{value:016x}  ");
        }
        text.truncate(text.trim_end().len());
        text.push('\n');
    }
    text.push_str("last messages, newest first (badge or signal, label, first word)\n");
    for taken in report.messages.iter().filter(|taken| **taken != Default::default()) {
        let _ = writeln!(text, "  {:#x} {:#x} {:#x}", taken.badge, Tag(taken.tag).label(), taken.word);
    }
    text.push_str("stack, from the stack pointer up\n");
    let bytes = (report.stack_bytes as usize).min(report.stack.len());
    for (index, word) in report.stack[..bytes].chunks_exact(8).enumerate() {
        let word = u64::from_le_bytes(word.try_into().unwrap_or_default());
        let address = r.rsp.wrapping_add(8 * index as u64);
        let _ = writeln!(text, "  {address:#x}  {}", named(known, word));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use ipc::board::REPORT_SLOT;

    /// As `init` left it in the board's memory, one of each version that there ever was.
    const STORED: [&[u8]; 2] =
        [include_bytes!("../../tests/reports/v1.bin"), include_bytes!("../../tests/reports/v2.bin")];

    #[test]
    fn stored_reports_of_all_versions_are_read() {
        for (bytes, version) in STORED.into_iter().zip(1..) {
            assert_eq!(bytes.len(), REPORT_SLOT);
            let stored = board::parse(bytes);
            let line = line(&stored);
            assert!(line.contains("heartbeat") && line.contains("null pointer"), "{line}");
            let Stored::Known(report) = stored else { panic!("{line}") };
            let symbols = format!(
                "crtos symbols 1 {}\nserver heartbeat\n{:x} 10 where::it::was\n",
                symbols::hex(&report.build_id),
                report.registers.rip
            );
            let text = show(&report, &symbols);
            assert!(text.contains("where::it::was+0x0"), "{text}");
            assert!(text.contains("address 0x10"), "{text}");
            assert_eq!(report.version, version);
            assert_eq!(text.contains("\nprogram   "), version > 1, "{text}");
        }
    }
}
