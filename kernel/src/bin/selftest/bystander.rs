//! A thread that has nothing to do with what goes on, and beats fifty times a millisecond of its own. No beat may be missing.

use crate::program::{now, ok, retype, set_registers};
use core::sync::atomic::{AtomicU64, Ordering::Relaxed};
use ipc::message::Request;
use ipc::slots;
use ipc::{Call, Error, ObjectType, Tag};

const THREAD: u32 = 250;
const TIME: u32 = 251;
const BUFFER: u32 = 252;
const NOTIFICATION: u32 = 253;
const STACK: u32 = 254;
const BUFFER_AT: u64 = 0x5200_0000;
const STACK_AT: u64 = 0x5201_0000;
/// Above all others.
const PRIORITY: u64 = 250;
/// A beat may come this much after its time: what the kernel takes, and a step of a long operation.
const LATE: u64 = 10_000;

static PERIOD: AtomicU64 = AtomicU64::new(0);
static START: AtomicU64 = AtomicU64::new(0);
static BEATS: AtomicU64 = AtomicU64::new(0);

extern "C" fn beat() -> ! {
    loop {
        let next = BEATS.load(Relaxed) + 1;
        // SAFETY: its own message buffer.
        unsafe { (BUFFER_AT as *mut u64).write_volatile(START.load(Relaxed) + next * PERIOD.load(Relaxed)) }
        let out = crate::program::message(Call::Wait, NOTIFICATION, 0, Request::DEADLINE, Tag(0), [0; 8]);
        if out.status != Error::TimedOut as u64 {
            // The next check finds that it has ended.
            ok(Call::ThreadSuspend, THREAD, &[]);
        }
        BEATS.store(next, Relaxed);
    }
}

/// Starts it.
pub fn start(tsc_khz: u64) {
    for (kind, size, slot) in [
        (ObjectType::Thread, 0, THREAD),
        (ObjectType::SchedContext, 0, TIME),
        (ObjectType::Frame, 4096, BUFFER),
        (ObjectType::Notification, 0, NOTIFICATION),
        (ObjectType::Frame, 16384, STACK),
    ] {
        retype(kind, size, slot);
    }
    ok(Call::Map, slots::ADDRESS_SPACE, &[BUFFER.into(), 0, BUFFER_AT, 1, 3]);
    ok(Call::Map, slots::ADDRESS_SPACE, &[STACK.into(), 0, STACK_AT, 4, 3]);
    let (space, table) = (slots::ADDRESS_SPACE.into(), slots::CAP_TABLE.into());
    ok(Call::ThreadConfigure, THREAD, &[space, table, 0, BUFFER.into(), 0, 3]);
    ok(Call::SchedConfigure, TIME, &[PRIORITY, 0, 0, 0, 0]);
    ok(Call::SchedBind, TIME, &[THREAD.into()]);
    set_registers(THREAD, beat as *const () as u64, STACK_AT + 16384 - 8, [0; 2]);
    PERIOD.store(tsc_khz / 50, Relaxed);
    START.store(now(), Relaxed);
    ok(Call::ThreadResume, THREAD, &[]);
}

/// Checks for the last time, and stops it.
pub fn stop() -> u64 {
    let beats = check("at the end");
    ok(Call::ThreadSuspend, THREAD, &[]);
    beats
}

/// Waits until one more beat has to have come, and checks.
pub fn next(when: &str) -> u64 {
    let next = START.load(Relaxed) + (BEATS.load(Relaxed) + 1) * PERIOD.load(Relaxed) + LATE;
    while now() < next {}
    check(when)
}

/// Fails if a beat is missing, or one too many; how many there were.
pub fn check(when: &str) -> u64 {
    let due = |at: u64| at.saturating_sub(START.load(Relaxed)) / PERIOD.load(Relaxed);
    let before = now();
    let beats = BEATS.load(Relaxed);
    assert!((due(before - LATE)..=due(now())).contains(&beats), "{when}: {beats} beats, {} due", due(before));
    beats
}
