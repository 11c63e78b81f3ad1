//! Whole images, from programs made by hand.

use super::common;
use hypervisor_abi::config::{CellConfig, MemoryFlags};
use ipc::blob::{GrantKind, System};
use ipc::image::{ImageHeader, KernelHead, LOAD_ADDRESS, checksum, range_kind};
use ipc::slots::{FIRST_GRANT, layout::GRANTS};
use zerocopy::FromBytes;

/// Reads an image back, as kernel and init do.
fn read_back(bytes: &[u8]) -> (ImageHeader, System, usize) {
    let head = KernelHead::read_from_bytes(&bytes[16..16 + size_of::<KernelHead>()]).unwrap();
    assert_eq!(head.image_header % 4096, 0);
    assert!(head.image_header >= head.kernel_end);
    let at = (head.image_header - LOAD_ADDRESS) as usize;
    let header = ImageHeader::read_from_bytes(&bytes[at..at + size_of::<ImageHeader>()]).unwrap();
    assert_eq!(header.magic, *b"CRTOSIMG");
    assert_eq!(header.size, (bytes.len() - at) as u64);
    let blob = &bytes[at + header.blob_offset as usize..][..header.blob_size as usize];
    assert_eq!(checksum(blob), header.blob_checksum);
    (header, postcard::from_bytes(blob).unwrap(), at)
}

#[test]
fn the_default_image_reads_back() {
    let dir = tempfile::tempdir().unwrap();
    let built = image::build(&common::shipped("default"), &common::inputs(dir.path())).unwrap();
    let bytes = std::fs::read(&built.bin).unwrap();
    assert_eq!(built.size, bytes.len() as u64);
    let (header, system, at) = read_back(&bytes);

    let ranges: Vec<_> =
        header.ranges[..header.range_count as usize].iter().map(|r| (r.start, r.size, r.kind)).collect();
    assert_eq!(
        ranges,
        [
            (0, 0x300_0000, range_kind::PRIVATE),
            (0x41f_f000, 0x1000, range_kind::SHARED),
            (0x420_0000, 0x1000_0000, range_kind::SHARED),
            (0x1420_0000, 0x80_0000, range_kind::SHARED),
            (0x14a0_0000, 0x80_0000, range_kind::SHARED),
            (0xf000_0000, 0x2000, range_kind::DEVICE),
        ]
    );
    assert_eq!((header.has_console_ring, header.console_ring, header.console_ring_size), (1, 0x14a3_0000, 0x1_0000));
    assert_eq!((header.comm_region, header.first_priority), (0x400_0000, 250));
    assert_eq!((header.first_entry, header.first_segment_count), (0x40_0010, 3));
    let first = header.first_segments[1];
    assert_eq!((first.vaddr, first.file_size, first.memory_size), (0x40_1000, 0x89, 0x1000));
    assert_eq!(&bytes[at + first.offset as usize + 0x80..][..9], b"constants");

    let names: Vec<_> = system.servers.iter().map(|s| s.name.as_str()).collect();
    assert_eq!(names, ["vfs-proxy", "linux"]);
    for server in &system.servers {
        for segment in &server.segments {
            assert_eq!((segment.offset % 4096, segment.vaddr % 4096, segment.memory_size % 4096), (0, 0, 0));
            assert!(segment.offset + segment.file_size <= header.size);
        }
        for (grant, slot) in server.grants.iter().zip(FIRST_GRANT..) {
            if !matches!(grant.what, GrantKind::Console { .. }) {
                assert_eq!(grant.slot, slot);
            }
        }
    }
    let linux = &system.servers[1];
    assert_eq!(bytes[at + linux.segments[0].offset as usize], 2);
    assert_eq!(linux.segments[2].memory_size, 0x2000);
    assert_eq!(linux.grants[0].name, "vfs");
    assert_eq!(linux.grants[0].what, GrantKind::Call { server: 0, badge: 1, grant: false });
    let GrantKind::Memory { region, vaddr, size, executable, .. } = linux.grants[1].what else { panic!() };
    assert_eq!(
        (system.regions[region as usize].name.as_str(), vaddr, size, executable),
        ("pool", GRANTS + 0x420_0000, 0x1000_0000, true)
    );
    assert_eq!(system.devices[0].bars, [(0, 0xf000_0000), (1, 0xf000_1000)]);

    // No two regions overlap, and each lies in one range.
    for pair in system.regions.windows(2) {
        assert!(pair[0].physical + pair[0].size <= pair[1].physical);
    }
    for region in &system.regions {
        let inside = |r: &&(u64, u64, u32)| r.0 <= region.physical && region.physical + region.size <= r.0 + r.1;
        assert_eq!(ranges.iter().filter(inside).count(), 1, "{}", region.name);
    }
}

#[test]
fn two_builds_on_two_paths_are_equal() {
    let (a, b) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let a = image::build(&common::shipped("default"), &common::inputs(a.path())).map(|x| (x, a)).unwrap();
    let b = image::build(&common::shipped("default"), &common::inputs(b.path())).map(|x| (x, b)).unwrap();
    for (one, other) in
        [(&a.0.bin, &b.0.bin), (&a.0.elf, &b.0.elf), (a.0.cell.as_ref().unwrap(), b.0.cell.as_ref().unwrap())]
    {
        assert_eq!(std::fs::read(one).unwrap(), std::fs::read(other).unwrap());
    }
    assert_eq!(a.0.build_id, b.0.build_id);
}

#[test]
fn the_cell_agrees_with_the_image() {
    let dir = tempfile::tempdir().unwrap();
    let built = image::build(&common::shipped("default"), &common::inputs(dir.path())).unwrap();
    let bytes = std::fs::read(built.cell.unwrap()).unwrap();
    let cell = CellConfig::parse(&bytes).unwrap();
    assert_eq!((cell.name(), cell.id(), cell.cpu_reset_address()), ("srtos", 1, LOAD_ADDRESS));
    assert_eq!(cell.cpus().collect::<Vec<_>>(), [3]);
    let (header, _, _) = read_back(&std::fs::read(&built.bin).unwrap());
    assert_eq!(cell.comm_region().unwrap().virt_start(), header.comm_region);
    for range in header.ranges[..header.range_count as usize].iter().filter(|r| r.kind != range_kind::DEVICE) {
        let region = cell.memory().iter().find(|m| m.virt_start() == range.start).unwrap();
        assert_eq!(region.size(), range.size);
        assert_eq!(region.flags().contains(MemoryFlags::ROOTSHARED), range.kind == range_kind::SHARED);
        assert_eq!(region.phys_start() - region.virt_start(), if range.start == 0 { 0x5100_0000 } else { 0x5000_0000 });
    }
    let device = &cell.pci_devices()[0];
    assert_eq!(
        (device.bdf(), device.shmem_dev_id, device.shmem_peers, device.shmem_protocol.get()),
        (0x70, 1, 2, 0x4372)
    );
    let sections = &cell.memory()[device.shmem_regions_start.get() as usize..];
    let writable: Vec<_> = sections.iter().map(|m| m.flags().contains(MemoryFlags::WRITE)).collect();
    assert_eq!(writable, [false, true, false, true]);
    assert!(sections[1].flags().contains(MemoryFlags::EXECUTE));
}
