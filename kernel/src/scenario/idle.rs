//! A processor that polls while nobody is ready: deadlines and refills come without the timer, which is set only while a thread runs.

use super::{NOTIFICATION, status};
use crate::arch::{self, MOMENT, take_timer};
use crate::kernel::Machine;
use crate::memory::Ref;
use crate::object::Thread;
use crate::object::irq::FIRST_VECTOR;
use crate::object::thread::State;
use crate::rig::Rig;
use core::mem::offset_of;
use ipc::message::Request;
use ipc::{Call, Error, MessageBuffer, ObjectType};

const OTHER: u32 = 60;
const THIRD: u32 = 64;

/// Two threads, of which the first one of the rig is less urgent and runs.
fn polling() -> (Rig, Ref<Thread>) {
    let rig = Rig::new(64);
    rig.k.machine.set(Machine { polls: true, ..rig.k.machine.get() });
    rig.retype(ObjectType::Notification, 0, NOTIFICATION);
    let other = rig.thread(OTHER, 140);
    assert!(rig.settle() == other);
    take_timer();
    (rig, other)
}

/// The current thread waits, with a deadline or for ever; who is the next to run.
fn wait(rig: &Rig, deadline: Option<u64>) -> Ref<Thread> {
    rig.buffer(rig.current()).write(0, deadline.unwrap_or(0));
    let flags = if deadline.is_some() { Request::DEADLINE } else { 0 };
    rig.raw(Request::new(Call::Wait, 0, flags), NOTIFICATION.into(), 0, [0; 8]);
    rig.settle()
}

fn timed_out(rig: &Rig, thread: Ref<Thread>, deadline: u64) {
    assert_eq!((rig.result(thread).status, thread.state.get()), (status(Error::TimedOut), State::Ready));
    assert!((deadline..deadline + MOMENT).contains(&arch::now()), "{} is not {deadline}", arch::now());
}

#[test]
fn a_sleeper_alone_needs_no_timer() {
    let (rig, other) = polling();
    let root = wait(&rig, None);
    for deadline in (2000..9000).step_by(1000) {
        assert!(wait(&rig, Some(deadline)) == root);
        timed_out(&rig, root, deadline);
    }
    // One that is over already.
    assert!(wait(&rig, Some(10)) == root && rig.result(root).status == status(Error::TimedOut));
    assert_eq!((take_timer(), rig.k.cpu.armed.get(), other.state.get()), (vec![], u64::MAX, State::WaitingSignal));
}

#[test]
fn the_timer_is_set_only_while_a_thread_runs() {
    let (rig, other) = polling();
    // A more urgent one has a deadline while the other runs: that one might go on for long.
    let root = wait(&rig, Some(5000));
    assert_eq!(take_timer(), [5000]);
    // It does not: a nearer deadline is polled for, again and again, and the timer stays as it is.
    for deadline in [2000, 3000, 4000] {
        assert!(wait(&rig, Some(deadline)) == root);
        timed_out(&rig, root, deadline);
    }
    assert!(wait(&rig, Some(9000)) == other);
    timed_out(&rig, other, 5000);
    assert_eq!(take_timer(), []);
    // Now it comes, for nothing; the less urgent one's deadline is nothing to this thread.
    rig.k.cpu.note_interrupt(arch::TIMER_VECTOR);
    assert!(rig.settle() == other);
    assert_eq!((take_timer(), rig.k.cpu.armed.get(), root.state.get()), (vec![], u64::MAX, State::WaitingSignal));
    // A thread that goes on is interrupted by a more urgent one's.
    assert!(wait(&rig, Some(12_000)) == root);
    timed_out(&rig, root, 9000);
    assert_eq!(take_timer(), [12_000]);
    arch::set_now(12_000);
    rig.k.cpu.note_interrupt(arch::TIMER_VECTOR);
    assert!(rig.settle() == other);
    timed_out(&rig, other, 12_000);
    assert_eq!((take_timer(), rig.k.cpu.armed.get()), (vec![], u64::MAX));
}

#[test]
fn a_timer_that_comes_for_nothing_does_no_harm() {
    let (rig, other) = polling();
    let root = wait(&rig, Some(5000));
    // The deadline is taken back, and a later one set: the timer stays at the first.
    rig.ok(Call::Signal, NOTIFICATION, &[]);
    rig.ok(Call::CapCopy, crate::rig::TABLE, &[70, NOTIFICATION.into(), 0xff, 1]);
    rig.ok(Call::Signal, 70, &[]);
    assert!(rig.settle() == other && rig.result(other).rdi == 1);
    assert!(wait(&rig, Some(7000)) == root);
    assert_eq!(take_timer(), [5000]);
    // It comes while both sleep, early: nobody wakes, and nothing is set.
    arch::set_now(4990);
    rig.k.cpu.note_interrupt(arch::TIMER_VECTOR);
    rig.k.cpu.note_interrupt(FIRST_VECTOR + 3);
    assert!(wait(&rig, Some(6000)) == root);
    timed_out(&rig, root, 6000);
    // One that goes on with the later deadline ahead of it has the timer set for that, once.
    assert!(rig.settle() == root);
    assert_eq!((take_timer(), rig.k.cpu.armed.get()), (vec![7000], 7000));
    assert!(wait(&rig, None) == other);
    timed_out(&rig, other, 7000);
}

#[test]
fn a_budget_comes_back_while_the_processor_polls() {
    let (rig, other) = polling();
    rig.ok(Call::SchedConfigure, OTHER + 1, &[140, 0, 0, 300, 1000]);
    assert!(rig.settle() == other);
    let end = arch::now() + 300;
    assert_eq!(take_timer(), [end]);
    arch::set_now(end);
    rig.k.cpu.note_interrupt(arch::TIMER_VECTOR);
    let root = rig.settle();
    assert!(root != other);
    assert!(wait(&rig, None) == other, "it goes on with its next period");
    let refill = end + 700;
    assert!((refill..refill + MOMENT).contains(&arch::now()), "{} is not {refill}", arch::now());
}

/// A third thread, between the two, with a deadline; who runs then.
fn third(rig: &Rig, deadline: u64) -> Ref<Thread> {
    let third = rig.thread(THIRD, 120);
    rig.ok(Call::SchedConfigure, OTHER + 1, &[90, 0, 0, 0, 0]);
    assert!(rig.settle() == third);
    wait(rig, Some(deadline))
}

#[test]
fn a_less_urgent_one_with_a_deadline_does_not_interrupt() {
    let (rig, other) = polling();
    let root = third(&rig, 20_000);
    // That of the least urgent one is nothing to the others.
    assert!(wait(&rig, None) == other);
    rig.ok(Call::SchedConfigure, crate::rig::TIME, &[95, 0, 0, 0, 0]);
    rig.ok(Call::CapCopy, crate::rig::TABLE, &[70, NOTIFICATION.into(), 0xff, 1]);
    take_timer();
    rig.k.cpu.armed.set(u64::MAX);
    assert!(wait(&rig, Some(3000)) == other);
    timed_out(&rig, other, 3000);
    rig.buffer(other).write(0, 4000);
    rig.raw(Request::new(Call::Wait, 0, Request::DEADLINE), NOTIFICATION.into(), 0, [0; 8]);
    rig.k.cpu.note_interrupt(FIRST_VECTOR + 1);
    root.abort(&rig.k, Error::Cancelled);
    assert!(rig.settle() == root);
    assert_eq!(take_timer(), [20_000]);
    // It is dealt with as soon as the processor is given up, by whichever way: late by what the more urgent one took.
    assert!(rig.k.cpu.attention.get());
    arch::set_now(4500);
    assert!(wait(&rig, None) == other);
    assert_eq!((rig.result(other).status, arch::now() < 4500 + 2 * MOMENT), (status(Error::TimedOut), true));
}

#[test]
fn a_deadline_with_slack_interrupts_at_its_end() {
    const SLACK: u64 = offset_of!(MessageBuffer, slack) as u64 / 8;
    let (rig, other) = polling();
    rig.buffer(other).write(SLACK as usize, 400);
    let root = wait(&rig, Some(5000));
    assert_eq!((take_timer(), rig.k.cpu.attention.get()), (vec![5400], false));
    // Nobody keeps the processor busy: it is not late.
    assert!(wait(&rig, None) == other);
    timed_out(&rig, other, 5000);
    assert_eq!((take_timer(), root.state.get()), (vec![], State::WaitingSignal));
}
