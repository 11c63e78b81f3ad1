//! What the portable part of the kernel asks of the processor.
#![allow(unsafe_code)] // Privileged instructions.

use super::{apic, cell, console, cpu, time};
use crate::kernel::Kernel;
use crate::memory::Ref;
use crate::object::Thread;
use crate::object::thread::special;
use core::arch::asm;
use core::fmt::Write;

pub use super::console::write as console_write;
pub use super::fpu::{bytes as fpu_bytes, mend as fpu_mend, reset as fpu_reset, save as fpu_save};
pub use super::ioapic::{mask as ioapic_mask, pins as ioapic_pins, route as ioapic_route};
pub use super::paging::{fill_kernel_half, kernel_root};
pub use super::time::set_timer;

/// The time-stamp counter.
pub fn now() -> u64 {
    // SAFETY: reads a counter.
    unsafe { core::arch::x86_64::_rdtsc() }
}

/// Waits for an interrupt, which is noted.
pub fn idle() {
    cell::answer();
    // SAFETY: an interrupt in kernel mode returns to behind `hlt`; `sti` takes effect only after it has begun.
    unsafe { asm!("sti", "hlt", "cli", options(nostack)) }
}

/// Waits for a moment; interrupts are noted.
pub fn relax() {
    cell::answer();
    // SAFETY: interrupts in kernel mode touch nothing but the list of noted ones. `sti` takes effect behind `pause`.
    unsafe { asm!("sti", "pause", "cli", options(nostack)) }
}

/// Lets interrupts in for one instruction; they are noted.
pub fn interrupt_window() {
    // SAFETY: interrupts in kernel mode touch nothing but the list of noted ones.
    unsafe { asm!("sti", "nop", "cli", options(nostack)) }
}

/// An interrupt has come: acknowledges it. `false`: it means nothing.
#[inline(always)]
pub fn acknowledge(vector: u8) -> bool {
    if vector == apic::SPURIOUS_VECTOR {
        return false;
    }
    apic::end_of_interrupt();
    if vector == crate::arch::TIMER_VECTOR {
        cell::answer();
    }
    true
}

/// Forgets a translation.
pub fn invalidate_page(address: u64) {
    // SAFETY: forgetting translations is always allowed.
    unsafe { asm!("invlpg [{}]", in(reg) address, options(nostack)) }
}

/// Loads other tables.
pub fn load_root(root: u64) {
    cpu::load_root(root);
}

/// Sets the processor up for a thread. `false`: [`switch_special`] has to do the rest.
#[inline(always)]
pub fn switch_to(k: &Kernel, thread: Ref<Thread>) -> bool {
    let root = thread.root();
    if k.cpu.loaded.get() != root {
        k.cpu.loaded.set(root);
        cpu::load_root(root);
    }
    cpu::set_frame_end(thread.address() + size_of::<crate::object::thread::Frame>() as u64);
    k.cpu.special.get() | thread.special.get() == 0
}

/// Sets segment bases and the FPU up for a thread, where the last one or this one uses them. A user that loads a selector can only change
/// its base to 0; so only where the base was 0 and is to be 0 can the register be left alone.
#[inline(always)]
pub fn switch_special(k: &Kernel, thread: Ref<Thread>) {
    let wanted = thread.special.get();
    let last = k.cpu.special.replace(wanted);
    if (last | wanted) & special::FS != 0 {
        cpu::set_fs_base(thread.fs_base.get());
    }
    if (last | wanted) & special::GS != 0 {
        cpu::set_gs_base(thread.gs_base.get());
    }
    if (last ^ wanted) & special::FPU != 0 {
        cpu::open_fpu(wanted & special::FPU != 0);
    }
}

/// The current thread wants the FPU.
pub fn fpu_claim(k: &Kernel, thread: Ref<Thread>) {
    super::fpu::claim(k, thread);
    k.cpu.special.set(thread.special.get());
}

/// Reads a port.
pub fn port_in(port: u16, width: u8) -> u64 {
    // SAFETY: the holder of the port's capability asked for it; ports cannot harm the kernel's memory without DMA, which is
    // confined by the machine's partitioning, and the kernel's own devices are not given out by a composed system.
    unsafe {
        match width {
            1 => x86_64::instructions::port::PortReadOnly::<u8>::new(port).read().into(),
            2 => x86_64::instructions::port::PortReadOnly::<u16>::new(port).read().into(),
            _ => x86_64::instructions::port::PortReadOnly::<u32>::new(port).read().into(),
        }
    }
}

/// Writes a port.
pub fn port_out(port: u16, width: u8, value: u64) {
    // SAFETY: as for reading.
    unsafe {
        match width {
            1 => x86_64::instructions::port::PortWriteOnly::<u8>::new(port).write(value as u8),
            2 => x86_64::instructions::port::PortWriteOnly::<u16>::new(port).write(value as u16),
            _ => x86_64::instructions::port::PortWriteOnly::<u32>::new(port).write(value as u32),
        }
    }
}

/// Address and data of a message that raises this vector here.
pub fn interrupt_message(vector: u8) -> (u64, u64) {
    (0xfee0_0000 | u64::from(apic::id()) << 12, u64::from(vector))
}

/// A thread has faulted, and there is nobody to tell. One short line: who can make such threads must not keep the kernel busy by it. The
/// rest is in the thread's registers.
pub fn log_fault(id: u64, words: &[u64; 6]) {
    let [vector, _, _, rip, ..] = words;
    let _ = writeln!(console::Output, "thread {id:#x}: fault {vector} at {rip:#x}");
}

/// The first process is no more: nobody hears of faults or restarts servers. What runs goes on, but the cell is marked as failed.
pub fn first_process_died() {
    let _ = writeln!(console::Output, "kernel: the first process is dead: what runs goes on, but nobody supervises it");
    cell::end(true);
}

/// Ends the system.
pub fn halt(failed: bool) -> ! {
    time::stop();
    if !cell::end(failed) {
        // ACPI sleep state 5 of q35, then of i440fx; a machine with neither stays halted.
        for port in [0x604, 0xb004] {
            port_out(port, 2, 0x2000);
        }
    }
    loop {
        // SAFETY: interrupts are off: nothing runs any more.
        unsafe { asm!("cli", "hlt", options(nostack)) }
    }
}
