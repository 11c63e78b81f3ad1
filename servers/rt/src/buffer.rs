//! The message buffer: the page that the thread shares with the kernel for what does not fit in registers.
//!
//! Message words from the ninth on stay there until the next kernel call that sends or receives a message.
#![allow(unsafe_code)] // Raw access to a page at a fixed address that the kernel writes.

use core::mem::offset_of;
use ipc::board::{MESSAGES, Taken};
use ipc::message::{MAX_CAPS, MAX_WORDS, MessageBuffer, REGISTER_WORDS, Registers, Trace};

#[cfg(target_os = "none")]
fn base() -> *mut u8 {
    core::ptr::with_exposed_provenance_mut(ipc::slots::layout::MESSAGE_BUFFER as usize)
}

#[cfg(not(target_os = "none"))]
fn base() -> *mut u8 {
    use core::sync::atomic::AtomicU64;
    // Atomics, so that tests in parallel race in values but not in memory.
    static PAGE: [AtomicU64; 512] = [const { AtomicU64::new(0) }; 512];
    PAGE.as_ptr().cast_mut().cast()
}

fn read<T: Copy>(offset: usize) -> T {
    assert!(offset + size_of::<T>() <= size_of::<MessageBuffer>());
    // SAFETY: the page is mapped for the thread's whole life, the offset lies in it and is aligned (it comes from the
    // layout of `MessageBuffer`), every value is valid for the plain types used here, and only this thread's kernel calls change it.
    unsafe { base().add(offset).cast::<T>().read_volatile() }
}

fn write<T: Copy>(offset: usize, value: T) {
    assert!(offset + size_of::<T>() <= size_of::<MessageBuffer>());
    // SAFETY: as in `read`; nobody holds a reference to the page.
    unsafe { base().add(offset).cast::<T>().write_volatile(value) }
}

/// Sets the deadline of the next call that has one.
pub fn set_deadline(tsc: u64) {
    write(offset_of!(MessageBuffer, deadline), tsc);
}

/// From now on, deadlines of this thread may be so many ticks late where the processor polls when it is idle and less urgent threads keep it
/// busy: it then has not to be interrupted for each of them.
pub fn set_slack(ticks: u64) {
    write(offset_of!(MessageBuffer, slack), ticks);
}

/// Message word `index` (8–63) of the message received last.
pub fn word(index: usize) -> u64 {
    assert!((REGISTER_WORDS..MAX_WORDS).contains(&index));
    read(offset_of!(MessageBuffer, words) + 8 * index)
}

/// Sets message word `index` (8–63) of the message sent next.
pub fn set_word(index: usize, value: u64) {
    assert!((REGISTER_WORDS..MAX_WORDS).contains(&index));
    write(offset_of!(MessageBuffer, words) + 8 * index, value);
}

/// Names the capabilities that go along with the message sent next (their number is in its tag).
pub fn set_send_caps(slots: &[u32]) {
    for (index, slot) in slots.iter().take(MAX_CAPS).enumerate() {
        write(offset_of!(MessageBuffer, send_caps) + 4 * index, *slot);
    }
}

/// Names the empty slots that capabilities received from now on go to; 0 refuses one.
pub fn set_receive_slots(slots: [u32; MAX_CAPS]) {
    for (index, slot) in slots.iter().enumerate() {
        write(offset_of!(MessageBuffer, receive_slots) + 4 * index, *slot);
    }
}

/// The registers that `thread_read_registers` left.
pub fn registers() -> Registers {
    read(offset_of!(MessageBuffer, registers))
}

/// The registers for `thread_write_registers`.
pub fn set_registers(registers: &Registers) {
    write(offset_of!(MessageBuffer, registers), *registers);
}

/// Notes for the supervisor that the event loop has taken something: a report shows the last of these, and a loop that takes nothing
/// more, but goes on, spins.
pub fn note_turn(taken: Taken) {
    const TURNS: usize = offset_of!(MessageBuffer, trace) + offset_of!(Trace, turns);
    const ENTRIES: usize = offset_of!(MessageBuffer, trace) + offset_of!(Trace, taken);
    let turns: u64 = read(TURNS);
    write(ENTRIES + (turns as usize % MESSAGES) * size_of::<Taken>(), taken);
    write(TURNS, turns.wrapping_add(1));
}

/// Collects the words of a panic where the supervisor finds them.
#[derive(Debug, Default)]
pub struct PanicText {
    used: usize,
}

impl core::fmt::Write for PanicText {
    fn write_str(&mut self, text: &str) -> core::fmt::Result {
        const START: usize = offset_of!(MessageBuffer, trace) + offset_of!(Trace, panic);
        const SIZE: usize = size_of::<[[u64; 8]; 3]>();
        for byte in text.bytes().take(SIZE - self.used) {
            write(START + self.used, byte);
            self.used += 1;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read_back_at_its_own_place() {
        set_word(8, 1);
        set_word(63, 2);
        let registers_in = Registers { rip: 3, gs_base: 4, ..Registers::default() };
        set_registers(&registers_in);
        assert_eq!((word(8), word(63)), (1, 2));
        assert_eq!(registers(), registers_in);
    }
}
