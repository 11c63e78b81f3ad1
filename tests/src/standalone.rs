//! The real-time image straight in QEMU: no Linux, no hypervisor, its console on COM1.

use std::ffi::OsString;
use std::fs::File;
use std::io::{BufRead, BufReader};
use std::path::PathBuf;
use std::process::{Child, ExitStatus, Stdio};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use crate::process::bind_to_parent;

/// What QEMU ends with when the guest writes a value to the debug-exit port: `2 * value + 1`.
pub const DEBUG_EXIT_PORT: u16 = 0xf4;

/// A machine for the image alone.
#[derive(Debug, Clone)]
pub struct Standalone {
    /// QEMU's program.
    pub qemu: PathBuf,
    /// `srtos.elf`.
    pub image: PathBuf,
    /// `-accel`.
    pub accelerator: String,
    /// `-cpu`.
    pub cpu: String,
    /// Memory in MiB.
    pub memory: u32,
    /// Further QEMU arguments.
    pub arguments: Vec<OsString>,
    /// Where the logs go; it exists.
    pub logs: PathBuf,
}

impl Standalone {
    /// The default one.
    pub fn new(image: PathBuf, logs: PathBuf) -> Self {
        Self {
            qemu: "qemu-system-x86_64".into(),
            image,
            accelerator: "tcg".into(),
            cpu: "EPYC".into(),
            memory: 512,
            arguments: Vec::new(),
            logs,
        }
    }

    /// The same where time is counted in executed instructions: one a TSC tick, and runs repeat
    /// exactly.
    pub fn counting(mut self) -> Self {
        self.accelerator = "tcg".into();
        self.arguments.extend(["-icount", "shift=0,sleep=off"].map(Into::into));
        self
    }

    /// Boots it.
    pub fn boot(&self) -> Result<Running> {
        let mut command = std::process::Command::new(&self.qemu);
        let fixed = "-machine q35 -nodefaults -no-user-config -display none -no-reboot -monitor none -serial stdio";
        command
            .args(fixed.split(' '))
            .args(["-accel", &self.accelerator, "-cpu", &self.cpu, "-smp", "1"])
            .args(["-m", &format!("{}M", self.memory)])
            .args(["-device", &format!("isa-debug-exit,iobase={DEBUG_EXIT_PORT:#x},iosize=4")])
            .arg("-kernel")
            .arg(&self.image)
            .args(&self.arguments);
        std::fs::write(self.logs.join("qemu.command"), format!("{command:?}\n"))?;
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(File::create(self.logs.join("qemu.log"))?);
        let mut qemu =
            bind_to_parent(&mut command).spawn().with_context(|| format!("starting {}", self.qemu.display()))?;
        let console = qemu.stdout.take().context("the console is a pipe")?;
        let (sender, lines) = mpsc::channel();
        thread::spawn(move || {
            // Not text lines: a console may say anything.
            for line in BufReader::new(console).split(b'\n') {
                let Ok(mut line) = line else { return };
                if line.last() == Some(&b'\r') {
                    line.pop();
                }
                if sender.send(String::from_utf8_lossy(&line).into_owned()).is_err() {
                    return;
                }
            }
        });
        Ok(Running { qemu, lines, said: Vec::new(), logs: self.logs.clone() })
    }
}

/// A booted one. Dropping it ends it.
pub struct Running {
    qemu: Child,
    lines: Receiver<String>,
    said: Vec<String>,
    logs: PathBuf,
}

impl Running {
    /// The next line of the console; `None` if it has ended.
    pub fn line(&mut self, deadline: Instant) -> Result<Option<String>> {
        match self.lines.recv_timeout(deadline.saturating_duration_since(Instant::now())) {
            Ok(line) => {
                self.said.push(line.clone());
                Ok(Some(line))
            }
            Err(RecvTimeoutError::Disconnected) => Ok(None),
            Err(RecvTimeoutError::Timeout) => {
                bail!("time limit exceeded; the console said:\n{}", self.tail())
            }
        }
    }

    /// Reads the console until a line contains `text`; that line.
    pub fn wait_for(&mut self, text: &str, limit: Duration) -> Result<String> {
        let deadline = Instant::now() + limit;
        loop {
            match self.line(deadline).with_context(|| format!("waiting for \"{text}\""))? {
                Some(line) if line.contains(text) => return Ok(line),
                Some(_) => {}
                None => bail!("ended before \"{text}\"; the console said:\n{}", self.tail()),
            }
        }
    }

    /// Reads the console to its end; how QEMU ended.
    pub fn finish(mut self, limit: Duration) -> Result<(ExitStatus, Vec<String>)> {
        let deadline = Instant::now() + limit;
        while self.line(deadline)?.is_some() {}
        let status = self.qemu.wait()?;
        Ok((status, self.said.clone()))
    }

    /// All that the console has said so far.
    pub fn said(&self) -> &[String] {
        &self.said
    }

    fn tail(&self) -> String {
        let lines = &self.said[self.said.len().saturating_sub(30)..];
        let log = std::fs::read_to_string(self.logs.join("qemu.log")).unwrap_or_default();
        format!("{}\n{}", lines.join("\n"), log.trim_end())
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.qemu.kill();
        let _ = self.qemu.wait();
        let _ = std::fs::write(self.logs.join("console.log"), self.said.join("\n") + "\n");
    }
}
