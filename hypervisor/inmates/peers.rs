//! One of several peers of a shared memory device: shows its output section, its state, and whom it rings to the others, and tells what it
//! sees of theirs. With the capability that has no address it finds the memory by BAR 2, which it also tries to move. By its command
//! line: "ring" takes part in ringing round the circle, each its successor; "write" writes to the first one's output section, which is
//! not its own; "come" just comes.
#![no_std]
#![no_main]

mod inmate;
mod link;
use core::fmt::{self, Write};
use core::sync::atomic::Ordering::Relaxed;

use inmate::*;
use link::*;

/// Can be rung.
const READY: u32 = 1;
/// Has rung.
const DONE: u32 = 2;
const ROUNDS: u32 = 100;
const SECTION: u32 = 0x1000;

/// The link, as this peer sees it.
struct Link {
    own: u32,
    peers: u32,
    table: u32,
    outputs: u32,
}

impl Link {
    fn state(&self, peer: u32) -> u32 {
        read(self.table + 4 * peer)
    }

    /// Output section of a peer: a word that names it, and how often it was rung.
    fn section(&self, peer: u32) -> u32 {
        self.outputs + SECTION * peer
    }

    fn bells(&self, peer: u32) -> u32 {
        read(self.section(peer) + 4)
    }

    fn show_bells(&self) {
        write(self.section(self.own) + 4, BELLS.load(Relaxed));
    }

    fn wait_for(&self, peer: u32, state: u32) {
        while self.state(peer) < state {
            self.show_bells();
            pause();
        }
    }

    /// Says something of each peer.
    fn tell(&self, what: fmt::Arguments<'_>, word: impl Fn(u32) -> u32) {
        let mut console = Console;
        _ = write!(console, "peers inmate {}: {what}", self.own);
        (0..self.peers).for_each(|peer| _ = write!(console, " {:x}", word(peer)));
        _ = writeln!(console);
    }

    /// The BAR has the size of the memory, and moves like others, and the memory stays.
    fn try_to_move(&self, bar: &Bar64) {
        let (preset, size) = (bar.get(), bar.size());
        bar.set(preset + (1 << 32));
        let (elsewhere, word) = (bar.get(), read(self.section(self.own)));
        bar.set(preset);
        say!(
            "peers inmate {}: BAR 2 at {preset:x} size {size:x} elsewhere {elsewhere:x} memory {word:x} back {:x}",
            self.own,
            bar.get()
        );
    }

    /// Rings the next peer, one doorbell for each answer. One peer at a time rings: interrupts that meet are one.
    fn ring(&self) {
        (0..self.peers).for_each(|peer| self.wait_for(peer, READY));
        self.tell(format_args!("of {} sees", self.peers), |peer| read(self.section(peer)));
        (0..self.own).for_each(|peer| self.wait_for(peer, DONE));
        let next = (self.own + 1) % self.peers;
        for _ in 0..ROUNDS {
            let before = self.bells(next);
            ring(next);
            while self.bells(next) == before {
                pause();
            }
        }
        write(STATE, DONE);
        (0..self.peers).for_each(|peer| self.wait_for(peer, DONE));
        say!("peers inmate {}: rung {}", self.own, BELLS.load(Relaxed));
    }
}

#[unsafe(no_mangle)]
extern "C" fn main() -> ! {
    let Some(device) = Device::find() else {
        say!("peers inmate: no device");
        stop();
    };
    device.open();
    let link = Link { own: read(ID), peers: read(MAX_PEERS), table: device.memory(), outputs: device.outputs() };
    write(link.section(link.own), 0xa0 + link.own);
    if let Some(bar) = device.memory_bar() {
        link.try_to_move(&bar);
    }
    link.show_bells();
    write(CONTROL, 1);
    write(STATE, READY);
    match command() {
        b'r' => link.ring(),
        b'w' => write(link.section(0), 0),
        _ => write(STATE, DONE),
    }
    let mut changes = CHANGES.load(Relaxed);
    loop {
        pause();
        COMM.answer();
        if CHANGES.load(Relaxed) != changes {
            changes = CHANGES.load(Relaxed);
            link.tell(format_args!("states"), |peer| link.state(peer));
        }
    }
}
