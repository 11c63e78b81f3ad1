//! Crimes that take time: an endless loop, and an interrupt that never stops.

use crate::bystander;
use crate::crimes::{endless_loop, report};
use crate::program::{
    FAULT_REPLY, FAULTS, NOTIFICATION, SPACE, THREAD, TIME, call, message, now, ok, retype, set_deadline, set_registers,
};
use core::sync::atomic::{AtomicU64, Ordering::Relaxed};
use ipc::message::{LABEL_BUDGET, Request};
use ipc::slots::{self, boot};
use ipc::{Call, Error, ObjectType, Rights, Tag};

const IRQ: u32 = 260;
const SIGNAL: u32 = 261;
const HANDLER: u32 = 262;
const HANDLER_TIME: u32 = 263;
const HANDLER_BUFFER: u32 = 264;
const HANDLER_STACK: u32 = 265;
const HANDLED: u32 = 266;
const STACK_AT: u64 = 0x5300_0000;
const PLACE: u64 = 0x7_0000;
/// The first serial port: its transmitter is empty nearly always, and says so by a line that stays high.
const SERIAL_PIN: u64 = 4;
const SERIAL_ENABLE: u64 = 0x3f9;

/// Commits them.
pub fn all(tsc_khz: u64) {
    endless(tsc_khz);
    storm(tsc_khz);
}

fn consumed(slot: u32) -> u64 {
    ok(Call::SchedConsumed, slot, &[]).rdi
}

/// A loop above the priority of this thread, with a fifth of the processor.
fn endless(tsc_khz: u64) {
    let (budget, period) = (2 * tsc_khz, 10 * tsc_khz);
    ok(Call::ThreadSuspend, THREAD, &[]);
    set_registers(THREAD, endless_loop(), 0x2_2000, [0; 2]);
    ok(Call::SchedConfigure, TIME, &[150, 0, 0, budget, period]);
    let (start, used) = (now(), consumed(TIME));
    ok(Call::ThreadResume, THREAD, &[]);
    // The loop is still mapped where the crimes were. It runs at once: a fresh budget is full. When it is used up, that is said here.
    let mut out = message(Call::Receive, FAULTS, FAULT_REPLY, 0, Tag(0), [0; 8]);
    for rounds in 1..=5 {
        assert_eq!((out.status, out.rdi, Tag(out.rsi).label()), (0, 77, LABEL_BUDGET), "round {rounds}");
        assert_eq!(out.words[0], budget);
        let (elapsed, used) = (now() - start, consumed(TIME) - used);
        let most = rounds * budget;
        assert!(used >= most && used < most + tsc_khz / 10, "{used} used in round {rounds} of {budget}");
        let soonest = (rounds - 1) * period + budget;
        assert!(elapsed >= soonest && elapsed < soonest + tsc_khz, "round {rounds}: over after {elapsed}");
        out = message(Call::ReplyReceive, FAULTS, FAULT_REPLY, 0, Tag(0), [0; 8]);
    }
    ok(Call::ThreadSuspend, THREAD, &[]);
    ok(Call::SchedConfigure, TIME, &[50, 0, 0, 0, 0]);
    ok(Call::Unmap, SPACE, &[PLACE, 1]);
    report("endless loop over budget");
}

static STORM: AtomicU64 = AtomicU64::new(0);

/// Acknowledges without looking at the device: the worst that a driver can do.
extern "C" fn handler() -> ! {
    loop {
        if message(Call::Wait, SIGNAL, 0, 0, Tag(0), [0; 8]).status == 0 {
            STORM.store(STORM.load(Relaxed) + 1, Relaxed);
            call(Call::IrqAck, IRQ, &[]);
        }
    }
}

fn storm(tsc_khz: u64) {
    for (kind, size, slot) in [
        (ObjectType::Notification, 0, SIGNAL),
        (ObjectType::Thread, 0, HANDLER),
        (ObjectType::SchedContext, 0, HANDLER_TIME),
        (ObjectType::Frame, 4096, HANDLER_BUFFER),
        (ObjectType::Frame, 8192, HANDLER_STACK),
    ] {
        retype(kind, size, slot);
    }
    ok(Call::IrqDerive, boot::IRQ, &[1, SERIAL_PIN, 1, IRQ.into()]);
    ok(Call::CapCopy, slots::CAP_TABLE, &[HANDLED.into(), SIGNAL.into(), Rights::WRITE.bits().into(), 1]);
    ok(Call::IrqBind, IRQ, &[HANDLED.into()]);
    ok(Call::PortOut, boot::IO_PORT, &[SERIAL_ENABLE, 1, 2]);
    // Without acknowledgement it comes once, however long the line stays high.
    assert_eq!(ok(Call::Wait, SIGNAL, &[]).rdi, 1);
    set_deadline(now() + 5 * tsc_khz);
    let out = message(Call::Wait, SIGNAL, 0, Request::DEADLINE, Tag(0), [0; 8]);
    assert_eq!(out.status, Error::TimedOut as u64);
    // A driver above everybody but the bystander, that acknowledges at once, with half of the processor.
    ok(Call::Map, slots::ADDRESS_SPACE, &[HANDLER_STACK.into(), 0, STACK_AT, 2, 3]);
    let (space, table) = (slots::ADDRESS_SPACE.into(), slots::CAP_TABLE.into());
    ok(Call::ThreadConfigure, HANDLER, &[space, table, 0, HANDLER_BUFFER.into(), 0, 4]);
    ok(Call::SchedConfigure, HANDLER_TIME, &[240, 0, 0, tsc_khz, 2 * tsc_khz]);
    ok(Call::SchedBind, HANDLER_TIME, &[HANDLER.into()]);
    set_registers(HANDLER, handler as *const () as u64, STACK_AT + 8192 - 8, [0; 2]);
    ok(Call::ThreadResume, HANDLER, &[]);
    ok(Call::IrqAck, IRQ, &[]);
    // This thread gets on all the same.
    let (start, before) = (now(), bystander::check("irq storm"));
    let mut turns = 0_u64;
    while now() - start < 20 * tsc_khz {
        turns += u64::from(call(Call::Poll, NOTIFICATION, &[]).status == Error::WouldBlock as u64);
    }
    let storms = STORM.load(Relaxed);
    ok(Call::PortOut, boot::IO_PORT, &[SERIAL_ENABLE, 1, 0]);
    assert!(storms > 1000 && turns > 1000, "{storms} interrupts, {turns} turns");
    assert!(bystander::check("irq storm") - before >= 900);
    let share = consumed(HANDLER_TIME);
    assert!(share <= 12 * tsc_khz, "the handler used {share} ticks of {}", now() - start);
    ok(Call::CapDelete, slots::CAP_TABLE, &[HANDLER.into()]);
    ok(Call::CapDelete, slots::CAP_TABLE, &[IRQ.into()]);
    report("irq storm");
}
