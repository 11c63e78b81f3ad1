//! The example configurations of the systems that this one replaces: cRTOS's root cell and its NuttX cell with a serial card,
//! as its installation guide describes them, and a cell for RTEMS of 8 MiB.

use hypervisor_abi::config::{
    Cache, CacheKind, CellFlags, CellParts, Console, IommuUnit, IrqChip, Memory, MemoryFlags, PciCapability, PciDevice,
    PortRange, SystemHeader, SystemParts,
};
use zerocopy::IntoBytes;
use zerocopy::little_endian::{U16, U32, U64};

/// Where the memory for cells begins.
const N: u64 = 0x1_0800_0000;
const HYPERVISOR: u64 = 0x1_0000_0000;
const SHADOW: u64 = 0x4000_0000;
const PAGE: u64 = 0x1000;
const NET: u64 = N + 0x4020_5000;

const R: MemoryFlags = MemoryFlags::READ;
const RW: MemoryFlags = R.union(MemoryFlags::WRITE);
const RWX: MemoryFlags = RW.union(MemoryFlags::EXECUTE);
const SHARED: MemoryFlags = MemoryFlags::ROOTSHARED;

fn same(start: u64, size: u64, flags: MemoryFlags) -> Memory {
    Memory::new(start, start, size, flags)
}

/// Regions of the shadow device as `peer` sees them, the big one at `at`.
fn shadow(peer: usize, at: u64, flags: MemoryFlags) -> [Memory; 4] {
    let output = |number: usize| if number == peer { RW } else { R };
    [
        same(N, PAGE, R | SHARED),
        Memory::new(N + PAGE, at, SHADOW, RWX | SHARED | flags),
        same(N + SHADOW + PAGE, 0x4000, output(0) | SHARED),
        same(N + SHADOW + 0x5000, 0x4000, output(1) | SHARED),
    ]
}

/// Regions of the network device: no section for both, two of 0x7f000 bytes.
fn network(peer: usize) -> [Memory; 4] {
    let output = |number: usize| if number == peer { RW } else { R };
    [
        same(NET, PAGE, R | SHARED),
        Memory::new(0, 0, 0, MemoryFlags::empty()),
        same(NET + PAGE, 0x7f000, output(0) | SHARED),
        same(NET + PAGE + 0x7f000, 0x7f000, output(1) | SHARED),
    ]
}

fn functions(peer: u8, shadow_at: u32, network_at: u32) -> [PciDevice; 2] {
    let behind = |device: PciDevice| PciDevice { iommu: 1, ..device };
    [
        behind(PciDevice::ivshmem(0x0e << 3, shadow_at, peer, 2, 0x0002, 16)),
        behind(PciDevice::ivshmem(0x0d << 3, network_at, peer, 2, 0x0001, 2)),
    ]
}

/// The serial card at 03:00 with its capabilities, masks of its BARs and first capability by function.
fn card() -> ([PciDevice; 3], Vec<PciCapability>) {
    let serial = [0xffff_fff8, 0xffff_f000, 0, 0, 0, 0xffff_f000];
    let parallel = [0xffff_fff8, 0xffff_fff8, 0xffff_f000, 0, 0, 0xffff_f000];
    let function = |bdf, mask: [u32; 6], start, count, vectors| PciDevice {
        kind: 1,
        iommu: 1,
        bdf: U16::new(bdf),
        bar_mask: mask.map(U32::new),
        caps_start: U16::new(start),
        num_caps: U16::new(count),
        num_msi_vectors: vectors,
        msi_flags: 1,
        ..PciDevice::default()
    };
    let common = [(0x05, 0x50, 0x0e, 1), (0x01, 0x78, 8, 1), (0x10, 0x80, 0x14, 0)];
    let first = [(0x8002, 0x100, 0x10, 0), (0x8001, 0x800, 0x40, 0)];
    let others = [(0x8001, 0x100, 0x40, 0)];
    let caps = common.iter().chain(&first).chain(&common).chain(&others);
    let caps = caps.map(|(id, start, len, flags)| PciCapability::new(*id, *start, *len, *flags)).collect();
    let functions =
        [function(0x300, serial, 0, 5, 8), function(0x301, serial, 5, 4, 8), function(0x302, parallel, 5, 4, 1)];
    (functions, caps)
}

/// `sysconfig.c`.
pub fn sysconfig() -> Vec<u8> {
    let mut memory =
        vec![same(0, 0x9_f000, RWX | MemoryFlags::DMA), same(0x10_0000, 0x7ff0_0000, RWX | MemoryFlags::DMA)];
    memory.extend(shadow(0, N + PAGE, MemoryFlags::empty()));
    memory.extend(network(0));
    let (card, caps) = card();
    memory.push(same(0xfb10_0000, PAGE, RW));
    memory.push(same(0xfb50_0000, 6 * PAGE, RW));
    let mut devices = card.to_vec();
    devices.extend(functions(0, 2, 6));
    let chips = [IrqChip::new(0xfec0_0000, 0x1f0ff, 0x00ff_ffff)];
    let ports = [PortRange::new(0, 0xcf8), PortRange::new(0xd00, 0xf300)];
    let mut header = SystemHeader {
        flags: U32::new(1),
        hypervisor_memory: Memory::new(HYPERVISOR, 0, 0x800_0000, MemoryFlags::empty()),
        debug_console: Console::uart_pio(0x2f8, 1),
        pci_mmconfig_base: U64::new(0x8000_0000),
        pci_mmconfig_end_bus: 0xff,
        pm_timer_address: U16::new(0x408),
        vtd_interrupt_limit: U32::new(256),
        ..SystemHeader::default()
    };
    for (unit, base) in header.iommu_units.iter_mut().zip([0xfbff_d000, 0xfbff_c000]) {
        *unit = IommuUnit { kind: U32::new(2), base: U64::new(base), size: U32::new(0x1000), ..IommuUnit::default() };
    }
    let root = CellParts {
        name: "RootCell",
        cpu_set: &[0xff, 0xff, 0xff, 0, 0, 0, 0, 0],
        memory: &memory,
        irqchips: &chips,
        ports: &ports,
        pci_devices: &devices,
        pci_caps: &caps,
        ..CellParts::default()
    };
    let parts = SystemParts { header, root };
    let mut bytes = vec![0; parts.size()];
    parts.write(&mut bytes).unwrap();
    bytes
}

/// `nuttx.c`, with the serial card.
pub fn nuttx() -> Vec<u8> {
    let mut memory = shadow(1, 0, MemoryFlags::LOADABLE).to_vec();
    memory.push(Memory::new(0, N + 0x4001_0000, PAGE, RW | MemoryFlags::COMM_REGION));
    memory.extend(network(1));
    memory.push(same(0xfb10_0000, PAGE, RW));
    memory.extend((0..6).map(|page| same(0xfb50_0000 + page * PAGE, PAGE, RW)));
    let (card, caps) = card();
    let mut devices = card.to_vec();
    devices.extend(functions(1, 0, 5));
    let chips = [IrqChip::new(0xfec0_0000, 0x1f0ff, 0)];
    let ports = [0xd000, 0xd010, 0xd020, 0xd030].map(|base| PortRange::new(base, 8));
    let cache = [Cache { size: U32::new(10), kind: CacheKind::L3 as u8, ..Cache::default() }];
    let parts = CellParts {
        name: "nuttx",
        flags: CellFlags::VIRTUAL_CONSOLE_PERMITTED,
        cpu_set: &[8],
        memory: &memory,
        cache: &cache,
        irqchips: &chips,
        ports: &ports,
        pci_devices: &devices,
        pci_caps: &caps,
        ..CellParts::default()
    };
    let mut bytes = vec![0; parts.size()];
    parts.write(&mut bytes).unwrap();
    bytes
}

/// A cell for RTEMS: 8 MiB, the communication region above, COM1, pins 10 and 11.
pub fn rtems() -> Vec<u8> {
    let memory = [
        Memory::new(N + 0x5000_0000, 0, 0x80_0000, RWX | MemoryFlags::DMA | MemoryFlags::LOADABLE),
        Memory::new(0, 0x90_0000, PAGE, RW | MemoryFlags::COMM_REGION),
    ];
    let parts = CellParts {
        name: "rtems",
        cpu_set: &[4],
        memory: &memory,
        irqchips: &[IrqChip::new(0xfec0_0000, 0x1f0ff, 0xc00)],
        ports: &[PortRange::new(0x3f8, 8)],
        cpu_reset_address: 0xf_0000,
        ..CellParts::default()
    };
    let mut bytes = vec![0; parts.size()];
    parts.write(&mut bytes).unwrap();
    bytes
}

/// The bytes as revision 12 has them: the other way round than [`super::old`].
fn older(new: &[u8], signature: &[u8; 6]) -> Vec<u8> {
    let mut old = new.to_vec();
    old[..6].copy_from_slice(signature);
    old[6..8].copy_from_slice(&12u16.to_le_bytes());
    let pages = [0x00, 0xf0, 0xff, 0xff, 0x00, 0xf0, 0xff, 0xff];
    for at in 0..old.len() - 14 {
        // A shared memory device: kind 3, IOMMU 1, domain 0, its address, then the masks of two BARs, the second MSI-X.
        if old[at..at + 4] == [3, 1, 0, 0] && old[at + 6..at + 14] == pages {
            old[at + 11] = 0xfe;
        }
    }
    old
}

/// [`sysconfig`] as cRTOS's tools write it.
pub fn sysconfig_12() -> Vec<u8> {
    let new = sysconfig();
    let older = older(&new, b"JHSYST");
    let mut bytes = older[..0x58].to_vec();
    bytes.extend(&new[0x138..0x13a]); // PM timer
    bytes.extend(&new[0x13c..0x140]); // interrupt limit
    bytes.push(new[0x13a]); // APIC mode
    bytes.extend([0; 3]);
    bytes.extend(&new[0x140..0x148]); // rates
    bytes.extend(&new[0x58..0x138]); // IOMMU units
    bytes.resize(0x58 + 266, 0);
    bytes.extend(&older[0x164..]);
    bytes
}

/// [`nuttx`] as cRTOS's tools write it.
pub fn nuttx_12() -> Vec<u8> {
    older(&nuttx(), b"JHCELL")
}

#[test]
fn the_old_device_records_differ() {
    assert_ne!(nuttx().as_bytes()[8..], nuttx_12()[8..]);
}
