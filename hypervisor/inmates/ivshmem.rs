//! A peer of the shared memory device that the cell has: tells its state and the other's, answers doorbells with doorbells. By its
//! command line: "ring" rings first and counts a hundred answers, "knock" just rings; "one-shot" has the device take back the
//! permission to interrupt with each interrupt, and tries that on itself.
#![no_std]
#![no_main]

mod inmate;
mod link;
use core::sync::atomic::Ordering::Relaxed;

use inmate::*;
use link::*;

const READY: u32 = 2;
const ROUNDS: u32 = 100;

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
    let Some(device) = Device::find() else {
        say!("ivshmem inmate: no device");
        stop();
    };
    let way = command();
    if way == b'o' {
        device.set_one_shot();
    }
    device.open();
    write(CONTROL, 1);
    write(STATE, READY);
    let own = read(ID);
    let peer = 1 - own;
    let state_of_peer = device.memory() + 4 * peer;
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
