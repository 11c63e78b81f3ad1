//! Names: each leads somewhere, none is there twice.

use crate::diagnostic::Findings;
use crate::layout::Layout;
use crate::manifest::Manifest;

/// Checks the names.
pub fn check(manifest: &Manifest, layout: &Layout, found: &mut Findings<'_>) {
    let _ = (manifest, layout, found);
}
