//! What keeps the kernel busy while somebody more urgent sleeps and wakes: threads that compute, exchange messages and fault, and this one,
//! that does everything that takes the kernel long.

use super::loops;
use super::run::is_done;
use super::workshop::{Loop, Workshop, made};
use rt::calls::yield_now;
use rt::{AddressSpace, Cap, Endpoint, Frame, Notification, ObjectType, Protection, Rights, Start};

/// Capabilities that are derived from one and revoked.
const DESCENDANTS: u32 = 10_000;
const FIRST: u32 = 1000;
const PAGE: u64 = 4096;
const LARGE: u64 = 2 << 20;
/// Added to a size: aligned to 2 MiB.
const ALIGNED: u64 = 21;
const GIGABYTE: u64 = 1 << 30;
/// Where the gigabyte is mapped.
const AT: u64 = 1 << 32;

/// Lets a sleeper run, with all that beside it, until it has its samples and everything was done at least twice.
pub fn beside(w: &mut Workshop, sleeper: &Loop) {
    let own = 100;
    let table = Some(Start::CAP_TABLE);
    w.service();
    let (one, other) = (w.space(), w.space());
    let faults: Cap<Endpoint> = w.make(0);
    let background = |entry| Loop { entry, priority: own, samples: 0 };
    w.start(&Loop { entry: &raw const loops::serve_4, priority: own + 1, samples: 0 }, one, table, None);
    w.start(&background(&raw const loops::calls_for_ever), other, table, None);
    w.start(&background(&raw const loops::computes), other, table, None);
    w.start(&background(&raw const loops::faults), one, table, Some(Cap::new(super::workshop::ENDPOINT)));
    w.start(&background(&raw const loops::faults), one, table, Some(faults));
    w.start(sleeper, Start::ADDRESS_SPACE, table, None);
    let root: Cap<Notification> = w.make(0);
    let large: Cap<Frame> = w.make(LARGE + ALIGNED);
    let tables: Cap<AddressSpace> = w.make(3 << 20);
    let large_slot = w.slot();
    let (mut rounds, mut done) = (0, false);
    while !done || rounds < 2 {
        revoke(root);
        // By small pages, and by large ones.
        map_a_gigabyte(tables, large, PAGE, Protection::empty());
        map_a_gigabyte(tables, large, 0, Protection::LARGE);
        for _ in 0..8 {
            // Zeroed anew each time: what was made there before has gone, and the memory with it.
            made(w.scratch.retype(ObjectType::Frame, LARGE, large_slot, 1));
            made(Start::CAP_TABLE.delete(large_slot));
        }
        rounds += 1;
        done |= is_done();
    }
}

/// Lets the others have their turns every now and then: this thread has no quantum.
fn give_way(index: u32) {
    if index.is_multiple_of(1024) {
        yield_now();
    }
}

fn revoke(root: Cap<Notification>) {
    for index in 0..DESCENDANTS {
        give_way(index);
        // Half of them in a chain, half of them side by side.
        let source = if index % 2 == 0 || index < 2 { root.slot() } else { FIRST + index - 2 };
        made(Start::CAP_TABLE.copy(FIRST + index, Cap::<Notification>::new(source), Rights::all(), 0));
    }
    made(Start::CAP_TABLE.revoke(root.slot()));
    assert_eq!(made(Start::CAP_TABLE.identify(FIRST + DESCENDANTS - 1)), None);
}

/// Maps a frame again and again, its first page `shift` bytes behind a multiple of 2 MiB, and unmaps all of it.
fn map_a_gigabyte(space: Cap<AddressSpace>, frame: Cap<Frame>, shift: u64, large: Protection) {
    let writable = Protection::READ | Protection::WRITE | large;
    for (index, offset) in (0..GIGABYTE).step_by(LARGE as usize).enumerate() {
        give_way(index as u32 * 16);
        made(space.map(frame, 0, AT + shift + offset, LARGE / PAGE, writable));
    }
    made(space.unmap(AT, GIGABYTE / PAGE + 1));
}
