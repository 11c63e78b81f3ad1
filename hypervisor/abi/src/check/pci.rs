//! PCI functions and capabilities of one cell.

use super::{Place, Problem};
use crate::PAGE_SIZE;
use crate::config::{CellConfig, Memory, MemoryFlags, PciCapability, PciDevice, PciKind};
use crate::ivshmem::{FIXED_REGIONS, MAX_PEERS, MAX_VECTORS};

pub(super) fn check(config: &CellConfig<'_>, report: &mut impl FnMut(Place, Problem)) {
    let devices = config.pci_devices();
    for (index, device) in devices.iter().enumerate() {
        let place = Place::PciDevice(index);
        let address = |device: &PciDevice| (device.domain.get(), device.bdf());
        if let Some(other) = devices[..index].iter().position(|other| address(other) == address(device)) {
            report(place, Problem::DuplicateFunction(other));
        }
        if device.num_caps.get() != 0 && device.caps_range().end > config.pci_caps().len() {
            report(place, Problem::CapsRange);
        }
        check_bars(device, place, report);
        if device.kind() == Some(PciKind::Ivshmem) {
            check_shmem(config, device, place, report);
        }
    }
    for (index, cap) in config.pci_caps().iter().enumerate() {
        let end = u32::from(cap.start.get()) + u32::from(cap.len.get());
        let limit = if cap.id.get() & PciCapability::EXTENDED != 0 { 0x1000 } else { 0x100 };
        if end > limit {
            report(Place::PciCap(index), Problem::CapBounds);
        }
    }
}

fn check_bars(device: &PciDevice, place: Place, report: &mut impl FnMut(Place, Problem)) {
    for (number, mask) in device.bar_mask.iter().enumerate() {
        let mask = mask.get();
        // The upper half of a 64-bit BAR may be all-ones.
        if mask != 0 && !(!mask).wrapping_add(1).is_power_of_two() && mask != u32::MAX {
            report(place, Problem::BarMask(number as u8));
        }
    }
}

/// The regions of a shared memory device, if they are all there.
pub(super) fn shmem_regions<'a>(config: &CellConfig<'a>, device: &PciDevice) -> Option<&'a [Memory]> {
    let start = device.shmem_regions_start.get() as usize;
    let count = FIXED_REGIONS as usize + usize::from(device.shmem_peers);
    config.memory().get(start..start.checked_add(count)?)
}

fn check_shmem(config: &CellConfig<'_>, device: &PciDevice, place: Place, report: &mut impl FnMut(Place, Problem)) {
    let peers = device.shmem_peers;
    if !(2..=MAX_PEERS).contains(&usize::from(peers)) || device.shmem_dev_id >= peers {
        report(place, Problem::ShmemPeers);
        return;
    }
    if usize::from(device.num_msix_vectors.get()) > MAX_VECTORS {
        report(place, Problem::ShmemVectors);
    }
    let sections = shmem_regions(config, device);
    let Some(sections @ [table, rw, outputs @ ..]) = sections else {
        report(place, Problem::ShmemRegions { need: FIXED_REGIONS + u32::from(peers) });
        return;
    };
    let writable = |region: &Memory| region.flags().contains(MemoryFlags::WRITE);
    let too_small = table.size() < u64::from(peers) * 4;
    if too_small || table.size() % PAGE_SIZE != 0 || table.size() > u32::MAX.into() || writable(table) {
        report(place, Problem::ShmemStateTable);
    }
    if outputs.iter().any(|section| section.size() != outputs[0].size()) {
        report(place, Problem::ShmemOutputSizes);
    }
    for (peer, section) in outputs.iter().enumerate() {
        let own = peer == usize::from(device.shmem_dev_id);
        if section.size() != 0 && writable(section) != own {
            report(place, Problem::ShmemOutputRights(peer as u8));
        }
    }
    let bar = device.shmem_bar_mask();
    if bar != 0 {
        check_shmem_bar(bar, sections, place, report);
    }
    let first = device.shmem_regions_start.get() as usize;
    let mut next = table.virt_start().wrapping_add(table.size());
    for (number, section) in core::iter::once(rw).chain(outputs).enumerate() {
        if section.size() == 0 {
            continue;
        }
        if section.virt_start() != next {
            let region = first + 1 + number;
            report(place, if bar == 0 { Problem::ShmemGap(region) } else { Problem::ShmemBarGap(region) });
        }
        next = section.virt_start().wrapping_add(section.size());
    }
}

/// A BAR 2 with that mask: all sections fit in, and their address is one that it can have.
fn check_shmem_bar(mask: u64, sections: &[Memory], place: Place, report: &mut impl FnMut(Place, Problem)) {
    let room = mask.wrapping_neg();
    let need = sections.iter().fold(0, |sum: u64, section| sum.saturating_add(section.size()));
    if !room.is_power_of_two() || room < need {
        report(place, Problem::ShmemBarSize { need });
    } else if !sections[0].virt_start().is_multiple_of(room) {
        report(place, Problem::ShmemBarAddress { address: sections[0].virt_start(), room });
    }
}
