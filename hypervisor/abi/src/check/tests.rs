//! One wrong configuration a rule, made from a right one.

use proptest::prelude::*;
use zerocopy::little_endian::{U16, U32, U64};

use super::*;
use crate::config::{
    CellParts, IrqChip, Memory, MemoryFlags, PciCapability, PciDevice, PciKind, PortRange, SystemHeader, SystemParts,
};

const RWX: MemoryFlags = MemoryFlags::READ.union(MemoryFlags::WRITE).union(MemoryFlags::EXECUTE);
const R: MemoryFlags = MemoryFlags::READ.union(MemoryFlags::ROOTSHARED);
const RW: MemoryFlags = R.union(MemoryFlags::WRITE);

/// A cell that can be changed and written.
#[derive(Clone)]
struct Cell {
    name: &'static str,
    cpus: [u8; 8],
    memory: Vec<Memory>,
    irqchips: Vec<IrqChip>,
    ports: Vec<PortRange>,
    devices: Vec<PciDevice>,
    caps: Vec<PciCapability>,
    reset: u64,
}

impl Cell {
    fn parts(&self) -> CellParts<'_> {
        CellParts {
            name: self.name,
            cpu_set: &self.cpus,
            memory: &self.memory,
            irqchips: &self.irqchips,
            ports: &self.ports,
            pci_devices: &self.devices,
            pci_caps: &self.caps,
            cpu_reset_address: self.reset,
            ..CellParts::default()
        }
    }

    fn bytes(&self) -> Vec<u8> {
        let mut out = vec![0; self.parts().size()];
        self.parts().write(&mut out).unwrap();
        out
    }
}

fn shmem(virt: u64, id: usize) -> Vec<Memory> {
    let output = |n| if n == id { RW } else { R };
    vec![
        Memory::new(0x541f_f000, virt, 0x1000, R),
        Memory::new(0x5420_0000, virt + 0x1000, 0x1000_0000, RW),
        Memory::new(0x6420_0000, virt + 0x1000_1000, 0x80_0000, output(0)),
        Memory::new(0x64a0_0000, virt + 0x1080_1000, 0x80_0000, output(1)),
    ]
}

fn inmate() -> Cell {
    let mut memory = vec![
        Memory::new(0x5100_0000, 0, 0x300_0000, RWX | MemoryFlags::LOADABLE),
        Memory::new(0, 0x400_0000, 0x1000, MemoryFlags::READ | MemoryFlags::WRITE | MemoryFlags::COMM_REGION),
    ];
    memory.extend(shmem(0x41f_f000, 1));
    Cell {
        name: "srtos",
        cpus: [8, 0, 0, 0, 0, 0, 0, 0],
        memory,
        irqchips: vec![],
        ports: vec![PortRange::new(0x3f8, 8)],
        devices: vec![PciDevice::ivshmem(0x70, 2, 1, 2, 0x4372, 2)],
        caps: vec![],
        reset: 0x10_0000,
    }
}

fn root() -> Cell {
    let mut memory = vec![
        Memory::new(0, 0, 0x5000_0000, RWX | MemoryFlags::DMA),
        Memory::new(0xc000_0000, 0xc000_0000, 0x3ec0_0000, MemoryFlags::READ | MemoryFlags::WRITE),
    ];
    memory.extend(shmem(0x541f_f000, 0));
    Cell {
        name: "root",
        cpus: [15, 0, 0, 0, 0, 0, 0, 0],
        memory,
        irqchips: vec![IrqChip::new(0xfec0_0000, 0, 0xff_ffff)],
        ports: vec![PortRange::new(0, 0xcf8), PortRange::new(0xd00, 0xf300)],
        devices: vec![PciDevice::ivshmem(0x70, 2, 0, 2, 0x4372, 2)],
        caps: vec![],
        reset: 0,
    }
}

fn header() -> SystemHeader {
    SystemHeader {
        hypervisor_memory: Memory::new(0x5000_0000, 0, 0x100_0000, MemoryFlags::empty()),
        pci_mmconfig_base: U64::new(0xb000_0000),
        pci_mmconfig_end_bus: 255,
        pm_timer_address: U16::new(0x608),
        ..SystemHeader::default()
    }
}

fn findings(check: impl FnOnce(&mut dyn FnMut(Finding))) -> Vec<(Place, Problem)> {
    let mut all = Vec::new();
    check(&mut |finding| {
        // Every sentence can be said.
        assert!(finding.to_string().len() > 20);
        all.push((finding.place, finding.problem));
    });
    all
}

fn check_cell(change: impl FnOnce(&mut Cell)) -> Vec<(Place, Problem)> {
    let mut subject = inmate();
    change(&mut subject);
    let bytes = subject.bytes();
    findings(|found| cell(&CellConfig::parse(&bytes).unwrap(), Role::NonRoot, found))
}

fn check_system(change: impl FnOnce(&mut SystemHeader, &mut Cell)) -> Vec<(Place, Problem)> {
    let (mut header, mut root) = (header(), root());
    change(&mut header, &mut root);
    let parts = SystemParts { header, root: root.parts() };
    let mut bytes = vec![0; parts.size()];
    parts.write(&mut bytes).unwrap();
    findings(|found| system(&SystemConfig::parse(&bytes).unwrap(), found))
}

fn check_set(change: impl FnOnce(&mut Vec<Cell>)) -> Vec<(Place, Problem)> {
    let root = root();
    let parts = SystemParts { header: header(), root: root.parts() };
    let mut bytes = vec![0; parts.size()];
    parts.write(&mut bytes).unwrap();
    let mut cells = vec![inmate()];
    change(&mut cells);
    let cells: Vec<_> = cells.iter().map(Cell::bytes).collect();
    let cells: Vec<_> = cells.iter().map(|bytes| CellConfig::parse(bytes).unwrap()).collect();
    findings(|found| together(&SystemConfig::parse(&bytes).unwrap(), &cells, found))
}

#[test]
fn the_right_ones_pass() {
    assert_eq!(check_cell(|_| {}), []);
    assert_eq!(check_system(|_, _| {}), []);
    assert_eq!(check_set(|_| {}), []);
}

#[test]
fn memory_rules() {
    let at = |n, problem| vec![(Place::Memory(n), problem)];
    let ram = |size| Memory::new(0x7000_0000, 0x7000_0000, size, RWX);
    assert_eq!(check_cell(|c| c.memory.push(ram(0))), at(6, Problem::EmptyRegion));
    assert_eq!(check_cell(|c| c.memory.push(ram(0x1800))), at(6, Problem::Unaligned));
    let skewed = Memory::new(0x7000_0800, 0x7000_0000, 0x1000, RWX);
    assert_eq!(check_cell(|c| c.memory.push(skewed)), at(6, Problem::Unaligned));
    let registers = |start, size| Memory::new(start, start, size, MemoryFlags::READ | MemoryFlags::IO_32);
    assert_eq!(check_cell(|c| c.memory.push(registers(0x7000_0100, 0x10))), []);
    assert_eq!(check_cell(|c| c.memory.push(registers(0x7000_0ff8, 0x10))), at(6, Problem::SubPage));
    let far = Memory::new(0x7000_0000, 0xffff_ffff_ffff_f000, 0x2000, RWX);
    assert_eq!(check_cell(|c| c.memory.push(far)), at(6, Problem::OutOfReach));
    let overlap = Memory::new(0x7000_0000, 0x200_0000, 0x1000, RWX);
    assert_eq!(check_cell(|c| c.memory.push(overlap)), at(6, Problem::Overlap(0)));
    let apic = Memory::new(0xfee0_0000, 0xfee0_0000, 0x1000, RW);
    assert_eq!(check_cell(|c| c.memory.push(apic)), at(6, Problem::CoversRegisters(0xfee0_0000)));
    let comm = Memory::new(0, 0x5000_0000, 0x1000, MemoryFlags::COMM_REGION);
    assert_eq!(check_cell(|c| c.memory.push(comm)), at(6, Problem::SecondCommRegion));
    let big = Memory::new(0, 0x3f_f000 * 16, 0x2000, MemoryFlags::COMM_REGION);
    assert_eq!(check_cell(|c| c.memory[1] = big), at(1, Problem::CommRegion));
    assert_eq!(check_cell(|c| c.reset = 0x300_0000), [(Place::Cell, Problem::ResetAddress(0x300_0000))]);
    assert_eq!(check_cell(|c| c.cpus = [0; 8]), [(Place::CpuSet, Problem::NoCpus)]);
}

#[test]
fn devices_find_memory_at_the_machines_addresses() {
    let device = PciDevice { kind: PciKind::Device as u8, bdf: U16::new(0xc8), ..PciDevice::default() };
    let with = |phys, devices: &[PciDevice]| {
        check_cell(|c| {
            c.memory.push(Memory::new(phys, 0x7000_0000, 0x1000, RW | MemoryFlags::DMA));
            c.devices.extend(devices);
        })
    };
    assert_eq!(with(0x7100_0000, &[device]), [(Place::Memory(6), Problem::DmaElsewhere)]);
    assert_eq!(Problem::DmaElsewhere.severity(), Severity::Warning);
    assert_eq!(with(0x7000_0000, &[device]), [], "the same address");
    assert_eq!(with(0x7100_0000, &[]), [], "no physical function");
}

#[test]
fn port_rules() {
    let push = |base, length| check_cell(|c| c.ports.push(PortRange::new(base, length)));
    assert_eq!(push(0x80, 0), [(Place::Ports(1), Problem::PortRange)]);
    assert_eq!(push(0xffff, 2), [(Place::Ports(1), Problem::PortRange)]);
    assert_eq!(push(0xcfc, 1), [(Place::Ports(1), Problem::ConfigPorts)]);
}

#[test]
fn pci_rules() {
    let at = |n, problem| vec![(Place::PciDevice(n), problem)];
    let device = |bdf: u16| PciDevice { kind: 1, bdf: U16::new(bdf), ..PciDevice::default() };
    assert_eq!(check_cell(|c| c.devices.push(device(0x70))), at(1, Problem::DuplicateFunction(0)));
    let caps = PciDevice { num_caps: U16::new(1), ..device(8) };
    assert_eq!(check_cell(|c| c.devices.push(caps)), at(1, Problem::CapsRange));
    let mut bar = device(8);
    bar.bar_mask[2] = U32::new(0xfff0_f000);
    assert_eq!(check_cell(|c| c.devices.push(bar)), at(1, Problem::BarMask(2)));
    let cap = |id, start| PciCapability::new(id, start, 8, 0);
    assert_eq!(check_cell(|c| c.caps.push(cap(1, 0xfc))), [(Place::PciCap(0), Problem::CapBounds)]);
    assert_eq!(check_cell(|c| c.caps.push(cap(0x8001, 0xfc))), []);
}

#[test]
fn shared_memory_rules() {
    let at = |problem| vec![(Place::PciDevice(0), problem)];
    let with = |start, id, peers, vectors| {
        check_cell(|c| c.devices[0] = PciDevice::ivshmem(0x70, start, id, peers, 0, vectors))
    };
    assert_eq!(with(2, 1, 1, 2), at(Problem::ShmemPeers));
    assert_eq!(with(2, 2, 2, 2), at(Problem::ShmemPeers));
    assert_eq!(with(2, 1, 13, 2), at(Problem::ShmemPeers));
    assert_eq!(with(2, 1, 2, 17), at(Problem::ShmemVectors));
    assert_eq!(with(3, 1, 2, 2), at(Problem::ShmemRegions { need: 4 }));
    assert_eq!(with(u32::MAX, 1, 2, 2), at(Problem::ShmemRegions { need: 4 }));
    let table = Memory::new(0x541f_f000, 0x41f_f000, 0x1000, RW);
    assert_eq!(check_cell(|c| c.memory[2] = table), at(Problem::ShmemStateTable));
    let output = Memory::new(0x64a0_0000, 0x14a0_0000, 0x70_0000, RW);
    assert_eq!(check_cell(|c| c.memory[5] = output), at(Problem::ShmemOutputSizes));
    let theirs = Memory::new(0x6420_0000, 0x1420_0000, 0x80_0000, RW);
    assert_eq!(check_cell(|c| c.memory[4] = theirs), at(Problem::ShmemOutputRights(0)));
    let mine = Memory::new(0x64a0_0000, 0x14a0_0000, 0x80_0000, R);
    assert_eq!(check_cell(|c| c.memory[5] = mine), at(Problem::ShmemOutputRights(1)));
    let moved = Memory::new(0x64a0_0000, 0x24a0_0000, 0x80_0000, RW);
    assert_eq!(check_cell(|c| c.memory[5] = moved), at(Problem::ShmemGap(5)));
    let none = Memory::new(0, 0, 0, MemoryFlags::empty());
    let without_rw = |c: &mut Cell| {
        c.memory = c.memory[..3].to_vec();
        c.memory.extend([
            none,
            Memory::new(0x1000_0000, 0x420_0000, 0x1000, R),
            Memory::new(0x1000_1000, 0x420_1000, 0x1000, RW),
        ]);
    };
    assert_eq!(check_cell(without_rw), []);
}

#[test]
fn rules_of_a_memory_bar() {
    let with = |base: u64, [low, high]: [u32; 2], change: fn(&mut Cell)| {
        check_cell(|cell| {
            cell.memory.truncate(2);
            cell.memory.extend(shmem(base, 1));
            cell.devices[0].bar_mask[2..4].copy_from_slice(&[low, high].map(U32::new));
            change(cell);
        })
    };
    let at = |problem| vec![(Place::PciDevice(0), problem)];
    let half_a_gigabyte = [0xe000_0000, u32::MAX];
    assert_eq!(with(0x2000_0000, half_a_gigabyte, |_| {}), []);
    assert_eq!(with(0x4_0000_0000, [0, 0xffff_fffc], |_| {}), []);
    let size = at(Problem::ShmemBarSize { need: 0x1100_1000 });
    for mask in [[0xf000_0000, u32::MAX], [0xe000_0000, 0], [0xe000_000c, u32::MAX], [0xe000_0000, 0xffff_fffe]] {
        let found = with(0x2000_0000, mask, |_| {});
        assert!(found.ends_with(&size), "{mask:x?}: {found:?}");
    }
    let skewed = Problem::ShmemBarAddress { address: 0x1000_0000, room: 0x2000_0000 };
    assert_eq!(with(0x1000_0000, half_a_gigabyte, |_| {}), at(skewed));
    let gap = |cell: &mut Cell| cell.memory[5] = Memory::new(0x64a0_0000, 0x3800_0000, 0x80_0000, RW);
    assert_eq!(with(0x2000_0000, half_a_gigabyte, gap), at(Problem::ShmemBarGap(5)));
    assert_eq!(Problem::ShmemBarGap(5).severity(), Severity::Error);
}

#[test]
fn system_rules() {
    let system = |problem| vec![(Place::System, problem)];
    let unaligned = Memory::new(0x5000_0800, 0, 0x1000, MemoryFlags::empty());
    assert_eq!(check_system(|h, _| h.hypervisor_memory = unaligned), system(Problem::HypervisorMemory));
    let inside = Memory::new(0x4f00_0000, 0, 0x100_0000, MemoryFlags::empty());
    assert_eq!(check_system(|h, _| h.hypervisor_memory = inside), [(Place::Memory(0), Problem::InHypervisor)]);
    assert_eq!(check_system(|h, _| h.pm_timer_address = U16::new(0)), system(Problem::NoPmTimer));
    assert_eq!(check_system(|_, c| c.cpus[0] = 14), [(Place::CpuSet, Problem::CpuZero)]);
    let window = Memory::new(0xb000_0000, 0xb000_0000, 0x1000_0000, R);
    assert_eq!(check_system(|_, c| c.memory.push(window)), [(Place::Memory(6), Problem::CoversRegisters(0xb000_0000))]);
    let chip = Memory::new(0xfec0_0000, 0xfec0_0000, 0x1000, R);
    assert_eq!(check_system(|_, c| c.memory.push(chip)), [(Place::Memory(6), Problem::CoversRegisters(0xfec0_0000))]);
    let comm = Memory::new(0, 0x9000_0000, 0x1000, MemoryFlags::COMM_REGION);
    assert_eq!(check_system(|_, c| c.memory.push(comm)), [(Place::Memory(6), Problem::CommRegion)]);
}

#[test]
fn rules_between_cells() {
    let at = |n, problem| vec![(Place::InCell(n), problem)];
    assert_eq!(check_set(|c| c[0].cpus[0] = 0x18), at(0, Problem::ForeignCpu(4)));
    assert_eq!(check_set(|c| c[0].cpus[0] = 1), at(0, Problem::CpuZero));
    assert_eq!(check_set(|c| c[0].name = "root"), at(0, Problem::SharedName));
    let inside = Memory::new(0x5000_0000, 0x2000_0000, 0x1000, R);
    assert_eq!(check_set(|c| c[0].memory.push(inside)), at(0, Problem::InHypervisor));
    assert_eq!(check_set(|c| c[0].devices[0].shmem_dev_id = 0), at(0, Problem::LinkPeer(0x70)));
    assert_eq!(check_set(|c| c[0].devices[0].shmem_protocol = U16::new(1)), at(0, Problem::LinkMismatch(0x70)));
    let elsewhere = Memory::new(0x6000_0000, 0x420_0000, 0x1000_0000, RW);
    assert_eq!(check_set(|c| c[0].memory[3] = elsewhere), at(0, Problem::LinkMismatch(0x70)));
    let lost = Memory::new(0x541f_f000, 0x41f_f000, 0x1000, MemoryFlags::READ);
    assert_eq!(check_set(|c| c[0].memory[2] = lost), at(0, Problem::NotRootShared(2)));
    let nic = PciDevice { kind: 1, bdf: U16::new(0x18), ..PciDevice::default() };
    assert_eq!(check_set(|c| c[0].devices.push(nic)), at(0, Problem::UnknownFunction(0x18)));

    let other = || {
        let mut other = inmate();
        other.name = "other";
        other.cpus[0] = 4;
        other.memory = vec![Memory::new(0x7000_0000, 0, 0x20_0000, RWX)];
        other.devices.clear();
        other
    };
    assert_eq!(check_set(|c| c.push(other())), []);
    let two = |change: fn(&mut Cell)| {
        check_set(|c| {
            let mut other = other();
            change(&mut other);
            c.push(other);
        })
    };
    assert_eq!(two(|c| c.cpus[0] = 12), at(1, Problem::SharedCpu(3)));
    assert_eq!(two(|c| c.name = "srtos"), at(1, Problem::SharedName));
    let taken = |c: &mut Cell| c.memory[0] = Memory::new(0x5380_0000, 0, 0x90_0000, RWX);
    assert_eq!(two(taken), at(1, Problem::SharedMemory { region: 0, address: 0x5380_0000 }));
    let pins = check_set(|c| {
        let mut other = other();
        c[0].irqchips = vec![IrqChip::new(0xfec0_0000, 0, 0b0110)];
        other.irqchips = vec![IrqChip::new(0xfec0_0000, 0, 0b1100)];
        c.push(other);
    });
    assert_eq!(pins, at(1, Problem::SharedPin(2)));
    let functions = check_set(|c| {
        let mut other = other();
        c[0].devices.push(nic);
        other.devices.push(nic);
        c.push(other);
    });
    assert!(functions.contains(&(Place::InCell(1), Problem::SharedFunction(0x18))));
}

#[test]
fn the_first_error_passes_over_warnings() {
    let mut subject = inmate();
    subject.ports.push(PortRange::new(0xcf8, 8));
    let bytes = subject.bytes();
    let cell_config = CellConfig::parse(&bytes).unwrap();
    let first = || first_error(|found| cell(&cell_config, Role::NonRoot, found));
    assert_eq!(first(), None);
}

proptest! {
    #[test]
    fn hostile_records_never_panic(
        regions in proptest::collection::vec((any::<u64>(), any::<u64>(), any::<u64>(), 0u64..0x200), 0..12),
        devices in proptest::collection::vec(any::<[u8; 56]>(), 0..6),
        chips in proptest::collection::vec(any::<[u8; 32]>(), 0..3),
        caps in proptest::collection::vec(any::<[u8; 8]>(), 0..6),
        starts in proptest::collection::vec(0u32..6, 6),
    ) {
        use zerocopy::FromBytes;
        let mut subject = inmate();
        subject.memory = regions.iter()
            .map(|&(p, v, s, f)| Memory::new(p, v, s, MemoryFlags::from_bits_truncate(f))).collect();
        subject.devices = devices.iter().zip(starts).map(|(bytes, start)| {
            let mut device = PciDevice::read_from_bytes(bytes).unwrap();
            device.kind = device.kind % 3 + 1;
            if start < 4 {
                device.shmem_regions_start = U32::new(start);
                device.shmem_peers %= 14;
            }
            device
        }).collect();
        subject.irqchips = chips.iter().map(|bytes| IrqChip::read_from_bytes(bytes).unwrap()).collect();
        subject.caps = caps.iter().map(|bytes| PciCapability::read_from_bytes(bytes).unwrap()).collect();
        let bytes = subject.bytes();
        let cell_config = CellConfig::parse(&bytes).unwrap();
        findings(|found| cell(&cell_config, Role::NonRoot, found));
        let parts = SystemParts { header: header(), root: subject.parts() };
        let mut bytes = vec![0; parts.size()];
        parts.write(&mut bytes).unwrap();
        let system_config = SystemConfig::parse(&bytes).unwrap();
        findings(|found| system(&system_config, found));
        findings(|found| together(&system_config, &[cell_config, cell_config], found));
    }
}
