//! Builds the first process out of the image, and gives it everything that there is.
#![allow(unsafe_code)] // Makes the first objects of memory that nobody owns yet.

use crate::cap::{self, Cap, slot::memory_kind};
use crate::kernel::Kernel;
use crate::memory::{PAGE_SIZE, Page, Ref, to_virtual};
use crate::object::{AddressSpace, CapTable, SchedContext, Thread};
use crate::sched;
use ipc::image::{ImageHeader, LOAD_ADDRESS, Range, range_kind};
use ipc::slots::{self, boot, layout};
use ipc::{ObjectType, Protection, Rights};

/// Page-table memory of the first process.
const TABLE_BYTES: u64 = 2 << 20;
/// Most bytes of the image that the first process can see.
const IMAGE_WINDOW: u64 = layout::MESSAGE_BUFFER - layout::START_INFO;

/// Memory that is given out from its start, never taken back.
struct Bump {
    next: u64,
    end: u64,
}

impl Bump {
    /// Zeroed memory: its physical address.
    fn take(&mut self, bytes: u64) -> Result<u64, &'static str> {
        let bytes = bytes.checked_next_multiple_of(PAGE_SIZE).ok_or("a size is absurd")?;
        if bytes > self.end - self.next {
            return Err("private memory does not suffice");
        }
        let start = self.next;
        self.next += bytes;
        for page in (start..self.next).step_by(PAGE_SIZE as usize) {
            page_at(page).clear();
        }
        Ok(start)
    }

    fn object<T>(&mut self, bytes: u64) -> Result<Ref<T>, &'static str> {
        let address = to_virtual(self.take(bytes)?);
        // SAFETY: zeroed private RAM that nothing else uses; zero is a valid value of every object.
        unsafe { Ref::at(address) }.ok_or("an object would be at address 0")
    }
}

fn page_at(physical: u64) -> Page {
    // SAFETY: called with pages of the image behind its header, and of the free private RAM behind it.
    unsafe { Page::at(physical) }
}

/// Builds the first process; it is ready to run then.
pub fn start(k: &Kernel, header: &ImageHeader, header_address: u64) -> Result<(), &'static str> {
    let ranges = &header.ranges[..header.range_count as usize];
    let image_end =
        header_address.checked_add(header.size).ok_or("the image is absurdly large")?.next_multiple_of(PAGE_SIZE);
    let home = ranges
        .iter()
        .find(|r| {
            r.kind == range_kind::PRIVATE && r.start <= LOAD_ADDRESS && image_end <= r.start.saturating_add(r.size)
        })
        .ok_or("the image is not inside a private range")?;
    let image_pages = (image_end - header_address) / PAGE_SIZE;
    if image_pages * PAGE_SIZE > IMAGE_WINDOW {
        return Err("the image is larger than its window");
    }
    let mut memory = Bump { next: image_end, end: home.start + home.size };

    let table: Ref<CapTable> = memory.object(u64::from(boot::TABLE_SLOTS) * 64)?;
    table.set_up(boot::TABLE_SLOTS);
    let space: Ref<AddressSpace> = memory.object(PAGE_SIZE)?;
    let tables = memory.take(TABLE_BYTES)?;
    space.set_up(k, tables, TABLE_BYTES / PAGE_SIZE);
    let thread: Ref<Thread> = memory.object(PAGE_SIZE)?;
    thread.set_up();
    let time: Ref<SchedContext> = memory.object(PAGE_SIZE)?;

    let map = |address: u64, physical: u64, bytes: u64, protection: Protection| -> Result<(), &'static str> {
        for offset in (0..bytes).step_by(PAGE_SIZE as usize) {
            space
                .map_first(address + offset, physical + offset, protection)
                .map_err(|_| "a mapping overlaps, or is illegal")?;
        }
        Ok(())
    };
    map(layout::START_INFO, header_address, image_pages * PAGE_SIZE, Protection::READ)?;
    for segment in &header.first_segments[..header.first_segment_count as usize] {
        let protection = u8::try_from(segment.protection)
            .ok()
            .and_then(Protection::from_bits)
            .ok_or("a segment's protection is unknown")?;
        let in_image = segment.offset.checked_add(segment.file_size).is_some_and(|end| end <= header.size);
        if !in_image
            || segment.file_size > segment.memory_size
            || segment.memory_size % PAGE_SIZE != 0
            || segment.offset % PAGE_SIZE != 0
        {
            return Err("a segment is outside of the image");
        }
        let target = memory.take(segment.memory_size)?;
        for offset in (0..segment.file_size).step_by(PAGE_SIZE as usize) {
            let bytes = (segment.file_size - offset).min(PAGE_SIZE);
            Page::copy(page_at(header_address + segment.offset + offset), 0, page_at(target + offset), 0, bytes);
        }
        map(segment.vaddr, target, segment.memory_size, protection)?;
    }
    let stack_bytes = header.first_stack.next_multiple_of(PAGE_SIZE).max(4 * PAGE_SIZE);
    let stack = memory.take(stack_bytes)?;
    let writable = Protection::READ | Protection::WRITE;
    map(layout::STACK_TOP - stack_bytes, stack, stack_bytes, writable)?;
    let heap_bytes = header.first_heap.next_multiple_of(PAGE_SIZE);
    let heap = memory.take(heap_bytes)?;
    map(layout::HEAP, heap, heap_bytes, writable)?;
    let buffer = memory.take(PAGE_SIZE)?;
    map(layout::MESSAGE_BUFFER, buffer, PAGE_SIZE, writable)?;

    let put = |index: u32, cap: Cap| {
        if let Some(slot) = table.slot(index) {
            slot.fill(&cap);
        }
    };
    put(slots::CAP_TABLE, Cap::new(ObjectType::CapTable, table.address(), 0));
    put(slots::ADDRESS_SPACE, Cap::new(ObjectType::AddressSpace, space.address(), 0));
    put(slots::THREAD, Cap::new(ObjectType::Thread, thread.address(), 0));
    put(slots::SCHED_CONTEXT, Cap::new(ObjectType::SchedContext, time.address(), 0));
    put(slots::CONSOLE, Cap::new(ObjectType::Console, 0, 0));
    put(boot::IRQ, Cap::new(ObjectType::Irq, 0, 0));
    put(boot::IO_PORT, Cap::new(ObjectType::IoPort, 0, 0x1_0000));
    let blob = Cap::new(ObjectType::Frame, header_address, image_pages * PAGE_SIZE);
    put(boot::BLOB, Cap { rights: Rights::READ | Rights::EXECUTE | Rights::CONTROL, ..blob });

    put(boot::BUFFER, Cap::new(ObjectType::Frame, buffer, PAGE_SIZE));

    let inner =
        [(slots::ADDRESS_SPACE, &thread.space), (slots::CAP_TABLE, &thread.table), (boot::BUFFER, &thread.buffer)];
    for (index, slot) in inner {
        let source = table.slot(index).ok_or("its table is too small")?;
        cap::copy(source, Ref::from(slot), Rights::all(), 0).map_err(|_| "its thread is not empty")?;
    }
    thread.place_changed();
    thread.set_buffer_page(0);
    thread.frame.rip.set(header.first_entry);
    thread.frame.rsp.set(layout::STACK_TOP);

    for (index, cap) in (boot::FIRST_UNTYPED..boot::FIRST_FREE).zip(untyped(ranges, home, memory.next)) {
        put(index, cap);
    }
    time.configure(k, header.first_priority.min(254) as u8, 0, 0, 0, 0).map_err(|_| "its priority is out of range")?;
    k.first.set(Some(thread));
    time.bind(k, thread).map_err(|_| "it has time already")?;
    sched::make_ready(k, thread);
    Ok(())
}

/// Capabilities to all memory that is left.
fn untyped(ranges: &[Range], home: &Range, next: u64) -> impl Iterator<Item = Cap> {
    ranges.iter().filter_map(move |range| {
        let mut start = range.start;
        let end = range.start.checked_add(range.size)?;
        if range == home {
            start = next;
        }
        let kind = match range.kind {
            range_kind::PRIVATE => memory_kind::NORMAL,
            range_kind::SHARED => memory_kind::SHARED,
            range_kind::DEVICE => memory_kind::DEVICE,
            _ => return None,
        };
        (start < end).then(|| Cap::new(ObjectType::Untyped, start | kind, end - start))
    })
}
