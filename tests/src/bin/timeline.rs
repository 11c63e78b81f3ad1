//! What `./x picture` runs: notes when things happen, in ticks of the time-stamp counter as the real-time realm reads it.
//!
//! `timeline write N`: writes N numbered lines, and says on standard error when each call began and ended. `timeline beat N`: wakes up N times, one
//! millisecond after the other, and says when. Both run in the real-time realm. `timeline board SERVER`, in Linux: when that server died last and
//! when its new instance was ready, and the ticks of a millisecond.
#![allow(unsafe_code)] // reading the time-stamp counter, and sleeping to a point in time

use std::fmt::Write as _;
use std::fs::File;
use std::io::Write as _;
use std::mem::offset_of;
use std::os::fd::AsFd;
use std::os::unix::fs::FileExt;
use std::process::ExitCode;

use anyhow::{Context, Result, bail};
use ipc::board::{Entry, MAX_ENTRIES, place};
use ipc::shadow::{RtHeader, rt_section};

fn now() -> u64 {
    // SAFETY: the instruction reads a counter; every x86-64 processor has it.
    unsafe { core::arch::x86_64::_rdtsc() }
}

fn write(times: u32) -> Result<()> {
    let mut stamps = Vec::with_capacity(times as usize);
    // Without a buffer in between.
    let mut out = File::from(std::io::stdout().as_fd().try_clone_to_owned()?);
    for number in 0..times {
        let line = format!("line {number}\n");
        let before = now();
        // One call: a file of lines so short takes them whole.
        let written = out.write(line.as_bytes())?;
        stamps.push((before, now()));
        if written != line.len() {
            bail!("{written} bytes written of {}", line.len());
        }
    }
    let mut said = String::new();
    for (before, after) in stamps {
        writeln!(said, "{before} {after}")?;
    }
    eprint!("{said}");
    Ok(())
}

fn beat(times: u32) -> Result<()> {
    const PERIOD: i64 = 1_000_000;
    let mut next = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: it writes the structure, which is ours.
    unsafe { libc::clock_gettime(libc::CLOCK_MONOTONIC, &mut next) };
    let mut stamps = Vec::with_capacity(times as usize);
    for _ in 0..times {
        next.tv_nsec += PERIOD;
        if next.tv_nsec >= 1_000_000_000 {
            (next.tv_sec, next.tv_nsec) = (next.tv_sec + 1, next.tv_nsec - 1_000_000_000);
        }
        // SAFETY: it reads the structure only.
        unsafe { libc::clock_nanosleep(libc::CLOCK_MONOTONIC, libc::TIMER_ABSTIME, &next, std::ptr::null_mut()) };
        stamps.push(now());
    }
    let said: String = stamps.iter().map(|stamp| format!("{stamp}\n")).collect();
    print!("{said}");
    Ok(())
}

fn board(server: &str) -> Result<()> {
    let node = File::options().read(true).write(true).open("/dev/crtos-shadow")?;
    let word = |offset: usize| -> Result<u64> {
        let mut bytes = [0; 8];
        node.read_exact_at(&mut bytes, offset as u64)?;
        Ok(u64::from_le_bytes(bytes))
    };
    for index in 0..MAX_ENTRIES {
        let entry = rt_section::BOARD + place::ENTRIES + index * size_of::<Entry>();
        let mut name = [0; 32];
        node.read_exact_at(&mut name, (entry + offset_of!(Entry, name)) as u64)?;
        if name.split(|byte| *byte == 0).next() == Some(server.as_bytes()) {
            let (died, started) = (word(entry + offset_of!(Entry, died))?, word(entry + offset_of!(Entry, started))?);
            println!("{died} {started} {}", word(rt_section::HEADER + offset_of!(RtHeader, tsc_khz))?);
            return Ok(());
        }
    }
    bail!("there is no server {server}")
}

fn run() -> Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    match arguments.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        ["write", times] => write(times.parse()?),
        ["beat", times] => beat(times.parse()?),
        ["board", server] => board(server),
        _ => bail!("usage: timeline write N | beat N | board SERVER"),
    }
}

fn main() -> ExitCode {
    match run().context("timeline") {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{error:#}");
            ExitCode::FAILURE
        }
    }
}
