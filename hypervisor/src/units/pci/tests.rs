//! Who sees what, and may change what.

use hypervisor_abi::config::{CellParts, Memory, MemoryFlags, PciCapability, PciDevice};
use proptest::prelude::*;
use zerocopy::little_endian::{U16, U32, U64};

use super::*;

const NIC: u16 = 0x18;
const SHM: u16 = 0x70;
const RT: u32 = 1;
/// MSI-X table of the NIC.
const TABLE: u64 = 0xfeb1_0000;

fn at(bdf: u16, offset: u16, size: u8) -> ConfigAddress {
    ConfigAddress::new(bdf, offset, size).unwrap()
}

fn nic() -> PciDevice {
    let mut device = PciDevice { kind: 1, bdf: U16::new(NIC), num_caps: U16::new(4), ..PciDevice::default() };
    device.num_msix_vectors = U16::new(3);
    device.msix_region_size = U16::new(0x1000);
    device.msix_address = U64::new(TABLE);
    device.bar_mask[0] = U32::new(0xffff_e000);
    device.bar_mask[2] = U32::new(0xffff_ffe0);
    device
}

const CAPS: [PciCapability; 4] = [
    PciCapability::new(1, 0xc8, 8, 0),
    PciCapability::new(5, 0xd0, 14, PciCapability::WRITE),
    PciCapability::new(0x10, 0xe0, 20, PciCapability::WRITE),
    PciCapability::new(0x11, 0xa0, 12, PciCapability::WRITE),
];

fn config(devices: &[PciDevice], caps: &[PciCapability]) -> Vec<u8> {
    let rw = MemoryFlags::READ | MemoryFlags::WRITE;
    let memory = [
        Memory::new(0x1000, 0x1000, 0x1000, MemoryFlags::READ),
        Memory::new(0x2000, 0x2000, 0, MemoryFlags::READ),
        Memory::new(0x2000, 0x2000, 0x1000, rw),
        Memory::new(0x3000, 0x3000, 0x1000, rw),
    ];
    let parts = CellParts {
        name: "cell",
        cpu_set: &[8],
        memory: &memory,
        pci_devices: devices,
        pci_caps: caps,
        ..CellParts::default()
    };
    let mut out = vec![0; parts.size()];
    parts.write(&mut out).unwrap();
    out
}

/// A machine whose registers read as their own address.
fn machine(address: ConfigAddress) -> u32 {
    match (address.bdf, address.offset) {
        (NIC, 0x10) => 0xfeb0_0000,
        (NIC, 0x18) => 0xc001,
        (NIC, 0xd0) => 0x0080_e005,
        (bdf, offset) => u32::from(bdf) << 16 | u32::from(offset),
    }
}

fn attach(space: &mut ConfigSpace, cell: u32, bytes: &[u8]) -> (Result<(), AssignError>, Vec<Quiesce>) {
    let mut quiesced = Vec::new();
    let config = CellConfig::parse(bytes).unwrap();
    let result = space.attach_cell(cell, &config, &mut machine, &mut |q| quiesced.push(q));
    (result, quiesced)
}

fn both_cells() -> ConfigSpace {
    let mut space = ConfigSpace::new();
    let both = config(&[nic(), PciDevice::ivshmem(SHM, 0, 0, 2, 1, 2)], &CAPS);
    assert_eq!(attach(&mut space, ROOT_CELL, &both), (Ok(()), vec![]));
    assert_eq!(attach(&mut space, RT, &both).0, Ok(()));
    space
}

fn write(space: &mut ConfigSpace, cell: u32, at: ConfigAddress, value: u32) -> Write {
    space.write(cell, at, value)
}

#[test]
fn ports_decode() {
    let mut port = AddressPort::new();
    assert_eq!(port.access(0xcfc, 4, None), PortAccess::Nowhere);
    assert_eq!(port.access(0xcf8, 4, Some(0x8000_7044)), PortAccess::Latched);
    assert_eq!(port.access(0xcf8, 4, None), PortAccess::Address(0x8000_7044));
    assert_eq!(port.access(0xcfc, 4, None), PortAccess::Config(at(SHM, 0x44, 4)));
    assert_eq!(port.access(0xcfe, 2, Some(0)), PortAccess::Config(at(SHM, 0x46, 2)));
    assert_eq!(port.access(0xcff, 1, None), PortAccess::Config(at(SHM, 0x47, 1)));
    assert_eq!(port.access(0xcff, 2, None), PortAccess::Nowhere);
    assert_eq!(port.access(0xcf9, 1, Some(6)), PortAccess::OtherPort);
    assert_eq!(port.access(0xcf8, 1, Some(6)), PortAccess::OtherPort);
    assert_eq!(port.access(0xcf8, 4, Some(0x7044)), PortAccess::Latched);
    assert_eq!(port.access(0xcfc, 4, None), PortAccess::Nowhere);
    assert_eq!(port.access(0xcf8, 4, Some(0x8100_7044)), PortAccess::Latched);
    assert_eq!(port.access(0xcfc, 4, None), PortAccess::Nowhere);
    assert_eq!(at(SHM, 0x46, 2).port_value(), 0x8000_7044);
}

#[test]
fn the_memory_window_decodes() {
    let window = Mmconfig::new(0xb000_0000, 0xff);
    assert_eq!(window.size(), 0x1000_0000);
    assert_eq!(window.decode(0xb007_0000, 4), Some(at(SHM, 0, 4)));
    assert_eq!(window.decode(0xb007_0ffe, 2), Some(at(SHM, 0xffe, 2)));
    assert_eq!(window.decode(0xbfff_f004, 1), Some(at(0xffff, 4, 1)));
    assert_eq!(window.decode(0xb007_0002, 4), None);
    assert_eq!(window.decode(0xb007_0000, 8), None);
    assert_eq!(window.decode(0xc000_0000, 4), None);
    assert_eq!(window.decode(0xafff_fffc, 4), None);
    assert_eq!(window.address_of(at(SHM, 0x42, 2)), 0xb007_0042);
    assert!(!Mmconfig::new(0xb000_0000, 0).contains(0xb010_0000));
}

#[test]
fn every_function_has_one_owner() {
    let mut space = both_cells();
    // The root cell: all but what was given away.
    assert_eq!(space.read(ROOT_CELL, at(0, 0, 4)), Read::PassThrough);
    assert_eq!(write(&mut space, ROOT_CELL, at(0x10, 0x10, 4), 1), Write::PassThrough);
    assert_eq!(space.read(ROOT_CELL, at(NIC, 0, 4)), Read::Value(u32::MAX));
    assert_eq!(space.read(ROOT_CELL, at(NIC, 0, 1)), Read::Value(0xff));
    assert_eq!(write(&mut space, ROOT_CELL, at(NIC, 4, 2), 7), Write::Done);
    // The other cell: its own, and nothing else.
    assert_eq!(space.read(RT, at(NIC, 0, 4)), Read::PassThrough);
    assert_eq!(space.read(RT, at(0, 0, 4)), Read::Value(u32::MAX));
    assert_eq!(write(&mut space, RT, at(0, 4, 4), 0), Write::Done);
    // Shared memory functions are no business of this unit.
    assert_eq!(space.read(ROOT_CELL, at(SHM, 0, 4)), Read::PassThrough);
    assert_eq!(space.read(RT, at(SHM, 0, 4)), Read::Value(u32::MAX));
}

#[test]
fn functions_are_handed_over_silent() {
    let mut space = ConfigSpace::new();
    let bytes = config(&[nic()], &CAPS);
    let put = |offset, mask, value| Quiesce { address: at(NIC, offset, 4), mask, value };
    let silent = vec![
        put(0x04, 0xffff, 0x400),
        put(0xd0, 1 << 16, 0),
        put(0xd4, u32::MAX, 0),
        put(0xd8, u32::MAX, 0),
        put(0xdc, 0xffff, 0),
        put(0xa0, 1 << 31, 0),
    ];
    assert_eq!(attach(&mut space, RT, &bytes), (Ok(()), silent.clone()));
    assert_eq!(attach(&mut space, 2, &bytes), (Err(AssignError::Busy), vec![]));
    let mut quiesced = Vec::new();
    space.detach_cell(RT, &mut |q| quiesced.push(q));
    assert_eq!(quiesced, silent);
    assert_eq!(space.read(ROOT_CELL, at(NIC, 0, 4)), Read::PassThrough);
    assert_eq!(attach(&mut space, 2, &bytes).0, Ok(()));
}

#[test]
fn a_failed_attach_leaves_nothing() {
    let mut space = ConfigSpace::new();
    let beyond = PciDevice { bdf: U16::new(NIC + 1), num_caps: U16::new(9), ..nic() };
    let (result, _) = attach(&mut space, RT, &config(&[nic(), beyond], &CAPS));
    assert_eq!(result, Err(AssignError::Capabilities));
    assert_eq!(space.read(ROOT_CELL, at(NIC, 0, 4)), Read::PassThrough);
    let (result, _) = attach(&mut space, RT, &config(&[nic()], &CAPS[..3]));
    assert_eq!(result, Err(AssignError::Capabilities));
}

#[test]
fn bars_move_only_in_the_cells_eyes() {
    let mut space = both_cells();
    assert_eq!(space.read(RT, at(NIC, 0x10, 4)), Read::Value(0xfeb0_0000));
    assert_eq!(write(&mut space, RT, at(NIC, 0x10, 4), u32::MAX), Write::Done);
    assert_eq!(space.read(RT, at(NIC, 0x10, 4)), Read::Value(0xffff_e000));
    assert_eq!(write(&mut space, RT, at(NIC, 0x12, 2), 0xe000), Write::Done);
    assert_eq!(space.read(RT, at(NIC, 0x10, 4)), Read::Value(0xe000_e000));
    // An I/O BAR keeps its type bit.
    assert_eq!(write(&mut space, RT, at(NIC, 0x18, 4), u32::MAX), Write::Done);
    assert_eq!(space.read(RT, at(NIC, 0x18, 4)), Read::Value(0xffff_ffe1));
    assert_eq!(space.read(RT, at(NIC, 0x19, 1)), Read::Value(0xff));
    // An absent BAR stays what it is.
    assert_eq!(write(&mut space, RT, at(NIC, 0x14, 4), u32::MAX), Write::Done);
    assert_eq!(space.read(RT, at(NIC, 0x14, 4)), Read::Value(machine(at(NIC, 0x14, 4))));
}

#[test]
fn the_header_is_mostly_read_only() {
    let mut space = both_cells();
    let mut put = |offset, size| write(&mut space, RT, at(NIC, offset, size), 0);
    assert_eq!(put(0x04, 2), Write::PassThrough);
    assert_eq!(put(0x04, 4), Write::PassThrough);
    assert_eq!(put(0x0c, 4), Write::Masked { mask: 0xff00_ffff });
    // Bus masters are given a latency timer and the size of a cache line.
    for allowed in [0x0c, 0x0d, 0x0f] {
        assert_eq!(put(allowed, 1), Write::PassThrough, "{allowed:#x}");
    }
    assert_eq!(put(0x0e, 1), Write::Deny);
    assert_eq!(put(0x30, 4), Write::Done, "the size of a ROM is asked for");
    assert_eq!(put(0x3c, 1), Write::PassThrough);
    assert_eq!(put(0x3c, 4), Write::Masked { mask: 0xff });
    assert_eq!(put(0x3e, 1), Write::Deny);
    for denied in [0x00, 0x08, 0x2c, 0x34] {
        assert_eq!(put(denied, 4), Write::Deny, "{denied:#x}");
    }
}

#[test]
fn a_bridge_keeps_its_windows() {
    let mut space = ConfigSpace::new();
    let bridge = PciDevice { kind: 2, bdf: U16::new(NIC), ..PciDevice::default() };
    assert_eq!(attach(&mut space, RT, &config(&[bridge], &[])).0, Ok(()));
    let mut put = |offset, size| write(&mut space, RT, at(NIC, offset, size), 0);
    for ignored in [0x10, 0x14, 0x1c, 0x20, 0x24, 0x28, 0x2c, 0x30] {
        assert_eq!(put(ignored, 4), Write::Done, "{ignored:#x}");
    }
    assert_eq!(put(0x3e, 2), Write::PassThrough, "bridge control");
    assert_eq!([put(0x18, 4), put(0x1e, 2), put(0x34, 4)], [Write::Deny; 3]);
}

#[test]
fn capabilities_are_written_where_flagged() {
    let mut space = both_cells();
    let mut put = |offset, size| write(&mut space, RT, at(NIC, offset, size), 0);
    assert_eq!(put(0xcc, 2), Write::Deny, "power management is not flagged");
    assert_eq!(put(0xe8, 4), Write::PassThrough);
    assert_eq!(put(0xf4, 4), Write::Deny, "behind the capability");
    assert_eq!(put(0x40, 4), Write::Deny, "no capability");
    assert_eq!(put(0xa2, 2), Write::Masked { mask: 0xc000 });
    assert_eq!(put(0xa4, 4), Write::Deny, "table address of MSI-X");
}

fn checked(message: Message) -> Write {
    Write::Checked { message, mask: 0xffff }
}

#[test]
fn a_write_ends_with_its_capability() {
    let mut space = both_cells();
    let mut put = |offset, size, value| write(&mut space, RT, at(NIC, offset, size), value);
    // The data of a 64-bit MSI are the last two bytes of the capability.
    assert_eq!(put(0xdc, 4, 0xffff_4031), Write::Masked { mask: 0xffff }, "MSI is off");
    let message = Message { address: 0, data: 0x4031, vectors: 1 };
    assert_eq!(put(0xd2, 2, 0x0081), checked(message));
    assert_eq!(put(0xdc, 4, 0xffff_4032), checked(Message { data: 0x4032, ..message }));
    assert_eq!(put(0xde, 2, 0), Write::Deny, "behind it");
}

#[test]
fn an_msi_message_is_checked_before_it_counts() {
    let mut space = both_cells();
    let mut put = |offset, size, value| write(&mut space, RT, at(NIC, offset, size), value);
    assert_eq!(put(0xd4, 4, 0xfee0_3000), Write::PassThrough, "MSI is off");
    assert_eq!(put(0xd8, 4, 0), Write::PassThrough);
    assert_eq!(put(0xdc, 2, 0x4031), Write::PassThrough);
    let message = Message { address: 0xfee0_3000, data: 0x4031, vectors: 1 };
    assert_eq!(put(0xd2, 2, 0x0081), checked(message));
    let whole = Write::Checked { message: Message { address: 0xfee0_0000, ..message }, mask: u32::MAX };
    assert_eq!(put(0xd4, 4, 0xfee0_0000), whole);
    assert_eq!(put(0xd2, 2, 0x00a1), checked(Message { address: 0xfee0_0000, vectors: 4, ..message }));
    // The cell cannot talk the 64-bit layout away.
    assert_eq!(put(0xd2, 2, 0x0001), checked(Message { address: 0xfee0_0000, ..message }));
    assert_eq!(put(0xd2, 2, 0x0080), Write::PassThrough);
}

#[test]
fn the_root_cells_messages_are_checked_too() {
    let mut space = ConfigSpace::new();
    attach(&mut space, ROOT_CELL, &config(&[nic()], &CAPS)).0.unwrap();
    let mut put = |offset, size, value| write(&mut space, ROOT_CELL, at(NIC, offset, size), value);
    assert_eq!(put(0x10, 4, 0), Write::PassThrough, "all else is free");
    assert_eq!(put(0x40, 4, 0), Write::PassThrough);
    assert_eq!(put(0xa2, 2, 0x8000), Write::PassThrough);
    assert_eq!(put(0xd4, 4, 0xfee0_1000), Write::PassThrough);
    assert_eq!(put(0xd8, 4, 0), Write::PassThrough);
    assert_eq!(put(0xdc, 2, 0x22), Write::PassThrough);
    let message = Message { address: 0xfee0_1000, data: 0x22, vectors: 1 };
    assert_eq!(put(0xd2, 2, 1), checked(message));
    assert_eq!(space.read(ROOT_CELL, at(NIC, 0x10, 4)), Read::PassThrough);

    // Lent and back again: what the root cell wrote is gone from the machine, and not believed any more.
    attach(&mut space, RT, &config(&[nic()], &CAPS)).0.unwrap();
    assert_eq!(write(&mut space, ROOT_CELL, at(NIC, 0xd2, 2), 1), Write::Done);
    space.detach_cell(RT, &mut |_| {});
    let nothing = Message { address: 0, data: 0, vectors: 1 };
    assert_eq!(write(&mut space, ROOT_CELL, at(NIC, 0xd2, 2), 1), checked(nothing));
}

#[test]
fn an_msix_entry_is_checked_when_it_is_open() {
    let mut space = ConfigSpace::new();
    attach(&mut space, ROOT_CELL, &config(&[nic()], &CAPS)).0.unwrap();
    let mut table = [0u32; 12];
    (table[3], table[7], table[11]) = (1, 1, 1);
    let mut access = |cell, offset: u64, size, value: Option<u64>| {
        let answer = space.msix(cell, TABLE + offset, size, value, &mut |at| table[(at - TABLE) as usize / 4]);
        if let (Some(value), Some(MsixAccess::PassThrough | MsixAccess::Checked(_))) = (value, answer) {
            for n in 0..usize::from(size) / 4 {
                if let Some(word) = table.get_mut(offset as usize / 4 + n) {
                    *word = (value >> (32 * n)) as u32;
                }
            }
        }
        answer
    };
    let message = |address, data| Some(MsixAccess::Checked(Message { address, data, vectors: 1 }));
    assert_eq!(access(ROOT_CELL, 0x10, 4, None), Some(MsixAccess::PassThrough));
    assert_eq!(access(ROOT_CELL, 0x10, 4, Some(0xfee0_1000)), Some(MsixAccess::PassThrough));
    assert_eq!(access(ROOT_CELL, 0x14, 4, Some(1)), Some(MsixAccess::PassThrough));
    assert_eq!(access(ROOT_CELL, 0x18, 4, Some(0x41)), Some(MsixAccess::PassThrough));
    assert_eq!(access(ROOT_CELL, 0x1c, 4, Some(0)), message(0x1_fee0_1000, 0x41));
    assert_eq!(access(ROOT_CELL, 0x10, 8, Some(0xfee0_2000)), message(0xfee0_2000, 0x41));
    assert_eq!(access(ROOT_CELL, 0x18, 8, Some(0x42)), message(0xfee0_2000, 0x42));
    assert_eq!(access(ROOT_CELL, 0x18, 8, Some(1 << 32 | 0x43)), Some(MsixAccess::PassThrough));
    assert_eq!(access(ROOT_CELL, 0x20, 1, Some(0)), Some(MsixAccess::Ignore));
    assert_eq!(access(ROOT_CELL, 0x24, 8, Some(0)), Some(MsixAccess::Ignore));
    assert_eq!(access(ROOT_CELL, 0x30, 4, Some(0)), Some(MsixAccess::PassThrough), "behind the table");
    assert_eq!(access(ROOT_CELL, 0x1000, 4, None), None);
    assert_eq!(access(RT, 0, 4, None), None);
}

#[test]
fn an_msix_table_belongs_to_the_owner() {
    let mut space = both_cells();
    let mut read = |cell| space.msix(cell, TABLE, 4, None, &mut |_| 0);
    assert_eq!(read(RT), Some(MsixAccess::PassThrough));
    assert_eq!(read(ROOT_CELL), Some(MsixAccess::Ignore));
    space.detach_cell(RT, &mut |_| {});
    assert_eq!(space.msix(ROOT_CELL, TABLE, 4, None, &mut |_| 0), Some(MsixAccess::PassThrough));
}

proptest! {
    #[test]
    fn nothing_panics(
        steps in proptest::collection::vec((0u32..3, any::<bool>(), 0u16..0x100, prop_oneof![Just(1u8), Just(2), Just(4)], any::<u32>(), any::<bool>()), 1..50),
    ) {
        let mut space = both_cells();
        for (cell, device, offset, size, value, read) in steps {
            let bdf = if device { NIC } else { SHM };
            let Some(at) = ConfigAddress::new(bdf, offset, size) else { continue };
            if read {
                if let Read::Value(value) = space.read(cell, at) {
                    prop_assert!(value <= at.ones());
                }
            } else if let Write::Masked { mask } = write(&mut space, cell, at, value) {
                prop_assert!(mask != 0 && mask < at.ones().max(1) || size == 4);
            }
        }
    }

    #[test]
    fn any_port_access_decodes(port in 0xcf0u16..0xd10, size in 0u8..9, latch: u32, write: Option<u32>) {
        let mut ports = AddressPort::new();
        ports.access(ADDRESS_PORT, 4, Some(latch));
        if let PortAccess::Config(at) = ports.access(port, size, write) {
            prop_assert_eq!(at.bdf, (latch >> 8) as u16);
            prop_assert!(at.offset < 0x100 && (at.offset & 3) + u16::from(at.size) <= 4);
        }
    }

    #[test]
    fn any_window_access_decodes(base in (0u64..1 << 44).prop_map(|n| n << 20), end: u8, address: u64, size in 0u8..9) {
        let window = Mmconfig::new(base, end);
        if let Some(at) = window.decode(address, size) {
            prop_assert_eq!(window.address_of(at), address);
        }
    }
}
