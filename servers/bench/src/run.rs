//! The measurements, one after the other.

use super::loops::{self, FOREIGN_END, NO_OVERHEAD, OVERHEAD};
use super::workshop::{DONE, ENDPOINT, Loop, MOST, Workshop, made};
use super::{dirty, load};
use rt::{Cap, Endpoint, Notification, Start, Thread, log};

/// Samples of a measurement whose paths are all the same.
const SOME: usize = 1000;
const CLIENT: u8 = 150;
const SERVER: u8 = 160;
/// Less than this program.
const BELOW: u8 = 50;

/// The server.
pub fn main(_: Start) -> ! {
    let mut workshop = Workshop::new();
    let w = &mut workshop;
    for (name, client, server, own) in [
        ("ipc.call_reply.inter_as.0w", &raw const loops::call_0, &raw const loops::serve_0, false),
        ("ipc.call_reply.inter_as.4w", &raw const loops::call_4, &raw const loops::serve_4, false),
        ("ipc.call_reply.intra_as.0w", &raw const loops::call_0, &raw const loops::serve_0, true),
        ("ipc.call_reply.inter_as.64w", &raw const loops::call_64, &raw const loops::serve_64, false),
    ] {
        w.service();
        let space = if own { Start::ADDRESS_SPACE } else { w.space() };
        w.start(&background(server, SERVER), space, Some(Start::CAP_TABLE), None);
        measured(w, name, client, CLIENT, OVERHEAD);
    }
    let space = w.space();
    w.service();
    w.start(&background(&raw const loops::signals, BELOW), space, Some(Start::CAP_TABLE), None);
    measured(w, "notify.wake_higher.inter_as", &raw const loops::wait_for_signal, SERVER, OVERHEAD);

    let space = w.space();
    w.service();
    w.start(&background(&raw const loops::note_time, BELOW), space, Some(Start::CAP_TABLE), None);
    measured(w, "irq.to_user", &raw const loops::sleep_from_note, SERVER, OVERHEAD);

    w.service();
    measured(w, "syscall.null", &raw const loops::null, CLIENT, OVERHEAD);
    w.service();
    measured(w, "syscall.yield", &raw const loops::yields, CLIENT, OVERHEAD);
    foreign(w);
    for (name, pages) in [("memory.take_dirty.512p", 512), ("memory.take_dirty.64p", 64)] {
        let mut samples = [0; SOME];
        dirty::samples(w, pages, &mut samples);
        say(name, &mut samples, NO_OVERHEAD);
    }

    let space = w.space();
    w.service();
    w.start(&background(&raw const loops::computes, BELOW), space, Some(Start::CAP_TABLE), None);
    measured(w, "timer.wake", &raw const loops::sleep_from_deadline, SERVER, NO_OVERHEAD);

    let sleeper = Loop { entry: &raw const loops::sleep_from_deadline, priority: 180, samples: MOST };
    load::beside(w, &sleeper);
    say("timer.wake_max", w.samples(MOST), NO_OVERHEAD);
    w.clear();

    // What each of sixteen threads takes of the memory that the kernel is given.
    let slot = w.slot();
    for _ in 1..16 {
        w.slot();
    }
    made(w.scratch.retype(rt::ObjectType::Thread, 0, slot, 16));
    let used = made(w.scratch.info()).used;
    say("kernel.ram_per_thread", &mut [(used / 16) as u32], 0);
    w.clear();

    log!("all measured");
    let _ = Start::CONSOLE.halt(false);
    panic!("still here");
}

fn background(entry: *const u8, priority: u8) -> Loop {
    Loop { entry, priority, samples: 0 }
}

/// Lets a loop in the server's own space note its samples, and takes everything away.
fn measured(w: &mut Workshop, name: &str, entry: *const u8, priority: u8, overhead: u32) {
    w.start(&Loop { entry, priority, samples: SOME }, Start::ADDRESS_SPACE, Some(Start::CAP_TABLE), None);
    w.wait();
    say(name, w.samples(SOME), overhead);
    w.clear();
}

/// A foreign thread with a space of its own, whose calls a server in another one answers; its last call comes here.
fn foreign(w: &mut Workshop) {
    w.service();
    let ours: Cap<Endpoint> = w.make(0);
    let (space, other) = (w.space(), w.space());
    made(space.set_route(0, 511, 0));
    made(space.set_route(FOREIGN_END, FOREIGN_END, 1));
    made(space.bind_route(0, Cap::new(ENDPOINT)));
    made(space.bind_route(1, ours));
    w.start(&background(&raw const loops::serve_1, SERVER), other, Some(Start::CAP_TABLE), None);
    let _: Cap<Thread> =
        w.start(&Loop { entry: &raw const loops::foreign, priority: CLIENT, samples: SOME }, space, None, None);
    let reply = w.make(0);
    let end = made(ours.receive(Some(reply), None));
    assert_eq!(end.word(0), FOREIGN_END);
    say("foreign.round_trip", w.samples(SOME), OVERHEAD);
    w.clear();
}

fn say(name: &str, samples: &mut [u32], overhead: u32) {
    samples.sort_unstable();
    let n = samples.len();
    let at = |index: usize| samples[index].wrapping_sub(overhead);
    log!("{name} median {} min {} max {} n {n}", at(n / 2), at(0), at(n - 1));
}

/// Whether the loop that notes samples has them all.
pub fn is_done() -> bool {
    Cap::<Notification>::new(DONE).poll().is_ok()
}
