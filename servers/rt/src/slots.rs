//! Which slots of the server's own capability table are free.

use alloc::vec::Vec;

/// Gives out slots from the first free one to the end of the table.
#[derive(Debug)]
pub struct Slots {
    next: u32,
    end: u32,
    freed: Vec<u32>,
}

impl Slots {
    /// Slots `first..end`.
    pub const fn new(first: u32, end: u32) -> Slots {
        Slots { next: first, end, freed: Vec::new() }
    }

    /// A free slot.
    pub fn take(&mut self) -> Option<u32> {
        if let Some(slot) = self.freed.pop() {
            return Some(slot);
        }
        self.take_run(1)
    }

    /// The first of `count` adjacent free slots that were never given out.
    pub fn take_run(&mut self, count: u32) -> Option<u32> {
        let first = self.next;
        let next = first.checked_add(count).filter(|next| *next <= self.end)?;
        self.next = next;
        Some(first)
    }

    /// Takes back a slot. It must be empty.
    pub fn give(&mut self, slot: u32) {
        debug_assert!(slot < self.next && !self.freed.contains(&slot));
        self.freed.push(slot);
    }

    /// Takes this free slot.
    pub fn claim(&mut self, slot: u32) {
        if slot >= self.next && slot < self.end {
            self.freed.extend(self.next..slot);
            self.next = slot + 1;
        } else {
            self.freed.retain(|free| *free != slot);
        }
    }

    /// The free slots that were given out before, then the first `count` of those that never were.
    pub fn candidates(&self, count: u32) -> Vec<u32> {
        let fresh = self.next..self.next.saturating_add(count).min(self.end);
        self.freed.iter().copied().chain(fresh).collect()
    }

    /// Slots that are free.
    pub fn free(&self) -> usize {
        (self.end - self.next) as usize + self.freed.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slots_are_given_once_until_they_come_back() {
        let mut slots = Slots::new(64, 68);
        assert_eq!(slots.take_run(3), Some(64));
        assert_eq!(slots.take_run(2), None);
        assert_eq!(slots.take(), Some(67));
        assert_eq!(slots.take(), None);
        slots.give(65);
        assert_eq!((slots.free(), slots.take(), slots.take()), (1, Some(65), None));
    }

    #[test]
    fn a_slot_can_be_claimed_by_its_number() {
        let mut slots = Slots::new(64, 70);
        assert_eq!((slots.take(), slots.take()), (Some(64), Some(65)));
        slots.give(64);
        assert_eq!(slots.candidates(2), [64, 66, 67]);
        slots.claim(67);
        assert_eq!(slots.candidates(9), [64, 66, 68, 69]);
        slots.claim(64);
        assert_eq!((slots.take(), slots.take(), slots.free()), (Some(66), Some(68), 1));
    }

    #[test]
    fn an_absurd_run_is_refused() {
        assert_eq!(Slots::new(64, 128).take_run(u32::MAX), None);
    }
}
