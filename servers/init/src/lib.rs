//! The parts of `init` that need no kernel: what it believes of the image, how it lays memory out, when it restarts a
//! server, when it takes one for dead, how it words a crash, which orders it takes, and how a PCI function is set up.
#![cfg_attr(not(test), no_std)]

extern crate alloc;

pub mod image;
pub mod layout;
pub mod orders;
pub mod pci;
pub mod policy;
pub mod report;
pub mod watch;
