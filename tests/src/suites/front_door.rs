//! `./x` itself: what it runs is not disturbed by it.

use std::fs;
use std::io::Write;
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use super::support::same;
use crate::suite::{Bench, Suite, case};

/// The commands, each with a machine of its own.
pub const SUITE: Suite = Suite {
    name: "front-door",
    wanted: None,
    cases: &[
        case("script", script),
        case("no_such_script", no_such_script),
        case("interrupt", interrupt),
        case("run_status", run_status),
        case("run_pipe", run_pipe),
    ],
};

const LIMIT: &str = "--timeout=300";

fn x(bench: &Bench<'_>, arguments: &[&str], input: &[u8]) -> Result<Output> {
    let mut child = Command::new(bench.builder.front_door()?)
        .args(arguments)
        .current_dir(&bench.scratch)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()?;
    let mut stdin = child.stdin.take().context("a pipe")?;
    let input = input.to_vec();
    let feeder = std::thread::spawn(move || stdin.write_all(&input));
    let output = child.wait_with_output()?;
    // It may end without reading everything.
    let _ = feeder.join();
    Ok(output)
}

fn script(bench: &mut Bench<'_>) -> Result<()> {
    fs::write(bench.scratch.join("s.sh"), "cat; echo message >&2; echo done > file; exit 9\n")?;
    let output = x(bench, &["vm", "--plain", LIMIT, "--script", "s.sh"], b"in\nput")?;
    same("status", output.status.code(), Some(9))?;
    same("output", output.stdout.as_slice(), b"in\nput")?;
    same("its file", fs::read_to_string(bench.scratch.join("file"))?, "done\n".into())
}

fn no_such_script(bench: &mut Bench<'_>) -> Result<()> {
    let output = x(bench, &["vm", "--plain", LIMIT, "--script", "none.sh"], b"")?;
    same("status", output.status.code(), Some(125))?;
    same("output", output.stdout.as_slice(), b"")
}

fn interrupt(bench: &mut Bench<'_>) -> Result<()> {
    fs::write(bench.scratch.join("i.sh"), "trap 'exit 5' INT; echo up > up; while :; do sleep 1; done\n")?;
    let up = bench.scratch.join("up");
    let mut child = Command::new(bench.builder.front_door()?)
        .args(["vm", "--plain", LIMIT, "--script", "i.sh"])
        .current_dir(&bench.scratch)
        .stdin(Stdio::null())
        .spawn()?;
    let deadline = Instant::now() + Duration::from_secs(300);
    while !up.exists() {
        if Instant::now() > deadline || child.try_wait()?.is_some() {
            let _ = child.kill();
            bail!("the script does not run");
        }
        std::thread::sleep(Duration::from_millis(50));
    }
    let pid = rustix::process::Pid::from_child(&child);
    rustix::process::kill_process(pid, rustix::process::Signal::INT)?;
    same("status", child.wait()?.code(), Some(5))
}

fn run_status(bench: &mut Bench<'_>) -> Result<()> {
    let output = x(bench, &["run", LIMIT, "--", "/bin/sh", "-c", "exit 7"], b"")?;
    same("status", output.status.code(), Some(7))?;
    same("output", output.stdout.as_slice(), b"")
}

fn run_pipe(bench: &mut Bench<'_>) -> Result<()> {
    let numbers: String = (1..=100_000).map(|n| format!("{n}\n")).collect();
    let output = x(bench, &["run", LIMIT, "--", "/usr/bin/sort", "-rn"], numbers.as_bytes())?;
    same("status", output.status.code(), Some(0))?;
    same("first line", output.stdout.split(|b| *b == b'\n').next(), Some(b"100000".as_slice()))
}
