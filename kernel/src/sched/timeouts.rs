//! Deadlines of waiting threads, soonest first; setting one and taking it back takes bounded time ([`crate::heap`]).

use crate::kernel::Kernel;
use crate::memory::Ref;
use crate::object::Thread;
use core::mem::offset_of;
use ipc::{Error, MessageBuffer};

/// Lets the wait of a thread end at a point in time.
pub fn start(k: &Kernel, thread: Ref<Thread>, deadline: u64) {
    k.cpu.reschedule();
    thread.deadline.set(deadline);
    thread.has_deadline.set(true);
    if k.machine.get().polls {
        thread.slack.set(thread.message_buffer().map_or(0, |buffer| buffer.read(offset_of!(MessageBuffer, slack) / 8)));
    }
    k.cpu.timeouts.insert(thread, deadline);
}

/// The wait has ended otherwise.
pub fn cancel(k: &Kernel, thread: Ref<Thread>) {
    if thread.has_deadline.replace(false) {
        k.cpu.timeouts.remove(thread);
    }
}

/// Ends waits whose deadline has passed, a bounded number of them: the timer fires at once again if there are more.
pub fn expire(k: &Kernel, now: u64) {
    for _ in 0..8 {
        match k.cpu.timeouts.first() {
            Some(thread) if thread.deadline.get() <= now => thread.abort(k, Error::TimedOut),
            _ => return,
        }
    }
}
