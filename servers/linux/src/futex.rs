//! Futexes: threads that wait for a word to change.
//!
//! A private futex is known by process and address, a shared one by page of the pool and offset. Among waiters the most
//! urgent one goes first, and of equals the one that came first. All waiters are in one list: there are at most as many as
//! there are threads.

mod operations;
mod pi;

pub use operations::futex;

use crate::errno::{Errno, Result};
use crate::server::Server;
use alloc::vec::Vec;

/// What a futex is known by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Key {
    /// Process (leader's slot) and address.
    Private(u32, u64),
    /// Page of the pool and offset.
    Shared(u32, u32),
}

/// A thread that waits.
#[derive(Clone, Copy, Debug)]
pub struct Waiter {
    /// The thread.
    pub slot: u32,
    /// For what.
    pub key: Key,
    /// Wakers with none of these bits pass it by.
    pub bitset: u32,
    /// Waits for the lock that the word is.
    pub lock: bool,
    order: u64,
}

/// Everybody who waits.
#[derive(Default)]
pub struct Futexes {
    waiters: Vec<Waiter>,
    last: u64,
}

impl Futexes {
    fn add(&mut self, slot: u32, key: Key, bitset: u32, lock: bool) {
        self.last += 1;
        self.waiters.push(Waiter { slot, key, bitset, lock, order: self.last });
    }

    /// A thread waits no longer. Gives what it waited for.
    pub fn forget(&mut self, slot: u32) -> Option<Waiter> {
        let index = self.waiters.iter().position(|waiter| waiter.slot == slot)?;
        Some(self.waiters.swap_remove(index))
    }

    /// The waiter to go first: the most urgent, then the first that came.
    fn first(&self, select: impl Fn(&Waiter) -> bool, urgency: impl Fn(u32) -> u8) -> Option<Waiter> {
        let chosen = self.waiters.iter().filter(|waiter| select(waiter));
        chosen.max_by_key(|waiter| (urgency(waiter.slot), u64::MAX - waiter.order)).copied()
    }

    fn of(&self, slot: u32) -> Option<&Waiter> {
        self.waiters.iter().find(|waiter| waiter.slot == slot)
    }
}

impl Server {
    /// How urgent a thread is now.
    fn urgency(&self, slot: u32) -> u8 {
        self.thread(slot).map_or(0, |thread| thread.scheduling.kernel_priority().max(thread.inherited))
    }

    fn futex_key(&self, slot: u32, address: u64, private: bool) -> Result<Key> {
        if !address.is_multiple_of(4) {
            return Err(Errno::EINVAL);
        }
        if private {
            return Ok(Key::Private(self.thread(slot)?.leader, address));
        }
        let space = self.space_of(slot)?;
        let entry = self.memory.mirror.get(space.root, address).filter(|entry| entry.readable).ok_or(Errno::EFAULT)?;
        Ok(Key::Shared(entry.page, (address % super::memory::PAGE) as u32))
    }

    fn first_waiter(&self, key: Key, bitset: u32) -> Option<Waiter> {
        self.futexes.first(|waiter| waiter.key == key && waiter.bitset & bitset != 0, |slot| self.urgency(slot))
    }

    fn wake_key(&mut self, key: Key, count: u64, bitset: u32) -> u64 {
        let mut woken = 0;
        while woken < count
            && let Some(waiter) = self.first_waiter(key, bitset)
        {
            self.futexes.forget(waiter.slot);
            self.finish(waiter.slot, Ok(0));
            woken += 1;
        }
        woken
    }

    /// Wakes at most `count` waiters.
    pub fn futex_wake(&mut self, slot: u32, address: u64, count: u64, bitset: u32, private: bool) -> Result<u64> {
        // Whoever joins a thread waits on its tid word as a shared futex; a program may as well wait privately.
        let key = self.futex_key(slot, address, private)?;
        Ok(self.wake_key(key, count, bitset))
    }

    /// A waiter's deadline has passed, or a signal took it away.
    pub fn futex_timed_out(&mut self, slot: u32) {
        if let Some(waiter) = self.futexes.forget(slot)
            && waiter.lock
        {
            self.lock_waiter_left(waiter);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_most_urgent_goes_first_then_the_first() {
        let mut futexes = Futexes::default();
        let key = Key::Private(0, 0x1000);
        for slot in [3, 1, 2, 4] {
            futexes.add(slot, key, u32::MAX, false);
        }
        futexes.add(9, Key::Shared(1, 0), u32::MAX, false);
        let urgency = |slot| if slot == 2 { 7 } else { 5 };
        let mut order = Vec::new();
        while let Some(waiter) = futexes.first(|waiter| waiter.key == key, urgency) {
            futexes.forget(waiter.slot);
            order.push(waiter.slot);
        }
        assert_eq!(order, [2, 3, 1, 4]);
        assert!(futexes.of(9).is_some() && futexes.forget(3).is_none());
    }
}
