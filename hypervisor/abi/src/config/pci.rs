//! The PCI records of a cell configuration.

use zerocopy::little_endian::{U16, U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

/// Kind of PCI function.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum PciKind {
    /// A physical device.
    Device = 1,
    /// A physical bridge.
    Bridge = 2,
    /// A shared memory device that the hypervisor makes up.
    Ivshmem = 3,
}

/// A PCI function, 56 bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct PciDevice {
    /// [`PciKind`].
    pub kind: u8,
    /// IOMMU unit that the function is behind.
    pub iommu: u8,
    /// PCI segment.
    pub domain: U16,
    /// Bus, device, function.
    pub bdf: U16,
    /// For each BAR the address bits that can be written; 0 for an absent one.
    pub bar_mask: [U32; 6],
    /// First of the function's capabilities in the array of the cell.
    pub caps_start: U16,
    /// Number of its capabilities.
    pub num_caps: U16,
    /// MSI vectors.
    pub num_msi_vectors: u8,
    /// Bit 0: 64-bit MSI address; bit 1: MSI vectors can be masked.
    pub msi_flags: u8,
    /// MSI-X vectors.
    pub num_msix_vectors: U16,
    /// Size of the MSI-X table and pending bits.
    pub msix_region_size: U16,
    /// Machine address of the MSI-X table.
    pub msix_address: U64,
    /// Shared memory device: its first memory region (the state table).
    pub shmem_regions_start: U32,
    /// Shared memory device: own peer number.
    pub shmem_dev_id: u8,
    /// Shared memory device: number of peers.
    pub shmem_peers: u8,
    /// Shared memory device: protocol.
    pub shmem_protocol: U16,
}

impl PciDevice {
    /// The kind; `None` only in records that were not parsed.
    #[must_use]
    pub const fn kind(&self) -> Option<PciKind> {
        match self.kind {
            1 => Some(PciKind::Device),
            2 => Some(PciKind::Bridge),
            3 => Some(PciKind::Ivshmem),
            _ => None,
        }
    }

    /// Bus, device, function in one number.
    #[must_use]
    pub const fn bdf(&self) -> u16 {
        self.bdf.get()
    }

    /// A shared memory device with 4 KiB of registers and, for `vectors` above 0, an MSI-X table.
    #[must_use]
    pub fn ivshmem(bdf: u16, regions_start: u32, dev_id: u8, peers: u8, protocol: u16, vectors: u16) -> Self {
        let page = U32::new(0xffff_f000);
        let none = U32::new(0);
        Self {
            kind: PciKind::Ivshmem as u8,
            bdf: U16::new(bdf),
            bar_mask: [page, if vectors > 0 { page } else { none }, none, none, none, none],
            num_msix_vectors: U16::new(vectors),
            shmem_regions_start: U32::new(regions_start),
            shmem_dev_id: dev_id,
            shmem_peers: peers,
            shmem_protocol: U16::new(protocol),
            ..Self::default()
        }
    }

    /// Of a shared memory device: the address bits of the 64-bit BAR 2 that can be written, 0 if there is none.
    #[must_use]
    pub const fn shmem_bar_mask(&self) -> u64 {
        (self.bar_mask[3].get() as u64) << 32 | self.bar_mask[2].get() as u64
    }

    /// Indices of the function's capabilities in the array of the cell.
    #[must_use]
    pub fn caps_range(&self) -> core::ops::Range<usize> {
        let start = usize::from(self.caps_start.get());
        start..start + usize::from(self.num_caps.get())
    }

    /// Whether the MSI address is 64 bits wide.
    #[must_use]
    pub const fn msi_64bits(&self) -> bool {
        self.msi_flags & 1 != 0
    }

    /// Whether MSI vectors can be masked.
    #[must_use]
    pub const fn msi_maskable(&self) -> bool {
        self.msi_flags & 2 != 0
    }
}

/// A PCI capability, 8 bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct PciCapability {
    /// Id; bit 15 marks an extended one.
    pub id: U16,
    /// Offset in configuration space.
    pub start: U16,
    /// Bytes.
    pub len: U16,
    /// Bit 0: the cell may write.
    pub flags: U16,
}

impl PciCapability {
    /// Mark of extended capabilities in `id`.
    pub const EXTENDED: u16 = 0x8000;
    /// Flag: the cell may write.
    pub const WRITE: u16 = 1;

    /// A capability.
    #[must_use]
    pub const fn new(id: u16, start: u16, len: u16, flags: u16) -> Self {
        Self { id: U16::new(id), start: U16::new(start), len: U16::new(len), flags: U16::new(flags) }
    }

    /// Whether the cell may write it.
    #[must_use]
    pub const fn writable(&self) -> bool {
        self.flags.get() & Self::WRITE != 0
    }

    /// Whether configuration space offset `offset` belongs to it.
    #[must_use]
    pub const fn contains(&self, offset: u16) -> bool {
        offset >= self.start.get() && offset - self.start.get() < self.len.get()
    }
}

const _: () = {
    use core::mem::offset_of;
    assert!(size_of::<PciDevice>() == 56);
    assert!(offset_of!(PciDevice, bar_mask) == 0x06 && offset_of!(PciDevice, caps_start) == 0x1e);
    assert!(offset_of!(PciDevice, msix_address) == 0x28 && offset_of!(PciDevice, shmem_protocol) == 0x36);
    assert!(size_of::<PciCapability>() == 8);
};
