//! The local APIC, in the mode that it is found in. Its page is touched by plain 32-bit moves only: a hypervisor may have to decode them.
#![allow(unsafe_code)] // Device registers.

use super::cpu::{Exclusive, read_msr, write_msr};
use super::paging::{self, Device};
use core::cell::Cell;

/// Vector of spurious interrupts.
pub const SPURIOUS_VECTOR: u8 = 0xff;

const APIC_BASE_MSR: u32 = 0x1b;
const X2APIC_MSRS: u32 = 0x800;

const ID: u32 = 0x20;
const TASK_PRIORITY: u32 = 0x80;
const EOI: u32 = 0xb0;
const SPURIOUS: u32 = 0xf0;
const LVT_TIMER: u32 = 0x320;
const LVT_LINT0: u32 = 0x350;
const LVT_LINT1: u32 = 0x360;
const INITIAL_COUNT: u32 = 0x380;
const CURRENT_COUNT: u32 = 0x390;
const DIVIDE: u32 = 0x3e0;
const MASKED: u32 = 1 << 16;

/// Address of the page, or 0 in x2APIC mode.
static PAGE: Exclusive<Cell<u64>> = Exclusive(Cell::new(0));

fn read(register: u32) -> u32 {
    match PAGE.0.get() {
        0 => read_msr(X2APIC_MSRS + (register >> 4)) as u32,
        page => {
            let value: u32;
            // SAFETY: the page is mapped; the registers read here have no side effects.
            unsafe {
                core::arch::asm!("mov {:e}, dword ptr [{}]", out(reg) value, in(reg) page + u64::from(register), options(nostack))
            }
            value
        }
    }
}

fn write(register: u32, value: u32) {
    match PAGE.0.get() {
        0 => write_msr(X2APIC_MSRS + (register >> 4), value.into()),
        // SAFETY: the page is mapped; only the timer, the task priority and the acknowledgement are written.
        page => unsafe {
            core::arch::asm!("mov dword ptr [{}], {:e}", in(reg) page + u64::from(register), in(reg) value, options(nostack))
        },
    }
}

/// Enables it, with everything masked.
pub fn set_up() {
    let base = read_msr(APIC_BASE_MSR);
    if base & 1 << 10 == 0 {
        PAGE.0.set(paging::map_device(base & 0x000f_ffff_ffff_f000, Device::Apic));
    }
    write(TASK_PRIORITY, 0);
    write(LVT_LINT0, MASKED);
    write(LVT_LINT1, MASKED);
    write(LVT_TIMER, MASKED | u32::from(crate::arch::TIMER_VECTOR));
    write(SPURIOUS, 0x100 | u32::from(SPURIOUS_VECTOR));
    write(DIVIDE, 0b1011);
}

/// This CPU's id.
pub fn id() -> u32 {
    if PAGE.0.get() == 0 { read(ID) } else { read(ID) >> 24 }
}

/// Acknowledges the interrupt in service.
pub fn end_of_interrupt() {
    write(EOI, 0);
}

/// Uses the timer in one-shot (or, if `deadline`, TSC-deadline) mode.
pub fn timer_mode(deadline: bool) {
    write(LVT_TIMER, u32::from(crate::arch::TIMER_VECTOR) | if deadline { 2 << 17 } else { 0 });
}

/// Counts down from here; 0 stops the timer.
pub fn timer_count(count: u32) {
    write(INITIAL_COUNT, count);
}

/// What is left of the count.
pub fn timer_left() -> u32 {
    read(CURRENT_COUNT)
}
