//! Scheduling: fixed priorities, the highest runs; FIFO or round robin among equals; budgets.
//!
//! The current thread is in no queue. It is put back at the front when it is preempted, at the end when its quantum is over or it
//! yields. There is no tick: the timer is set to the next deadline, end of quantum or refill, if there is one.

pub mod ready;
pub mod timeouts;

use crate::arch;
use crate::fault;
use crate::kernel::Kernel;
use crate::memory::Ref;
use crate::object::Thread;
use crate::object::irq;
use crate::object::thread::State;

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
    k.cpu.reschedule();
    unqueue(k, thread);
    if k.cpu.current.get() != Some(thread) && thread.runnable() {
        k.cpu.ready.push(thread, false);
    }
}

/// Accounts for the time since the last call.
pub fn charge(k: &Kernel) {
    let now = k.cpu.now();
    let ticks = now.saturating_sub(k.cpu.stamp.replace(now));
    if let Some(time) = k.cpu.current.get().and_then(|thread| thread.time())
        && time.charge(k, now, ticks)
    {
        rotate(k);
    }
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
    } else if let Some(irq) = vector.checked_sub(irq::FIRST_VECTOR).and_then(|index| k.irqs.get(usize::from(index))) {
        irq.fire(k);
    }
}

/// Before the kernel is left: deals with interrupts that came meanwhile, chooses the thread that runs, sets the timer.
/// Idles while there is nobody.
pub fn settle(k: &Kernel) -> Ref<Thread> {
    if !k.cpu.attention.get()
        && let Some(current) = k.cpu.current.get()
        && current.state.get() == State::Ready
    {
        return current;
    }
    loop {
        k.cpu.attention.set(false);
        while let Some(vector) = k.cpu.take_interrupt() {
            interrupt(k, vector);
        }
        let rotate = k.cpu.rotate.take();
        if let Some(current) = k.cpu.current.get() {
            if current.runnable() {
                let priority = current.priority();
                let other = k.cpu.ready.highest();
                if other.is_none_or(|p| p < priority || (p == priority && !rotate)) {
                    arm(k, Some(current));
                    return current;
                }
                charge(k);
                k.cpu.current.set(None);
                if current.runnable() {
                    k.cpu.ready.push(current, !rotate && !k.cpu.rotate.take());
                }
            } else {
                charge(k);
                k.cpu.current.set(None);
            }
        } else {
            k.cpu.stamp.set(k.cpu.now());
        }
        match k.cpu.ready.pop() {
            Some(thread) => {
                k.cpu.current.set(Some(thread));
                if !thread.runnable() {
                    continue;
                }
            }
            None => {
                arm(k, None);
                arch::idle();
            }
        }
    }
}

/// Sets the timer to the next thing that is due, if that is sooner than what it is set to.
fn arm(k: &Kernel, current: Option<Ref<Thread>>) {
    let mut next = u64::MAX;
    if let Some(thread) = k.cpu.timeouts.first() {
        next = thread.deadline.get();
    }
    if let Some(time) = k.cpu.exhausted.first() {
        next = next.min(time.refill_at.get());
    }
    if let Some(time) = current.and_then(|thread| thread.time()) {
        next = next.min(time.next_event(k.cpu.stamp.get()));
    }
    if next < k.cpu.armed.get() {
        k.cpu.armed.set(next);
        arch::set_timer(next);
    }
}
