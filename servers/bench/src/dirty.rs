//! What it takes to ask which pages have been written.
#![allow(unsafe_code)] // Writes pages that are mapped here.

use super::workshop::{Workshop, made};
use rt::{Cap, Frame, Protection, Start};

const AT: u64 = 0x5800_0000;
const PAGE: u64 = 4096;
/// Every so many pages one is written.
const STRIDE: usize = 64;

/// Ticks of asking for `pages` pages, some of which have been written; as often as there are samples.
pub fn samples(w: &mut Workshop, pages: u64, samples: &mut [u32]) {
    let frame: Cap<Frame> = w.make(pages * PAGE);
    made(Start::ADDRESS_SPACE.map(frame, 0, AT, pages, Protection::READ | Protection::WRITE));
    for sample in samples {
        for page in (0..pages).step_by(STRIDE) {
            // SAFETY: mapped above, for this alone.
            unsafe { ((AT + page * PAGE) as *mut u64).write_volatile(1) };
        }
        let mut found = 0;
        let start = rt::time::now();
        made(Start::ADDRESS_SPACE.take_dirty(AT, pages, |_| found += 1));
        *sample = (rt::time::now() - start) as u32;
        assert_eq!(found, pages.div_ceil(STRIDE as u64));
    }
    w.clear();
}
