//! Notification: a word of bits that signals set and a wait takes.

use super::thread::{InQueue, State, Thread};
use crate::cap::KernelObject;
use crate::cap::delete::Progress;
use crate::kernel::Kernel;
use crate::list::List;
use crate::memory::Ref;
use crate::{message, sched};
use core::cell::Cell;
use ipc::{Error, ObjectType};

/// A notification.
#[repr(C, align(64))]
pub struct Notification {
    word: Cell<u64>,
    /// Threads that wait, in order of arrival.
    pub waiters: List<InQueue>,
    /// The thread whose receives its signals end.
    pub bound: Cell<Option<Ref<Thread>>>,
}

impl KernelObject for Notification {
    const TYPE: ObjectType = ObjectType::Notification;
}

impl Notification {
    /// Whether the word is not 0.
    pub fn is_signalled(&self) -> bool {
        self.word.get() != 0
    }

    /// Takes the word, if it is not 0.
    pub fn take(&self) -> Option<u64> {
        match self.word.take() {
            0 => None,
            bits => Some(bits),
        }
    }

    /// Sets bits and wakes whoever waits for them.
    pub fn signal(&self, k: &Kernel, bits: u64) {
        let bits = self.word.get() | bits;
        self.word.set(bits);
        if bits == 0 {
            return;
        }
        if let Some(thread) = self.waiters.first() {
            self.word.set(0);
            thread.unlink(k);
            thread.frame.set_status(Ok(()));
            thread.frame.set_result(0, bits);
            sched::make_ready(k, thread);
        } else if let Some(thread) = self.bound.get()
            && thread.state.get() == State::Receiving
        {
            self.word.set(0);
            thread.unlink(k);
            message::deliver_signal(thread, bits);
            sched::make_ready(k, thread);
        }
    }

    /// Takes out a thread that waits here.
    #[inline(always)]
    pub fn take_out(&self, thread: Ref<Thread>) {
        thread.waiting_on.set(None);
        self.waiters.remove(thread);
    }

    /// Cancels one waiter; unbinds when there is none left.
    pub fn drain_step(&self, k: &Kernel) -> Progress {
        if let Some(thread) = self.waiters.first() {
            thread.abort(k, Error::Cancelled);
            return Progress::More;
        }
        if let Some(thread) = self.bound.take() {
            thread.bound.set(None);
        }
        Progress::Done
    }
}
