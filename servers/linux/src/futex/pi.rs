//! Futexes that are locks with priority inheritance, and robust lists.
//!
//! The word holds the owner's tid; who waits lends the owner its urgency, also along a chain of locks.

use super::{Key, Waiter};
use crate::errno::{Errno, Result};
use crate::server::{Outcome, Server};
use crate::thread::Wait;
use core::sync::atomic::Ordering;
use linux_raw_sys::general::{FUTEX_OWNER_DIED, FUTEX_TID_MASK, FUTEX_WAITERS};
use rt::journal;

/// Locks in a chain that urgency is passed along.
const MAX_CHAIN: usize = 32;
/// Entries of a robust list that are looked at: as many as Linux does.
const MAX_ROBUST: usize = 2048;

impl Server {
    /// FUTEX_LOCK_PI.
    pub(super) fn lock_pi(&mut self, slot: u32, address: u64, private: bool, until: Option<u64>) -> Result<Outcome> {
        let key = self.futex_key(slot, address, private)?;
        if self.take_lock(slot, address)? {
            return Ok(Outcome::Value(0));
        }
        if until.is_some_and(|until| until <= self.monotonic()) {
            return Err(Errno::ETIMEDOUT);
        }
        if let Some(until) = until {
            self.set_deadline(slot, until);
        }
        self.futexes.add(slot, key, u32::MAX, true);
        self.thread_mut(slot)?.wait = Wait::Futex;
        self.lend(slot);
        Ok(Outcome::Wait)
    }

    /// FUTEX_TRYLOCK_PI.
    pub(super) fn trylock_pi(&mut self, slot: u32, address: u64) -> Result<Outcome> {
        let word = self.memory.word(self.space_of(slot)?, address, true)?;
        let owner = word.load(Ordering::SeqCst) & FUTEX_TID_MASK;
        if owner != 0 && owner != self.thread(slot)?.tid {
            return Err(Errno::EAGAIN);
        }
        self.take_lock(slot, address).map(|_| Outcome::Value(0))
    }

    /// Takes the lock if nobody has it (true); else marks that somebody waits.
    fn take_lock(&mut self, slot: u32, address: u64) -> Result<bool> {
        let tid = self.thread(slot)?.tid;
        let word = self.memory.word(self.space_of(slot)?, address, true)?;
        loop {
            let old = word.load(Ordering::SeqCst);
            let owner = old & FUTEX_TID_MASK;
            if owner == tid {
                return Err(Errno::EDEADLK);
            }
            if owner != 0 && old & FUTEX_OWNER_DIED == 0 && self.sibling(slot, owner).is_err() {
                // A tid that is not there: the program has destroyed the word.
                return Err(Errno::ESRCH);
            }
            let free = owner == 0 || old & FUTEX_OWNER_DIED != 0 && self.sibling(slot, owner).is_err();
            let new = if free { tid | old & (FUTEX_WAITERS | FUTEX_OWNER_DIED) } else { old | FUTEX_WAITERS };
            if journal::exchange(word, old, new) {
                return Ok(free);
            }
        }
    }

    /// FUTEX_UNLOCK_PI.
    pub(super) fn unlock_pi(&mut self, slot: u32, address: u64, private: bool) -> Result<Outcome> {
        let key = self.futex_key(slot, address, private)?;
        let tid = self.thread(slot)?.tid;
        let word = self.memory.word(self.space_of(slot)?, address, true)?;
        if word.load(Ordering::SeqCst) & FUTEX_TID_MASK != tid {
            return Err(Errno::EPERM);
        }
        self.hand_over(slot, address, key, 0)?;
        self.inherit_anew(slot);
        Ok(Outcome::Value(0))
    }

    /// Gives the lock to the waiter that goes first, or frees it.
    fn hand_over(&mut self, slot: u32, address: u64, key: Key, extra: u32) -> Result<()> {
        let next = self.futexes.first(|waiter| waiter.key == key && waiter.lock, |other| self.urgency(other));
        let new = match next {
            None => extra,
            Some(waiter) => {
                self.futexes.forget(waiter.slot);
                let more = self.futexes.waiters.iter().any(|other| other.key == key && other.lock);
                self.thread(waiter.slot)?.tid | if more { FUTEX_WAITERS } else { 0 } | extra
            }
        };
        let word = self.memory.word(self.space_of(slot)?, address, true)?;
        journal::store32(word, new);
        if let Some(waiter) = next {
            self.inherit_anew(waiter.slot);
            self.finish(waiter.slot, Ok(0));
        }
        Ok(())
    }

    /// The owner of the lock that a waiter waits for.
    fn owner_of(&self, waiter: &Waiter) -> Option<u32> {
        let value = match waiter.key {
            Key::Private(leader, address) => {
                let space = &self.process(leader).ok()?.space;
                self.memory.word(space, address, false).ok()?.load(Ordering::SeqCst)
            }
            Key::Shared(page, offset) => self.memory.pool.word(page, offset as usize).load(Ordering::SeqCst),
        };
        let owner = value & FUTEX_TID_MASK;
        self.threads.iter().flatten().find(|thread| thread.tid == owner).map(|thread| thread.slot)
    }

    /// Lends a waiter's urgency to the owner of the lock, and on to whom that one waits for.
    fn lend(&mut self, slot: u32) {
        let urgency = self.urgency(slot);
        let mut at = slot;
        for _ in 0..MAX_CHAIN {
            let Some(waiter) = self.futexes.of(at).copied().filter(|waiter| waiter.lock) else { return };
            let Some(owner) = self.owner_of(&waiter) else { return };
            if self.urgency(owner) >= urgency {
                return;
            }
            if let Ok(thread) = self.thread_mut(owner) {
                thread.inherited = urgency;
            }
            self.apply_scheduling(owner);
            at = owner;
        }
    }

    /// Computes anew what a thread inherits from those who wait for its locks.
    fn inherit_anew(&mut self, slot: u32) {
        let waiters: alloc::vec::Vec<Waiter> =
            self.futexes.waiters.iter().filter(|waiter| waiter.lock).copied().collect();
        let lenders = waiters.iter().filter(|waiter| self.owner_of(waiter) == Some(slot));
        let inherited = lenders.map(|waiter| self.urgency(waiter.slot)).max().unwrap_or(0);
        let Ok(thread) = self.thread_mut(slot) else { return };
        if core::mem::replace(&mut thread.inherited, inherited) != inherited {
            self.apply_scheduling(slot);
        }
    }

    /// A waiter for a lock has left without it.
    pub(super) fn lock_waiter_left(&mut self, waiter: Waiter) {
        if let Some(owner) = self.owner_of(&waiter) {
            self.inherit_anew(owner);
        }
    }

    /// Frees the robust locks of a thread that ends: the next owner learns that this one died.
    pub fn release_robust_list(&mut self, slot: u32, head: u64) {
        let Ok([first, offset, pending]) = self.get_user::<[u64; 3]>(slot, head) else { return };
        let mut entry = first;
        for _ in 0..MAX_ROBUST {
            if entry & !1 == head || entry == 0 {
                break;
            }
            // The next one first: waking its waiter may change the entry.
            let next = self.get_user::<u64>(slot, entry & !1);
            if entry != pending {
                self.release_robust(slot, (entry & !1).wrapping_add(offset), entry & 1 != 0);
            }
            match next {
                Ok(next) => entry = next,
                Err(_) => break,
            }
        }
        if pending & !1 != 0 {
            self.release_robust(slot, (pending & !1).wrapping_add(offset), pending & 1 != 0);
        }
    }

    fn release_robust(&mut self, slot: u32, address: u64, inheriting: bool) {
        let Ok(tid) = self.thread(slot).map(|thread| thread.tid) else { return };
        let Ok(space) = self.space_of(slot) else { return };
        let Ok(word) = self.memory.word(space, address, true) else { return };
        let old = word.load(Ordering::SeqCst);
        if old & FUTEX_TID_MASK != tid {
            return;
        }
        if inheriting {
            if let Ok(key) = self.futex_key(slot, address, true) {
                // The word was checked to be writable: nothing else can fail.
                let _ = self.hand_over(slot, address, key, FUTEX_OWNER_DIED);
            }
            return;
        }
        journal::store32(word, old & FUTEX_WAITERS | FUTEX_OWNER_DIED);
        if old & FUTEX_WAITERS != 0 {
            for private in [true, false] {
                if self.futex_wake(slot, address, 1, u32::MAX, private).is_ok_and(|woken| woken > 0) {
                    break;
                }
            }
        }
    }
}
