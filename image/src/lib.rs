//! The composer: one manifest gives the image of the real-time realm *and* the configuration of its cell,
//! so that the two cannot disagree.
//!
//! [`Manifest`] is the text as written. [`Layout`] is where everything lies in memory. [`system::resolve`] says which
//! server holds what. [`build`] lays kernel, blob and programs into one flat image, and [`cell`] writes the
//! configurations for the hypervisor.
//!
//! Rules: what is wrong with a manifest is a [`Diagnostic`] that names file, line, both parties and the cure;
//! nothing is written before all checks have passed; equal inputs give equal bytes.

pub mod build;
pub mod cell;
pub mod check;
pub mod cli;
pub mod diagnostic;
pub mod elf_file;
pub mod layout;
pub mod machine;
pub mod manifest;
pub mod new;
pub mod pvh;
pub mod report;
pub mod stack;
pub mod symbols;
pub mod system;
pub mod units;

pub use build::{BuildInputs, Built, build};
pub use diagnostic::{Diagnostic, Diagnostics};
pub use layout::Layout;
pub use machine::{Machine, Resource};
pub use manifest::{Manifest, Source};
pub use report::Report;
