//! Reading what was written, refusing what was not.

use proptest::prelude::*;
use zerocopy::IntoBytes;
use zerocopy::little_endian::{U16, U32, U64};

use super::*;

fn parts<'a>(memory: &'a [Memory], devices: &'a [PciDevice], caps: &'a [PciCapability]) -> CellParts<'a> {
    CellParts {
        name: "srtos",
        id: 1,
        flags: CellFlags::VIRTUAL_CONSOLE_PERMITTED,
        cpu_set: &[0b1000, 0, 0, 0, 0, 0, 0, 1],
        memory,
        ports: const { &[PortRange::new(0x3f8, 8)] },
        pci_devices: devices,
        pci_caps: caps,
        cpu_reset_address: 0x10_0000,
        msg_reply_timeout: 1000,
        console: Console { address: U64::new(0x3f8), kind: U16::new(2), ..Console::default() },
        ..CellParts::default()
    }
}

fn cell_bytes() -> Vec<u8> {
    let memory = [
        Memory::new(0x5100_0000, 0, 0x300_0000, MemoryFlags::READ | MemoryFlags::WRITE | MemoryFlags::LOADABLE),
        Memory::new(0, 0x400_0000, 0x1000, MemoryFlags::READ | MemoryFlags::WRITE | MemoryFlags::COMM_REGION),
    ];
    let devices = [PciDevice::ivshmem(0x70, 2, 1, 2, 0x4372, 2)];
    let caps = [PciCapability::new(5, 0x50, 14, PciCapability::WRITE)];
    let parts = parts(&memory, &devices, &caps);
    let mut out = vec![0; parts.size()];
    assert_eq!(parts.write(&mut out), Ok(out.len()));
    out
}

fn system_bytes() -> Vec<u8> {
    let memory = [Memory::new(0, 0, 0x5000_0000, MemoryFlags::READ | MemoryFlags::WRITE | MemoryFlags::EXECUTE)];
    let irqchips = [IrqChip::new(0xfec0_0000, 0x1f0ff, 0x00ff_ffff)];
    let mut header = SystemHeader {
        hypervisor_memory: Memory::new(0x5000_0000, 0, 0x100_0000, MemoryFlags::empty()),
        debug_console: Console::uart_pio(0x3f8, 1),
        pci_mmconfig_base: U64::new(0xb000_0000),
        pci_mmconfig_end_bus: 0xff,
        pm_timer_address: U16::new(0x608),
        ..SystemHeader::default()
    };
    header.iommu_units[0] =
        IommuUnit { kind: U32::new(2), base: U64::new(0xfed9_0000), size: U32::new(0x1000), ..IommuUnit::default() };
    let root = CellParts { name: "root", id: 0, irqchips: &irqchips, cpu_set: &[0xf], ..parts(&memory, &[], &[]) };
    let parts = SystemParts { header, root };
    let mut out = vec![0; parts.size()];
    assert_eq!(parts.write(&mut out), Ok(out.len()));
    out
}

#[test]
fn the_test_register_ends_the_page_behind_the_communication_region() {
    let comm = [Memory::new(0, 0x10_0000, 0x1000, MemoryFlags::READ | MemoryFlags::COMM_REGION)];
    let register = |flags: CellFlags, memory: &[Memory]| {
        let parts = CellParts { flags, ..parts(memory, &[], &[]) };
        let mut bytes = vec![0; parts.size()];
        parts.write(&mut bytes).unwrap();
        CellConfig::parse(&bytes).unwrap().test_register()
    };
    assert_eq!(register(CellFlags::TEST_DEVICE, &comm), Some(0x10_1ff8));
    assert_eq!(register(CellFlags::PASSIVE_COMMREG, &comm), None, "not wanted");
    assert_eq!(register(CellFlags::TEST_DEVICE, &[]), None, "no communication region");
}

#[test]
fn a_written_cell_reads_back() {
    let bytes = cell_bytes();
    let cell = CellConfig::parse(&bytes).unwrap();
    assert_eq!((cell.name(), cell.id()), ("srtos", 1));
    assert_eq!(cell.cpus().collect::<Vec<_>>(), [3, 56]);
    assert!(cell.has_cpu(3) && !cell.has_cpu(4) && !cell.has_cpu(u32::MAX));
    assert_eq!(cell.memory().len(), 2);
    assert_eq!(cell.memory()[0].phys_start(), 0x5100_0000);
    assert_eq!(cell.comm_region().unwrap().virt_start(), 0x400_0000);
    assert_eq!(cell.ports()[0].end(), 0x400);
    assert_eq!(cell.cpu_reset_address(), 0x10_0000);
    assert_eq!(cell.pci_devices()[0].kind(), Some(PciKind::Ivshmem));
    assert_eq!(cell.pci_devices()[0].shmem_protocol.get(), 0x4372);
    assert!(cell.pci_caps()[0].writable());
    assert_eq!(cell.total_size(), bytes.len() as u64);
    assert_eq!(CellConfig::probe_size(&bytes), Ok(bytes.len() as u64));
}

#[test]
fn fields_lie_where_the_format_says() {
    let bytes = cell_bytes();
    assert_eq!(&bytes[..8], b"JHCLL\0\x0e\0");
    assert_eq!(&bytes[8..14], b"srtos\0");
    assert_eq!(bytes[0x28..0x2c], 1u32.to_le_bytes());
    assert_eq!(bytes[0x34..0x38], 2u32.to_le_bytes());
    assert_eq!(bytes[0x54..0x5c], 0x10_0000u64.to_le_bytes());
    let memory = 132 + 8;
    assert_eq!(bytes[memory..memory + 8], 0x5100_0000u64.to_le_bytes());
    assert_eq!(bytes[memory + 24..memory + 32], 0x43u64.to_le_bytes());
    let device = memory + 2 * 32 + 4;
    assert_eq!(bytes[device], 3);
    assert_eq!(bytes[device + 4..device + 6], 0x70u16.to_le_bytes());
    assert_eq!(bytes[device + 0x34..device + 0x38], [1, 2, 0x72, 0x43]);
}

#[test]
fn a_written_system_reads_back() {
    let bytes = system_bytes();
    let system = SystemConfig::parse(&bytes).unwrap();
    assert_eq!(system.hypervisor_memory().size(), 0x100_0000);
    assert_eq!(system.mmconfig(), Some((0xb000_0000, 0x1000_0000)));
    assert_eq!(system.iommu_units().count(), 1);
    assert_eq!(system.root_cell().name(), "root");
    assert_eq!(system.root_cell().cpus().collect::<Vec<_>>(), [0, 1, 2, 3]);
    assert_eq!(system.header().debug_console.pio_port(), Some(0x3f8));
    assert!(system.root_cell().irqchips()[0].owns_pin(23));
    assert!(!system.root_cell().irqchips()[0].owns_pin(24));
    assert!(!system.root_cell().irqchips()[0].owns_pin(u32::MAX));
    assert_eq!(SystemConfig::probe_size(&bytes), Ok(bytes.len() as u64));
    assert_eq!(&bytes[0x164..0x169], b"JHCLL");
}

#[test]
fn every_truncation_is_refused() {
    for bytes in [cell_bytes(), system_bytes()] {
        for len in 0..bytes.len() {
            assert!(CellConfig::parse(&bytes[..len]).is_err(), "{len}");
            assert!(SystemConfig::parse(&bytes[..len]).is_err(), "{len}");
        }
    }
}

#[test]
fn errors_say_what_to_do() {
    let mut old = cell_bytes();
    old[..8].copy_from_slice(b"JHCELL\x0c\0");
    let error = CellConfig::parse(&old).unwrap_err();
    assert_eq!(error, ConfigError::OldFormat { revision: 12 });
    assert!(error.to_string().contains("rebuild it"));
    let mut old = system_bytes();
    old[..8].copy_from_slice(b"JHSYST\x0c\0");
    assert_eq!(SystemConfig::parse(&old).unwrap_err(), ConfigError::OldFormat { revision: 12 });

    let error = CellConfig::parse(&system_bytes()).unwrap_err();
    assert_eq!(error, ConfigError::WrongKind { found: "system", wanted: "cell" });
    assert_eq!(
        SystemConfig::parse(&cell_bytes()).unwrap_err(),
        ConfigError::WrongKind { found: "cell", wanted: "system" }
    );
    assert_eq!(CellConfig::parse(b"\x7fELF\0\0\0\0").unwrap_err(), ConfigError::Signature { expected: "JHCLL" });
}

#[test]
fn wrong_values_are_refused() {
    let with = |offset: usize, value: &[u8]| {
        let mut bytes = cell_bytes();
        bytes[offset..offset + value.len()].copy_from_slice(value);
        CellConfig::parse(&bytes).unwrap_err()
    };
    assert_eq!(with(5, &[2]), ConfigError::Architecture(2));
    assert_eq!(with(6, &[13]), ConfigError::Revision(13));
    assert_eq!(with(8, &[0]), ConfigError::Name);
    assert_eq!(with(8, &[b'x'; 32]), ConfigError::Name);
    assert_eq!(with(8, &[0xff]), ConfigError::Name);
    assert_eq!(with(0x2c, &[0x10]), ConfigError::Value { field: "flags (cell)", index: 0, value: 0x10 });
    assert_eq!(with(0x30, &[0, 0]), ConfigError::CpuSetSize(0));
    assert_eq!(with(0x30, &[1, 16]), ConfigError::CpuSetSize(4097));
    assert!(matches!(with(0x34, &[0xff; 4]), ConfigError::Truncated { part: "mem_regions (num_memory_regions)", .. }));
    let flags = 132 + 8 + 32 + 24;
    assert_eq!(with(flags + 3, &[1]), ConfigError::Value { field: "flags (mem_regions)", index: 1, value: 0x100_0000 });
    let device = 132 + 8 + 64 + 4;
    assert_eq!(with(device, &[9]), ConfigError::Value { field: "type (pci_devices)", index: 0, value: 9 });
}

#[test]
fn the_writer_refuses_what_the_reader_would() {
    assert_eq!(name(""), Err(ConfigError::Name));
    assert_eq!(name("0123456789012345678901234567890x"), Err(ConfigError::Name));
    assert_eq!(name("a\nb"), Err(ConfigError::Name));
    let parts = parts(&[], &[], &[]);
    assert_eq!(parts.write(&mut [0; 10]), Err(ConfigError::NoSpace { need: parts.size() }));
    let none = CellParts { cpu_set: &[], ..parts };
    assert_eq!(none.write(&mut [0; 1000]), Err(ConfigError::CpuSetSize(0)));
    assert_eq!(bar_mask(0x1000), 0xffff_f000);
    assert_eq!(bar_mask(0x1001), 0);
}

/// Uses everything that a parsed cell offers.
fn walk(cell: &CellConfig<'_>) -> u64 {
    let mut sum = cell.cpus().map(u64::from).sum::<u64>() + cell.total_size();
    for region in cell.memory() {
        sum ^= region.flags().bits() ^ u64::from(region.contains_virt(sum)) ^ u64::from(region.contains_phys(sum));
    }
    for chip in cell.irqchips() {
        sum ^= u64::from(chip.owns_pin(sum as u32));
    }
    for device in cell.pci_devices() {
        sum ^= cell.caps_of(device).iter().filter(|cap| cap.contains(0x40)).count() as u64;
    }
    sum ^ cell.ports().iter().map(|range| u64::from(range.end())).sum::<u64>()
}

proptest! {
    #[test]
    fn hostile_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..700)) {
        let _ = CellConfig::parse(&bytes).map(|cell| walk(&cell));
        let _ = SystemConfig::parse(&bytes).map(|system| walk(system.root_cell()));
        let _ = CellConfig::probe_size(&bytes);
        let _ = SystemConfig::probe_size(&bytes);
    }

    #[test]
    fn damaged_configurations_never_panic(damage in proptest::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..8)) {
        let (mut cell, mut system) = (cell_bytes(), system_bytes());
        for (at, value) in damage {
            let (c, s) = (at.index(cell.len()), at.index(system.len()));
            cell[c] = value;
            system[s] = value;
        }
        let _ = CellConfig::parse(&cell).map(|cell| walk(&cell));
        let _ = SystemConfig::parse(&system).map(|system| walk(system.root_cell()));
    }

    #[test]
    fn any_cell_reads_back(
        regions in proptest::collection::vec((any::<u64>(), any::<u64>(), any::<u64>(), 0u64..0x200), 0..20),
        ports in proptest::collection::vec((any::<u16>(), any::<u16>()), 0..20),
        cpus in proptest::collection::vec(any::<u8>(), 1..40),
        id in any::<u32>(),
    ) {
        let memory: Vec<_> = regions.iter()
            .map(|&(p, v, s, f)| Memory::new(p, v, s, MemoryFlags::from_bits_truncate(f))).collect();
        let ports: Vec<_> = ports.iter().map(|&(b, l)| PortRange::new(b, l)).collect();
        let parts = CellParts { name: "x", id, cpu_set: &cpus, memory: &memory, ports: &ports, ..CellParts::default() };
        let mut out = vec![0; parts.size()];
        parts.write(&mut out).unwrap();
        let cell = CellConfig::parse(&out).unwrap();
        prop_assert_eq!(cell.memory(), &memory[..]);
        prop_assert_eq!(cell.ports().as_bytes(), ports.as_bytes());
        prop_assert_eq!(cell.id(), id);
        let expected: Vec<u32> =
            (0..cpus.len() as u32 * 8).filter(|n| cpus[*n as usize / 8] >> (n % 8) & 1 == 1).collect();
        prop_assert_eq!(cell.cpus().collect::<Vec<_>>(), expected);
    }
}
