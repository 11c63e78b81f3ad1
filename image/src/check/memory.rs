//! Memory: whole pages, inside its limits, nothing twice.

use ipc::image::MAX_RANGES;

use crate::diagnostic::{Diagnostics, Findings};
use crate::layout::Layout;
use crate::manifest::Manifest;

/// Checks the layout.
pub fn memory(manifest: &Manifest, layout: &Layout, found: &mut Findings<'_>) {
    if layout.kernel_ranges_len() > MAX_RANGES {
        found.add(
            manifest.cell.private.span(),
            format!("the cell has {} ranges of memory, and the kernel takes {MAX_RANGES}", layout.kernel_ranges_len()),
            "use fewer shared memory devices",
        );
    }
}

/// Checks that the image fits in the cell.
pub fn image_size(manifest: &Manifest, layout: &Layout, size: u64) -> Result<(), Diagnostics> {
    let _ = manifest;
    let private = layout.private();
    let end = ipc::image::LOAD_ADDRESS + size;
    if end > private.guest_end() {
        return Err(Diagnostics::of(
            "srtos.bin",
            format!("would end at {end:#x}, behind the cell's private memory ({:#x})", private.guest_end()),
            "raise size of private in [cell]",
        ));
    }
    Ok(())
}
