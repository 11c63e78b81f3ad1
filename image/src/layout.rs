//! Where everything lies: the manifest's memory, resolved to addresses.
//!
//! A region ([`Region`]) is a leaf: no two overlap, and each lies in one [`CellRange`], so that whoever owns the
//! range can cut it up from the bottom to the top.

use std::path::Path;

use ipc::image::{Range, range_kind};
use ipc::shadow;
use toml::Spanned;

use crate::check;
use crate::diagnostic::{Diagnostics, Findings};
use crate::manifest::{self, Manifest, Named, Source};
use crate::units::{PciId, is_paged};

/// A range of the machine's memory that the cell sees.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CellRange {
    /// For messages.
    pub name: String,
    /// Machine address; the guest-physical address for registers that the hypervisor makes up.
    pub physical: u64,
    /// Guest-physical address.
    pub guest: u64,
    /// Bytes.
    pub size: u64,
    /// [`range_kind`].
    pub kind: u32,
}

impl CellRange {
    /// Guest-physical end.
    pub fn guest_end(&self) -> u64 {
        self.guest.saturating_add(self.size)
    }
}

/// A named piece of memory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Region {
    /// Its name.
    pub name: String,
    /// Guest-physical address; 0 for private memory.
    pub guest: u64,
    /// Bytes.
    pub size: u64,
    /// [`range_kind`].
    pub kind: u32,
    /// The cell itself can write it.
    pub writable: bool,
}

/// A shared memory device.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ivshmem {
    /// Its name.
    pub name: String,
    /// PCI address.
    pub bdf: u16,
    /// Protocol.
    pub protocol: u16,
    /// Machine address of the state table.
    pub physical: u64,
    /// Guest-physical address of the state table.
    pub guest: u64,
    /// Bytes of the section that both write.
    pub rw_size: u64,
    /// Bytes of each output section.
    pub output_size: u64,
    /// MSI-X vectors.
    pub vectors: u16,
    /// Guest-physical addresses of the BARs.
    pub bars: [u64; 2],
}

/// A PCI function of the machine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pci {
    /// Its name.
    pub name: String,
    /// Vendor and device number.
    pub id: PciId,
    /// PCI address; `None`: to be found on the machine by its id.
    pub bdf: Option<u16>,
    /// Its memory: register, address, bytes.
    pub bars: Vec<(u8, u64, u64)>,
    /// Its ports: register, first, how many.
    pub ports: Vec<(u8, u16, u16)>,
    /// Interrupts that are used.
    pub vectors: u16,
    /// They are MSI, not MSI-X.
    pub msi: bool,
    /// Pages of the MSI-X table: address, bytes.
    pub table: Option<(u64, u64)>,
}

/// Bytes of a state table.
pub const STATE_TABLE: u64 = 4096;
/// Bytes of each BAR of a shared memory device.
pub const BAR_SIZE: u64 = 4096;
/// The peer number of our cell.
pub const PEER: u8 = shadow::PEER_RT as u8;

impl Ivshmem {
    /// The sections in the order in which they lie: name, offset from the state table, bytes, writable by our cell.
    pub fn sections(&self) -> [(&'static str, u64, u64, bool); 4] {
        let output0 = STATE_TABLE.saturating_add(self.rw_size);
        let output1 = output0.saturating_add(self.output_size);
        [
            ("state", 0, STATE_TABLE, false),
            ("rw", STATE_TABLE, self.rw_size, true),
            ("output0", output0, self.output_size, false),
            ("output1", output1, self.output_size, true),
        ]
    }

    /// Bytes from the start of the state table to the end of the last section.
    pub fn size(&self) -> u64 {
        STATE_TABLE.saturating_add(self.rw_size).saturating_add(self.output_size.saturating_mul(2))
    }
}

/// The memory of a composed system.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Layout {
    /// Name of the manifest.
    pub system: String,
    /// Name of the cell.
    pub cell: String,
    /// Processors of the cell.
    pub cpus: u32,
    /// The hypervisor's memory: machine address, bytes.
    pub hypervisor_memory: (u64, u64),
    /// Guest-physical address of the communication region.
    pub comm_region: u64,
    /// Port of the power management timer.
    pub pm_timer: u16,
    /// Memory-mapped configuration space: base, last bus.
    pub mmconfig: Option<(u64, u8)>,
    /// Port of the hypervisor's UART.
    pub debug_console: Option<u16>,
    /// What the cell sees: private RAM first.
    pub ranges: Vec<CellRange>,
    /// Shared memory devices.
    pub ivshmem: Vec<Ivshmem>,
    /// PCI functions of the machine.
    pub pci: Vec<Pci>,
    /// I/O ports that servers are given: first, how many.
    pub ports: Vec<(u16, u16)>,
    /// Named pieces, by address.
    pub regions: Vec<Region>,
}

/// Offset and bytes of a part that the protocol of the device defines.
pub fn protocol_part(protocol: u16, section: &str, part: &str) -> Option<(u64, u64)> {
    use shadow::{linux_section as linux, rt_section as rt};
    if protocol != shadow::PROTOCOL {
        return None;
    }
    let (start, end) = match (section, part) {
        ("output1", "header") => (rt::HEADER, rt::REQUESTS),
        ("output1", "requests") => (rt::REQUESTS, rt::THREADS),
        ("output1", "threads") => (rt::THREADS, rt::CONSOLE),
        ("output1", "console") => (rt::CONSOLE, rt::CONSOLE + rt::CONSOLE_SIZE),
        ("output1", "board") => (rt::BOARD, rt::BOARD + rt::BOARD_SIZE),
        ("output1", "mirror") => (rt::MIRROR, usize::MAX),
        ("output0", "header") => (linux::HEADER, linux::RESPONSES),
        ("output0", "responses") => (linux::RESPONSES, linux::ORDERS),
        ("output0", "orders") => (linux::ORDERS, linux::ORDERS + 4096),
        ("output0", "held") => (linux::HELD, usize::MAX),
        _ => return None,
    };
    Some((start as u64, if end == usize::MAX { u64::MAX } else { (end - start) as u64 }))
}

/// The parts that the protocol defines in a section, for messages.
pub fn protocol_parts(protocol: u16, section: &str) -> Vec<&'static str> {
    ["header", "requests", "threads", "console", "board", "mirror", "responses", "orders", "held"]
        .into_iter()
        .filter(|part| protocol_part(protocol, section, part).is_some())
        .collect()
}

fn ivshmem(devices: &Named<manifest::Ivshmem>) -> Vec<Ivshmem> {
    devices
        .iter()
        .map(|(name, device)| Ivshmem {
            name: name.get_ref().clone(),
            bdf: device.bdf.get_ref().0,
            protocol: *device.protocol.get_ref(),
            physical: *device.physical.get_ref(),
            guest: *device.guest.get_ref(),
            rw_size: device.rw_size.0.get_ref().0,
            output_size: device.output_size.get_ref().0,
            vectors: *device.vectors.get_ref(),
            bars: *device.bars.get_ref(),
        })
        .collect()
}

fn pci(functions: &Named<manifest::Pci>) -> Vec<Pci> {
    let table = |function: &manifest::Pci| {
        let msix = function.msix.as_ref()?.get_ref();
        let bar = function.bars.iter().map(Spanned::get_ref).find(|bar| bar.bar == msix.bar)?;
        let start = bar.address.saturating_add(msix.offset.0) & !0xfff;
        let end = bar.address.saturating_add(msix.offset.0).saturating_add(u64::from(msix.vectors) * 16);
        Some((start, end.saturating_sub(start).saturating_add(0xfff) & !0xfff))
    };
    functions
        .iter()
        .map(|(name, function)| Pci {
            name: name.get_ref().clone(),
            id: *function.id.get_ref(),
            bdf: function.bdf.as_ref().map(|bdf| bdf.get_ref().0),
            bars: function.bars.iter().map(Spanned::get_ref).map(|b| (b.bar, b.address, b.size.0)).collect(),
            ports: function.ports.iter().map(Spanned::get_ref).map(|p| (p.bar, p.first, p.count)).collect(),
            vectors: function.vectors(),
            msi: function.msix.is_none(),
            table: table(function),
        })
        .collect()
}

fn ranges(manifest: &Manifest, devices: &[Ivshmem], functions: &[Pci]) -> Vec<CellRange> {
    let private = manifest.cell.private.get_ref();
    let mut ranges = vec![CellRange {
        name: "private".to_owned(),
        physical: private.physical,
        guest: private.guest,
        size: private.size.0,
        kind: range_kind::PRIVATE,
    }];
    for device in devices {
        for (section, offset, size, _) in device.sections() {
            if size > 0 {
                ranges.push(CellRange {
                    name: format!("{}.{section}", device.name),
                    physical: device.physical.saturating_add(offset),
                    guest: device.guest.saturating_add(offset),
                    size,
                    kind: range_kind::SHARED,
                });
            }
        }
    }
    for device in devices {
        for (index, bar) in device.bars.into_iter().enumerate().take(if device.vectors > 0 { 2 } else { 1 }) {
            let range = CellRange {
                name: format!("{}.bar{index}", device.name),
                physical: bar,
                guest: bar,
                size: BAR_SIZE,
                kind: range_kind::DEVICE,
            };
            ranges.push(range);
        }
    }
    for function in functions {
        for (bar, address, size) in &function.bars {
            ranges.push(CellRange {
                name: format!("{}.bar{bar}", function.name),
                physical: *address,
                guest: *address,
                size: *size,
                kind: range_kind::DEVICE,
            });
        }
    }
    ranges
}

/// The memory of a PCI function that `NAME.barN` stands for: address and bytes.
fn bar_of(functions: &[Pci], section: &str) -> Option<(u64, u64)> {
    let (name, bar) = section.split_once('.')?;
    let function = functions.iter().find(|function| function.name == name)?;
    let (_, address, size) = function.bars.iter().find(|(index, ..)| bar == format!("bar{index}"))?;
    Some((*address, *size))
}

fn region(
    name: &Spanned<String>,
    text: &manifest::Region,
    devices: &[Ivshmem],
    functions: &[Pci],
    found: &mut Findings<'_>,
) -> Option<Region> {
    let span = name.span();
    let title = name.get_ref();
    let Some(section) = &text.section else {
        let Some(size) = &text.size else {
            found.add(
                span,
                format!("memory \"{title}\" has neither a section nor a size"),
                "add section = \"DEVICE.SECTION\", or size for private memory",
            );
            return None;
        };
        for stray in
            [text.part.as_ref().map(Spanned::span), text.offset.as_ref().map(Spanned::span)].into_iter().flatten()
        {
            found.add(
                stray,
                format!("memory \"{title}\" is private, but says where it lies"),
                "remove part and offset, or add a section",
            );
        }
        return Some(Region {
            name: title.clone(),
            guest: 0,
            size: size.get_ref().0,
            kind: range_kind::PRIVATE,
            writable: true,
        });
    };
    let full = section.get_ref();
    let place = full.split_once('.').and_then(|(device, section)| {
        let device = devices.iter().find(|d| d.name == device)?;
        let place = match section {
            "bar0" => (device.bars[0], BAR_SIZE, true, range_kind::DEVICE),
            "bar1" => (device.bars[1], BAR_SIZE, true, range_kind::DEVICE),
            _ => {
                let (_, offset, size, writable) = device.sections().into_iter().find(|s| s.0 == section)?;
                (device.guest.saturating_add(offset), size, writable, range_kind::SHARED)
            }
        };
        Some((device.protocol, device.rw_size, section, place))
    });
    let bar = || bar_of(functions, full).map(|(start, size)| (0, 0, "", (start, size, true, range_kind::DEVICE)));
    let Some((protocol, rw_size, section_name, (start, limit, writable, kind))) = place.or_else(bar) else {
        let names = devices.iter().map(|d| &d.name).chain(functions.iter().map(|f| &f.name));
        let known: Vec<_> = names.map(|name| format!("\"{name}\"")).collect();
        found.add(
            section.span(),
            format!("memory \"{title}\" lies in \"{full}\", which no device provides"),
            format!(
                "use DEVICE.state, .rw, .output0, .output1, .bar0 or .bar1 of an [ivshmem.DEVICE], or DEVICE.barN of a [pci.DEVICE] (there: {})",
                if known.is_empty() { "none".to_owned() } else { known.join(", ") }
            ),
        );
        return None;
    };
    let (mut offset, mut size) = (0, limit);
    if let Some(part) = &text.part {
        let Some((first, bytes)) = protocol_part(protocol, section_name, part.get_ref()) else {
            let parts = protocol_parts(protocol, section_name);
            found.add(
                part.span(),
                format!(
                    "memory \"{title}\" is part \"{}\" of \"{full}\", which protocol {:#06x} does not define",
                    part.get_ref(),
                    protocol
                ),
                if parts.is_empty() {
                    "use offset and size".to_owned()
                } else {
                    format!("use one of {}", parts.join(", "))
                },
            );
            return None;
        };
        if let Some(stray) = &text.offset {
            found.add(stray.span(), format!("memory \"{title}\" gives both part and offset"), "remove one of them");
        }
        (offset, size) = (first, bytes.min(limit.saturating_sub(first)));
        if part.get_ref() == "held" {
            // One bit for each page of the read/write section.
            size = size.min((rw_size / 4096).div_ceil(8).next_multiple_of(4096));
        }
    } else if let Some(first) = &text.offset {
        offset = first.get_ref().0;
        size = limit.saturating_sub(offset);
    }
    if let Some(bytes) = &text.size {
        size = bytes.get_ref().0;
    }
    if size == 0 || offset.checked_add(size).is_none_or(|end| end > limit) {
        found.add(
            span,
            format!(
                "memory \"{title}\" ({offset:#x}, {size:#x} bytes) does not lie inside \"{full}\" ({limit:#x} bytes)"
            ),
            "make the section larger or the region smaller",
        );
        return None;
    }
    if !is_paged(offset) || !is_paged(size) {
        found.add(
            span,
            format!("memory \"{title}\" ({offset:#x}, {size:#x} bytes in \"{full}\") is not made of whole pages"),
            "use multiples of 4 KiB",
        );
    }
    Some(Region { name: title.clone(), guest: start.saturating_add(offset), size, kind, writable })
}

impl Layout {
    /// Resolves the addresses of a manifest; what is wrong goes to `found`.
    pub fn resolve(manifest: &Manifest, found: &mut Findings<'_>) -> Self {
        let cell = &manifest.cell;
        let devices = ivshmem(&manifest.ivshmem);
        let functions = pci(&manifest.pci);
        let mut regions: Vec<_> =
            manifest.memory.iter().filter_map(|(name, text)| region(name, text, &devices, &functions, found)).collect();
        regions.sort_by(|a, b| (a.guest, &a.name).cmp(&(b.guest, &b.name)));
        let hypervisor = cell.hypervisor_memory.get_ref();
        let layout = Self {
            system: manifest.system.name.get_ref().clone(),
            cell: cell.name.get_ref().clone(),
            cpus: *cell.cpus.get_ref(),
            hypervisor_memory: (hypervisor.physical, hypervisor.size.0),
            comm_region: *cell.comm_region.get_ref(),
            pm_timer: *cell.pm_timer.get_ref(),
            mmconfig: cell.mmconfig.as_ref().map(|m| (m.get_ref().base, m.get_ref().end_bus)),
            debug_console: cell.debug_console.as_ref().map(|c| *c.get_ref()),
            ranges: ranges(manifest, &devices, &functions),
            ivshmem: devices,
            pci: functions,
            ports: manifest.servers.iter().flat_map(|s| &s.ports).filter_map(|p| p.get_ref().range(manifest)).collect(),
            regions,
        };
        check::memory(manifest, &layout, found);
        layout
    }

    /// Reads the layout of a manifest, after all checks that need no programs.
    pub fn from_manifest(path: &Path) -> Result<Self, Diagnostics> {
        let source = Source::read(path)?;
        let manifest = Manifest::parse(&source)?;
        let mut found = Findings::new(&source);
        let layout = Self::resolve(&manifest, &mut found);
        check::manifest(&manifest, &layout, &mut found);
        found.into_result(layout)
    }

    /// The cell's private RAM.
    pub fn private(&self) -> &CellRange {
        &self.ranges[0]
    }

    /// The ranges as the kernel reads them: neighbours of the device kind are one range.
    pub fn kernel_ranges(&self) -> Vec<Range> {
        let mut out: Vec<Range> = Vec::new();
        for range in &self.ranges {
            match out.last_mut() {
                Some(last)
                    if last.kind == range_kind::DEVICE
                        && range.kind == last.kind
                        && last.start.saturating_add(last.size) == range.guest =>
                {
                    last.size = last.size.saturating_add(range.size);
                }
                _ => out.push(Range { start: range.guest, size: range.size, kind: range.kind, reserved: 0 }),
            }
        }
        out
    }

    /// The console ring: guest-physical address and bytes.
    pub fn console_ring(&self) -> Option<(u64, u64)> {
        self.own_part("output1", "console").map(|(_, address, size)| (address, size))
    }

    /// Where `init` shows what it does and takes orders: index of the device, guest-physical addresses of board and orders.
    pub fn supervision(&self) -> Option<(usize, u64, u64)> {
        let (device, board, _) = self.own_part("output1", "board")?;
        let (_, orders, _) = self.own_part("output0", "orders")?;
        Some((device, board, orders))
    }

    /// A part of the shadow device that the manifest names as a region: index of the device, guest-physical address, bytes.
    fn own_part(&self, section: &str, part: &str) -> Option<(usize, u64, u64)> {
        let (index, device) = self.ivshmem.iter().enumerate().find(|(_, d)| d.protocol == shadow::PROTOCOL)?;
        let (_, start, _, _) = device.sections().into_iter().find(|s| s.0 == section)?;
        let (offset, size) = protocol_part(device.protocol, section, part)?;
        let address = device.guest + start + offset;
        self.regions.iter().any(|r| r.guest == address && r.size == size).then_some((index, address, size))
    }

    /// Moves all that lies in the machine's memory by `distance`, modulo 2^64; what the cell sees stays where it is.
    pub fn shift(&mut self, distance: u64) {
        self.hypervisor_memory.0 = self.hypervisor_memory.0.wrapping_add(distance);
        for range in self.ranges.iter_mut().filter(|range| range.kind != range_kind::DEVICE) {
            range.physical = range.physical.wrapping_add(distance);
        }
        for device in &mut self.ivshmem {
            device.physical = device.physical.wrapping_add(distance);
        }
    }

    /// All the machine's memory that the system needs reserved: lowest address and end.
    pub fn reserved(&self) -> (u64, u64) {
        let pieces = self
            .ranges
            .iter()
            .filter(|r| r.kind != range_kind::DEVICE)
            .map(|r| (r.physical, r.size))
            .chain([self.hypervisor_memory]);
        pieces.fold((u64::MAX, 0), |(low, high), (start, size)| (low.min(start), high.max(start + size)))
    }
}
