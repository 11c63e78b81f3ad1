//! Scheduling: fixed priorities, the highest runs; FIFO or round robin among equals; budgets.
//!
//! The current thread is in no queue. It is put back at the front when it is preempted, at the end when its quantum is over or it
//! yields. There is no tick: the timer is set to the next deadline, end of quantum or refill, if there is one.
//!
//! A processor that polls while nobody is ready looks at the time itself: the timer is set only for what has to interrupt the current
//! thread. That is not so for the deadline of somebody less urgent: it is looked for as soon as the thread gives the processor up, for
//! which the scheduler has to be asked ([`Cpu::attention`](crate::kernel::Cpu) stays set). The timer is never set back: what was taken back,
//! or dealt with by polling, makes it come for nothing once.

pub mod ready;
pub mod timeouts;

use crate::arch;
use crate::fault;
use crate::kernel::Kernel;
use crate::memory::Ref;
use crate::object::irq;
use crate::object::thread::State;
use crate::object::{SchedContext, Thread};
use core::cell::Cell;
use ipc::Error;

/// A thread that waited, or was stopped, may run.
pub fn make_ready(k: &Kernel, thread: Ref<Thread>) {
    thread.state.set(State::Ready);
    requeue(k, thread);
}

/// Takes a thread out of its ready queue, if it is in one.
pub fn unqueue(k: &Kernel, thread: Ref<Thread>) {
    if thread.queued.get() {
        k.cpu.ready.remove(thread);
    }
}

/// A thread's priority or time has changed: queues it anew if it may run.
pub fn requeue(k: &Kernel, thread: Ref<Thread>) {
    unqueue(k, thread);
    let current = k.cpu.current.get();
    if current == Some(thread) {
        k.cpu.reschedule();
    } else if thread.runnable() {
        k.cpu.ready.push(thread, false);
        // Whoever runs and is at least as urgent goes on.
        if current.is_none_or(|current| !current.runnable() || k.cpu.ready.reaches_over(current.priority(), false)) {
            k.cpu.reschedule();
        }
    }
}

/// Accounts for the time since the last call.
#[inline(always)]
pub fn charge(k: &Kernel) {
    let now = k.cpu.now();
    let ticks = now.saturating_sub(k.cpu.stamp.replace(now));
    if let Some(time) = k.cpu.current.get().and_then(|thread| thread.time())
        && time.charge(k, now, ticks)
    {
        rotate(k);
    }
}

/// `thread`, which waited, is in no queue, and has this time of its own, takes the processor from `current`, which is less urgent and
/// goes to the front of its equals. `false`: the scheduler has something to see to first, and nothing but the accounts has changed.
#[inline(always)]
pub fn preempt(k: &Kernel, current: Ref<Thread>, thread: Ref<Thread>, time: Ref<SchedContext>) -> bool {
    preempt_at(k, current, thread, time, k.cpu.now())
}

#[inline(always)]
fn preempt_at(k: &Kernel, current: Ref<Thread>, thread: Ref<Thread>, time: Ref<SchedContext>, now: u64) -> bool {
    let ticks = now.saturating_sub(k.cpu.stamp.replace(now));
    if let Some(time) = current.time()
        && time.charge(k, now, ticks)
    {
        rotate(k);
    }
    if k.cpu.attention.get() {
        return false;
    }
    k.cpu.ready.push(current, true);
    thread.state.set(State::Ready);
    k.cpu.current.set(Some(thread));
    if time.metered() {
        arm(k, Some(thread));
    }
    true
}

/// The fast path of interrupts: if all that one does is to wake a thread that is more urgent than the current one, which it found in user
/// mode, that thread is current now. `None`: nothing has changed but the accounts.
#[inline(always)]
pub fn woken_by(k: &Kernel, current: Ref<Thread>, vector: u8) -> Option<Ref<Thread>> {
    if vector == arch::TIMER_VECTOR { woken_by_timer(k, current) } else { woken_by_irq(k, current, vector) }
}

/// The time of a thread that waits, if it can run and is more urgent.
#[inline(always)]
fn urgent(thread: Ref<Thread>, current: Ref<Thread>) -> Option<Ref<SchedContext>> {
    let time = thread.own_time.get()?;
    (!time.exhausted() && time.priority() > current.priority()).then_some(time)
}

#[inline(always)]
fn woken_by_timer(k: &Kernel, current: Ref<Thread>) -> Option<Ref<Thread>> {
    let thread = k.cpu.timeouts.first()?;
    let notification = thread.waiting_on.get()?;
    let time = urgent(thread, current)?;
    let now = k.cpu.now();
    if !k.cpu.exhausted.is_empty() || now < thread.deadline.get() || !preempt_at(k, current, thread, time, now) {
        return None;
    }
    thread.has_deadline.set(false);
    k.cpu.timeouts.remove_first(thread);
    notification.take_out(thread);
    thread.frame.set_status(Err(Error::TimedOut));
    // The timer has to be set anew for whatever comes next.
    k.cpu.armed.set(u64::MAX);
    arm(k, Some(thread));
    Some(thread)
}

#[inline(always)]
fn woken_by_irq(k: &Kernel, current: Ref<Thread>, vector: u8) -> Option<Ref<Thread>> {
    let irq = irq::of_vector(k, vector)?;
    let (notification, bits) = irq.signals()?;
    let thread = notification.waiters.first()?;
    let time = urgent(thread, current)?;
    if bits == 0 || thread.has_deadline.get() || !preempt(k, current, thread, time) {
        return None;
    }
    notification.take_out(thread);
    thread.frame.set_status(Ok(()));
    thread.frame.set_result(0, bits);
    Some(thread)
}

/// `thread`, which waits, and is not current any more, waits until a deadline at most.
pub fn wait_until(k: &Kernel, thread: Ref<Thread>, deadline: u64) {
    let attention = k.cpu.attention.get();
    timeouts::start(k, thread, deadline);
    k.cpu.attention.set(attention);
    arm_by(k, deadline);
}

/// The current thread goes behind its equals.
pub fn rotate(k: &Kernel) {
    k.cpu.rotate.set(true);
    k.cpu.reschedule();
}

/// Deals with an interrupt.
pub fn interrupt(k: &Kernel, vector: u8) {
    if vector == arch::TIMER_VECTOR {
        k.cpu.armed.set(u64::MAX);
        deal_with_time(k);
    } else if let Some(irq) = irq::of_vector(k, vector) {
        irq.fire(k);
    }
}

/// Deals with what is due, or with a bounded part of it.
fn deal_with_time(k: &Kernel) {
    charge(k);
    if let Some(current) = k.cpu.current.get() {
        fault::budget(k, current);
    }
    let now = k.cpu.stamp.get();
    timeouts::expire(k, now);
    for _ in 0..8 {
        match k.cpu.exhausted.first() {
            Some(time) if time.refill_at.get() <= now => {
                k.cpu.exhausted.remove(time);
                time.revive(k, now);
            }
            _ => break,
        }
    }
}

/// Waits until something is due or an interrupt has come, without the timer.
fn poll(k: &Kernel) {
    let next = next_event(k, None, first_deadline(k));
    loop {
        arch::relax();
        if k.cpu.has_interrupt() {
            return;
        }
        if k.cpu.now() >= next {
            return deal_with_time(k);
        }
    }
}

/// Before the kernel is left: deals with interrupts that came meanwhile, chooses the thread that runs, sets the timer.
/// Idles while there is nobody.
pub fn settle(k: &Kernel) -> Ref<Thread> {
    let current = k.cpu.current.get();
    if !k.cpu.attention.get()
        && let Some(current) = current
        && current.state.get() == State::Ready
    {
        return current;
    }
    // What has come meanwhile is dealt with in one go: at the way out it would cost another way in, and be kept from who waits for
    // it by whoever is chosen before.
    arch::interrupt_window();
    loop {
        k.cpu.attention.set(false);
        while let Some(vector) = k.cpu.take_interrupt() {
            interrupt(k, vector);
        }
        match choose(k) {
            Some(thread) => {
                k.cpu.attention.set(false);
                arm(k, Some(thread));
                return thread;
            }
            None if k.machine.get().polls => poll(k),
            None => {
                arm(k, None);
                arch::idle();
            }
        }
    }
}

/// Makes the most urgent thread that can run current.
fn choose(k: &Kernel) -> Option<Ref<Thread>> {
    if let Some(current) = k.cpu.current.get() {
        let rotate = k.cpu.rotate.take();
        let runnable = current.runnable();
        if runnable && !k.cpu.ready.reaches_over(current.priority(), rotate) {
            return Some(current);
        }
        charge(k);
        // Its budget can have ended in a call just as well as by the timer.
        fault::budget(k, current);
        k.cpu.current.set(None);
        // Its quantum can have ended just now, or its budget.
        let rotate = k.cpu.rotate.take() || rotate;
        if runnable && current.runnable() {
            k.cpu.ready.push(current, !rotate);
        }
    } else {
        k.cpu.stamp.set(k.cpu.now());
    }
    loop {
        let thread = k.cpu.ready.pop()?;
        if thread.runnable() {
            k.cpu.current.set(Some(thread));
            return Some(thread);
        }
    }
}

/// Sets the timer to the next thing that is due, if that is sooner than what it is set to.
#[inline(always)]
fn arm(k: &Kernel, current: Option<Ref<Thread>>) {
    if k.machine.get().polls { arm_polling(k, current) } else { arm_by(k, next_event(k, current, first_deadline(k))) }
}

/// The same on a processor that polls.
#[cold]
#[inline(never)]
fn arm_polling(k: &Kernel, current: Option<Ref<Thread>>) {
    let deadline = current.map_or(u64::MAX, |current| interrupting(k, &current));
    arm_by(k, next_event(k, current, deadline));
}

fn first_deadline(k: &Kernel) -> u64 {
    k.cpu.timeouts.first().map_or(u64::MAX, |thread| thread.deadline.get())
}

/// When something is due if this thread goes on, with this deadline of another one; `u64::MAX`: never.
#[inline(always)]
fn next_event(k: &Kernel, current: Option<Ref<Thread>>, deadline: u64) -> u64 {
    let mut next = deadline;
    if let Some(time) = k.cpu.exhausted.first() {
        next = next.min(time.refill_at.get());
    }
    if let Some(time) = current.and_then(|thread| thread.time())
        && time.metered()
    {
        next = next.min(time.next_event(k.cpu.stamp.get()));
    }
    next
}

/// When somebody who waits has to interrupt this thread, on a processor that polls.
fn interrupting(k: &Kernel, current: &Thread) -> u64 {
    let priority = current.priority();
    let left_out = Cell::new(u64::MAX);
    let latest = |thread: &Thread| {
        if thread.priority() >= priority {
            return thread.deadline.get().saturating_add(thread.slack.get());
        }
        left_out.set(left_out.get().min(thread.deadline.get()));
        u64::MAX
    };
    // Among very many, the first one of all will do: the timer then comes too early at worst.
    let next = k.cpu.timeouts.smallest(latest).unwrap_or_else(|| first_deadline(k));
    if left_out.get() < next {
        k.cpu.attention.set(true);
    }
    next
}

/// The timer comes at `next` at the latest.
fn arm_by(k: &Kernel, next: u64) {
    if next < k.cpu.armed.get() {
        k.cpu.armed.set(next);
        arch::set_timer(next);
    }
}
