//! A processor that exists only for tests on the host: time stands still unless told, and devices are not there.
#![allow(missing_docs)]

use crate::memory::Page;
use crate::object::thread::FpuArea;

#[cfg(test)]
std::thread_local! {
    static NOW: core::cell::Cell<u64> = const { core::cell::Cell::new(0) };
    /// Pins of the IOAPIC that are not masked.
    static OPEN_PINS: core::cell::Cell<u32> = const { core::cell::Cell::new(0) };
}

#[cfg(test)]
pub fn set_now(now: u64) {
    NOW.with(|cell| cell.set(now));
}

pub fn now() -> u64 {
    #[cfg(test)]
    return NOW.with(core::cell::Cell::get);
    #[cfg(not(test))]
    0
}

#[cfg(test)]
std::thread_local! {
    /// What the timer was set to, one after the other.
    static TIMER: core::cell::RefCell<std::vec::Vec<u64>> = const { core::cell::RefCell::new(std::vec::Vec::new()) };
}

/// What the timer has been set to since this was last asked.
#[cfg(test)]
pub fn take_timer() -> std::vec::Vec<u64> {
    TIMER.take()
}

pub fn set_timer(_deadline: u64) {
    #[cfg(test)]
    TIMER.with_borrow_mut(|timer| timer.push(_deadline));
}
/// Ticks that pass while the processor polls.
#[cfg(test)]
pub const MOMENT: u64 = 7;
pub fn relax() {
    #[cfg(test)]
    set_now(now() + MOMENT);
    #[cfg(not(test))]
    panic!("nobody is ready");
}
pub fn idle() {
    panic!("nobody is ready");
}
pub fn interrupt_window() {}
pub fn invalidate_page(_address: u64) {}
pub fn load_root(_root: u64) {}
pub fn kernel_root() -> u64 {
    0
}
pub fn fill_kernel_half(_root: Page) {}
pub fn fpu_reset(_area: &FpuArea) {}
pub fn fpu_save(_area: &FpuArea) {}
pub fn fpu_mend(_area: &FpuArea) {}
pub fn fpu_bytes() -> usize {
    512
}
pub fn port_in(_port: u16, _width: u8) -> u64 {
    0
}
pub fn port_out(_port: u16, _width: u8, _value: u64) {}
pub fn ioapic_pins() -> u8 {
    24
}
pub fn ioapic_route(_pin: u8, _vector: u8, _level: bool, _low: bool) {}
pub fn ioapic_mask(_pin: u8, _masked: bool) {
    #[cfg(test)]
    OPEN_PINS.with(|open| open.set(open.get() & !(1 << _pin) | u32::from(!_masked) << _pin));
}
#[cfg(test)]
pub fn ioapic_masked(pin: u8) -> bool {
    OPEN_PINS.with(|open| open.get() & 1 << pin == 0)
}
pub fn interrupt_message(vector: u8) -> (u64, u64) {
    (0xfee0_0000, u64::from(vector))
}
pub fn console_write(_bytes: &[u8]) {}
pub fn log_fault(_id: u64, _words: &[u64; 6]) {}
pub fn first_process_died() {}
pub fn halt(failed: bool) -> ! {
    panic!("halt, failed: {failed}")
}
