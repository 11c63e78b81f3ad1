//! `crtos console`: what the hypervisor has printed, and cells through it.

use std::fs::File;
use std::io::{ErrorKind, Read, Write};
use std::os::unix::fs::OpenOptionsExt;

use anyhow::{Context, Result, anyhow};
use clap::Args;
use rustix::fs::OFlags;
use rustix::io::Errno;

use crate::hypervisor::{NODE, NOT_ENABLED};

#[derive(Args)]
pub struct Arguments {
    /// Go on and show what comes
    #[arg(short, long)]
    follow: bool,
}

pub fn console(arguments: &Arguments) -> Result<()> {
    let flags = if arguments.follow { OFlags::empty() } else { OFlags::NONBLOCK };
    let mut node = match File::options().read(true).custom_flags(flags.bits() as i32).open(NODE) {
        Err(error) if error.kind() == ErrorKind::NotFound => return Err(anyhow!("{NOT_ENABLED}")),
        result => result.with_context(|| format!("cannot open {NODE}"))?,
    };
    let mut text = [0; 2048];
    loop {
        match node.read(&mut text) {
            Ok(0) => return Ok(()),
            Ok(length) => {
                let mut out = std::io::stdout().lock();
                out.write_all(&text[..length])?;
                out.flush()?;
            }
            Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(()),
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) if error.raw_os_error() == Some(Errno::NXIO.raw_os_error()) => {
                return Err(anyhow!("{NOT_ENABLED}"));
            }
            Err(error) => return Err(error).context("cannot read the hypervisor's console"),
        }
    }
}
