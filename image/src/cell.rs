//! Configurations for the hypervisor (Jailhouse format, revision 14): the cell's, and the root cell's for the machine
//! that Linux runs on.

use hypervisor_abi::config::PciKind;
use hypervisor_abi::config::{
    CellFlags, CellParts, Console, IommuKind, IommuUnit, IrqChip, MAX_IOMMU_UNITS, Memory, MemoryFlags, PciCapability,
    PciDevice, PortRange, SystemFlags, SystemHeader, SystemParts,
};
use ipc::image::LOAD_ADDRESS;
use ipc::shadow;
use zerocopy::little_endian::{U16, U32, U64};

use crate::layout::{Ivshmem, Layout, PEER, Pci};
use crate::machine::{Function, Machine, MachineError};
use crate::units::{Bdf, page_up};

/// Id of the cell.
pub const CELL_ID: u32 = 1;
/// Peers of a shared memory device: Linux and the cell.
const PEERS: u8 = 2;
/// Spins that the hypervisor waits for the cell's answer before it calls the cell failed.
const REPLY_TIMEOUT: u64 = 20_000_000;
const COMM_SIZE: u64 = hypervisor_abi::comm::SIZE as u64;

/// The bitmap of a set of processors.
fn cpu_bitmap(cpus: &[u32]) -> Vec<u8> {
    let words = cpus.iter().max().map_or(1, |max| max / 64 + 1);
    let mut bitmap = vec![0u8; words as usize * 8];
    for cpu in cpus {
        bitmap[*cpu as usize / 8] |= 1 << (cpu % 8);
    }
    bitmap
}

/// The four regions of a shared memory device as `peer` may use them, in the order that the device needs.
fn sections(device: &Ivshmem, peer: u8, own_addresses: bool) -> [Memory; 4] {
    let base = MemoryFlags::READ | MemoryFlags::ROOTSHARED;
    device.sections().map(|(name, offset, size, _)| {
        let flags = match name {
            // Applications run from here.
            "rw" => base | MemoryFlags::WRITE | MemoryFlags::EXECUTE | MemoryFlags::DMA,
            "output0" if peer == 0 => base | MemoryFlags::WRITE,
            "output1" if peer == 1 => base | MemoryFlags::WRITE,
            _ => base,
        };
        let physical = device.physical + offset;
        Memory::new(physical, if own_addresses { device.guest + offset } else { physical }, size, flags)
    })
}

/// The function of the machine that the manifest means, if it is what the manifest says.
pub fn function_of<'a>(wanted: &Pci, machine: &'a Machine) -> Result<&'a Function, MachineError> {
    let fail = |what: String| Err(MachineError::Pci { name: wanted.name.clone(), what });
    let mut fits = machine.functions.iter().filter(|f| f.domain == 0 && !f.bridge);
    let function = match wanted.bdf {
        Some(bdf) => fits.find(|f| f.bdf == bdf),
        None => {
            let mut same = fits.filter(|f| f.id == wanted.id);
            let first = same.next();
            if same.next().is_some() {
                return fail(format!("is named by id {} alone, which several functions have", wanted.id));
            }
            first
        }
    };
    let Some(function) = function else {
        return fail(match wanted.bdf {
            Some(bdf) => format!("lies at {}, where this machine has nothing", Bdf(bdf)),
            None => format!("has id {}, which no function of this machine has", wanted.id),
        });
    };
    if function.id != wanted.id {
        return fail(format!("has id {}, but the function at {} has {}", wanted.id, Bdf(function.bdf), function.id));
    }
    let memory = wanted.bars.iter().map(|(bar, address, size)| (*bar, *address, *size, true));
    let ports = wanted.ports.iter().map(|(bar, first, count)| (*bar, u64::from(*first), u64::from(*count), false));
    for (index, address, size, is_memory) in memory.chain(ports) {
        let there = function.bars.iter().find(|bar| bar.index == usize::from(index));
        if there.is_none_or(|bar| (bar.address, bar.size, bar.memory) != (address, size, is_memory)) {
            let there = there
                .map_or_else(|| "is not there".to_owned(), |b| format!("is {:#x}, {:#x} bytes", b.address, b.size));
            return fail(format!("has BAR {index} at {address:#x}, {size:#x} bytes, but on this machine it {there}"));
        }
    }
    let (vectors, pages) = match (wanted.msi, &function.msi, &function.msix) {
        (true, Some(msi), _) => (u16::from(msi.vectors), None),
        (false, _, Some(msix)) => (msix.vectors, Some(msix.address & !0xfff)),
        _ => (0, None),
    };
    if vectors < wanted.vectors || pages != wanted.table.map(|(start, _)| start) {
        return fail(format!(
            "has {} interrupts, and this machine's function {vectors}, or another table",
            wanted.vectors
        ));
    }
    Ok(function)
}

/// What of a PCI function's memory the cell reaches: all but the MSI-X table, which the hypervisor watches over.
fn registers(wanted: &Pci, function: &Function) -> Vec<Memory> {
    let mut map = Map::default();
    for (_, address, size) in &wanted.bars {
        map.give(*address, *size, MemoryFlags::READ | MemoryFlags::WRITE);
    }
    if let Some(msix) = &function.msix {
        map.take(msix.address, msix.size.into());
    }
    map.regions()
}

/// The configuration of the cell, on these processors of this machine. Only PCI functions need the machine.
pub fn inmate_config(layout: &Layout, cpus: &[u32], machine: Option<&Machine>) -> Result<Vec<u8>, MachineError> {
    let private = layout.private();
    let loadable = MemoryFlags::READ | MemoryFlags::WRITE | MemoryFlags::EXECUTE | MemoryFlags::LOADABLE;
    let comm = MemoryFlags::READ | MemoryFlags::WRITE | MemoryFlags::COMM_REGION;
    let mut memory = vec![
        Memory::new(private.physical, private.guest, private.size, loadable),
        Memory::new(0, layout.comm_region, COMM_SIZE, comm),
    ];
    let mut devices = Vec::new();
    for device in &layout.ivshmem {
        let start = memory.len() as u32;
        memory.extend(sections(device, PEER, true));
        devices.push(PciDevice::ivshmem(device.bdf, start, PEER, PEERS, device.protocol, device.vectors));
    }
    let mut caps = Vec::new();
    for wanted in &layout.pci {
        let fail =
            || MachineError::Pci { name: wanted.name.clone(), what: "needs a machine to be taken from".to_owned() };
        let function = function_of(wanted, machine.ok_or_else(fail)?)?;
        memory.extend(registers(wanted, function));
        let own = capabilities(function);
        devices.push(pci_device(function, caps.len(), own.len()));
        caps.extend(own);
    }
    let ports: Vec<_> = layout.ports.iter().map(|(first, count)| PortRange::new(*first, *count)).collect();
    let parts = CellParts {
        name: &layout.cell,
        ports: &ports,
        id: CELL_ID,
        flags: CellFlags::VIRTUAL_CONSOLE_PERMITTED | CellFlags::VIRTUAL_CONSOLE_ACTIVE,
        cpu_set: &cpu_bitmap(cpus),
        memory: &memory,
        pci_devices: &devices,
        pci_caps: &caps,
        cpu_reset_address: LOAD_ADDRESS,
        msg_reply_timeout: REPLY_TIMEOUT,
        ..CellParts::default()
    };
    let mut out = vec![0; parts.size()];
    parts.write(&mut out)?;
    Ok(out)
}

/// Collects what an address range allows, and what is taken out; gives disjoint regions of whole pages.
#[derive(Default)]
struct Map {
    given: Vec<(u64, u64, MemoryFlags)>,
    taken: Vec<(u64, u64)>,
}

impl Map {
    fn give(&mut self, start: u64, size: u64, flags: MemoryFlags) {
        let end = page_up(start.saturating_add(size)).unwrap_or(!0xfff);
        self.given.push((start & !0xfff, end, flags));
    }

    fn take(&mut self, start: u64, size: u64) {
        self.taken.push((start & !0xfff, page_up(start.saturating_add(size)).unwrap_or(!0xfff)));
    }

    fn regions(&self) -> Vec<Memory> {
        let mut edges: Vec<u64> = self.given.iter().flat_map(|(start, end, _)| [*start, *end]).collect();
        edges.extend(self.taken.iter().flat_map(|(start, end)| [*start, *end]));
        edges.sort_unstable();
        edges.dedup();
        let mut pieces: Vec<(u64, u64, MemoryFlags)> = Vec::new();
        for pair in edges.windows(2) {
            let (start, end) = (pair[0], pair[1]);
            if self.taken.iter().any(|(s, e)| (*s..*e).contains(&start)) {
                continue;
            }
            let covering = self.given.iter().filter(|(s, e, _)| (*s..*e).contains(&start));
            let flags = covering.fold(MemoryFlags::empty(), |all, (_, _, flags)| all | *flags);
            if flags.is_empty() {
                continue;
            }
            match pieces.last_mut() {
                Some(last) if last.1 == start && last.2 == flags => last.1 = end,
                _ => pieces.push((start, end, flags)),
            }
        }
        pieces.into_iter().map(|(start, end, flags)| Memory::new(start, start, end - start, flags)).collect()
    }
}

fn memory_of(layout: &Layout, machine: &Machine, mmconfig: Option<(u64, u8)>) -> Vec<Memory> {
    let ram = MemoryFlags::READ | MemoryFlags::WRITE | MemoryFlags::EXECUTE | MemoryFlags::DMA;
    let registers = MemoryFlags::READ | MemoryFlags::WRITE;
    let mut map = Map::default();
    for resource in &machine.memory {
        // Firmware that Linux calls may lie in reserved memory, so that is executable like RAM.
        map.give(resource.start, resource.size, if resource.is_device { registers } else { ram });
    }
    // Option ROMs: Linux looks through all of their room.
    map.give(0xc_0000, 0x4_0000, ram);
    for function in &machine.functions {
        for bar in function.bars.iter().filter(|bar| bar.memory && bar.size > 0) {
            map.give(bar.address, bar.size, registers);
        }
        if let Some((address, size)) = function.rom {
            map.give(address, size, MemoryFlags::READ);
        }
        if let Some(msix) = &function.msix {
            map.take(msix.address, msix.size.into());
        }
    }
    let private = layout.private();
    map.give(private.physical, private.size, ram);
    map.take(layout.hypervisor_memory.0, layout.hypervisor_memory.1);
    for device in &layout.ivshmem {
        map.take(device.physical, device.size());
    }
    if let Some((base, end_bus)) = mmconfig {
        map.take(base, (u64::from(end_bus) + 1) << 20);
    }
    for chip in &machine.ioapics {
        map.take(chip.address, 4096);
    }
    map.take(machine.local_apic, 4096);
    map.regions()
}

/// The capabilities of a function, and the rest of its configuration space: Linux keeps what it had.
fn capabilities(function: &Function) -> Vec<PciCapability> {
    let mut caps: Vec<_> = function
        .capabilities
        .iter()
        .map(|cap| PciCapability::new(cap.id, cap.start, cap.len, PciCapability::WRITE))
        .collect();
    let mut at = 0x40;
    let mut sorted: Vec<_> = function.capabilities.iter().filter(|cap| cap.start < 0x100).collect();
    sorted.sort_by_key(|cap| cap.start);
    for (start, end) in sorted.iter().map(|cap| (cap.start, cap.start + cap.len)).chain([(0x100, 0x100)]) {
        if start > at {
            caps.push(PciCapability::new(0, at, start - at, PciCapability::WRITE));
        }
        at = at.max(end);
    }
    if function.extended {
        caps.push(PciCapability::new(PciCapability::EXTENDED, 0x100, 0xf00, PciCapability::WRITE));
    }
    caps
}

fn pci_device(function: &Function, caps_start: usize, caps: usize) -> PciDevice {
    let mut mask = [U32::new(0); 6];
    for bar in &function.bars {
        if bar.size == 0 || bar.index > 5 {
            continue;
        }
        let bits = !(bar.size - 1);
        mask[bar.index] = U32::new(bits as u32);
        if bar.wide && bar.index < 5 {
            mask[bar.index + 1] = U32::new((bits >> 32) as u32);
        }
    }
    let (msi_vectors, msi_flags) =
        function.msi.as_ref().map_or((0, 0), |m| (m.vectors, u8::from(m.wide) | u8::from(m.maskable) << 1));
    PciDevice {
        kind: if function.bridge { PciKind::Bridge } else { PciKind::Device } as u8,
        domain: U16::new(function.domain),
        bdf: U16::new(function.bdf),
        bar_mask: mask,
        caps_start: U16::new(caps_start as u16),
        num_caps: U16::new(caps as u16),
        num_msi_vectors: msi_vectors,
        msi_flags,
        num_msix_vectors: U16::new(function.msix.as_ref().map_or(0, |m| m.vectors)),
        msix_region_size: U16::new(function.msix.as_ref().map_or(0, |m| m.size)),
        msix_address: U64::new(function.msix.as_ref().map_or(0, |m| m.address)),
        ..PciDevice::default()
    }
}

/// Whether the machine can hold the system: what is reserved is, and what is taken is free.
fn fits(layout: &Layout, machine: &Machine) -> Result<(), MachineError> {
    let (start, end) = layout.reserved();
    for resource in machine.memory.iter().filter(|r| r.is_ram) {
        if resource.start < end && start < resource.start + resource.size {
            let size = end.next_multiple_of(1 << 20) - start;
            return Err(MachineError::NotReserved { start, end, megabytes: size >> 20 });
        }
    }
    for device in &layout.ivshmem {
        if machine.functions.iter().any(|f| f.domain == 0 && f.bdf == device.bdf) {
            return Err(MachineError::PciAddress { name: device.name.clone(), bdf: Bdf(device.bdf) });
        }
    }
    layout.pci.iter().try_for_each(|wanted| function_of(wanted, machine).map(drop))?;
    if machine.online_cpus.len() as u64 <= u64::from(layout.cpus) || !machine.online_cpus.contains(&0) {
        return Err(MachineError::Cpus { have: machine.online_cpus.len(), need: layout.cpus });
    }
    Ok(())
}

/// The processors of a machine that the cell gets: the highest ones, never processor 0.
pub fn cell_cpus(layout: &Layout, machine: &Machine) -> Vec<u32> {
    let mut cpus: Vec<u32> = machine.online_cpus.iter().copied().filter(|cpu| *cpu != 0).collect();
    cpus.sort_unstable();
    cpus.split_off(cpus.len().saturating_sub(layout.cpus as usize))
}

fn iommu_units(machine: &Machine) -> [IommuUnit; MAX_IOMMU_UNITS] {
    let mut units = [IommuUnit::default(); MAX_IOMMU_UNITS];
    for (unit, iommu) in units.iter_mut().zip(&machine.iommus) {
        let amd = iommu.amd.unwrap_or_default();
        *unit = IommuUnit {
            kind: U32::new(if iommu.amd.is_some() { IommuKind::Amd } else { IommuKind::Intel } as u32),
            base: U64::new(iommu.base),
            size: U32::new(iommu.size),
            amd_bdf: U16::new(amd.bdf),
            amd_base_cap: amd.capability,
            amd_msi_cap: amd.msi,
            amd_features: U32::new(amd.features),
            ..IommuUnit::default()
        };
    }
    units
}

/// The configuration of the hypervisor and of the root cell, for the machine that Linux sees.
pub fn root_config(layout: &Layout, machine: &Machine) -> Result<Vec<u8>, MachineError> {
    fits(layout, machine)?;
    let mmconfig = machine.mmconfig.or(layout.mmconfig);
    let mut memory = Vec::new();
    let mut devices = Vec::new();
    for device in &layout.ivshmem {
        let start = memory.len() as u32;
        memory.extend(sections(device, shadow::PEER_LINUX as u8, false));
        let dev_id = shadow::PEER_LINUX as u8;
        devices.push(PciDevice::ivshmem(device.bdf, start, dev_id, PEERS, device.protocol, device.vectors));
    }
    memory.extend(memory_of(layout, machine, mmconfig));
    let mut caps = Vec::new();
    for function in &machine.functions {
        let own = capabilities(function);
        devices.push(pci_device(function, caps.len(), own.len()));
        caps.extend(own);
    }
    let irqchips: Vec<_> =
        machine.ioapics.iter().map(|chip| IrqChip::new(chip.address, 0, (1u128 << chip.pins.min(127)) - 1)).collect();
    // All ports but the window to PCI configuration space, that the hypervisor watches over.
    let ports = [PortRange::new(0, 0xcf8), PortRange::new(0xd00, 0xffff - 0xd00), PortRange::new(0xffff, 1)];
    let header = SystemHeader {
        flags: U32::new(SystemFlags::VIRTUAL_DEBUG_CONSOLE.bits()),
        hypervisor_memory: Memory::new(layout.hypervisor_memory.0, 0, layout.hypervisor_memory.1, MemoryFlags::empty()),
        debug_console: layout.debug_console.map_or_else(Console::default, |port| Console::uart_pio(port, 1)),
        pci_mmconfig_base: U64::new(mmconfig.map_or(0, |m| m.0)),
        pci_mmconfig_end_bus: mmconfig.map_or(0, |m| m.1),
        iommu_units: iommu_units(machine),
        pm_timer_address: U16::new(machine.pm_timer.unwrap_or(layout.pm_timer)),
        ..SystemHeader::default()
    };
    let parts = SystemParts {
        header,
        root: CellParts {
            name: "root",
            cpu_set: &cpu_bitmap(&machine.online_cpus),
            memory: &memory,
            irqchips: &irqchips,
            ports: &ports,
            pci_devices: &devices,
            pci_caps: &caps,
            ..CellParts::default()
        },
    };
    let mut out = vec![0; parts.size()];
    parts.write(&mut out)?;
    Ok(out)
}
