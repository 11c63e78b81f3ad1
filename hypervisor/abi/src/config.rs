//! Binary cell and system configurations, revision 14.
//!
//! A cell configuration is a [`CellDescriptor`] followed, in this order, by its CPU bitmap and its arrays of
//! memory regions, cache regions, irqchips, port ranges, PCI devices, PCI capabilities and stream ids; the
//! descriptor counts them. A system configuration is a [`SystemHeader`] followed by the root cell's
//! configuration.
//!
//! [`CellConfig::parse`] and [`SystemConfig::parse`] read in place and check all that can be checked on one
//! record at a time; what concerns several is in [`crate::check`]. [`CellParts`] and [`SystemParts`] write.

mod cell;
mod error;
mod pci;
mod records;
mod system;
mod write;

#[cfg(test)]
mod tests;

pub use cell::{CellConfig, Cpus};
pub use error::ConfigError;
pub use pci::{PciCapability, PciDevice, PciKind};
pub use records::{
    Cache, CacheKind, CellDescriptor, CellFlags, Console, ConsoleFlags, ConsoleKind, IrqChip, Memory, MemoryFlags,
    PortRange,
};
pub use system::{ApicMode, IommuKind, IommuUnit, MAX_IOMMU_UNITS, SystemConfig, SystemFlags, SystemHeader};
pub use write::{CellParts, SystemParts, bar_mask, name};

/// First bytes of a cell configuration.
pub const CELL_SIGNATURE: [u8; 5] = *b"JHCLL";
/// First bytes of a system configuration.
pub const SYSTEM_SIGNATURE: [u8; 5] = *b"JHSYS";
/// First bytes of a cell configuration up to revision 12.
pub const OLD_CELL_SIGNATURE: [u8; 6] = *b"JHCELL";
/// First bytes of a system configuration up to revision 12.
pub const OLD_SYSTEM_SIGNATURE: [u8; 6] = *b"JHSYST";
/// Architecture number of x86.
pub const ARCH_X86: u8 = 0;
/// Revision of the format described here.
pub const REVISION: u16 = 14;
/// Bytes for a cell's name with its NUL.
pub const NAME_LEN: usize = 32;
/// Largest CPU bitmap, in bytes.
pub const MAX_CPU_SET: usize = 4096;
