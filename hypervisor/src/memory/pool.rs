//! The page pool: the hypervisor memory behind the image, handed out in pages.
//!
//! A bitmap, first fit. Handing out is rare (cell creation), so speed does not matter; not losing a page does.

/// Most pages a pool can have (256 MiB).
pub const MAX_PAGES: usize = 65536;
const WORDS: usize = MAX_PAGES / 64;

/// Which pages of the pool are taken. Pages are named by their index.
pub struct Pool {
    taken: [u64; WORDS],
    pages: usize,
    used: usize,
}

impl Pool {
    /// A pool without pages.
    #[must_use]
    pub const fn empty() -> Self {
        Self { taken: [0; WORDS], pages: 0, used: 0 }
    }

    /// Starts over with `pages` free pages (at most [`MAX_PAGES`] are used).
    pub fn reset(&mut self, pages: usize) {
        self.taken = [0; WORDS];
        self.pages = pages.min(MAX_PAGES);
        self.used = 0;
    }

    fn is_taken(&self, page: usize) -> bool {
        self.taken[page / 64] & (1 << (page % 64)) != 0
    }

    /// Takes `count` adjacent pages, the first at a multiple of `align` pages; `None` when there are none.
    pub fn take(&mut self, count: usize, align: usize) -> Option<usize> {
        let align = align.max(1);
        let mut start = 0;
        while count > 0 && start + count <= self.pages {
            match (start..start + count).rfind(|&page| self.is_taken(page)) {
                None => {
                    (start..start + count).for_each(|page| self.taken[page / 64] |= 1 << (page % 64));
                    self.used += count;
                    return Some(start);
                }
                Some(obstacle) => start = (obstacle + 1).next_multiple_of(align),
            }
        }
        None
    }

    /// Gives pages back. Pages that were not taken are left alone (and counted nowhere).
    pub fn give(&mut self, first: usize, count: usize) {
        for page in first..first.saturating_add(count).min(self.pages) {
            if self.is_taken(page) {
                self.taken[page / 64] &= !(1 << (page % 64));
                self.used -= 1;
            }
        }
    }

    /// Number of pages.
    #[must_use]
    pub const fn pages(&self) -> usize {
        self.pages
    }

    /// Number of pages handed out.
    #[must_use]
    pub const fn used(&self) -> usize {
        self.used
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn takes_aligned_runs_and_gets_them_back() {
        let mut pool = Box::new(Pool::empty());
        pool.reset(100);
        assert_eq!(pool.take(1, 1), Some(0));
        assert_eq!(pool.take(3, 4), Some(4));
        assert_eq!(pool.take(2, 1), Some(1));
        assert_eq!(pool.used(), 6);
        pool.give(4, 3);
        assert_eq!(pool.used(), 3);
        assert_eq!(pool.take(97, 1), Some(3));
        assert_eq!(pool.take(1, 1), None);
        pool.give(0, 1000);
        assert_eq!(pool.used(), 0);
        assert_eq!(pool.take(101, 1), None);
        assert_eq!(pool.take(0, 1), None);
    }

    #[test]
    fn giving_twice_does_not_miscount() {
        let mut pool = Box::new(Pool::empty());
        pool.reset(10);
        let page = pool.take(2, 1).unwrap();
        pool.give(page, 2);
        pool.give(page, 2);
        assert_eq!(pool.used(), 0);
    }
}
