//! Waits for every process that ends, as init must.

use std::sync::mpsc::{self, Receiver, Sender};
use std::sync::{Arc, Mutex};
use std::thread;

use rustix::process::{WaitId, WaitIdOptions, WaitOptions, wait, waitid};

use crate::Event;

/// Held while a process is started: the standard library itself waits for a child whose exec has
/// failed, and that one must not be reaped under its hands.
#[derive(Clone)]
pub struct Reaper {
    starting: Arc<Mutex<()>>,
    wake: Sender<()>,
}

impl Reaper {
    /// Runs `start`, which starts a process.
    pub fn starting<T>(&self, start: impl FnOnce() -> T) -> T {
        let guard = self.starting.lock().unwrap_or_else(|e| e.into_inner());
        let result = start();
        drop(guard);
        // It cannot have ended: it lives as long as the machine.
        let _ = self.wake.send(());
        result
    }
}

/// Starts the thread that reports ended processes as [`Event::Ended`].
pub fn start(events: Sender<Event>) -> Reaper {
    let (wake, woken) = mpsc::channel();
    let starting = Arc::new(Mutex::new(()));
    let lock = starting.clone();
    thread::spawn(move || reap(&lock, &woken, &events));
    Reaper { starting, wake }
}

fn reap(starting: &Mutex<()>, woken: &Receiver<()>, events: &Sender<Event>) {
    loop {
        // Look first, take later: see `starting`.
        let look = WaitIdOptions::EXITED | WaitIdOptions::NOWAIT;
        if waitid(WaitId::All, look).is_err() {
            // No children at all: the next one is announced.
            if woken.recv().is_err() {
                return;
            }
            continue;
        }
        let guard = starting.lock().unwrap_or_else(|e| e.into_inner());
        let ended = wait(WaitOptions::NOHANG);
        drop(guard);
        if let Ok(Some((pid, status))) = ended {
            let status =
                status.exit_status().or_else(|| status.terminating_signal().map(|number| 128 + number)).unwrap_or(125);
            if events.send(Event::Ended(pid, status)).is_err() {
                return;
            }
        }
    }
}
