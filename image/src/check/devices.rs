//! Devices, interrupts and ports: they exist, and each belongs to one server.

use ipc::board::VECTOR_ORDER;
use ipc::image::range_kind;
use ipc::shadow;
use ipc::slots::layout::GUEST_END;
use toml::Spanned;

use crate::diagnostic::Findings;
use crate::layout::Layout;
use crate::manifest::{Ivshmem, Manifest, Pci, PciBar, PciMsix, PciPorts};
use crate::units::{Bdf, is_paged};

/// Bytes of a shared memory device's state table.
const STATE_TABLE: u64 = 4096;
/// Most MSI-X vectors of a shared memory device.
const MOST_VECTORS: u16 = 16;
/// Most MSI-X vectors of a PCI function that are used.
const MOST_PCI_VECTORS: u16 = 64;

fn ivshmem(name: &str, device: &Ivshmem, layout: &Layout, found: &mut Findings<'_>) {
    let sizes = [
        ("physical", device.physical.span(), *device.physical.get_ref()),
        ("guest", device.guest.span(), *device.guest.get_ref()),
        ("rw_size", device.rw_size.0.span(), device.rw_size.0.get_ref().0),
        ("output_size", device.output_size.span(), device.output_size.get_ref().0),
        ("bars", device.bars.span(), device.bars.get_ref()[0] | device.bars.get_ref()[1]),
    ];
    for (field, span, value) in sizes {
        if !is_paged(value) {
            found.add(
                span,
                format!("{field} of [ivshmem.{name}] is not a multiple of a page"),
                "use multiples of 4 KiB",
            );
        }
    }
    let total = device.rw_size.0.get_ref().0.checked_add(device.output_size.get_ref().0.saturating_mul(2));
    if total.is_none_or(|total| total > 1 << 40) {
        found.add(
            device.output_size.span(),
            format!("the sections of [ivshmem.{name}] are larger than any machine"),
            "lower rw_size or output_size",
        );
    }
    let (guest, sections) = (*device.guest.get_ref(), total.unwrap_or(0).saturating_add(STATE_TABLE));
    if guest.saturating_add(sections) > GUEST_END {
        found.add(
            device.guest.span(),
            format!("[ivshmem.{name}] lies at {guest:#x}, beyond what a server can map"),
            "use addresses below 32 TiB",
        );
    }
    let physical = *device.physical.get_ref();
    if physical.saturating_add(sections) > 1 << 52 {
        found.add(
            device.physical.span(),
            format!("[ivshmem.{name}] lies at {physical:#x}, beyond what a processor can address"),
            "use a lower address",
        );
    }
    if device.bars.get_ref().iter().any(|bar| *bar >= 1 << 32 || *bar == 0) {
        found.add(
            device.bars.span(),
            format!("the BARs of [ivshmem.{name}] are 32 bits wide and cannot lie there"),
            "use addresses below 4 GiB",
        );
    }
    let vectors = *device.vectors.get_ref();
    if vectors == 0 || vectors > MOST_VECTORS {
        found.add(
            device.vectors.span(),
            format!("[ivshmem.{name}] has {vectors} MSI-X vectors"),
            format!("use 1 to {MOST_VECTORS}"),
        );
    }
    if *device.protocol.get_ref() == shadow::PROTOCOL {
        let least = (shadow::rt_section::MIRROR + (1 << 20)) as u64;
        if device.output_size.get_ref().0 < least {
            found.add(
                device.output_size.span(),
                format!(
                    "output_size of [ivshmem.{name}] is {}, and the shadow protocol needs {least} bytes",
                    device.output_size.get_ref()
                ),
                "raise output_size",
            );
        }
        if vectors < 2 {
            found.add(
                device.vectors.span(),
                format!("[ivshmem.{name}] has {vectors} MSI-X vectors, and the shadow protocol uses 2"),
                "set vectors = 2",
            );
        } else if layout.supervision().is_some() && vectors <= VECTOR_ORDER {
            found.add(
                device.vectors.span(),
                format!("[ivshmem.{name}] has {vectors} MSI-X vectors, and init needs a third one for orders"),
                "set vectors = 3, or remove the regions of the parts board and orders",
            );
        }
    }
}

fn pci(name: &str, function: &Pci, found: &mut Findings<'_>) {
    let mut bars: Vec<u8> = Vec::new();
    let registers = function.bars.iter().map(|b| (b.span(), b.get_ref().bar));
    for (span, bar) in registers.chain(function.ports.iter().map(|p| (p.span(), p.get_ref().bar))) {
        if bar > 5 {
            found.add(span, format!("[pci.{name}] has a BAR {bar}"), "a PCI function has BARs 0 to 5");
        } else if bars.contains(&bar) {
            found.add(span, format!("BAR {bar} of [pci.{name}] is there twice"), "remove one of them");
        }
        bars.push(bar);
    }
    for bar in &function.bars {
        let PciBar { bar: index, address, size } = *bar.get_ref();
        if size.0 < 4096 || !size.0.is_power_of_two() || address == 0 || !address.is_multiple_of(size.0.max(1)) {
            found.add(
                bar.span(),
                format!("BAR {index} of [pci.{name}] ({address:#x}, {:#x} bytes) cannot lie there", size.0),
                "use a size that is a power of two, 4 KiB at least, and an address that is a multiple of it, as lspci -v shows them",
            );
        }
        if address.checked_add(size.0).is_none_or(|end| end > GUEST_END) {
            found.add(
                bar.span(),
                format!("BAR {index} of [pci.{name}] lies beyond what a server can map"),
                "use addresses below 32 TiB",
            );
        }
    }
    for ports in &function.ports {
        let PciPorts { bar, first, count } = *ports.get_ref();
        if count == 0 || u32::from(first) + u32::from(count) > 0x1_0000 {
            found.add(
                ports.span(),
                format!("BAR {bar} of [pci.{name}] has {count} ports from {first:#x} on, which are not there"),
                "there are ports 0 to 0xffff",
            );
        }
    }
    let Some(msix) = &function.msix else { return };
    let PciMsix { vectors, bar, offset } = *msix.get_ref();
    if *function.msi.0.get_ref() {
        found.add(msix.span(), format!("[pci.{name}] would interrupt by MSI and by MSI-X"), "remove one of them");
    }
    if vectors == 0 || vectors > MOST_PCI_VECTORS {
        found.add(
            msix.span(),
            format!("[pci.{name}] has {vectors} MSI-X vectors"),
            format!("use 1 to {MOST_PCI_VECTORS}"),
        );
    }
    let inside = |b: &PciBar| offset.0.checked_add(u64::from(vectors) * 16).is_some_and(|end| end <= b.size.0);
    match function.bars.iter().map(Spanned::get_ref).find(|b| b.bar == bar) {
        None => found.add(
            msix.span(),
            format!("the MSI-X table of [pci.{name}] lies in BAR {bar}, which it does not have"),
            "add the BAR to bars",
        ),
        Some(b) if !inside(b) => found.add(
            msix.span(),
            format!(
                "the MSI-X table of [pci.{name}] ({:#x}, {vectors} vectors) does not lie inside BAR {bar}",
                offset.0
            ),
            "take bar and offset from lspci -vv",
        ),
        Some(_) => {}
    }
}

fn interrupts(manifest: &Manifest, found: &mut Findings<'_>) {
    let mut seen: Vec<(&str, u16, &str)> = Vec::new();
    let made_up = manifest.ivshmem.iter().map(|(name, device)| (name.get_ref(), *device.vectors.get_ref()));
    let real = manifest.pci.iter().map(|(name, function)| (name.get_ref(), function.vectors()));
    let devices: Vec<_> = made_up.chain(real).collect();
    for server in &manifest.servers {
        let who = server.name.get_ref();
        for irq in &server.irqs {
            let irq = irq.get_ref();
            let (device, vector) = (irq.device.get_ref(), *irq.vector.get_ref());
            let Some((_, vectors)) = devices.iter().find(|(name, _)| *name == device) else {
                let names: Vec<_> = devices.iter().map(|(name, _)| format!("\"{name}\"")).collect();
                found.add(
                    irq.device.span(),
                    format!("server \"{who}\" is given an interrupt of \"{device}\", which no device is"),
                    if names.is_empty() {
                        format!("add [ivshmem.{device}]")
                    } else {
                        format!("name one of {}", names.join(", "))
                    },
                );
                continue;
            };
            if vector >= *vectors {
                found.add(
                    irq.vector.span(),
                    format!("server \"{who}\" is given vector {vector} of \"{device}\", which has {vectors}"),
                    "use a lower vector, or raise vectors",
                );
            }
            match seen.iter().find(|(other, same, _)| other == device && *same == vector) {
                Some((_, _, first)) => found.add(
                    irq.vector.span(),
                    format!("vector {vector} of \"{device}\" is given to \"{first}\" and to \"{who}\""),
                    "take it from one of them",
                ),
                None => seen.push((device, vector, who)),
            }
        }
    }
}

fn registers(manifest: &Manifest, layout: &Layout, found: &mut Findings<'_>) {
    let mut seen: Vec<(&str, &str)> = Vec::new();
    for server in &manifest.servers {
        for grant in &server.memory {
            let region = &grant.get_ref().region;
            let device = |r: &&crate::layout::Region| r.name == *region.get_ref() && r.kind == range_kind::DEVICE;
            let Some(there) = layout.regions.iter().find(device) else { continue };
            let who = server.name.get_ref();
            let end = there.guest.saturating_add(there.size);
            let mut tables = layout.pci.iter().filter_map(|f| f.table);
            let real = tables.any(|(start, size)| start < end && there.guest < start.saturating_add(size));
            if real || layout.ivshmem.iter().any(|d| d.bars[1] == there.guest) {
                found.add(
                    region.span(),
                    format!(
                        "server \"{who}\" is given \"{}\", the MSI-X table, with which it could interrupt anybody",
                        there.name
                    ),
                    "remove the grant: init programs the table",
                );
            }
            match seen.iter().find(|(name, _)| *name == there.name) {
                Some((_, first)) => found.add(
                    region.span(),
                    format!("the registers \"{}\" are given to \"{first}\" and to \"{who}\"", there.name),
                    "take them from one of them",
                ),
                None => seen.push((&there.name, who)),
            }
        }
    }
}

/// Ports that nobody may be given: first, last, what they are.
fn forbidden(manifest: &Manifest) -> Vec<(u32, u32, &'static str)> {
    let timer = u32::from(*manifest.cell.pm_timer.get_ref());
    let mut ports = vec![(0xcf8, 0xcff, "PCI configuration"), (timer, timer + 3, "the power management timer")];
    if let Some(console) = &manifest.cell.debug_console {
        let first = u32::from(*console.get_ref());
        ports.push((first, first + 7, "the hypervisor's console"));
    }
    ports
}

fn ports(manifest: &Manifest, found: &mut Findings<'_>) {
    let forbidden = forbidden(manifest);
    let mut seen: Vec<(u32, u32, &str)> = Vec::new();
    for server in &manifest.servers {
        let who = server.name.get_ref();
        for grant in &server.ports {
            let Some((first, count)) = grant.get_ref().range(manifest) else {
                found.add(
                    grant.span(),
                    format!(
                        "server \"{who}\" is given ports \"{}\", which no device provides",
                        grant.get_ref().name.get_ref()
                    ),
                    "give either section = \"DEVICE.barN\", with ports of a [pci.DEVICE], or first and count",
                );
                continue;
            };
            let (start, number) = (u32::from(first), u32::from(count));
            if number == 0 || start + number > 0x1_0000 {
                found.add(
                    grant.span(),
                    format!("server \"{who}\" is given {number} ports from {start:#x} on, which are not there"),
                    "there are ports 0 to 0xffff",
                );
                continue;
            }
            let last = start + number - 1;
            if let Some((low, high, what)) = forbidden.iter().find(|(low, high, _)| start <= *high && *low <= last) {
                found.add(
                    grant.span(),
                    format!(
                        "server \"{who}\" is given ports {start:#x}-{last:#x}, among them {what} ({low:#x}-{high:#x})"
                    ),
                    "leave those out",
                );
            }
            if let Some((low, high, other)) = seen.iter().find(|(low, high, _)| start <= *high && *low <= last) {
                found.add(
                    grant.span(),
                    format!("ports {start:#x}-{last:#x} of \"{who}\" overlap ports {low:#x}-{high:#x} of \"{other}\""),
                    "take them from one of them",
                );
            }
            seen.push((start, last, who));
        }
    }
}

/// Checks devices, interrupts, registers and ports.
pub fn check(manifest: &Manifest, layout: &Layout, found: &mut Findings<'_>) {
    let mut seen: Vec<(&Spanned<String>, u16)> = Vec::new();
    for (name, device) in &manifest.ivshmem {
        ivshmem(name.get_ref(), device, layout, found);
        let protocol = *device.protocol.get_ref();
        if let Some((first, _)) = seen.iter().find(|(_, other)| *other == protocol && protocol == shadow::PROTOCOL) {
            found.add(
                device.protocol.span(),
                format!("[ivshmem.{}] and [ivshmem.{}] are both the shadow device", first.get_ref(), name.get_ref()),
                "remove one of them",
            );
        }
        seen.push((name, protocol));
    }
    for (name, function) in &manifest.pci {
        pci(name.get_ref(), function, found);
        if let Some(other) = manifest.ivshmem.keys().find(|other| other.get_ref() == name.get_ref()) {
            let line = found.line(other.span());
            let message = format!("device \"{}\" is already there in line {line}", name.get_ref());
            found.add(name.span(), message, "rename one of them");
        }
    }
    let made_up = manifest.ivshmem.iter().map(|(name, device)| ("ivshmem", name, Some(&device.bdf)));
    let real = manifest.pci.iter().map(|(name, function)| ("pci", name, function.bdf.as_ref()));
    let mut places: Vec<(String, &Spanned<Bdf>)> = Vec::new();
    for (kind, name, bdf) in made_up.chain(real).filter_map(|(kind, name, bdf)| Some((kind, name, bdf?))) {
        let title = format!("[{kind}.{}]", name.get_ref());
        if let Some((first, _)) = places.iter().find(|(_, other)| other.get_ref() == bdf.get_ref()) {
            found.add(
                bdf.span(),
                format!("{first} and {title} have the same PCI address {}", bdf.get_ref()),
                "move one of them",
            );
        }
        places.push((title, bdf));
    }
    interrupts(manifest, found);
    registers(manifest, layout, found);
    ports(manifest, found);
}
