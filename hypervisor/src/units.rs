//! What a cell can touch besides memory: one file a unit. The logic is pure: effects are returned as values.

pub mod icr;
pub mod ioapic;
pub mod ivshmem;
pub mod keyboard;
pub mod msr;
pub mod pci;
pub mod rates;
pub mod remap;
pub mod start;
