//! Frame: contiguous memory that can be mapped. It has no memory of its own: base, size and kind are in the capability.

use crate::cap::delete::Progress;
use crate::kernel::Kernel;

/// Whether a physical address is inside a frame.
pub fn contains(base: u64, end: u64, physical: u64) -> bool {
    physical >= base && physical < end
}

/// Makes a bounded step towards having the frame with this base mapped nowhere: in one address space after the other. No new mapping
/// comes meanwhile, because its last capability has no rights any more.
pub fn sweep_step(k: &Kernel, base: u64) -> Progress {
    let space = match k.sweep.get() {
        Some((swept, space)) if swept == base => Some(space),
        _ => k.spaces.first(),
    };
    let next = match space {
        Some(space) if space.sweep_step(k, base) => Some(space),
        Some(space) => k.spaces.after(space),
        None => None,
    };
    k.sweep.set(next.map(|space| (base, space)));
    if next.is_some() { Progress::More } else { Progress::Done }
}
