//! What the inmates in Rust share. Flat 32-bit programs that own their processor: everything here is an instruction or a register.
//! What such a program does wrong harms itself only: that is what it is there to show.
#![allow(dead_code, unused_macros, unused_imports)] // None of them uses all.

use core::arch::asm;
use core::fmt::{self, Write};
use core::panic::PanicInfo;

/// Registers of the local interrupt controller, in memory.
pub const APIC: u32 = 0xfee0_0000;
pub const APIC_ID: u32 = APIC + 0x20;
pub const APIC_EOI: u32 = APIC + 0xb0;
pub const APIC_SPURIOUS: u32 = APIC + 0xf0;
pub const APIC_TIMER: u32 = APIC + 0x320;
pub const APIC_INITIAL: u32 = APIC + 0x380;

/// Bits of an entry of the I/O interrupt controller.
pub const PIN_MASKED: u32 = 1 << 16;
pub const PIN_LEVEL: u32 = 1 << 15;
const IOAPIC: u32 = 0xfec0_0000;

/// The first letter of the command line, which lies where Jailhouse's inmates expect theirs.
pub fn command() -> u8 {
    read(0x1000) as u8
}

// ---- registers: plain moves of 32 bits, which any hypervisor decodes ----

pub fn read(address: u32) -> u32 {
    let value;
    // SAFETY: the callers' addresses are registers and memory of the cell that nothing of Rust's lies in; else the cell is stopped.
    unsafe { asm!("mov {}, [{}]", out(reg) value, in(reg) address, options(nostack, preserves_flags)) };
    value
}

pub fn write(address: u32, value: u32) {
    // SAFETY: as above.
    unsafe { asm!("mov [{}], {}", in(reg) address, in(reg) value, options(nostack, preserves_flags)) };
}

pub fn in8(port: u16) -> u8 {
    let value;
    // SAFETY: a port has no memory of ours behind it.
    unsafe { asm!("in al, dx", out("al") value, in("dx") port, options(nostack, preserves_flags)) };
    value
}

pub fn out8(port: u16, value: u8) {
    // SAFETY: as above.
    unsafe { asm!("out dx, al", in("al") value, in("dx") port, options(nostack, preserves_flags)) };
}

pub fn in32(port: u16) -> u32 {
    let value;
    // SAFETY: as above.
    unsafe { asm!("in eax, dx", out("eax") value, in("dx") port, options(nostack, preserves_flags)) };
    value
}

pub fn out32(port: u16, value: u32) {
    // SAFETY: as above.
    unsafe { asm!("out dx, eax", in("eax") value, in("dx") port, options(nostack, preserves_flags)) };
}

pub fn rdmsr(msr: u32) -> u64 {
    let (low, high): (u32, u32);
    // SAFETY: reads only; one that is not there is a fault, which ends the program.
    unsafe { asm!("rdmsr", in("ecx") msr, out("eax") low, out("edx") high, options(nostack, preserves_flags)) };
    u64::from(high) << 32 | u64::from(low)
}

pub fn wrmsr(msr: u32, low: u32) {
    // SAFETY: the callers set MSRs of the interrupt controller only.
    unsafe { asm!("wrmsr", in("ecx") msr, in("eax") low, in("edx") 0, options(nostack, preserves_flags)) };
}

pub fn pause() {
    // SAFETY: does nothing.
    unsafe { asm!("pause", options(nostack, preserves_flags)) };
}

pub fn wait_for_interrupt() {
    // SAFETY: waits.
    unsafe { asm!("hlt", options(nostack, preserves_flags)) };
}

pub fn interrupts_on() {
    // SAFETY: what is interrupted is saved by `entry!`.
    unsafe { asm!("sti", options(nostack)) };
}

pub fn stop() -> ! {
    loop {
        // SAFETY: nothing comes after it.
        unsafe { asm!("cli", "hlt", options(nostack)) };
    }
}

// ---- text ----

/// Hypercall 8: a character for the hypervisor's console. Its result.
pub fn print(byte: u8) -> i32 {
    let result;
    // SAFETY: this call changes EAX only.
    unsafe { asm!("vmmcall", inlateout("eax") 8 => result, in("edi") u32::from(byte)) };
    result
}

pub struct Console;

impl Write for Console {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        text.bytes().for_each(|byte| _ = print(byte));
        Ok(())
    }
}

macro_rules! say {
    ($($text:tt)*) => {{
        use core::fmt::Write;
        _ = writeln!(crate::inmate::Console, $($text)*);
    }};
}
pub(crate) use say;

// ---- interrupts ----

/// An interrupt's way to a function: `entry!(name, function)`.
macro_rules! entry {
    ($name:ident, $function:ident) => {
        #[unsafe(naked)]
        extern "C" fn $name() {
            core::arch::naked_asm!("pushad", "cld", "call {}", "popad", "iretd", sym $function)
        }
    };
}
pub(crate) use entry;

#[repr(align(16))]
struct Table([u64; 256]);
static mut IDT: Table = Table([0; 256]);

/// Lets `entry` have the interrupts with that vector.
pub fn gate(vector: u8, entry: extern "C" fn()) {
    let at = entry as usize as u64;
    let gate = (at & 0xffff_0000) << 32 | 0x8e00 << 32 | 0x08 << 16 | at & 0xffff;
    #[repr(C, packed)]
    struct Pointer {
        limit: u16,
        base: u32,
    }
    let pointer = Pointer { limit: 256 * 8 - 1, base: &raw const IDT as u32 };
    // SAFETY: nobody else touches the table: its interrupts are not on yet.
    unsafe {
        (&raw mut IDT.0[usize::from(vector)]).write_volatile(gate);
        asm!("lidt [{}]", in(reg) &raw const pointer, options(nostack, preserves_flags));
    }
}

pub fn apic_id() -> u32 {
    read(APIC_ID) >> 24
}

/// The message address that means this processor.
pub fn message_address() -> u32 {
    0xfee0_0000 | apic_id() << 12
}

pub fn ioapic_read(index: u32) -> u32 {
    write(IOAPIC, index);
    read(IOAPIC + 0x10)
}

pub fn ioapic_write(index: u32, value: u32) {
    write(IOAPIC, index);
    write(IOAPIC + 0x10, value);
}

// ---- PCI, by ports ----

pub fn pci_read(function: u32, offset: u32) -> u32 {
    out32(0xcf8, 0x8000_0000 | function << 8 | offset & !3);
    in32(0xcfc) >> (8 * (offset & 3))
}

pub fn pci_write(function: u32, offset: u32, value: u32) {
    out32(0xcf8, 0x8000_0000 | function << 8 | offset);
    out32(0xcfc, value);
}

/// Where the function's capability `id` begins.
pub fn pci_capability(function: u32, id: u32) -> Option<u32> {
    let mut at = pci_read(function, 0x34) & 0xfc;
    while at != 0 && pci_read(function, at) & 0xff != id {
        at = pci_read(function, at + 1) & 0xfc;
    }
    (at != 0).then_some(at)
}

/// A 64-bit BAR: the register of its low half.
pub struct Bar64 {
    pub function: u32,
    pub register: u32,
}

impl Bar64 {
    pub fn get(&self) -> u64 {
        let half = |register| u64::from(pci_read(self.function, register));
        (half(self.register + 4) << 32 | half(self.register)) & !0xf
    }

    pub fn set(&self, address: u64) {
        pci_write(self.function, self.register, address as u32);
        pci_write(self.function, self.register + 4, (address >> 32) as u32);
    }

    /// Bytes, found as drivers do.
    pub fn size(&self) -> u64 {
        let address = self.get();
        self.set(u64::MAX);
        let size = self.get().wrapping_neg();
        self.set(address);
        size
    }
}

// ---- the communication region ----

pub const SHUTDOWN: u32 = 1;
pub const DENIED: u32 = 2;
pub const APPROVED: u32 = 3;
pub const RECEIVED: u32 = 4;
pub const LOCKED: u32 = 1;
pub const SHUT_DOWN: u32 = 2;
pub const FAILED: u32 = 3;

/// The communication region at this address.
pub struct Comm(pub u32);

/// Where it is for most inmates.
pub const COMM: Comm = Comm(0x0400_0000);

impl Comm {
    pub fn word(&self, offset: u32) -> u32 {
        read(self.0 + offset)
    }

    pub fn set_state(&self, state: u32) {
        write(self.0 + 0x08, state);
    }

    /// The message that is there, taken.
    pub fn message(&self) -> Option<u32> {
        let message = self.word(0x0c);
        if message == 0 {
            return None;
        }
        write(self.0 + 0x0c, 0);
        core::sync::atomic::fence(core::sync::atomic::Ordering::SeqCst);
        Some(message)
    }

    pub fn reply(&self, reply: u32) {
        write(self.0 + 0x10, reply);
    }

    /// Approves the end, and makes it.
    pub fn end(&self) -> ! {
        self.set_state(SHUT_DOWN);
        // From here on it can be stopped at any time.
        self.reply(APPROVED);
        stop()
    }

    /// Answers what is there; a request to shut down is approved.
    pub fn answer(&self) {
        match self.message() {
            None => {}
            Some(SHUTDOWN) => self.end(),
            Some(_) => self.reply(RECEIVED),
        }
    }
}

// ---- what the language wants of its environment ----

#[panic_handler]
fn panic(_: &PanicInfo<'_>) -> ! {
    stop()
}
