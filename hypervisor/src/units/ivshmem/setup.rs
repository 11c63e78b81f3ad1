//! What a cell configuration says of a shared memory function.

use hypervisor_abi::config::{CellConfig, MemoryFlags, PciDevice, PciKind};
use hypervisor_abi::ivshmem::{FIXED_REGIONS, MAX_PEERS, MAX_VECTORS};

/// A peer to be made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PeerSetup {
    /// Cell that it belongs to.
    pub owner: u32,
    /// PCI segment.
    pub domain: u16,
    /// Bus, device, function; the same for all peers of a link.
    pub bdf: u16,
    /// Number of the IOMMU that it is behind.
    pub iommu: u8,
    /// Own number.
    pub id: u8,
    /// Number of peers.
    pub peers: u8,
    /// Protocol.
    pub protocol: u16,
    /// MSI-X vectors.
    pub vectors: u16,
    /// Writable address bits of BAR 0 and 1.
    pub bar_mask: [u32; 2],
    /// Machine address of the state table.
    pub table: u64,
    /// Size of the state table.
    pub table_size: u32,
    /// Size of the read/write section.
    pub rw_size: u64,
    /// Size of each output section.
    pub output_size: u64,
    /// Guest-physical address of the state table.
    pub base: u64,
    /// Writable address bits of BAR 2, which is preset to that address; 0 without one.
    pub memory_mask: u64,
}

/// Why a function cannot be made from its record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SetupError {
    /// Not a shared memory function.
    Kind,
    /// Number of peers not in 1..=12.
    Peers,
    /// Own number not below the number of peers.
    Id,
    /// More than 16 vectors.
    Vectors,
    /// State table, read/write section and the output sections are not all among the cell's memory regions.
    Regions,
    /// The state table is too small, too big, or the cell may write it.
    StateTable,
    /// The output sections differ in size.
    OutputSections,
    /// BAR 0 must be a power of two of at least 4 KiB, BAR 1 the same if there are vectors, else absent.
    Bars,
    /// BAR 2, if there is one, must be a power of two with room for all sections, and the state table at a multiple of it.
    MemoryBar,
}

fn valid_mask(mask: u32, least: u32) -> bool {
    let size = (!mask).wrapping_add(1);
    mask != 0 && size.is_power_of_two() && size >= least
}

impl PeerSetup {
    /// Reads and checks the record of one function.
    pub fn from_config(owner: u32, cell: &CellConfig<'_>, device: &PciDevice) -> Result<Self, SetupError> {
        if device.kind() != Some(PciKind::Ivshmem) {
            return Err(SetupError::Kind);
        }
        let peers = device.shmem_peers;
        if peers == 0 || usize::from(peers) > MAX_PEERS {
            return Err(SetupError::Peers);
        }
        if device.shmem_dev_id >= peers {
            return Err(SetupError::Id);
        }
        let vectors = device.num_msix_vectors.get();
        if usize::from(vectors) > MAX_VECTORS {
            return Err(SetupError::Vectors);
        }
        let start = device.shmem_regions_start.get() as usize;
        let count = FIXED_REGIONS as usize + usize::from(peers);
        let end = start.checked_add(count).ok_or(SetupError::Regions)?;
        let sections = cell.memory().get(start..end).ok_or(SetupError::Regions)?;
        let [table, rw, outputs @ ..] = sections else {
            return Err(SetupError::Regions);
        };
        let table_size = u32::try_from(table.size()).map_err(|_| SetupError::StateTable)?;
        let too_small = u64::from(table_size) < u64::from(peers) * 4;
        if too_small || table.is_subpage() || table.flags().contains(MemoryFlags::WRITE) {
            return Err(SetupError::StateTable);
        }
        let output_size = outputs.first().map_or(0, |section| section.size());
        if outputs.iter().any(|section| section.size() != output_size) {
            return Err(SetupError::OutputSections);
        }
        let bar_mask = [device.bar_mask[0].get(), device.bar_mask[1].get()];
        // Old configurations give the MSI-X BAR 512 bytes, which then lie on a page of their own all the same.
        let table_bar = if vectors > 0 { valid_mask(bar_mask[1], 0x200) } else { bar_mask[1] == 0 };
        if !valid_mask(bar_mask[0], 0x1000) || !table_bar {
            return Err(SetupError::Bars);
        }
        let (base, memory_mask) = (table.virt_start(), device.shmem_bar_mask());
        let room = memory_mask.wrapping_neg();
        let need = sections.iter().fold(0, |sum: u64, section| sum.saturating_add(section.size()));
        let fits = room.is_power_of_two() && need <= room && base.is_multiple_of(room);
        if memory_mask != 0 && !fits {
            return Err(SetupError::MemoryBar);
        }
        Ok(Self {
            owner,
            domain: device.domain.get(),
            bdf: device.bdf(),
            iommu: device.iommu,
            id: device.shmem_dev_id,
            peers,
            protocol: device.shmem_protocol.get(),
            vectors,
            bar_mask,
            table: table.phys_start(),
            table_size,
            rw_size: rw.size(),
            output_size,
            base,
            memory_mask,
        })
    }
}
