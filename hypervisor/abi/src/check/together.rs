//! Cells that are to run beside each other.

use super::memory::{check_outside, meet, phys};
use super::pci::shmem_regions;
use super::{Finding, Place, Problem};
use crate::config::{CellConfig, Memory, MemoryFlags, PciDevice, PciKind, SystemConfig};

/// Looks at a set of cells that are to run on a system at the same time. Place of a finding is
/// [`Place::InCell`] with the number in `cells`.
pub fn together(system: &SystemConfig<'_>, cells: &[CellConfig<'_>], found: &mut dyn FnMut(Finding)) {
    let root = system.root_cell();
    for (number, cell) in cells.iter().enumerate() {
        let mut report = |problem| found(Finding { place: Place::InCell(number), problem });
        check_outside(system, cell, &mut |_, problem| report(problem));
        for cpu in cell.cpus() {
            if cpu == 0 {
                report(Problem::CpuZero);
            } else if !root.has_cpu(cpu) {
                report(Problem::ForeignCpu(cpu));
            }
        }
        check_functions(root, cell, &mut report);
        check_links(root, cell, true, &mut report);
        if cell.name() == root.name() {
            report(Problem::SharedName);
        }
        for unit in system.iommu_units() {
            let registers = (unit.base.get(), unit.size.get().into());
            if cell.memory().iter().any(|region| !is_comm(region) && meet(phys(region), registers)) {
                report(Problem::CoversRegisters(registers.0));
            }
        }
    }
    beside(cells, found);
}

/// Looks at a set of cells that are to run at the same time, without knowing the system. Places as with [`together`].
pub fn beside(cells: &[CellConfig<'_>], found: &mut dyn FnMut(Finding)) {
    for (number, cell) in cells.iter().enumerate() {
        let mut report = |problem| found(Finding { place: Place::InCell(number), problem });
        for other in &cells[..number] {
            check_pair(other, cell, &mut report);
        }
    }
}

fn is_comm(region: &Memory) -> bool {
    region.flags().contains(MemoryFlags::COMM_REGION)
}

fn of_kind<'a>(cell: &CellConfig<'a>, shmem: bool) -> impl Iterator<Item = &'a PciDevice> + use<'a> {
    cell.pci_devices().iter().filter(move |device| (device.kind() == Some(PciKind::Ivshmem)) == shmem)
}

fn same_address(a: &PciDevice, b: &PciDevice) -> bool {
    (a.domain.get(), a.bdf()) == (b.domain.get(), b.bdf())
}

fn check_functions(root: &CellConfig<'_>, cell: &CellConfig<'_>, report: &mut impl FnMut(Problem)) {
    for device in of_kind(cell, false) {
        if !of_kind(root, false).any(|other| same_address(device, other)) {
            report(Problem::UnknownFunction(device.bdf()));
        }
    }
}

fn check_pair(other: &CellConfig<'_>, cell: &CellConfig<'_>, report: &mut impl FnMut(Problem)) {
    if cell.name() == other.name() {
        report(Problem::SharedName);
    }
    for cpu in cell.cpus().filter(|&cpu| other.has_cpu(cpu)) {
        report(Problem::SharedCpu(cpu));
    }
    for device in of_kind(cell, false) {
        if of_kind(other, false).any(|taken| same_address(device, taken)) {
            report(Problem::SharedFunction(device.bdf()));
        }
    }
    let private = |region: &&Memory| !region.flags().intersects(MemoryFlags::COMM_REGION | MemoryFlags::ROOTSHARED);
    for (index, region) in cell.memory().iter().enumerate().filter(|(_, region)| private(region)) {
        let taken = other.memory().iter().filter(private).find(|taken| meet(phys(region), phys(taken)));
        if let Some(taken) = taken {
            let address = region.phys_start().max(taken.phys_start());
            report(Problem::SharedMemory { region: index, address });
        }
    }
    for chip in cell.irqchips() {
        for taken in other.irqchips().iter().filter(|taken| taken.address == chip.address) {
            let first = chip.pin_base.get();
            let pins = (first..first.saturating_add(128)).filter(|&pin| chip.owns_pin(pin));
            for pin in pins.filter(|&pin| taken.owns_pin(pin)) {
                report(Problem::SharedPin(pin));
            }
        }
    }
    check_links(other, cell, false, report);
}

/// Shared memory devices of two cells at the same address.
fn check_links(other: &CellConfig<'_>, cell: &CellConfig<'_>, root: bool, report: &mut impl FnMut(Problem)) {
    for device in of_kind(cell, true) {
        let Some(peer) = of_kind(other, true).find(|peer| same_address(device, peer)) else {
            continue;
        };
        let bdf = device.bdf();
        if device.shmem_dev_id == peer.shmem_dev_id {
            report(Problem::LinkPeer(bdf));
        }
        let shape = |d: &PciDevice| (d.shmem_peers, d.shmem_protocol.get(), d.num_msix_vectors.get());
        let (Some(own), Some(theirs)) = (shmem_regions(cell, device), shmem_regions(other, peer)) else {
            continue;
        };
        let differ = |(a, b): (&Memory, &Memory)| a.size() != b.size() || (a.size() != 0 && phys(a) != phys(b));
        if shape(device) != shape(peer) || own.iter().zip(theirs).any(differ) {
            report(Problem::LinkMismatch(bdf));
        }
        if root {
            let first = device.shmem_regions_start.get() as usize;
            let lost = |region: &Memory| region.size() != 0 && !region.flags().contains(MemoryFlags::ROOTSHARED);
            if let Some(n) = own.iter().position(lost) {
                report(Problem::NotRootShared(first + n));
            }
        }
    }
}
