//! What a check can find, and how it says so.

use core::fmt;

/// How bad a finding is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Severity {
    /// Works, but probably not as meant.
    Warning,
    /// Cannot work, or breaks isolation.
    Error,
}

/// Where in a configuration; numbers are indices in the arrays.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// The system header.
    System,
    /// The cell descriptor.
    Cell,
    /// The CPU bitmap.
    CpuSet,
    /// A memory region.
    Memory(usize),
    /// An interrupt controller.
    IrqChip(usize),
    /// A port range.
    Ports(usize),
    /// A PCI function.
    PciDevice(usize),
    /// A PCI capability.
    PciCap(usize),
    /// Something in the cell with this number of the set.
    InCell(usize),
}

/// What is wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Problem {
    /// No CPU in the set.
    NoCpus,
    /// The root cell's id is not 0.
    RootId(u32),
    /// CPU 0 is not in the root cell.
    CpuZero,
    /// No PM timer port.
    NoPmTimer,
    /// The hypervisor memory is not page aligned, or empty.
    HypervisorMemory,
    /// A region without bytes.
    EmptyRegion,
    /// Address or size not page aligned.
    Unaligned,
    /// A sub-page region without access widths, or across a page.
    SubPage,
    /// The region wraps, or lies beyond what page tables reach.
    OutOfReach,
    /// Overlaps another region of the cell in its address space.
    Overlap(usize),
    /// Lies in the hypervisor's memory.
    InHypervisor,
    /// Covers registers that the hypervisor must see accesses to.
    CoversRegisters(u64),
    /// Memory for devices, which find it at another address than the cell.
    DmaElsewhere,
    /// More than one communication region.
    SecondCommRegion,
    /// Communication region not of one page, or in the root cell.
    CommRegion,
    /// The reset address is in no executable region.
    ResetAddress(u64),
    /// A port range without ports, or beyond the last.
    PortRange,
    /// A port range with configuration space ports.
    ConfigPorts,
    /// Two functions at one address.
    DuplicateFunction(usize),
    /// Capabilities beyond the array.
    CapsRange,
    /// A capability beyond configuration space.
    CapBounds,
    /// A BAR mask that is no mask.
    BarMask(u8),
    /// Peers not in 2..=12, or own number not below.
    ShmemPeers,
    /// More than 16 vectors.
    ShmemVectors,
    /// Not all regions are there.
    ShmemRegions {
        /// Regions needed, from the first.
        need: u32,
    },
    /// State table too small or writable.
    ShmemStateTable,
    /// Output sections differ in size.
    ShmemOutputSizes,
    /// Output section of another peer is writable, or the own is not.
    ShmemOutputRights(u8),
    /// Regions do not follow each other in the cell's address space.
    ShmemGap(usize),
    /// The same with a BAR 2, which is one range.
    ShmemBarGap(usize),
    /// BAR 2 is no 64-bit BAR with room for all sections.
    ShmemBarSize {
        /// Bytes of all sections.
        need: u64,
    },
    /// The state table is where BAR 2 cannot be.
    ShmemBarAddress {
        /// Guest-physical address of the state table.
        address: u64,
        /// Bytes of the BAR.
        room: u64,
    },
    /// A CPU that the root cell does not have.
    ForeignCpu(u32),
    /// A CPU that another cell has too.
    SharedCpu(u32),
    /// A name that another cell has too.
    SharedName,
    /// Private memory of another cell.
    SharedMemory {
        /// Region of this cell.
        region: usize,
        /// Machine address where they meet.
        address: u64,
    },
    /// A physical function that another cell has too.
    SharedFunction(u16),
    /// A physical function that the root configuration does not list.
    UnknownFunction(u16),
    /// A pin that another cell has too.
    SharedPin(u32),
    /// A shared memory region that is taken away from the root cell.
    NotRootShared(usize),
    /// A peer number that another cell has too.
    LinkPeer(u16),
    /// Peers of a link that do not agree.
    LinkMismatch(u16),
}

impl Problem {
    /// How bad it is.
    #[must_use]
    pub const fn severity(self) -> Severity {
        match self {
            Self::NoPmTimer | Self::ConfigPorts | Self::DmaElsewhere | Self::ShmemGap(_) | Self::UnknownFunction(_) => {
                Severity::Warning
            }
            _ => Severity::Error,
        }
    }
}

/// Something found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Finding {
    /// Where.
    pub place: Place,
    /// What.
    pub problem: Problem,
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::System => write!(f, "system"),
            Self::Cell => write!(f, "cell"),
            Self::CpuSet => write!(f, "cpus"),
            Self::Memory(n) => write!(f, "mem_regions[{n}]"),
            Self::IrqChip(n) => write!(f, "irqchips[{n}]"),
            Self::Ports(n) => write!(f, "pio_regions[{n}]"),
            Self::PciDevice(n) => write!(f, "pci_devices[{n}]"),
            Self::PciCap(n) => write!(f, "pci_caps[{n}]"),
            Self::InCell(n) => write!(f, "cell {n} of the set"),
        }
    }
}

/// Bus, device, function as people write it.
struct Bdf(u16);

impl fmt::Display for Bdf {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:02x}:{:02x}.{}", self.0 >> 8, self.0 >> 3 & 31, self.0 & 7)
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Self::NoCpus => write!(f, "the cell has no CPU: give it at least one"),
            Self::RootId(id) => write!(f, "id {id} of the root cell: must be 0"),
            Self::CpuZero => write!(f, "CPU 0 is missing: it must stay with the root cell"),
            Self::NoPmTimer => {
                write!(f, "x86.pm_timer_address is 0: cells cannot calibrate their timers; give the port")
            }
            Self::HypervisorMemory => {
                write!(f, "hypervisor_memory: address and size must be multiples of 4096, the size not 0")
            }
            Self::EmptyRegion => write!(f, "size 0: give it a size, or remove the region"),
            Self::Unaligned => write!(f, "addresses and size must be multiples of 4096"),
            Self::SubPage => {
                write!(f, "smaller than a page: give at least one of IO_8 to IO_64, and stay inside one page")
            }
            Self::OutOfReach => write!(f, "reaches beyond what page tables can map: correct address or size"),
            Self::Overlap(other) => {
                write!(f, "overlaps mem_regions[{other}] in the cell's address space: separate them")
            }
            Self::InHypervisor => write!(f, "overlaps the hypervisor's memory: move it"),
            Self::CoversRegisters(at) => {
                write!(f, "covers the registers at {at:#x}, which the hypervisor must moderate: leave that range out")
            }
            Self::DmaElsewhere => {
                write!(
                    f,
                    "has DMA, and the cell sees it at another address than its devices, which see the machine's (there is no IOMMU support): a driver that gives them the cell's lets them write elsewhere"
                )
            }
            Self::SecondCommRegion => write!(f, "second communication region: a cell has one"),
            Self::CommRegion => write!(f, "communication region: must be one page of 4096 bytes, in a non-root cell"),
            Self::ResetAddress(at) => write!(f, "cpu_reset_address {at:#x} is in no region with EXECUTE: correct it"),
            Self::PortRange => write!(f, "no ports, or ports beyond 0xffff: correct base or length"),
            Self::ConfigPorts => write!(f, "ports 0xcf8 to 0xcff are always moderated: leave them out"),
            Self::DuplicateFunction(other) => {
                write!(f, "same address as pci_devices[{other}]: remove one")
            }
            Self::CapsRange => write!(f, "caps_start + num_caps is beyond pci_caps: correct them"),
            Self::CapBounds => {
                write!(f, "start + len is beyond configuration space (0x100, extended 0x1000): correct them")
            }
            Self::BarMask(bar) => write!(f, "bar_mask[{bar}]: must be the complement of a size that is a power of two"),
            Self::ShmemPeers => write!(f, "shmem_peers must be 2 to 12, and shmem_dev_id below it"),
            Self::ShmemVectors => write!(f, "num_msix_vectors: at most 16"),
            Self::ShmemRegions { need } => {
                write!(
                    f,
                    "shmem_regions_start: {need} regions are needed from there on (state table, read/write, one output a peer)"
                )
            }
            Self::ShmemStateTable => {
                write!(f, "state table: needs 4 bytes a peer, whole pages, and must not have WRITE")
            }
            Self::ShmemOutputSizes => write!(f, "output sections: must all have the same size"),
            Self::ShmemOutputRights(peer) => {
                write!(
                    f,
                    "output section of peer {peer}: must have WRITE in the cell with that shmem_dev_id, and only there"
                )
            }
            Self::ShmemGap(region) => {
                write!(
                    f,
                    "mem_regions[{region}] does not follow its predecessor in the cell's address space: drivers that expect that will fail"
                )
            }
            Self::ShmemBarGap(region) => {
                write!(
                    f,
                    "mem_regions[{region}] does not follow its predecessor in the cell's address space: behind BAR 2 it must"
                )
            }
            Self::ShmemBarSize { need } => {
                write!(
                    f,
                    "bar_mask[2] and bar_mask[3]: must together be the complement of a 64-bit size that is a power of two, at least {need:#x} bytes"
                )
            }
            Self::ShmemBarAddress { address, room } => {
                write!(
                    f,
                    "state table: {address:#x} is not a multiple of {room:#x}, the size in bar_mask[2] and bar_mask[3]"
                )
            }
            Self::ForeignCpu(cpu) => write!(f, "CPU {cpu} is not in the root cell: add it there, or choose another"),
            Self::SharedCpu(cpu) => {
                write!(f, "CPU {cpu} is in another cell too: a CPU belongs to one")
            }
            Self::SharedName => write!(f, "another cell has the same name: rename one"),
            Self::SharedMemory { region, address } => {
                write!(
                    f,
                    "mem_regions[{region}] meets memory of another cell at {address:#x}: separate them, or mark both ROOTSHARED if that is meant"
                )
            }
            Self::SharedFunction(bdf) => {
                write!(f, "PCI function {} is in another cell too: a function belongs to one", Bdf(bdf))
            }
            Self::UnknownFunction(bdf) => {
                write!(f, "PCI function {} is not in the root configuration: check the address", Bdf(bdf))
            }
            Self::SharedPin(pin) => {
                write!(f, "pin {pin} is in another cell too: a pin belongs to one")
            }
            Self::NotRootShared(region) => {
                write!(
                    f,
                    "mem_regions[{region}] is shared with the root cell but lacks ROOTSHARED: the root cell would lose it; add the flag"
                )
            }
            Self::LinkPeer(bdf) => {
                write!(f, "shared memory device {}: shmem_dev_id is taken by another cell", Bdf(bdf))
            }
            Self::LinkMismatch(bdf) => {
                write!(
                    f,
                    "shared memory device {}: peers, protocol, vectors, addresses and sizes must be those of the other cells",
                    Bdf(bdf)
                )
            }
        }
    }
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.place, self.problem)
    }
}
