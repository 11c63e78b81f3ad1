//! Memory: whole pages, inside its limits, nothing twice.

use std::ops::Range;

use ipc::image::{MAX_RANGES, range_kind};
use ipc::slots::layout as place;
use toml::Spanned;

use crate::diagnostic::Findings;
use crate::elf_file::Program;
use crate::layout::Layout;
use crate::manifest::{LEAST_HEAP, Manifest, Server};
use crate::units::{Size, is_paged};

/// A range with a name and a place in the text.
struct Named {
    name: String,
    span: Range<usize>,
    start: u64,
    size: u64,
}

impl Named {
    fn end(&self) -> u64 {
        self.start.saturating_add(self.size)
    }
}

/// Reports which of the ranges overlap.
fn overlaps(kind: &str, mut ranges: Vec<Named>, found: &mut Findings<'_>) {
    ranges.retain(|r| r.size > 0);
    ranges.sort_by(|a, b| (a.start, &a.name).cmp(&(b.start, &b.name)));
    for pair in ranges.windows(2) {
        let (low, high) = (&pair[0], &pair[1]);
        if low.end() > high.start {
            let later = if low.span.start > high.span.start { low } else { high };
            found.add(
                later.span.clone(),
                format!(
                    "{kind} of {} ({:#x}-{:#x}) and of {} ({:#x}-{:#x}) overlap",
                    low.name,
                    low.start,
                    low.end(),
                    high.name,
                    high.start,
                    high.end()
                ),
                "move one of them",
            );
        }
    }
}

/// Checks the ranges of the cell and the regions in them.
pub fn memory(manifest: &Manifest, layout: &Layout, found: &mut Findings<'_>) {
    let cell = &manifest.cell;
    let ranges = layout.kernel_ranges().len();
    if ranges > MAX_RANGES {
        found.add(
            cell.private.span(),
            format!("the cell has {ranges} ranges of memory, and the kernel takes {MAX_RANGES}"),
            "use fewer shared memory devices",
        );
    }
    let span_of = |name: &str| {
        let owner = |key: &&Spanned<String>| name.split('.').next() == Some(key.get_ref().as_str());
        let device = manifest.ivshmem.keys().find(owner).or_else(|| manifest.pci.keys().find(owner));
        device.map_or(cell.private.span(), Spanned::span)
    };
    let kind_of = |name: &str| {
        let is_real = |key: &Spanned<String>| name.split('.').next() == Some(key.get_ref().as_str());
        if manifest.pci.keys().any(is_real) { "pci" } else { "ivshmem" }
    };
    let title = |name: &str| if name == "private" { name.to_owned() } else { format!("[{}] {name}", kind_of(name)) };
    let mut machine = vec![Named {
        name: "hypervisor_memory".to_owned(),
        span: cell.hypervisor_memory.span(),
        start: layout.hypervisor_memory.0,
        size: layout.hypervisor_memory.1,
    }];
    let mut guest = vec![Named {
        name: "comm_region".to_owned(),
        span: cell.comm_region.span(),
        start: layout.comm_region,
        size: 4096,
    }];
    for range in &layout.ranges {
        let named = |start| Named { name: title(&range.name), span: span_of(&range.name), start, size: range.size };
        guest.push(named(range.guest));
        if range.kind != range_kind::DEVICE {
            machine.push(named(range.physical));
        }
    }
    if let Some(mmconfig) = &cell.mmconfig {
        let size = (u64::from(mmconfig.get_ref().end_bus) + 1) << 20;
        machine.push(Named {
            name: "mmconfig".to_owned(),
            span: mmconfig.span(),
            start: mmconfig.get_ref().base,
            size,
        });
    }
    overlaps("machine addresses", machine, found);
    overlaps("guest-physical addresses", guest, found);

    let regions = layout.regions.iter().filter(|r| r.kind != range_kind::PRIVATE).map(|region| {
        let key = manifest.memory.keys().find(|key| *key.get_ref() == region.name);
        Named {
            name: format!("[memory.{}]", region.name),
            span: key.map_or(0..0, Spanned::span),
            start: region.guest,
            size: region.size,
        }
    });
    overlaps("guest-physical addresses", regions.collect(), found);
    for (name, region) in &manifest.memory {
        let Some(size) = region.size.as_ref().filter(|_| region.section.is_none()) else { continue };
        if size.get_ref().0 == 0 || !is_paged(size.get_ref().0) {
            found.add(
                size.span(),
                format!(
                    "memory \"{}\" has {} bytes, which is not a number of whole pages",
                    name.get_ref(),
                    size.get_ref().0
                ),
                "use a multiple of 4 KiB",
            );
        }
    }
}

/// Checks one size of a server.
fn size_of(who: &str, what: &str, size: &Spanned<Size>, least: u64, most: u64, found: &mut Findings<'_>) {
    let bytes = size.get_ref().0;
    if !is_paged(bytes) {
        found.add(
            size.span(),
            format!("{what} of {who} has {bytes} bytes, which is not a number of whole pages"),
            "use a multiple of 4 KiB",
        );
    } else if bytes < least {
        found.add(
            size.span(),
            format!("{what} of {who} has {}, and needs {}", Size(bytes), Size(least)),
            format!("raise {what}"),
        );
    } else if bytes > most {
        found.add(
            size.span(),
            format!("{what} of {who} has {}, and there is room for {}", Size(bytes), Size(most)),
            format!("lower {what}"),
        );
    }
}

/// Room for a stack between the message buffer with a guard page and the stack's top.
const MOST_STACK: u64 = place::STACK_TOP - place::MESSAGE_BUFFER - 3 * 4096;
const MOST_HEAP: u64 = place::VAULT - place::HEAP;
const MOST_VAULT: u64 = 16 << 20;
/// Least stack that a server's start-up and a panic report fit in.
const LEAST_STACK: u64 = 8 << 10;

/// Memory that a server takes before it runs, without its program.
fn takes(server: &Server) -> u64 {
    [server.stack.get_ref(), server.heap.0.get_ref(), server.untyped.0.get_ref(), server.vault.0.get_ref()]
        .iter()
        .fold(0u64, |sum, size| sum.saturating_add(size.0))
}

/// Checks what servers take.
pub fn servers(manifest: &Manifest, layout: &Layout, found: &mut Findings<'_>) {
    let init = &manifest.init;
    size_of("init", "stack", &init.stack, LEAST_STACK, MOST_STACK, found);
    size_of("init", "heap", &init.heap, LEAST_HEAP, MOST_HEAP, found);
    let mut sum = LOAD_AND_KERNEL.saturating_add(init.stack.get_ref().0).saturating_add(init.heap.get_ref().0);
    let mut largest: Option<&Server> = None;
    for server in &manifest.servers {
        let who = format!("server \"{}\"", server.name.get_ref());
        size_of(&who, "stack", &server.stack, LEAST_STACK, MOST_STACK, found);
        size_of(&who, "heap", &server.heap.0, LEAST_HEAP, MOST_HEAP, found);
        size_of(&who, "vault", &server.vault.0, 0, MOST_VAULT, found);
        size_of(&who, "untyped", &server.untyped.0, 0, u64::MAX, found);
        sum = sum.saturating_add(takes(server));
        if largest.is_none_or(|other| takes(other) < takes(server)) {
            largest = Some(server);
        }
    }
    let shared = layout.regions.iter().filter(|r| r.kind == range_kind::PRIVATE).map(|r| r.size);
    sum = shared.fold(sum, u64::saturating_add);
    let have = layout.private().size;
    if let Some(largest) = largest.filter(|_| sum > have) {
        found.add(
            largest.name.span(),
            format!(
                "the servers and shared regions need {sum:#x} bytes (most of them server \"{}\": {:#x}), and the cell has {have:#x}",
                largest.name.get_ref(),
                takes(largest)
            ),
            "raise size of private in [cell], or lower stack, heap, untyped or vault",
        );
    }
}

/// What lies below the first free byte at the least: the first mebibyte.
const LOAD_AND_KERNEL: u64 = ipc::image::LOAD_ADDRESS;

/// Checks that stacks are large enough for what the programs call.
pub fn stacks(manifest: &Manifest, init: &Program, servers: &[Program], found: &mut Findings<'_>) {
    let init_owner = ("init".to_owned(), &manifest.init.stack, init);
    let owners = manifest.servers.iter().zip(servers);
    let owners = owners.map(|(s, program)| (format!("server \"{}\"", s.name.get_ref()), &s.stack, program));
    for (who, stack, program) in std::iter::once(init_owner).chain(owners) {
        let Some(need) = program.stack.as_ref().filter(|need| need.bytes > stack.get_ref().0) else { continue };
        let tail = need.chain.len().saturating_sub(4);
        let dots = if tail > 0 { "… calls " } else { "" };
        found.add(
            stack.span(),
            format!(
                "stack of {who} has {}, and its program can need {} bytes ({dots}{})",
                stack.get_ref(),
                need.bytes,
                need.chain[tail..].join(" calls ")
            ),
            format!("raise stack to {} or more", Size(need.bytes.next_multiple_of(4096))),
        );
    }
}

/// Checks that the image fits in the cell, and in the limit that the manifest sets.
pub fn image_size(manifest: &Manifest, layout: &Layout, size: u64, found: &mut Findings<'_>) {
    if let Some(limit) = manifest.system.image_limit.as_ref().filter(|limit| size > limit.get_ref().0) {
        found.add(
            limit.span(),
            format!(
                "the image has {size} bytes, more than image_limit of system \"{}\" ({})",
                layout.system,
                limit.get_ref()
            ),
            "raise image_limit, or leave out a server",
        );
    }
    let private = layout.private();
    let end = ipc::image::LOAD_ADDRESS + size;
    if end > private.guest_end() {
        found.add(
            manifest.cell.private.span(),
            format!(
                "the image would end at {end:#x}, behind the private memory of cell \"{}\" ({:#x})",
                layout.cell,
                private.guest_end()
            ),
            "raise size of private",
        );
    }
}
