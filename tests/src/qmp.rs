//! QEMU's control socket: one command, one answer.

use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use serde_json::{Value, json};

/// Longest wait for an answer.
const LIMIT: Duration = Duration::from_secs(30);

/// A connection; QEMU serves one at a time.
pub struct Qmp {
    stream: BufReader<UnixStream>,
}

impl Qmp {
    /// Connects.
    pub fn connect(socket: &Path) -> Result<Self> {
        let stream = UnixStream::connect(socket).with_context(|| socket.display().to_string())?;
        stream.set_read_timeout(Some(LIMIT))?;
        let mut this = Self { stream: BufReader::new(stream) };
        this.line().context("QEMU's greeting")?;
        this.execute("qmp_capabilities", json!({}))?;
        Ok(this)
    }

    fn line(&mut self) -> Result<Value> {
        let mut line = String::new();
        if self.stream.read_line(&mut line)? == 0 {
            bail!("QEMU has closed its control socket");
        }
        Ok(serde_json::from_str(&line)?)
    }

    /// Executes a command; what it returns.
    pub fn execute(&mut self, command: &str, arguments: Value) -> Result<Value> {
        let line = json!({ "execute": command, "arguments": arguments }).to_string() + "\n";
        self.stream.get_mut().write_all(line.as_bytes())?;
        loop {
            let answer = self.line().with_context(|| command.to_owned())?;
            if let Some(value) = answer.get("return") {
                return Ok(value.clone());
            }
            if let Some(error) = answer.get("error") {
                bail!("{command}: {error}");
            }
            // Else an event.
        }
    }

    /// The machine's memory from `address` on. `file` is used for a while.
    pub fn memory(&mut self, address: u64, bytes: usize, file: &Path) -> Result<Vec<u8>> {
        self.execute("pmemsave", json!({ "val": address, "size": bytes, "filename": file }))?;
        let memory = std::fs::read(file)?;
        std::fs::remove_file(file)?;
        Ok(memory)
    }
}
