//! A cell configuration in words: what it lets a cell do.

use hypervisor_abi::config::{
    CellConfig, Console, IommuKind, Memory, MemoryFlags, PciCapability, PciDevice, PciKind, SystemConfig,
};

/// What a region allows and is for.
pub fn rights(region: &Memory) -> String {
    const NAMES: [(MemoryFlags, &str); 14] = [
        (MemoryFlags::READ, "read"),
        (MemoryFlags::WRITE, "write"),
        (MemoryFlags::EXECUTE, "execute"),
        (MemoryFlags::DMA, "dma"),
        (MemoryFlags::IO, "io"),
        (MemoryFlags::COMM_REGION, "communication"),
        (MemoryFlags::LOADABLE, "loadable"),
        (MemoryFlags::ROOTSHARED, "rootshared"),
        (MemoryFlags::NO_HUGEPAGES, "small-pages"),
        (MemoryFlags::IO_UNALIGNED, "unaligned"),
        (MemoryFlags::IO_8, "8-bit"),
        (MemoryFlags::IO_16, "16-bit"),
        (MemoryFlags::IO_32, "32-bit"),
        (MemoryFlags::IO_64, "64-bit"),
    ];
    let flags = region.flags();
    let words: Vec<&str> = NAMES.iter().filter(|(flag, _)| flags.contains(*flag)).map(|(_, name)| *name).collect();
    if words.is_empty() { "nothing".to_owned() } else { words.join(" ") }
}

/// First and last address that the cell sees, and the rights.
pub fn region(region: &Memory) -> String {
    let last = region.virt_start().saturating_add(region.size().saturating_sub(1));
    format!("{:#x}-{last:#x} {}", region.virt_start(), rights(region))
}

/// Bus, device and function.
pub fn bdf(device: &PciDevice) -> String {
    let bdf = device.bdf();
    format!("{:02x}:{:02x}.{}", bdf >> 8, bdf >> 3 & 31, bdf & 7)
}

/// A PCI function: address, kind, interrupts.
pub fn function(device: &PciDevice) -> String {
    let kind = match device.kind() {
        Some(PciKind::Device) => "device".to_owned(),
        Some(PciKind::Bridge) => "bridge".to_owned(),
        Some(PciKind::Ivshmem) => {
            let bar = match device.shmem_bar_mask() {
                0 => String::new(),
                mask => format!(", BAR 2 of {:#x} bytes", mask.wrapping_neg()),
            };
            format!(
                "shared memory, peer {} of {}, protocol {:#06x}, {} regions from mem_regions[{}]{bar}",
                device.shmem_dev_id,
                device.shmem_peers,
                device.shmem_protocol,
                2 + u16::from(device.shmem_peers),
                device.shmem_regions_start
            )
        }
        None => format!("kind {}", device.kind),
    };
    let mut text = format!("{} {kind}", bdf(device));
    if device.num_msi_vectors > 0 {
        text += &format!(", {} MSI", device.num_msi_vectors);
    }
    if device.num_msix_vectors.get() > 0 {
        text += &format!(", {} MSI-X", device.num_msix_vectors);
    }
    text
}

/// A PCI capability.
pub fn capability(cap: &PciCapability) -> String {
    let extended = if cap.id.get() & PciCapability::EXTENDED != 0 { "extended " } else { "" };
    let id = cap.id.get() & !PciCapability::EXTENDED;
    let write = if cap.writable() { ", writable" } else { "" };
    format!("{extended}capability {id:#04x} at {:#x}, {} bytes{write}", cap.start, cap.len)
}

/// The cell's processors.
pub fn cpus(cell: &CellConfig<'_>) -> String {
    cell.cpus().map(|cpu| cpu.to_string()).collect::<Vec<_>>().join(",")
}

/// A console.
fn console(console: &Console) -> String {
    match (console.pio_port(), console.kind.get()) {
        (Some(port), _) => format!("8250 at port {port:#x}, divider {}", console.divider),
        (None, 0) => "none".to_owned(),
        (None, kind) => format!("kind {kind} at {:#x}", console.address),
    }
}

/// A whole cell, a line a record.
pub fn cell(cell: &CellConfig<'_>) -> String {
    let mut text = String::new();
    let mut line = |line: String| {
        text += &line;
        text.push('\n');
    };
    line(format!("cell \"{}\" id {} cpus {}", cell.name(), cell.id(), cpus(cell)));
    line(format!(
        "  reset {:#x}, message timeout {}, console {}",
        cell.cpu_reset_address(),
        cell.msg_reply_timeout(),
        console(&cell.header().console)
    ));
    let flags = cell.flags().iter_names().map(|(name, _)| name.to_lowercase()).collect::<Vec<_>>();
    if !flags.is_empty() {
        line(format!("  flags {}", flags.join(" ")));
    }
    for (index, memory) in cell.memory().iter().enumerate() {
        line(format!("  mem_regions[{index}] {} at {:#x}", region(memory), memory.phys_start()));
    }
    for (index, cache) in cell.cache().iter().enumerate() {
        let kind = ["?", "code", "data", "both"].get(usize::from(cache.kind)).unwrap_or(&"?");
        line(format!("  cache_regions[{index}] {kind} from {} count {}", cache.start, cache.size));
    }
    for (index, chip) in cell.irqchips().iter().enumerate() {
        let first = chip.pin_base.get();
        let pins = (first..first.saturating_add(128)).filter(|pin| chip.owns_pin(*pin));
        let pins = pins.map(|pin| pin.to_string()).collect::<Vec<_>>().join(",");
        line(format!("  irqchips[{index}] at {:#x} id {:#x} pins {pins}", chip.address, chip.id));
    }
    for (index, ports) in cell.ports().iter().enumerate() {
        let last = u32::from(ports.base()) + u32::from(ports.length()).saturating_sub(1);
        line(format!("  pio_regions[{index}] {:#x}-{last:#x}", ports.base()));
    }
    for (index, device) in cell.pci_devices().iter().enumerate() {
        line(format!("  pci_devices[{index}] {}", function(device)));
        for cap in cell.caps_of(device) {
            line(format!("    {}", capability(cap)));
        }
    }
    text
}

/// A whole system.
pub fn system(system: &SystemConfig<'_>) -> String {
    let header = system.header();
    let memory = system.hypervisor_memory();
    let mut text = format!(
        "system: hypervisor memory {:#x} bytes at {:#x}, console {}\n",
        memory.size(),
        memory.phys_start(),
        console(&header.debug_console)
    );
    if let Some((base, size)) = system.mmconfig() {
        text += &format!("  PCI configuration space at {base:#x}, buses 0 to {}\n", (size >> 20) - 1);
    }
    text += &format!(
        "  PM timer port {:#x}, APIC mode {:?}, TSC {} kHz, APIC {} kHz\n",
        header.pm_timer_address,
        system.apic_mode(),
        header.tsc_khz,
        header.apic_khz
    );
    for (index, unit) in system.iommu_units().enumerate() {
        let kind = if unit.kind.get() == IommuKind::Amd as u32 { "AMD-Vi" } else { "VT-d" };
        text += &format!("  iommu_units[{index}] {kind} at {:#x}, {:#x} bytes\n", unit.base, unit.size);
    }
    text + &cell(system.root_cell())
}

#[cfg(test)]
mod tests {
    use super::*;

    use super::super::fixtures;

    #[test]
    fn whole_configurations() {
        let (sysconfig, nuttx, rtems) = (fixtures::sysconfig(), fixtures::nuttx(), fixtures::rtems());
        let text = system(&SystemConfig::parse(&sysconfig).unwrap());
        for line in [
            "system: hypervisor memory 0x8000000 bytes at 0x100000000, console 8250 at port 0x2f8, divider 1",
            "  PCI configuration space at 0x80000000, buses 0 to 255",
            "  iommu_units[1] VT-d at 0xfbffc000, 0x1000 bytes",
            "cell \"RootCell\" id 0 cpus 0,1,2,3,4,5,6,7,8,9,10,11,12,13,14,15,16,17,18,19,20,21,22,23",
        ] {
            assert!(text.lines().any(|other| other == line), "{line}\n{text}");
        }
        let text = cell(&CellConfig::parse(&nuttx).unwrap());
        for line in [
            "  mem_regions[1] 0x0-0x3fffffff read write execute loadable rootshared at 0x108001000",
            "  cache_regions[0] both from 0 count 10",
            "  pci_devices[0] 03:00.0 device, 8 MSI",
            "    capability 0x05 at 0x50, 14 bytes, writable",
        ] {
            assert!(text.lines().any(|other| other == line), "{line}\n{text}");
        }
        let text = cell(&CellConfig::parse(&rtems).unwrap());
        assert!(text.contains("irqchips[0] at 0xfec00000 id 0x1f0ff pins 10,11"), "{text}");
    }

    #[test]
    fn words() {
        let flags = MemoryFlags::READ | MemoryFlags::WRITE | MemoryFlags::ROOTSHARED;
        assert_eq!(region(&Memory::new(0, 0x1000, 0x2000, flags)), "0x1000-0x2fff read write rootshared");
        assert_eq!(rights(&Memory::new(0, 0, 0x1000, MemoryFlags::empty())), "nothing");
        assert_eq!(
            function(&PciDevice::ivshmem(0x70, 2, 1, 2, 0x4372, 2)),
            "00:0e.0 shared memory, peer 1 of 2, protocol 0x4372, 4 regions from mem_regions[2], 2 MSI-X"
        );
        let mut device = PciDevice::ivshmem(0x70, 2, 1, 2, 0x4372, 2);
        device.bar_mask[2..4].copy_from_slice(&[0xe000_0000.into(), u32::MAX.into()]);
        assert!(function(&device).contains(" from mem_regions[2], BAR 2 of 0x20000000 bytes, 2 MSI-X"));
        assert_eq!(
            capability(&PciCapability::new(0x8003, 0x100, 8, 1)),
            "extended capability 0x03 at 0x100, 8 bytes, writable"
        );
    }
}
