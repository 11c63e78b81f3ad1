//! A peer of the shared memory device that the cell has: tells its state and the other's, answers doorbells with doorbells. By its
//! command line: "ring" rings first and counts a hundred answers, "knock" just rings; "one-shot" has the device take back the
//! permission to interrupt with each interrupt, and tries that on itself.
#![no_std]
#![no_main]

mod inmate;
use core::sync::atomic::{AtomicU32, Ordering::Relaxed};

use inmate::*;

/// State change; the next one: doorbell.
const VECTOR: u8 = 0x50;
const REGISTERS: u32 = 0xf000_0000;
const MSIX_TABLE: u32 = 0xf000_1000;
const ID: u32 = REGISTERS;
const CONTROL: u32 = REGISTERS + 0x08;
const DOORBELL: u32 = REGISTERS + 0x0c;
const STATE: u32 = REGISTERS + 0x10;
const READY: u32 = 2;
const ROUNDS: u32 = 100;

static CHANGES: AtomicU32 = AtomicU32::new(0);
static BELLS: AtomicU32 = AtomicU32::new(0);

entry!(changed_entry, changed);
extern "C" fn changed() {
    CHANGES.fetch_add(1, Relaxed);
    write(APIC_EOI, 0);
}

entry!(rung_entry, rung);
extern "C" fn rung() {
    BELLS.fetch_add(1, Relaxed);
    write(APIC_EOI, 0);
}

fn ring(peer: u32) {
    write(DOORBELL, peer << 16 | 1);
}

/// Waits for a doorbell after so many.
fn wait_for_bell(before: u32) {
    while BELLS.load(Relaxed) == before {
        pause();
    }
}

fn settle() {
    (0..100_000).for_each(|_| pause());
}

/// Rings itself three times: only the first comes through until the next is allowed.
fn one_shot(own: u32) {
    let before = BELLS.load(Relaxed);
    for _ in 0..3 {
        ring(own);
        settle();
    }
    say!("ivshmem inmate: one-shot {:08x}", BELLS.load(Relaxed) - before);
    say!("ivshmem inmate: control {:08x}", read(CONTROL));
    write(CONTROL, 1);
    ring(own);
    settle();
    say!("ivshmem inmate: allowed again {:08x}", BELLS.load(Relaxed) - before);
}

#[unsafe(no_mangle)]
extern "C" fn main() -> ! {
    let device = (0..256).find(|function| pci_read(*function, 0) == 0x4106_110a);
    let Some((function, vendor, msix)) =
        device.and_then(|f| Some((f, pci_capability(f, 0x09)?, pci_capability(f, 0x11)?)))
    else {
        say!("ivshmem inmate: no device");
        stop();
    };
    gate(VECTOR, changed_entry);
    gate(VECTOR + 1, rung_entry);
    write(APIC_SPURIOUS, 0x1ff);
    message_interrupts(function, msix, REGISTERS, MSIX_TABLE, VECTOR);
    let way = command();
    if way == b'o' {
        pci_write(function, vendor, pci_read(function, vendor) | 1 << 24);
    }
    interrupts_on();
    write(CONTROL, 1);
    write(STATE, READY);
    let own = read(ID);
    let peer = 1 - own;
    let state_of_peer = pci_read(function, vendor + 0x18) + 4 * peer;
    say!("ivshmem inmate: peer {own:08x}");
    match way {
        b'r' => {
            while read(state_of_peer) != READY {
                pause();
            }
            for _ in 0..ROUNDS {
                let before = BELLS.load(Relaxed);
                ring(peer);
                wait_for_bell(before);
            }
            say!("ivshmem inmate: answers {:08x}", BELLS.load(Relaxed));
        }
        b'k' => {
            (0..ROUNDS).for_each(|_| ring(peer));
            say!("ivshmem inmate: knocked");
        }
        b'o' => one_shot(own),
        _ => {}
    }
    let (mut changes, mut answered) = (0, BELLS.load(Relaxed));
    loop {
        pause();
        COMM.answer();
        if CHANGES.load(Relaxed) != changes {
            changes = CHANGES.load(Relaxed);
            say!("ivshmem inmate: state of the other {:08x}", read(state_of_peer));
        }
        if way == b'a' && BELLS.load(Relaxed) != answered {
            answered += 1;
            ring(peer);
        }
    }
}
