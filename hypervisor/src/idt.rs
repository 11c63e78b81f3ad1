//! The hypervisor's own segments and interrupt table.
//!
//! Selectors are those of Linux, so that coming and going need not reload them. No gate switches stacks: the task register
//! holds the guest's. Interrupts arrive only when a CPU opens a window on purpose, to get rid of them; their handler returns.
#![allow(unsafe_code)] // Descriptor tables.

use core::arch::global_asm;
use core::cell::UnsafeCell;
use core::sync::atomic::Ordering::{AcqRel, Release};

use x86_64::VirtAddr;
use x86_64::instructions::tables::{lgdt, lidt};
use x86_64::structures::DescriptorTablePointer;

use crate::{console, percpu, say};

global_asm!(
    ".balign 16",
    "exception_stubs:",
    ".rept 32",
    ".balign 16",
    "call exception_common",
    ".endr",
    "exception_common:",
    "mov rdi, [rsp]",
    "lea rsi, [rsp + 8]",
    "lea rax, [rip + exception_stubs]",
    "sub rdi, rax",
    "shr rdi, 4",
    "mov rdx, rbp",
    "and rsp, -16",
    "call {exception}",
    "ud2",
    ".balign 16",
    "interrupt_stub:",
    "iretq",
    ".balign 16",
    "nmi_stub:",
    // The CPU aligned the stack and pushed five words; with these nine it is aligned again.
    "push rax",
    "push rcx",
    "push rdx",
    "push rsi",
    "push rdi",
    "push r8",
    "push r9",
    "push r10",
    "push r11",
    "mov rdi, rsp",
    "call {nmi}",
    "pop r11",
    "pop r10",
    "pop r9",
    "pop r8",
    "pop rdi",
    "pop rsi",
    "pop rdx",
    "pop rcx",
    "pop rax",
    "iretq",
    exception = sym exception,
    nmi = sym nmi,
);

unsafe extern "C" {
    static exception_stubs: u8;
    static interrupt_stub: u8;
    static nmi_stub: u8;
}

const CODE: u16 = 0x10;

#[repr(C, align(16))]
struct Tables {
    gdt: UnsafeCell<[u64; 4]>,
    idt: UnsafeCell<[[u64; 2]; 256]>,
}

// SAFETY: written once, by the first CPU, before any other uses them.
unsafe impl Sync for Tables {}

static TABLES: Tables = Tables {
    // Null, unused, 64-bit code, data.
    gdt: UnsafeCell::new([0, 0, 0x00af_9b00_0000_ffff, 0x00cf_9300_0000_ffff]),
    idt: UnsafeCell::new([[0; 2]; 256]),
};

fn gate(handler: u64) -> [u64; 2] {
    const INTERRUPT_GATE: u64 = 0x8e00;
    let low = handler & 0xffff | u64::from(CODE) << 16 | INTERRUPT_GATE << 32 | (handler >> 16 & 0xffff) << 48;
    [low, handler >> 32]
}

/// Fills the table. Called once, before [`load`].
pub fn init() {
    const NMI: usize = 2;
    let stubs = (&raw const exception_stubs).addr() as u64;
    let ignore = (&raw const interrupt_stub).addr() as u64;
    let nmi = (&raw const nmi_stub).addr() as u64;
    // SAFETY: only the first CPU is past the rendezvous.
    let idt = unsafe { &mut *TABLES.idt.get() };
    for (vector, entry) in idt.iter_mut().enumerate() {
        *entry = gate(match vector {
            NMI => nmi,
            0..32 => stubs + vector as u64 * 16,
            _ => ignore,
        });
    }
}

/// Loads both tables on this CPU.
pub fn load() {
    let pointer = |address: usize, size: usize| DescriptorTablePointer {
        limit: (size - 1) as u16,
        base: VirtAddr::new_truncate(address as u64),
    };
    // SAFETY: the tables are static; code and stack selectors in use mean the same in the new table.
    unsafe {
        lgdt(&pointer(TABLES.gdt.get().addr(), size_of::<[u64; 4]>()));
        lidt(&pointer(TABLES.idt.get().addr(), size_of::<[[u64; 2]; 256]>()));
    }
}

/// An NMI was taken, in one of the windows where that can happen: a kick, or else it is the guest's.
extern "C" fn nmi(stack: usize) {
    if let Some(shared) = percpu::of_stack(stack) {
        if !shared.kicked.swap(false, AcqRel) {
            shared.nmi.store(true, Release);
        }
        shared.attention.store(true, Release);
    }
}

/// An exception in the hypervisor is a bug of ours: say what is known, and stop this CPU.
extern "C" fn exception(vector: u64, stack: *const u64, rbp: u64) -> ! {
    // SAFETY: the CPU that is interrupted may be the one that holds the console.
    unsafe { console::force_unlock() };
    // SAFETY: the exception pushed at least five words.
    let words: [u64; 6] = core::array::from_fn(|n| unsafe { *stack.add(n) });
    say!(
        "hypervisor: exception {vector} cr2 {:#x} rbp {rbp:#x} stack {words:x?}",
        x86_64::registers::control::Cr2::read_raw()
    );
    stop()
}

/// Stops this CPU for good.
pub fn stop() -> ! {
    loop {
        x86_64::instructions::hlt();
    }
}
