//! Memory regions of one cell.

use super::{Place, Problem, Role};
use crate::PAGE_SIZE;
use crate::config::{CellConfig, Memory, MemoryFlags, PciKind, SystemConfig};
use crate::ivshmem::FIXED_REGIONS;

/// What four-level page tables can map, on both sides.
const REACH: u64 = 1 << 48;
/// Local APIC registers.
const APIC: u64 = 0xfee0_0000;

/// Whether two ranges of addresses meet; wrapping ranges end at the top.
pub(super) fn meet(a: (u64, u64), b: (u64, u64)) -> bool {
    let end = |(start, size): (u64, u64)| start.saturating_add(size);
    a.1 != 0 && b.1 != 0 && a.0 < end(b) && b.0 < end(a)
}

pub(super) fn virt(region: &Memory) -> (u64, u64) {
    (region.virt_start(), region.size())
}

pub(super) fn phys(region: &Memory) -> (u64, u64) {
    (region.phys_start(), region.size())
}

/// Whether an empty region stands for a section that a shared memory device does not have.
fn is_absent_section(config: &CellConfig<'_>, index: usize) -> bool {
    config.pci_devices().iter().filter(|device| device.kind() == Some(PciKind::Ivshmem)).any(|device| {
        let start = device.shmem_regions_start.get() as usize;
        let sections = FIXED_REGIONS as usize + usize::from(device.shmem_peers);
        index > start && index - start < sections
    })
}

pub(super) fn check(config: &CellConfig<'_>, role: Role, report: &mut impl FnMut(Place, Problem)) {
    let regions = config.memory();
    let mut comm_regions = 0;
    let passes_device = config.pci_devices().iter().any(|device| device.kind() == Some(PciKind::Device));
    for (index, region) in regions.iter().enumerate() {
        let place = Place::Memory(index);
        if region.size() == 0 {
            if !is_absent_section(config, index) {
                report(place, Problem::EmptyRegion);
            }
            continue;
        }
        let is_comm = region.flags().contains(MemoryFlags::COMM_REGION);
        check_shape(region, is_comm, place, report);
        let moved = region.virt_start() != region.phys_start() && !is_comm;
        if passes_device && moved && region.flags().contains(MemoryFlags::DMA) {
            report(place, Problem::DmaElsewhere);
        }
        for (other, earlier) in regions[..index].iter().enumerate() {
            // Sub-page regions may share a page with a mapped one: they take precedence there.
            if meet(virt(region), virt(earlier)) && region.is_subpage() == earlier.is_subpage() {
                report(place, Problem::Overlap(other));
                break;
            }
        }
        if is_comm {
            comm_regions += 1;
            if comm_regions > 1 {
                report(place, Problem::SecondCommRegion);
            }
            if role == Role::Root || region.size() != PAGE_SIZE {
                report(place, Problem::CommRegion);
            }
        }
        let chips = config.irqchips().iter().map(|chip| chip.address.get());
        for registers in chips.chain([APIC]) {
            if meet(virt(region), (registers, PAGE_SIZE)) {
                report(place, Problem::CoversRegisters(registers));
            }
        }
    }
    let reset = config.cpu_reset_address();
    let executable = |region: &&Memory| region.flags().contains(MemoryFlags::EXECUTE) && region.contains_virt(reset);
    if role == Role::NonRoot && !regions.iter().any(|region| executable(&region)) && !regions.is_empty() {
        report(Place::Cell, Problem::ResetAddress(reset));
    }
}

fn check_shape(region: &Memory, is_comm: bool, place: Place, report: &mut impl FnMut(Place, Problem)) {
    let widths = MemoryFlags::IO_8 | MemoryFlags::IO_16 | MemoryFlags::IO_32 | MemoryFlags::IO_64;
    let reaches = |(start, size): (u64, u64)| start.checked_add(size).is_some_and(|end| end <= REACH);
    if region.is_subpage() {
        let crosses = region.virt_start() % PAGE_SIZE + region.size().min(PAGE_SIZE + 1) > PAGE_SIZE;
        if !region.flags().intersects(widths) {
            report(place, Problem::Unaligned);
        } else if crosses {
            report(place, Problem::SubPage);
        }
    } else if !is_comm && !region.phys_start().is_multiple_of(PAGE_SIZE) {
        report(place, Problem::Unaligned);
    }
    if !reaches(virt(region)) || !(is_comm || reaches(phys(region))) {
        report(place, Problem::OutOfReach);
    }
}

/// The hypervisor's own memory, and what must stay out of it.
pub(super) fn check_hypervisor(
    system: &SystemConfig<'_>,
    config: &CellConfig<'_>,
    report: &mut impl FnMut(Place, Problem),
) {
    let own = phys(system.hypervisor_memory());
    if own.1 == 0 || !(own.0 | own.1).is_multiple_of(PAGE_SIZE) || own.0.checked_add(own.1).is_none() {
        report(Place::System, Problem::HypervisorMemory);
    }
    check_outside(system, config, report);
}

/// No region of a cell may lie in the hypervisor's memory or in the window of configuration space.
pub(super) fn check_outside(
    system: &SystemConfig<'_>,
    config: &CellConfig<'_>,
    report: &mut impl FnMut(Place, Problem),
) {
    let own = phys(system.hypervisor_memory());
    for (index, region) in config.memory().iter().enumerate() {
        let is_comm = region.flags().contains(MemoryFlags::COMM_REGION);
        if !is_comm && meet(phys(region), own) {
            report(Place::Memory(index), Problem::InHypervisor);
        }
        if let Some(window) = system.mmconfig()
            && meet(virt(region), window)
        {
            report(Place::Memory(index), Problem::CoversRegisters(window.0));
        }
    }
}
