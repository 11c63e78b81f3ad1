//! Devices, interrupts and ports: they exist, and each belongs to one server.

use ipc::board::VECTOR_ORDER;
use ipc::image::range_kind;
use ipc::shadow;
use toml::Spanned;

use crate::diagnostic::Findings;
use crate::layout::Layout;
use crate::manifest::{Ivshmem, Manifest, PortGrant};
use crate::units::is_paged;

/// Most MSI-X vectors of a shared memory device.
const MOST_VECTORS: u16 = 16;

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
    let whole = device.physical.get_ref().max(device.guest.get_ref());
    if *whole >= 1 << 45 {
        found.add(
            device.guest.span(),
            format!("[ivshmem.{name}] lies at {whole:#x}, beyond what a server can map"),
            "use addresses below 32 TiB",
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

fn interrupts(manifest: &Manifest, found: &mut Findings<'_>) {
    let mut seen: Vec<(&str, u16, &str)> = Vec::new();
    for server in &manifest.servers {
        let who = server.name.get_ref();
        for irq in &server.irqs {
            let irq = irq.get_ref();
            let (device, vector) = (irq.device.get_ref(), *irq.vector.get_ref());
            let Some((_, there)) = manifest.ivshmem.iter().find(|(name, _)| name.get_ref() == device) else {
                let names: Vec<_> = manifest.ivshmem.keys().map(|n| format!("\"{}\"", n.get_ref())).collect();
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
            if vector >= *there.vectors.get_ref() {
                found.add(
                    irq.vector.span(),
                    format!(
                        "server \"{who}\" is given vector {vector} of \"{device}\", which has {}",
                        there.vectors.get_ref()
                    ),
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
            if layout.ivshmem.iter().any(|d| d.bars[1] == there.guest) {
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
            let PortGrant { first, count, .. } = grant.get_ref();
            let (start, number) = (u32::from(*first.get_ref()), u32::from(*count.get_ref()));
            if number == 0 || start + number > 0x1_0000 {
                found.add(
                    count.span(),
                    format!("server \"{who}\" is given {number} ports from {start:#x} on, which are not there"),
                    "there are ports 0 to 0xffff",
                );
                continue;
            }
            let last = start + number - 1;
            if let Some((low, high, what)) = forbidden.iter().find(|(low, high, _)| start <= *high && *low <= last) {
                found.add(
                    first.span(),
                    format!(
                        "server \"{who}\" is given ports {start:#x}-{last:#x}, among them {what} ({low:#x}-{high:#x})"
                    ),
                    "leave those out",
                );
            }
            if let Some((low, high, other)) = seen.iter().find(|(low, high, _)| start <= *high && *low <= last) {
                found.add(
                    first.span(),
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
    let mut seen: Vec<(&Spanned<String>, u16, u16)> = Vec::new();
    for (name, device) in &manifest.ivshmem {
        ivshmem(name.get_ref(), device, layout, found);
        let (bdf, protocol) = (device.bdf.get_ref().0, *device.protocol.get_ref());
        if let Some((first, ..)) = seen.iter().find(|(_, other, _)| *other == bdf) {
            found.add(
                device.bdf.span(),
                format!(
                    "[ivshmem.{}] and [ivshmem.{}] have the same PCI address {}",
                    first.get_ref(),
                    name.get_ref(),
                    device.bdf.get_ref()
                ),
                "move one of them",
            );
        }
        if let Some((first, ..)) = seen.iter().find(|(.., other)| *other == protocol && protocol == shadow::PROTOCOL) {
            found.add(
                device.protocol.span(),
                format!("[ivshmem.{}] and [ivshmem.{}] are both the shadow device", first.get_ref(), name.get_ref()),
                "remove one of them",
            );
        }
        seen.push((name, bdf, protocol));
    }
    interrupts(manifest, found);
    registers(manifest, layout, found);
    ports(manifest, found);
}
