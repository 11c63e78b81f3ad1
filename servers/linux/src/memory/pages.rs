//! Who has which page of the pool.
//!
//! A page that was let go may still be mapped or pinned in Linux. The driver says so by the page's bit in the "held" bitmap:
//! it sets the bit and fences *before* it looks at the mirror entry for the last time. So: unpublish, fence, look at the bit.
//! A page whose bit is set waits in quarantine.

use super::pool::Words;
use alloc::vec;
use alloc::vec::Vec;
use core::sync::atomic::{Ordering, fence};

/// The allocator of pool pages.
pub struct Pages {
    references: Vec<u16>,
    free_bits: Vec<u64>,
    free: u32,
    next: u32,
    quarantine: Vec<u32>,
    held: Words,
}

impl Pages {
    /// All pages are free, but those that Linux still holds from a former life. `held` has at least a bit for each.
    pub fn new(pages: u32, held: Words) -> Pages {
        assert!(held.len() * 64 >= pages as usize, "held bitmap too small");
        let mut free_bits = vec![u64::MAX; pages.div_ceil(64) as usize];
        if !pages.is_multiple_of(64)
            && let Some(last) = free_bits.last_mut()
        {
            *last = (1 << (pages % 64)) - 1;
        }
        let references = vec![0; pages as usize];
        let mut all = Pages { references, free_bits, free: pages, next: 0, quarantine: Vec::new(), held };
        for page in (0..pages).filter(|page| held[*page as usize / 64].load(Ordering::SeqCst) & (1 << (page % 64)) != 0)
        {
            all.free_bits[page as usize / 64] &= !(1 << (page % 64));
            all.free -= 1;
            all.quarantine.push(page);
        }
        all
    }

    /// Pages in all.
    pub fn total(&self) -> u32 {
        self.references.len() as u32
    }

    /// Pages free.
    pub fn free(&self) -> u32 {
        self.free
    }

    /// Pages that wait for Linux to let go.
    pub fn quarantined(&self) -> u32 {
        self.quarantine.len() as u32
    }

    /// Takes a free page, with one reference; the page after the last one taken if that is free, so that runs are contiguous.
    pub fn take(&mut self) -> Option<u32> {
        if self.free == 0 {
            return None;
        }
        let words = self.free_bits.len();
        let start = (self.next / 64) as usize % words;
        for step in 0..=words {
            let index = (start + step) % words;
            // In the first word only what lies at or after `next`; the rest of it comes last.
            let mask = if step == 0 { u64::MAX << (self.next % 64) } else { u64::MAX };
            let bits = self.free_bits[index] & mask;
            if bits != 0 {
                let bit = bits.trailing_zeros();
                let page = index as u32 * 64 + bit;
                self.free_bits[index] &= !(1 << bit);
                self.references[page as usize] = 1;
                self.free -= 1;
                self.next = if page + 1 < self.total() { page + 1 } else { 0 };
                return Some(page);
            }
        }
        None
    }

    /// Undoes the last `take`.
    pub fn put_back(&mut self, page: u32) {
        self.references[page as usize] = 0;
        self.give_back(page);
        self.next = page;
    }

    /// One more user of a page in use.
    pub fn share(&mut self, page: u32) {
        let count = &mut self.references[page as usize];
        assert!(*count != 0, "sharing a free page");
        *count = count.saturating_add(1);
    }

    /// How many use the page.
    pub fn references(&self, page: u32) -> u16 {
        self.references[page as usize]
    }

    /// One user less. The mirror entry must be gone already.
    pub fn release(&mut self, page: u32) {
        let count = &mut self.references[page as usize];
        match *count {
            0 => unreachable!("releasing a free page"),
            u16::MAX => return, // Saturated: nobody knows how many there are, so it stays.
            _ => *count -= 1,
        }
        if *count == 0 {
            if self.is_held(page) { self.quarantine.push(page) } else { self.give_back(page) }
        }
    }

    /// Whether Linux has the page, or may have it. After unpublishing and a fence the answer "no" is final.
    pub fn is_held(&self, page: u32) -> bool {
        fence(Ordering::SeqCst);
        self.bit(page)
    }

    fn bit(&self, page: u32) -> bool {
        self.held[page as usize / 64].load(Ordering::SeqCst) & (1 << (page % 64)) != 0
    }

    fn give_back(&mut self, page: u32) {
        self.free_bits[page as usize / 64] |= 1 << (page % 64);
        self.free += 1;
    }

    /// Frees what Linux has let go of. True if something was freed.
    pub fn sweep(&mut self) -> bool {
        let before = self.quarantine.len();
        let mut index = 0;
        // One for all, that were unpublished before: a hostile Linux can have all of the pool wait here.
        fence(Ordering::SeqCst);
        while let Some(page) = self.quarantine.get(index).copied() {
            if self.bit(page) {
                index += 1;
            } else {
                self.quarantine.swap_remove(index);
                self.give_back(page);
            }
        }
        before != self.quarantine.len()
    }
}

#[cfg(test)]
mod tests {
    use super::super::pool::testing::words;
    use super::*;

    #[test]
    fn takes_all_and_no_more_in_runs() {
        let mut pages = Pages::new(130, words(3));
        let all: Vec<u32> = (0..130).map(|_| pages.take().unwrap()).collect();
        assert!(all.iter().copied().eq(0..130));
        assert_eq!(pages.take(), None);
        pages.release(7);
        pages.release(129);
        assert_eq!((pages.free(), pages.take(), pages.take(), pages.take()), (2, Some(7), Some(129), None));
    }

    #[test]
    fn shared_pages_stay_until_the_last_user_goes() {
        let mut pages = Pages::new(64, words(1));
        let page = pages.take().unwrap();
        pages.share(page);
        pages.release(page);
        assert_eq!(pages.free(), 63);
        pages.release(page);
        assert_eq!(pages.free(), 64);
    }

    #[test]
    fn pages_held_from_a_former_life_wait() {
        let held = words(2);
        held[1].store(1 << 5, Ordering::SeqCst);
        let mut pages = Pages::new(70, held);
        assert_eq!((pages.free(), pages.quarantined()), (69, 1));
        assert!((0..69).all(|_| pages.take() != Some(69)));
        assert_eq!(pages.take(), None);
        held[1].store(0, Ordering::SeqCst);
        assert!(pages.sweep());
        assert_eq!(pages.take(), Some(69));
    }

    #[test]
    fn held_pages_wait() {
        let held = words(1);
        let mut pages = Pages::new(64, held);
        let page = pages.take().unwrap();
        let bits = &held[0];
        bits.store(1 << page, Ordering::SeqCst);
        pages.release(page);
        assert_eq!((pages.free(), pages.quarantined(), pages.sweep()), (63, 1, false));
        bits.store(0, Ordering::SeqCst);
        assert!(pages.sweep());
        assert_eq!((pages.free(), pages.quarantined()), (64, 0));
    }
}
