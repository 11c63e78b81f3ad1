//! The console: the ring that the other realm can read, and the hypervisor's console in a cell or COM1 elsewhere. Write only.
#![allow(unsafe_code)] // The ring lies in shared memory.

use super::{cell, cpu, hooks};
use crate::memory::to_virtual;
use core::cell::Cell;
use core::fmt;
use core::sync::atomic::Ordering;
use ipc::image::{ImageHeader, range_kind};
use ipc::shadow::{CONSOLE_MAGIC, ConsoleRing};

const COM1: u16 = 0x3f8;

struct State {
    hypercall: Cell<bool>,
    serial: Cell<bool>,
    amd: Cell<bool>,
    ring: Cell<Option<&'static ConsoleRing>>,
    size: Cell<u64>,
    written: Cell<u64>,
}

static STATE: cpu::Exclusive<State> = cpu::Exclusive(State {
    hypercall: Cell::new(false),
    serial: Cell::new(false),
    amd: Cell::new(false),
    ring: Cell::new(None),
    size: Cell::new(0),
    written: Cell::new(0),
});

/// Before anything is known: COM1 outside of a cell, nothing inside.
pub fn early(in_cell: bool) {
    let state = &STATE.0;
    state.amd.set(raw_cpuid::CpuId::new().get_vendor_info().is_some_and(|vendor| vendor.as_str() == "AuthenticAMD"));
    if !in_cell {
        for (register, value) in [(1, 0), (3, 0x80), (0, 1), (1, 0), (3, 3), (2, 7), (4, 3)] {
            hooks::port_out(COM1 + register, 1, value);
        }
        state.serial.set(true);
    }
}

/// With the image header known, and the communication region in a cell.
pub fn set_up(in_cell: bool, header: &ImageHeader) {
    let state = &STATE.0;
    state.hypercall.set(in_cell && cell::console_permitted());
    let (start, size) = (header.console_ring, header.console_ring_size);
    let head = size_of::<ConsoleRing>() as u64;
    let ranges = &header.ranges[..header.range_count as usize];
    let inside = ranges.iter().any(|range| {
        range.kind == range_kind::SHARED
            && start >= range.start
            && size <= range.size
            && start - range.start <= range.size - size
    });
    if header.has_console_ring == 0 || !inside || size <= head || start % 8 != 0 {
        return;
    }
    let ring = core::ptr::with_exposed_provenance::<ConsoleRing>(to_virtual(start) as usize);
    // SAFETY: the ring lies in shared RAM of the direct map; it consists of atomics.
    let ring = unsafe { &*ring };
    ring.size.store(size - head, Ordering::Relaxed);
    ring.written.store(0, Ordering::Relaxed);
    ring.magic.store(CONSOLE_MAGIC, Ordering::Release);
    state.size.set(size - head);
    state.ring.set(Some(ring));
}

/// Writes bytes.
pub fn write(bytes: &[u8]) {
    let state = &STATE.0;
    for &byte in bytes {
        if let Some(ring) = state.ring.get() {
            let written = state.written.get();
            let at = (ring as *const ConsoleRing as *mut u8)
                .wrapping_add(size_of::<ConsoleRing>() + (written % state.size.get()) as usize);
            // SAFETY: inside the ring's memory, which was checked at the start; size and index are the kernel's own.
            unsafe { at.write_volatile(byte) };
            state.written.set(written + 1);
            ring.written.store(written + 1, Ordering::Release);
        }
        if state.hypercall.get() {
            cell::put(byte, state.amd.get());
        }
        if state.serial.get() {
            serial(byte);
        }
    }
}

fn serial(byte: u8) {
    for _ in 0..100_000 {
        if hooks::port_in(COM1 + 5, 1) & 0x20 != 0 {
            break;
        }
    }
    hooks::port_out(COM1, 1, byte.into());
}

/// The console as a target of `write!`.
pub struct Output;

impl fmt::Write for Output {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        write(text.as_bytes());
        Ok(())
    }
}
