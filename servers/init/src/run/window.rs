//! The places in init's own address space where it looks at the image, fills frames, and programs devices.
#![allow(unsafe_code)] // Memory at addresses that init maps itself.

use super::Say;
use alloc::string::String;
use core::sync::atomic::{AtomicU64, Ordering};
use ipc::slots::layout;
use rt::shared::{Device, Mapping};
use rt::{AddressSpace, Cap, Frame, Protection, Start};

/// Where a frame is seen while it is filled.
const SCRATCH: u64 = 0x20_0000_0000;
/// Where device registers are seen while they are programmed.
const DEVICE: u64 = 0x30_0000_0000;

/// Where what is mapped for good lies.
const KEPT: u64 = 0x40_0000_0000;

const SPACE: Cap<AddressSpace> = Start::ADDRESS_SPACE;

/// Where the message buffers of the servers' instances are seen, a page each.
const NOTES: u64 = 0x48_0000_0000;

/// Shows the notes that an instance's event loop makes in its message buffer.
pub fn show_notes(index: usize, buffer: Cap<Frame>) -> Result<(), String> {
    SPACE.map(buffer, 0, NOTES + index as u64 * 4096, 1, Protection::READ).say("mapping its message buffer")
}

/// The instance ends.
pub fn hide_notes(index: usize) -> Result<(), String> {
    SPACE.unmap(NOTES + index as u64 * 4096, 1).say("unmapping its message buffer")
}

/// The page that [`show_notes`] has mapped; to be read while that instance lives.
pub fn note(index: usize) -> Mapping {
    // SAFETY: mapped, read only, from `show_notes` to `hide_notes`; a read at another time is a fault of init's, as any other.
    unsafe { Mapping::new(NOTES as usize + index * 4096, 4096) }
}

/// The first `bytes` bytes of the image, where the kernel has mapped it.
pub fn image(bytes: usize) -> &'static [u8] {
    // SAFETY: the kernel maps the image there, read only, from its header on: at least a page, and as many bytes as the header
    // says. It is private memory of this cell that nobody writes.
    unsafe { core::slice::from_raw_parts(core::ptr::with_exposed_provenance(layout::START_INFO as usize), bytes) }
}

/// Fills the start of a frame.
pub fn fill(frame: Cap<Frame>, bytes: &[u8]) -> Result<(), String> {
    let pages = (bytes.len() as u64).div_ceil(4096);
    SPACE.map(frame, 0, SCRATCH, pages, Protection::READ | Protection::WRITE).say("mapping a frame to fill it")?;
    // SAFETY: just mapped, page aligned, and used through this alone until it is unmapped below.
    let window = unsafe { Mapping::new(SCRATCH as usize, pages as usize * 4096) };
    window.copy_in(0, bytes);
    SPACE.unmap(SCRATCH, pages).say("unmapping a filled frame")
}

/// Looks at one page of device registers.
pub fn with_device<T>(frame: Cap<Frame>, page: u64, look: impl FnOnce(Device) -> T) -> Result<T, String> {
    SPACE
        .map(frame, page, DEVICE, 1, Protection::READ | Protection::WRITE | Protection::UNCACHED)
        .say("mapping device registers")?;
    // SAFETY: as in `fill`; `look` cannot keep the registers beyond the call but as a value that it has no use for.
    let result = look(unsafe { Mapping::new(DEVICE as usize, 4096) }.device());
    SPACE.unmap(DEVICE, 1).say("unmapping device registers")?;
    Ok(result)
}

/// Copies bytes out of a frame.
pub fn peek(frame: Cap<Frame>, offset: u64, out: &mut [u8]) -> Result<(), String> {
    if out.is_empty() {
        return Ok(());
    }
    let (first, start) = (offset / 4096, (offset % 4096) as usize);
    let pages = ((start + out.len()) as u64).div_ceil(4096);
    SPACE.map(frame, first, SCRATCH, pages, Protection::READ).say("mapping a frame to look at it")?;
    // SAFETY: just mapped, page aligned, and used through this alone until it is unmapped below.
    let window = unsafe { Mapping::new(SCRATCH as usize, pages as usize * 4096) };
    window.copy_out(start, out);
    SPACE.unmap(SCRATCH, pages).say("unmapping a frame")
}

/// Maps pages of a frame that lasts as long as init, from `page` on, at the place behind those given out before.
pub fn keep(frame: Cap<Frame>, page: u64, bytes: u64, writable: bool) -> Result<Mapping, String> {
    static NEXT: AtomicU64 = AtomicU64::new(KEPT);
    let address = NEXT.fetch_add(bytes, Ordering::Relaxed);
    let protection = if writable { Protection::READ | Protection::WRITE } else { Protection::READ };
    SPACE.map(frame, page, address, bytes / 4096, protection).say("mapping a frame for good")?;
    // SAFETY: just mapped, where nothing else ever is; the frame is never given up.
    Ok(unsafe { Mapping::new(address as usize, bytes as usize) })
}

/// Gives the heap its memory, as the image header says.
pub fn init_heap(bytes: u64) {
    // SAFETY: the kernel has mapped the first process's heap with the size in the header; called once, before any allocation.
    unsafe { rt::start::init_heap(bytes) }
}
