//! The IOAPIC: routes pins to vectors of this CPU.
#![allow(unsafe_code)] // Device registers.

use super::apic;
use super::cpu::Exclusive;
use super::paging::{self, Device};
use core::cell::Cell;

const ADDRESS: u64 = 0xfec0_0000;
const MASKED: u32 = 1 << 16;

static PAGE: Exclusive<Cell<u64>> = Exclusive(Cell::new(0));
static PINS: Exclusive<Cell<u8>> = Exclusive(Cell::new(0));

fn access(register: u32, write: Option<u32>) -> u32 {
    let page = PAGE.0.get();
    let value: u32;
    // SAFETY: the page is mapped; index and data registers, by plain moves.
    unsafe {
        core::arch::asm!("mov dword ptr [{}], {:e}", in(reg) page, in(reg) register, options(nostack));
        if let Some(value) = write {
            core::arch::asm!("mov dword ptr [{}], {:e}", in(reg) page + 0x10, in(reg) value, options(nostack));
        }
        core::arch::asm!("mov {:e}, dword ptr [{}]", out(reg) value, in(reg) page + 0x10, options(nostack));
    }
    value
}

/// Maps it; outside of a cell, masks all pins. (In a cell only the pins of the configuration answer.)
pub fn set_up(in_cell: bool) {
    PAGE.0.set(paging::map_device(ADDRESS, Device::IoApic));
    PINS.0.set(24);
    if !in_cell {
        let version = access(1, None);
        PINS.0.set((version >> 16 & 0xff).min(239) as u8 + 1);
        for pin in 0..PINS.0.get() {
            mask(pin, true);
        }
    }
}

/// Number of pins.
pub fn pins() -> u8 {
    PINS.0.get()
}

/// Routes a pin; it stays masked.
pub fn route(pin: u8, vector: u8, level: bool, low: bool) {
    let register = 0x10 + 2 * u32::from(pin);
    access(register + 1, Some(apic::id() << 24));
    access(register, Some(MASKED | u32::from(vector) | u32::from(low) << 13 | u32::from(level) << 15));
}

/// Masks or unmasks a pin.
pub fn mask(pin: u8, masked: bool) {
    let register = 0x10 + 2 * u32::from(pin);
    let value = access(register, None);
    access(register, Some(if masked { value | MASKED } else { value & !MASKED }));
}
