//! The proxy: what a real-time process is in Linux.
//!
//! Its main thread and one thread for each further real-time thread are *workers*: they wait for calls and make them, with the
//! very pointers of the program, because the program's memory lies in this process at the same addresses ([`mirror`]). Two
//! threads more: one waits for the end of the program, one forwards signals. All signals are blocked in all threads, but the
//! one by which the driver interrupts a worker's call.
//!
//! Rules: nothing of this process's own lies in the program's window; the program cannot reach the proxy's own descriptors;
//! calls that would change the proxy itself never get made ([`special`]).

pub mod arguments;
mod channel;
mod forward;
mod mirror;
pub mod signals;
mod special;
mod worker;

use std::ffi::CString;
use std::os::unix::ffi::OsStrExt;
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, anyhow, bail};

use crate::cell_state;
use crate::hypervisor::Hypervisor;
use crate::program::Program;
use crate::realm::{self, Realm};
use crate::sys;
use channel::Channel;

/// How long to wait for a cell that has just been started.
const BOOT: Duration = Duration::from_secs(30);
const STACK: usize = 128 << 10;

/// Opens the channel to a running real-time side, or says what is missing.
fn open() -> Result<Realm> {
    let realm = Realm::open()?;
    match realm.status()?.state {
        realm::UP => return Ok(realm),
        realm::ABSENT => bail!("the hypervisor is not enabled: run `crtos enable` first"),
        _ => {}
    }
    let cell = Hypervisor::open().and_then(|hypervisor| hypervisor.cell("srtos")).map_err(|_| {
        anyhow!("there is no sRTOS cell: run `crtos cell create`, `crtos cell load` and `crtos cell start` first")
    })?;
    if cell.state > 1 {
        bail!(
            "the sRTOS cell is {}: run `crtos cell load` and `crtos cell start` first",
            cell_state::state(cell.state)
        );
    }
    if !realm.wait(BOOT)? {
        bail!("the sRTOS cell runs, but its real-time system has not come up: see `crtos log`");
    }
    Ok(realm)
}

/// Runs the program; comes back only if it could not be started.
pub fn run(program: &Program, policy: u16, priority: u16) -> Result<()> {
    let inherited = signals::inherited();
    signals::block_all();
    let result = serve(program, policy, priority, inherited);
    signals::restore(inherited);
    result
}

fn serve(program: &Program, policy: u16, priority: u16, inherited: signals::Inherited) -> Result<()> {
    let channel = Channel::new(open()?)?;
    mirror::map(channel.node())?;
    let block = arguments::block(program, policy, priority, inherited)?;
    let channel: &'static Channel = Box::leak(Box::new(channel));
    channel.set_arguments(&block)?;
    forward::install_cancel_handler().context("cannot install the signal handler")?;
    if let Some(name) = program.path.file_name() {
        let name: Vec<u8> = name.as_bytes().iter().copied().take(15).collect();
        // Only what `ps` shows.
        let _ = CString::new(name).map(|name| rustix::thread::set_name(&name));
    }
    let slot = channel.attach(block.len(), policy, priority)?;
    let spawn = |name: &str, body: fn(&'static Channel) -> ()| {
        thread::Builder::new().name(name.to_owned()).stack_size(STACK).spawn(move || body(channel))
    };
    spawn("crtos-end", wait_for_end).context("cannot start a thread")?;
    spawn("crtos-signals", signals::forward).context("cannot start a thread")?;
    worker::work(channel, slot, policy, priority);
    // This side has nothing more to do; the end comes by the other thread.
    loop {
        thread::park();
    }
}

fn wait_for_end(channel: &'static Channel) {
    match channel.wait_for_end() {
        Ok(status) => signals::end_with(status),
        Err(_) => {
            eprintln!("crtos: the real-time realm went away");
            sys::exit_group(i32::from(crate::cmd::run::FAILED));
        }
    }
}
