//! The agent: init program of the test machine.
//!
//! It starts as `/init` of the initramfs, makes the machine's root file system, and then does what
//! the harness says over virtio-serial ports until it is told to switch off. It is linked
//! statically, because it starts before there is a file system with libraries.
//!
//! It must not end or panic: that is a kernel panic (which the harness then reports). Whatever goes
//! wrong is an answer to the harness, or a line in the kernel log.

mod boot;
mod exec;
mod ports;
mod reaper;

use std::sync::mpsc;
use std::thread;

use anyhow::{Context, Result};
use tests::wire::{self, FromAgent, ToAgent};

/// Everything that the main loop reacts to.
pub enum Event {
    /// The harness says something; `None` if it is gone.
    Harness(Option<ToAgent>),
    /// A process has ended.
    Ended(rustix::process::Pid, i32),
    /// One output stream of the command is sent to its end.
    Drained,
}

fn main() {
    if std::process::id() != 1 {
        eprintln!("agent: this is the init program of the test machine, not a command");
        std::process::exit(1);
    }
    if let Err(error) = serve() {
        boot::log(&format!("{error:#}"));
    }
    boot::power_off();
}

fn serve() -> Result<()> {
    boot::root_file_system().context("making the root file system")?;
    let ports = ports::open()?;
    let (events, inbox) = mpsc::channel();

    let mut control = ports.control.try_clone()?;
    let from_harness = events.clone();
    thread::spawn(move || {
        loop {
            let message = wire::receive(&mut control).unwrap_or(None);
            let gone = message.is_none();
            if from_harness.send(Event::Harness(message)).is_err() || gone {
                return;
            }
        }
    });

    let mut control = ports.control.try_clone()?;
    let reaper = reaper::start(events.clone());
    let mut runner = exec::Runner::new(ports, reaper, events);
    wire::send(&mut control, &FromAgent::Hello)?;
    for event in inbox {
        let answer = match event {
            Event::Harness(None | Some(ToAgent::PowerOff)) => return Ok(()),
            Event::Harness(Some(ToAgent::Prepare { hostname, work, modules, files })) => {
                Some(match boot::prepare(&hostname, work.as_deref(), &modules, &files) {
                    Ok(()) => FromAgent::Done,
                    Err(error) => FromAgent::Failed(format!("{error:#}"), 125),
                })
            }
            Event::Harness(Some(ToAgent::Exec(command))) => match runner.start(command) {
                Ok(()) => None,
                Err((error, status)) => Some(FromAgent::Failed(error, status)),
            },
            Event::Harness(Some(ToAgent::Signal(number))) => {
                runner.signal(number);
                None
            }
            Event::Harness(Some(ToAgent::Resize(rows, columns))) => {
                runner.resize(rows, columns);
                None
            }
            Event::Ended(pid, status) => runner.ended(pid, status).map(FromAgent::Exit),
            Event::Drained => runner.drained().map(FromAgent::Exit),
        };
        if let Some(answer) = answer {
            wire::send(&mut control, &answer)?;
        }
    }
    Ok(())
}
