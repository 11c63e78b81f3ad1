//! The head of a system configuration, and reading one.

use bitflags::bitflags;
use zerocopy::little_endian::{U16, U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use super::cell::{CellConfig, check_signature};
use super::records::{CellDescriptor, Console, Memory};
use super::{ConfigError, SYSTEM_SIGNATURE};

/// Most IOMMU units.
pub const MAX_IOMMU_UNITS: usize = 8;

bitflags! {
    /// Properties of the system.
    #[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
    pub struct SystemFlags: u32 {
        /// Hypervisor messages also go to the virtual console page.
        const VIRTUAL_DEBUG_CONSOLE = 0x1;
    }
}

/// Which APIC mode to use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum ApicMode {
    /// As Linux uses it.
    Auto = 0,
    /// Memory-mapped.
    Xapic = 1,
    /// By MSRs.
    X2apic = 2,
}

/// Maker of an IOMMU unit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum IommuKind {
    /// AMD-Vi.
    Amd = 1,
    /// VT-d.
    Intel = 2,
}

/// An IOMMU unit, 28 bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct IommuUnit {
    /// [`IommuKind`]; 0 ends the list.
    pub kind: U32,
    /// Address of its registers.
    pub base: U64,
    /// Size of its registers; 0 ends the list.
    pub size: U32,
    /// AMD: the unit's own PCI function.
    pub amd_bdf: U16,
    /// AMD: offset of its capability.
    pub amd_base_cap: u8,
    /// AMD: offset of its MSI capability.
    pub amd_msi_cap: u8,
    /// AMD: feature word of the ACPI table.
    pub amd_features: U32,
    /// Zero.
    pub reserved: U32,
}

/// Head of a system configuration, 356 bytes; the root cell's configuration follows.
#[derive(Clone, Copy, Debug, Default, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct SystemHeader {
    /// [`SYSTEM_SIGNATURE`].
    pub signature: [u8; 5],
    /// [`super::ARCH_X86`].
    pub architecture: u8,
    /// [`super::REVISION`].
    pub revision: U16,
    /// [`SystemFlags`].
    pub flags: U32,
    /// The hypervisor's own memory; only `phys_start` and `size` count.
    pub hypervisor_memory: Memory,
    /// Console of the hypervisor.
    pub debug_console: Console,
    /// Base of the memory-mapped configuration space, 0 if none.
    pub pci_mmconfig_base: U64,
    /// Last bus in it.
    pub pci_mmconfig_end_bus: u8,
    /// The PCI host is made up by the hypervisor (not on x86).
    pub pci_is_virtual: u8,
    /// Segment of virtual functions.
    pub pci_domain: U16,
    /// IOMMU units, the list ended by an empty one.
    pub iommu_units: [IommuUnit; MAX_IOMMU_UNITS],
    /// I/O port of the ACPI power management timer.
    pub pm_timer_address: U16,
    /// [`ApicMode`].
    pub apic_mode: u8,
    /// Zero.
    pub padding: u8,
    /// Interrupt remapping entries to use; 0 means 256.
    pub vtd_interrupt_limit: U32,
    /// Rate of the time stamp counter; 0 lets the driver fill it in.
    pub tsc_khz: U32,
    /// Rate of the local APIC timer; 0 lets the driver fill it in.
    pub apic_khz: U32,
    /// Room that other architectures need.
    pub reserved: [u8; 28],
}

const _: () = {
    use core::mem::offset_of;
    assert!(size_of::<IommuUnit>() == 28);
    assert!(size_of::<SystemHeader>() == 0x164);
    assert!(size_of::<SystemHeader>() + size_of::<CellDescriptor>() == 488);
    assert!(offset_of!(SystemHeader, hypervisor_memory) == 0x0c);
    assert!(offset_of!(SystemHeader, debug_console) == 0x2c);
    assert!(offset_of!(SystemHeader, pci_mmconfig_base) == 0x4c);
    assert!(offset_of!(SystemHeader, iommu_units) == 0x58);
    assert!(offset_of!(SystemHeader, pm_timer_address) == 0x138);
    assert!(offset_of!(SystemHeader, tsc_khz) == 0x140);
};

/// A system configuration, read in place.
#[derive(Clone, Copy, Debug)]
pub struct SystemConfig<'a> {
    header: &'a SystemHeader,
    root: CellConfig<'a>,
}

impl<'a> SystemConfig<'a> {
    /// Reads a system configuration. Bytes behind it are ignored.
    pub fn parse(bytes: &'a [u8]) -> Result<Self, ConfigError> {
        check_signature(bytes, &SYSTEM_SIGNATURE, "JHSYS", "system")?;
        let (header, rest) = SystemHeader::ref_from_prefix(bytes)
            .map_err(|_| ConfigError::Truncated { part: "the system header", have: bytes.len() })?;
        let value = |field, value: u64| ConfigError::Value { field, index: 0, value };
        if SystemFlags::from_bits(header.flags.get()).is_none() {
            return Err(value("flags (system)", u64::from(header.flags.get() & !SystemFlags::all().bits())));
        }
        if header.apic_mode > ApicMode::X2apic as u8 {
            return Err(value("x86.apic_mode", header.apic_mode.into()));
        }
        for (index, unit) in header.iommu_units.iter().enumerate() {
            if unit.size.get() != 0 && !(1..=2).contains(&unit.kind.get()) {
                return Err(ConfigError::Value { field: "type (iommu_units)", index, value: unit.kind.get().into() });
            }
        }
        Ok(Self { header, root: CellConfig::parse_body(rest)? })
    }

    /// Checks only the heads, and tells how many bytes the whole configuration has.
    pub fn probe_size(bytes: &[u8]) -> Result<u64, ConfigError> {
        check_signature(bytes, &SYSTEM_SIGNATURE, "JHSYS", "system")?;
        let cut = |_| ConfigError::Truncated { part: "the system header", have: bytes.len() };
        let rest = bytes.get(size_of::<SystemHeader>()..).ok_or(()).map_err(cut)?;
        let (root, _) = CellDescriptor::ref_from_prefix(rest).map_err(|_| cut(()))?;
        Ok(size_of::<SystemHeader>() as u64 + root.total_size())
    }

    /// The header.
    #[must_use]
    pub const fn header(&self) -> &'a SystemHeader {
        self.header
    }

    /// The root cell.
    #[must_use]
    pub const fn root_cell(&self) -> &CellConfig<'a> {
        &self.root
    }

    /// Flags.
    #[must_use]
    pub const fn flags(&self) -> SystemFlags {
        SystemFlags::from_bits_truncate(self.header.flags.get())
    }

    /// The hypervisor's own memory.
    #[must_use]
    pub const fn hypervisor_memory(&self) -> &'a Memory {
        &self.header.hypervisor_memory
    }

    /// APIC mode.
    #[must_use]
    pub const fn apic_mode(&self) -> ApicMode {
        match self.header.apic_mode {
            1 => ApicMode::Xapic,
            2 => ApicMode::X2apic,
            _ => ApicMode::Auto,
        }
    }

    /// Memory-mapped configuration space: base and size; `None` if there is none.
    #[must_use]
    pub fn mmconfig(&self) -> Option<(u64, u64)> {
        let base = self.header.pci_mmconfig_base.get();
        (base != 0).then(|| (base, (u64::from(self.header.pci_mmconfig_end_bus) + 1) << 20))
    }

    /// IOMMU units.
    pub fn iommu_units(&self) -> impl Iterator<Item = &'a IommuUnit> + use<'a> {
        self.header.iommu_units.iter().take_while(|unit| unit.size.get() != 0)
    }

    /// Bytes of the configuration.
    #[must_use]
    pub fn total_size(&self) -> u64 {
        size_of::<SystemHeader>() as u64 + self.root.total_size()
    }
}
