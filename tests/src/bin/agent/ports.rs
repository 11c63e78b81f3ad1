//! Finds the virtio-serial ports by their names.

use std::collections::HashMap;
use std::fs::{self, File, OpenOptions};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use tests::wire::PORTS;

/// The open ports.
pub struct Ports {
    /// Control messages, both ways.
    pub control: File,
    /// The command's standard input.
    pub stdin: File,
    /// Its standard output.
    pub stdout: File,
    /// Its standard error.
    pub stderr: File,
}

/// Opens all ports. The driver learns their names from the device some time after it is loaded, and
/// there is nothing to wait on but the directory itself.
pub fn open() -> Result<Ports> {
    let deadline = Instant::now() + Duration::from_secs(60);
    loop {
        let devices = named()?;
        if PORTS.iter().all(|name| devices.contains_key(*name)) {
            let open = |name: &str| {
                let path = format!("/dev/{}", devices[name]);
                OpenOptions::new().read(true).write(true).open(&path).context(path)
            };
            return Ok(Ports {
                control: open(PORTS[0])?,
                stdin: open(PORTS[1])?,
                stdout: open(PORTS[2])?,
                stderr: open(PORTS[3])?,
            });
        }
        if Instant::now() > deadline {
            bail!("the virtio-serial ports have not appeared; seen: {:?}", devices.keys());
        }
        thread::sleep(Duration::from_millis(5));
    }
}

fn named() -> Result<HashMap<String, String>> {
    let mut found = HashMap::new();
    for entry in fs::read_dir("/sys/class/virtio-ports").context("no virtio-serial driver")? {
        let entry = entry?;
        if let Ok(name) = fs::read_to_string(entry.path().join("name")) {
            found.insert(name.trim().to_owned(), entry.file_name().to_string_lossy().into_owned());
        }
    }
    Ok(found)
}
