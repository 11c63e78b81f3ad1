//! Interrupts: all that came are dealt with, whoever is most urgent runs first, and a line that stays high comes once.

use super::status;
use crate::arch;
use crate::memory::Ref;
use crate::object::thread::State;
use crate::object::{Thread, irq};
use crate::rig::{Rig, TABLE};
use crate::sched;
use ipc::{Call, Error, ObjectType};

const ALL: u32 = 5;
const HANDLERS: u32 = 60;
const PARTS: u32 = 100;

/// A rig with the capability that all interrupts come from.
fn rig() -> Rig {
    let rig = Rig::new(200);
    rig.slot(ALL).fill(&crate::cap::Cap::new(ObjectType::Irq, 0, 0));
    rig
}

/// An interrupt that signals bit 1 to a new notification, whose slot is the next one. Its vector.
fn interrupt(rig: &Rig, slot: u32, pin: Option<u64>) -> u8 {
    let (kind, pin) = (u64::from(pin.is_some()), pin.unwrap_or(0));
    let vector = rig.ok(Call::IrqDerive, ALL, &[kind, pin, 1, slot.into()]).rdi as u8;
    rig.retype(ObjectType::Notification, 0, slot + 1);
    rig.ok(Call::CapCopy, TABLE, &[(slot + 2).into(), (slot + 1).into(), 0xff, 1]);
    rig.ok(Call::IrqBind, slot, &[(slot + 2).into()]);
    vector
}

#[test]
fn whoever_is_most_urgent_is_served_first_however_interrupts_come() {
    let rig = rig();
    let main = rig.current();
    // The vectors ascend, the priorities do not.
    let priorities = [110, 150, 130, 140, 120];
    let handlers: Vec<(u8, Ref<Thread>)> = (0..)
        .zip(priorities)
        .map(|(index, priority)| {
            let vector = interrupt(&rig, PARTS + 3 * index, None);
            let thread = rig.thread(HANDLERS + 3 * index, priority);
            assert!(rig.settle() == thread);
            rig.call(Call::Wait, PARTS + 3 * index + 1, &[]);
            assert!(rig.settle() == main);
            (vector, thread)
        })
        .collect();
    assert!(handlers.is_sorted_by_key(|(vector, _)| *vector));
    // All at once, while the kernel is at work, and the timer besides.
    rig.k.cpu.note_interrupt(arch::TIMER_VECTOR);
    handlers.iter().for_each(|(vector, _)| rig.k.cpu.note_interrupt(*vector));
    // One that nobody has asked for is nothing.
    rig.k.cpu.note_interrupt(0x8f);
    let mut seen = Vec::new();
    while rig.settle() != main {
        let thread = rig.current();
        assert_eq!((rig.result(thread).status, rig.result(thread).rdi), (0, 1));
        seen.push(u64::from(thread.priority()));
        thread.suspend(&rig.k);
    }
    assert_eq!(seen, [150, 140, 130, 120, 110]);
    // The processor's own order: the timer, then the highest vector.
    for vector in [0x31, 0x70, arch::TIMER_VECTOR, 0x6f] {
        rig.k.cpu.note_interrupt(vector);
    }
    let order: Vec<u8> = core::iter::from_fn(|| rig.k.cpu.take_interrupt()).collect();
    assert!(order.is_sorted_by(|one, other| one > other), "{order:x?}");
}

#[test]
fn a_line_that_stays_high_comes_once_for_each_acknowledgement() {
    let rig = rig();
    let vector = interrupt(&rig, PARTS, Some(7));
    let count = || {
        // As long as nothing masks the pin, it comes; a thousand times is too often.
        let comes = || {
            irq::hold(&rig.k, vector);
            sched::interrupt(&rig.k, vector);
        };
        let times = (0..1000).take_while(|_| !arch::ioapic_masked(7)).map(|_| comes()).count();
        (times, rig.call(Call::Poll, PARTS + 1, &[]).status)
    };
    assert_eq!(count(), (1, 0));
    assert_eq!(count(), (0, status(Error::WouldBlock)));
    rig.ok(Call::IrqAck, PARTS, &[]);
    assert_eq!(count(), (1, 0));
    // On the fast path, too: a handler that waits.
    rig.ok(Call::IrqAck, PARTS, &[]);
    let main = rig.current();
    let handler = rig.thread(HANDLERS, 150);
    assert!(rig.settle() == handler);
    rig.call(Call::Wait, PARTS + 1, &[]);
    assert!(rig.settle() == main);
    irq::hold(&rig.k, vector);
    assert!(sched::woken_by(&rig.k, main, vector) == Some(handler) && arch::ioapic_masked(7));
    // Who has no right to acknowledge cannot; and without a notification it stays masked whatever is acknowledged.
    rig.ok(Call::CapCopy, TABLE, &[50, PARTS.into(), 1, 0]);
    assert_eq!(rig.call(Call::IrqAck, 50, &[]).status, status(Error::MissingRights));
    rig.ok(Call::IrqBind, PARTS, &[0]);
    rig.ok(Call::IrqAck, PARTS, &[]);
    assert!(arch::ioapic_masked(7));
    assert!(handler.state.get() == State::Ready);
    // When its last capability goes, too, and the pin can be had again.
    rig.ok(Call::CapCopy, TABLE, &[51, (PARTS + 1).into(), 0xff, 2]);
    rig.ok(Call::IrqBind, PARTS, &[51]);
    assert!(!arch::ioapic_masked(7));
    rig.ok(Call::CapRevoke, TABLE, &[ALL.into()]);
    assert!(arch::ioapic_masked(7));
    interrupt(&rig, 120, Some(7));
    assert!(!arch::ioapic_masked(7));
}
