//! Where the driver's CPUs come in, and the image's header.
#![allow(unsafe_code)] // Assembly.

use core::arch::{asm, global_asm};
use core::sync::atomic::{AtomicU32, Ordering};

use crate::percpu;
use crate::vendor::LinuxFrame;

global_asm!(
    ".pushsection .header, \"a\"",
    ".globl hypervisor_header",
    "hypervisor_header:",
    ".ascii \"JAILHOUS\"",
    ".quad __core_size",
    ".quad {percpu_size}",
    ".quad __entry_offset",
    ".quad __console_offset",
    ".quad 0",
    ".long 0",
    ".long 0",
    ".quad 0, 0, 0",
    ".popsection",
    // edi = CPU, rsi = guest RIP, rdx = host RIP, r8 = boot tables, rbx = Linux CR3, rbp = Linux RSP, r12 = Linux CR4.
    ".globl hypervisor_entry",
    "hypervisor_entry:",
    "mov eax, edi",
    "imul rax, rax, {percpu_size}",
    "lea rcx, [rip + __image_end]",
    "add rcx, rax",
    "lea rsp, [rcx + {stack_top}]",
    "push rdx", // LinuxFrame, downwards
    "push rsi",
    "push r12",
    "push rbp",
    "push rbx",
    "mov r13, rsp",
    "mov rsi, rcx",
    "mov rdx, rsp",
    "mov rcx, r8",
    "and rsp, -16",
    "cld",
    "call {enter}", // (cpu, area, frame, boot tables) -> error; the boot tables are loaded again
    "mov rdx, [r13 + 32]",
    "jmp rdx",
    percpu_size = const percpu::SIZE,
    stack_top = const percpu::STACK_TOP,
    enter = sym crate::setup::enter,
);

const _: () = assert!(core::mem::offset_of!(LinuxFrame, host_rip) == 32);

unsafe extern "C" {
    static hypervisor_header: [u8; 80];
}

fn header_word(offset: usize) -> u32 {
    // SAFETY: inside the header; the driver wrote it before any CPU came in.
    unsafe {
        (&raw const hypervisor_header)
            .cast::<AtomicU32>()
            .byte_add(offset)
            .as_ref()
            .map_or(0, |w| w.load(Ordering::Relaxed))
    }
}

/// Number of CPU areas that the driver made.
pub fn max_cpus() -> u32 {
    header_word(0x30)
}

/// Number of CPUs that come in.
pub fn online_cpus() -> u32 {
    header_word(0x34)
}

/// Goes back to Linux as host. Linux's state that is not in these registers was restored before.
///
/// # Safety
/// The registers are those of Linux at its call; `host_rip` and `boot_tables` are from its entry.
pub unsafe fn leave(boot_tables: u64, rbx: u64, rbp: u64, r12: u64, host_rip: u64) -> ! {
    // SAFETY: the boot tables map this code and the code at `host_rip`.
    unsafe {
        asm!(
            "mov cr3, {tables}",
            "mov rbx, rsi",
            "mov rbp, rdx",
            "mov r12, rcx",
            "xor eax, eax",
            "jmp r8",
            tables = in(reg) boot_tables,
            in("rsi") rbx,
            in("rdx") rbp,
            in("rcx") r12,
            in("r8") host_rip,
            options(noreturn)
        )
    }
}
