//! Peers that come and go, and the records that they are made from.

use hypervisor_abi::config::{CellConfig, CellParts, Memory, MemoryFlags, PciDevice};
use hypervisor_abi::ivshmem::{cfg, doorbell, reg};
use zerocopy::little_endian::U32;

use super::super::*;
use super::{BDF, Bench, ROOT, RT, TABLE, base, setup};

#[test]
fn a_reset_peer_leaves_state_zero_and_closed_windows() {
    let mut b = Bench::new(2);
    b.start(ROOT);
    b.start(RT);
    b.write(RT, reg::STATE, 3);
    b.take();
    b.links.reset_cell(RT, &mut |action| b.done.push(action));
    assert!(b.done.contains(&Action::UnmapBar { owner: RT, address: base(RT), size: 0x1000 }));
    assert!(b.done.contains(&Action::WriteStateTable { table: TABLE, index: 1, value: 0 }));
    assert_eq!(b.notified(), [(ROOT, 0x40)]);
    assert_eq!(b.config_read(RT, cfg::BAR0, 4), 0);
    assert_eq!(b.config_read(RT, cfg::COMMAND, 2), 0);
    assert_eq!(b.config_read(RT, 0x62, 2), 1);
    b.write(ROOT, reg::DOORBELL, doorbell(1, 0));
    assert_eq!(b.take(), []);
    b.start(RT);
    b.write(ROOT, reg::DOORBELL, doorbell(1, 0));
    assert_eq!(b.notified(), [(RT, 0x50)]);
}

#[test]
fn a_destroyed_peer_is_gone_and_may_come_back() {
    let mut b = Bench::new(2);
    b.start(ROOT);
    b.start(RT);
    b.write(RT, reg::STATE, 3);
    b.take();
    b.links.detach_cell(RT, &mut |action| b.done.push(action));
    assert_eq!(b.notified(), [(ROOT, 0x40)]);
    assert!(b.links.function(RT, BDF).is_none());
    b.write(ROOT, reg::DOORBELL, doorbell(1, 0));
    assert_eq!(b.take(), []);
    b.attach(&setup(RT, 1, 2)).unwrap();
    assert_eq!(b.take(), [], "the table is not cleared under the other peer");
    b.links.detach_cell(RT, &mut |_| {});
    b.links.detach_cell(ROOT, &mut |_| {});
    assert!(b.links.links().is_empty());
    b.attach(&setup(ROOT, 0, 2)).unwrap();
    assert_eq!(b.take(), [Action::ClearStateTable { table: TABLE, size: 0x1000 }]);
}

#[test]
fn peers_must_agree() {
    let mut b = Bench::new(2);
    assert_eq!(b.attach(&setup(7, 1, 2)), Err(AttachError::Taken));
    assert_eq!(b.attach(&setup(7, 2, 3)), Err(AttachError::Mismatch));
    assert_eq!(b.attach(&PeerSetup { table: 0x1000, ..setup(7, 1, 2) }), Err(AttachError::Mismatch));
    assert_eq!(b.attach(&PeerSetup { vectors: 3, ..setup(7, 1, 2) }), Err(AttachError::Mismatch));
    for n in 1..MAX_LINKS as u16 {
        b.attach(&PeerSetup { bdf: BDF + n, ..setup(ROOT, 0, 2) }).unwrap();
    }
    assert_eq!(b.attach(&PeerSetup { bdf: 0x100, ..setup(ROOT, 0, 2) }), Err(AttachError::NoSpace));
    assert_eq!(b.links.links().len(), MAX_LINKS);
}

#[test]
fn twelve_peers_fit() {
    let mut b = Bench::new(12);
    (0..12).for_each(|owner| b.start(owner));
    b.write(11, reg::STATE, 1);
    assert_eq!(b.notified().len(), 11);
}

const READ: MemoryFlags = MemoryFlags::READ;
const WRITE: MemoryFlags = MemoryFlags::READ.union(MemoryFlags::WRITE);

/// A cell's configuration with four regions and a device.
fn config(change: impl FnOnce(&mut [Memory; 4], &mut PciDevice)) -> Vec<u8> {
    let mut memory = [
        Memory::new(TABLE, 0x41f_f000, 0x1000, READ),
        Memory::new(0x5420_0000, 0x420_0000, 0x1000_0000, WRITE),
        Memory::new(0x6420_0000, 0x1420_0000, 0x80_0000, READ),
        Memory::new(0x64a0_0000, 0x14a0_0000, 0x80_0000, WRITE),
    ];
    let mut device = PciDevice::ivshmem(BDF, 0, 1, 2, 0x4372, 2);
    change(&mut memory, &mut device);
    let devices = [PciDevice { kind: 1, ..PciDevice::default() }, device];
    let parts = CellParts { name: "rt", cpu_set: &[8], memory: &memory, pci_devices: &devices, ..CellParts::default() };
    let mut bytes = vec![0; parts.size()];
    parts.write(&mut bytes).unwrap();
    bytes
}

/// Reads the record of the device.
fn read(change: impl FnOnce(&mut [Memory; 4], &mut PciDevice)) -> Result<PeerSetup, SetupError> {
    let bytes = config(change);
    let cell = CellConfig::parse(&bytes).unwrap();
    PeerSetup::from_config(RT, &cell, &cell.pci_devices()[1])
}

#[test]
fn a_cell_gets_all_its_functions_or_none() {
    let mut links = Links::new();
    let attach = |links: &mut Links, owner, bytes: &[u8]| {
        links.attach_cell(owner, &CellConfig::parse(bytes).unwrap(), &mut |_| {})
    };
    let bytes = config(|_, _| {});
    assert_eq!(attach(&mut links, RT, &bytes), Ok(()));
    assert!(links.function(RT, BDF).is_some() && links.function(RT, 0).is_none(), "others are not its business");
    assert_eq!(attach(&mut links, 7, &bytes), Err(LinkError::Attach(AttachError::Taken)));
    let wrong = config(|_, device| device.shmem_peers = 0);
    assert_eq!(attach(&mut links, 7, &wrong), Err(LinkError::Setup(SetupError::Peers)));
    assert!(links.function(7, BDF).is_none());
    assert_eq!(links.links().len(), 1);
}

#[test]
fn a_record_says_all_about_a_peer() {
    assert_eq!(read(|_, _| {}), Ok(setup(RT, 1, 2)));
}

#[test]
fn wrong_records_are_refused() {
    assert_eq!(read(|_, d| d.kind = 1), Err(SetupError::Kind));
    assert_eq!(read(|_, d| d.shmem_peers = 0), Err(SetupError::Peers));
    assert_eq!(read(|_, d| d.shmem_peers = 13), Err(SetupError::Peers));
    assert_eq!(read(|_, d| d.shmem_dev_id = 2), Err(SetupError::Id));
    assert_eq!(read(|_, d| d.num_msix_vectors.set(17)), Err(SetupError::Vectors));
    assert_eq!(read(|_, d| d.shmem_regions_start.set(1)), Err(SetupError::Regions));
    assert_eq!(read(|_, d| d.shmem_regions_start.set(u32::MAX)), Err(SetupError::Regions));
    let table = |size, flags| Memory::new(TABLE, 0x41f_f000, size, flags);
    assert_eq!(read(|m, _| m[0] = table(0x1000, WRITE)), Err(SetupError::StateTable));
    assert_eq!(read(|m, _| m[0] = table(0, READ)), Err(SetupError::StateTable));
    assert_eq!(read(|m, _| m[0] = table(0x1010, READ)), Err(SetupError::StateTable));
    assert_eq!(read(|m, _| m[0] = table(1 << 32, READ)), Err(SetupError::StateTable));
    let short = Memory::new(0x64a0_0000, 0x14a0_0000, 0x1000, WRITE);
    assert_eq!(read(|m, _| m[3] = short), Err(SetupError::OutputSections));
    for (bar, mask) in [(0, 0), (0, 0xffff_ff00), (0, 0xfff0_f000), (1, 0)] {
        assert_eq!(read(|_, d| d.bar_mask[bar] = U32::new(mask)), Err(SetupError::Bars));
    }
    assert_eq!(read(|_, d| d.num_msix_vectors.set(0)), Err(SetupError::Bars));
    assert!(read(|_, d| d.bar_mask[1] = U32::new(0xffff_fe00)).is_ok(), "as in old configurations");
    let at = |base: u64, [low, high]: [u32; 2]| {
        read(|memory, device| {
            memory[0] = Memory::new(TABLE, base, 0x1000, READ);
            device.bar_mask[2..4].copy_from_slice(&[low, high].map(U32::new));
        })
    };
    let half_a_gigabyte = [0xe000_0000, u32::MAX];
    let setup = at(0x4000_0000, half_a_gigabyte).unwrap();
    assert_eq!((setup.base, setup.memory_mask), (0x4000_0000, 0xffff_ffff_e000_0000));
    assert!(at(0x2_0000_0000, [0, 0xffff_fffe]).is_ok(), "8 GiB");
    assert_eq!(at(0x5000_0000, half_a_gigabyte), Err(SetupError::MemoryBar));
    for mask in [[0xf000_0000, u32::MAX], [0xe000_0000, 0], [0, 1], [0xe000_000c, u32::MAX], [0xe000_0000, 0xffff_fffe]]
    {
        assert_eq!(at(0, mask), Err(SetupError::MemoryBar), "{mask:x?}");
    }
}
