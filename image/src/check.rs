//! Every rule that a manifest must obey, one file for each concern.

mod authority;
mod cell;
mod devices;
mod memory;
mod names;
mod personality;
pub mod time;

pub use memory::{image_size, memory, stacks as programs};

use crate::diagnostic::Findings;
use crate::layout::Layout;
use crate::manifest::Manifest;

/// Checks everything that needs no programs.
pub fn manifest(manifest: &Manifest, layout: &Layout, found: &mut Findings<'_>) {
    cell::check(manifest, found);
    names::check(manifest, found);
    authority::check(manifest, layout, found);
    devices::check(manifest, layout, found);
    memory::servers(manifest, layout, found);
    time::check(manifest, found);
    personality::check(manifest, layout, found);
}
