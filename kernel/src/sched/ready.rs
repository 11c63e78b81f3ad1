//! The ready queues: one per priority, and a bitmap that finds the highest one in constant time.

use crate::list::List;
use crate::memory::Ref;
use crate::object::thread::{InQueue, Thread};
use core::cell::Cell;

/// Ready queues.
pub struct Ready {
    bitmap: [Cell<u64>; 4],
    queues: [List<InQueue>; 256],
}

impl Ready {
    /// Nobody is ready.
    pub const fn new() -> Ready {
        Ready { bitmap: [const { Cell::new(0) }; 4], queues: [const { List::new() }; 256] }
    }

    /// Adds a thread at the end, or at the front, of the queue of its priority.
    pub fn push(&self, thread: Ref<Thread>, front: bool) {
        let priority = thread.priority();
        thread.queued.set(true);
        thread.queued_priority.set(priority);
        let queue = &self.queues[usize::from(priority)];
        if front { queue.push_front(thread) } else { queue.push_back(thread) }
        let word = &self.bitmap[usize::from(priority >> 6)];
        word.set(word.get() | 1 << (priority & 63));
    }

    /// Takes out a thread that is in.
    pub fn remove(&self, thread: Ref<Thread>) {
        let priority = thread.queued_priority.get();
        let queue = &self.queues[usize::from(priority)];
        queue.remove(thread);
        thread.queued.set(false);
        if queue.is_empty() {
            let word = &self.bitmap[usize::from(priority >> 6)];
            word.set(word.get() & !(1 << (priority & 63)));
        }
    }

    /// The highest priority at which somebody is ready.
    pub fn highest(&self) -> Option<u8> {
        let (index, word) = self.bitmap.iter().enumerate().rev().find(|(_, word)| word.get() != 0)?;
        Some((index as u32 * 64 + 63 - word.get().leading_zeros()) as u8)
    }

    /// Takes out the first thread of the highest priority.
    pub fn pop(&self) -> Option<Ref<Thread>> {
        let thread = self.queues[usize::from(self.highest()?)].first()?;
        self.remove(thread);
        Some(thread)
    }
}

impl Default for Ready {
    fn default() -> Self {
        Self::new()
    }
}
