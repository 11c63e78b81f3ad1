//! Frame: contiguous memory that can be mapped. It has no memory of its own: base, size and kind are in the capability.

use crate::cap::delete::Progress;
use crate::kernel::Kernel;

/// Whether a physical address is inside a frame.
pub fn contains(base: u64, end: u64, physical: u64) -> bool {
    physical >= base && physical < end
}

/// Makes a bounded step towards having the frame with this base mapped nowhere.
pub fn sweep_step(k: &Kernel, base: u64) -> Progress {
    let mut next = k.spaces.first();
    let mut looked_at = 0;
    while let Some(space) = next {
        if space.sweep_step(k, base) {
            return Progress::More;
        }
        next = k.spaces.after(space);
        looked_at += 1;
        debug_assert!(looked_at < 1 << 20);
    }
    Progress::Done
}
