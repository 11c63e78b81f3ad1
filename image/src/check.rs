//! Every rule that a manifest must obey, one file for each concern.

mod memory;
mod names;

pub use memory::{image_size, memory};

use crate::diagnostic::Findings;
use crate::layout::Layout;
use crate::manifest::Manifest;

/// Checks everything that needs no programs.
pub fn manifest(manifest: &Manifest, layout: &Layout, found: &mut Findings<'_>) {
    names::check(manifest, layout, found);
}
