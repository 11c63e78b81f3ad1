//! A Linux gone bad: as root, it writes garbage, forgeries and replays into all memory that it shares with the real-time realm, and rings at random.
//!
//! `hostile attack SEED MILLISECONDS`: does so, and says how often it did what. `hostile restore`: what a Linux does that comes to its senses,
//! once none of its programs runs there any more. Both are followed by where the device's memory lies: machine address, bytes of the `rw` section and of an
//! output section, and its PCI function. `hostile trespass ADDRESS BYTES`: writes a pattern into each page of memory that is not Linux's to write.
//!
//! The memory is reached through /dev/mem, and the registers through sysfs, which a kernel booted with iomem=relaxed lets root do.
#![allow(unsafe_code)] // memory of others, that they change at any time

mod attack;
mod memory;

use std::process::ExitCode;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering::{Relaxed, Release};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use ipc::shadow::{LINUX_MAGIC, VERSION};

use attack::Attack;
use memory::{Shared, number};
use tests::suites::TRESPASS;

fn run() -> Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    match words[..] {
        ["attack", seed, milliseconds, ref place @ ..] => {
            let end = Instant::now() + Duration::from_millis(milliseconds.parse()?);
            let mut attack = Attack::new(Shared::open(place)?, seed.parse()?);
            while Instant::now() < end {
                attack.phase();
            }
            println!("{}", attack.done());
        }
        ["restore", ref place @ ..] => restore(&Shared::open(place)?),
        ["trespass", address, bytes] => {
            for page in
                memory::map::<AtomicU64>("/dev/mem", number(address)?, number(bytes)? as usize, true)?.chunks(512)
            {
                page[0].store(TRESPASS, Relaxed);
            }
        }
        _ => bail!(
            "usage: hostile (attack SEED MILLISECONDS | restore) ADDRESS RW OUTPUT FUNCTION | trespass ADDRESS BYTES"
        ),
    }
    Ok(())
}

/// No page is held, and the header is that of another life.
fn restore(shared: &Shared) {
    for word in shared.held() {
        word.store(0, Relaxed);
    }
    let header = shared.header();
    header.magic.store(0, Release);
    header.version.store(VERSION, Relaxed);
    header.epoch.fetch_add(1, Relaxed);
    header.magic.store(LINUX_MAGIC, Release);
    shared.announce();
}

fn main() -> ExitCode {
    match run().context("hostile") {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{error:#}");
            ExitCode::FAILURE
        }
    }
}
