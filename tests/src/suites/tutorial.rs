//! The tutorial: its commands are run as they are written, and must give what is written below them.

use std::fs;
use std::io::{BufRead, BufReader};
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::sync::mpsc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use crate::process::bind_to_parent;
use crate::suite::{Bench, Suite, case};

/// One case, because each step builds on the one before.
pub const SUITE: Suite = Suite { name: "tutorial", wanted: None, cases: &[case("commands", commands)] };

const LIMIT: Duration = Duration::from_secs(600);

/// A fenced block of the document.
#[derive(Debug)]
struct Block {
    /// `sh`, or nothing for what a command prints.
    language: String,
    text: String,
}

fn blocks(document: &str) -> Vec<Block> {
    let mut pieces = document.split("```");
    pieces.next();
    let mut found = Vec::new();
    while let (Some(block), _) = (pieces.next(), pieces.next()) {
        let (language, text) = block.split_once('\n').unwrap_or((block, ""));
        found.push(Block { language: language.to_owned(), text: text.to_owned() });
    }
    found
}

/// Addresses differ from build to build, times from run to run.
fn without_addresses(line: &str) -> String {
    let timed = line.split_once(" ticks after").map(|(before, after)| {
        format!("{}… ticks after{after}", before.trim_end_matches(|c: char| c.is_ascii_digit()))
    });
    let line = timed.as_deref().unwrap_or(line);
    let mut out = String::new();
    for (index, part) in line.split("0x").enumerate() {
        if index == 0 {
            out.push_str(part);
        } else {
            out.push_str("0x…");
            out.push_str(part.trim_start_matches(|c: char| c.is_ascii_hexdigit()));
        }
    }
    out
}

/// Runs commands as a shell would, in the tutorial's directory; until they end, or have printed all of `wanted`.
fn run(bench: &Bench<'_>, script: &str, wanted: &[&str]) -> Result<()> {
    let mut command = Command::new("/bin/bash");
    command
        // Errors end it, as they would end a reader's patience.
        .args(["-ec", &format!("cd \"$(cat where)\"\n{script}\npwd > {}/where", bench.scratch.display())])
        .current_dir(&bench.scratch)
        .env("CRTOS", bench.scratch.join("tree"))
        .env_remove("CARGO_TARGET_DIR")
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(fs::File::create(bench.scratch.join("stderr"))?);
    let mut child = bind_to_parent(&mut command).spawn()?;
    let (sender, lines) = mpsc::channel();
    let stdout = child.stdout.take().context("a pipe")?;
    std::thread::spawn(move || {
        for line in BufReader::new(stdout).lines().map_while(Result::ok) {
            if sender.send(line).is_err() {
                return;
            }
        }
    });
    let deadline = Instant::now() + LIMIT;
    let mut open = wanted.iter().map(|line| without_addresses(line)).peekable();
    let mut said = String::new();
    let outcome = loop {
        if !wanted.is_empty() && open.peek().is_none() {
            break Ok(()); // a reader would press Ctrl-C now
        }
        match lines.recv_timeout(deadline.saturating_duration_since(Instant::now())) {
            Ok(line) => {
                if open.peek().is_some_and(|next| *next == without_addresses(&line)) {
                    open.next();
                }
                said.push_str(&line);
                said.push('\n');
            }
            Err(mpsc::RecvTimeoutError::Timeout) => break Err("it takes too long"),
            Err(mpsc::RecvTimeoutError::Disconnected) => break Err("it ended"),
        }
    };
    let ended = outcome == Err("it ended");
    if !ended {
        let group = rustix::process::Pid::from_child(&child);
        rustix::process::kill_process_group(group, rustix::process::Signal::KILL)?;
    }
    let status = child.wait()?;
    let stderr = fs::read_to_string(bench.scratch.join("stderr")).unwrap_or_default();
    match outcome {
        Ok(()) => Ok(()),
        Err("it ended") if wanted.is_empty() && status.success() => Ok(()),
        Err(why) => bail!("{why} ({status}) before {:?}:\n{script}{said}{stderr}", open.peek()),
    }
}

fn commands(bench: &mut Bench<'_>) -> Result<()> {
    let document = fs::read_to_string(bench.builder.root().join("docs/tutorial.md"))?;
    let blocks = blocks(&document);
    // The project builds where it always does, the reader's crate in itself.
    fs::create_dir(bench.scratch.join("tree"))?;
    let target =
        std::env::var("CARGO_TARGET_DIR").map_or_else(|_| String::new(), |path| format!("CARGO_TARGET_DIR='{path}' "));
    let front = format!("#!/bin/sh\n{target}exec '{}/x' \"$@\"\n", bench.builder.root().display());
    fs::write(bench.scratch.join("tree/x"), front)?;
    fs::set_permissions(bench.scratch.join("tree/x"), fs::Permissions::from_mode(0o755))?;
    fs::write(bench.scratch.join("where"), bench.scratch.display().to_string())?;
    let mut ran = 0;
    let mut built: Option<PathBuf> = None;
    for (index, block) in blocks.iter().enumerate().filter(|(_, block)| block.language == "sh") {
        // What the console shows follows directly; other outputs are quoted elsewhere.
        let transcript =
            blocks.get(index + 1).filter(|next| next.language.is_empty() && block.text.contains("x srtos"));
        let wanted: Vec<&str> = transcript.map(|next| next.text.lines().collect()).unwrap_or_default();
        run(bench, &block.text, &wanted)?;
        ran += block.text.lines().count();
        built = block.text.contains("-o out").then(|| bench.scratch.join("adder/out/srtos.cell")).or(built);
    }
    // The document may be rewritten, but not to nothing.
    let cell = built.context("the tutorial builds an image")?;
    if ran < 6 || !cell.exists() {
        bail!("{ran} commands, {} is there: {}", cell.display(), cell.exists());
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blocks_and_addresses() {
        let found = blocks("a\n```sh\nls\n```\nb\n```\nx: 0x40f at 0xA\n```\n");
        assert_eq!(
            found.iter().map(|b| (b.language.as_str(), b.text.as_str())).collect::<Vec<_>>(),
            [("sh", "ls\n"), ("", "x: 0x40f at 0xA\n")]
        );
        assert_eq!(without_addresses("x: 0x40f at 0xA."), "x: 0x… at 0x….");
    }
}
