//! Ways into the kernel and out of it: exceptions, interrupts, `syscall`.
//!
//! From user mode, everything is pushed straight into the current thread's object: the processor starts there because the task
//! segment's stack pointer leads to the end of its frame, and the `syscall` path does the same by hand. Then the CPU's one kernel
//! stack is used, from its top. On the way out the frame of the thread that was chosen is popped.
//!
//! From kernel mode (idle, or a window in a long operation) only interrupts are expected. They are noted and nothing else.
#![allow(unsafe_code)] // Entry points called from assembly.

use super::{cpu, hooks, kernel};
use crate::message::fastpath;
use crate::object::thread::{State, Thread};
use crate::{call, fault, sched};

core::arch::global_asm!(
    r#"
    .section .text.trap, "ax", @progbits
    // Stubs of 16 bytes each: error code (or 0), vector, common part.
    .balign 16
    .globl trap_stubs
trap_stubs:
    .set vector, 0
    .rept 256
    .balign 16
    .if (vector == 8) || ((vector >= 10) && (vector <= 14)) || (vector == 17) || (vector == 21) || (vector == 29) || (vector == 30)
    .else
    pushq $0
    .endif
    pushq $vector
    jmp trap_common
    .set vector, vector + 1
    .endr
"#,
    options(att_syntax)
);

core::arch::global_asm!(
    r#"
    .section .text.trap, "ax", @progbits

    .globl trap_common
trap_common:
    test byte ptr [rsp + 24], 3
    jz trap_in_kernel
    swapgs
trap_save:
    push rdi
    push rsi
    push rdx
    push rcx
    push rax
    push r8
    push r9
    push r10
    push r11
    push rbx
    push rbp
    push r12
    push r13
    push r14
    push r15
    cld
    mov rsp, gs:[8]
    call trap_from_user
    jmp leave

    // `syscall`: rcx = rip, r11 = rflags; stack still the user's.
    .balign 16
    .globl syscall_entry
syscall_entry:
    swapgs
    mov gs:[16], rsp
    mov rsp, gs:[0]
    push 0x2b
    push qword ptr gs:[16]
    push r11
    push 0x33
    push rcx
    push 0
    push 0x100
    push rdi
    push rsi
    push rdx
    push rcx
    push rax
    push r8
    push r9
    push r10
    push r11
    push rbx
    push rbp
    push r12
    push r13
    push r14
    push r15
    mov rsp, gs:[8]
    call syscall_from_user
    ud2

    // rax: the thread to run; its registers lie at its start.
    .globl leave
leave:
    mov rsp, rax
    cmp qword ptr [rsp + 120], 0x100
    jne 1f
    pop r15
    pop r14
    pop r13
    pop r12
    pop rbp
    pop rbx
    add rsp, 8
    pop r10
    pop r9
    pop r8
    pop rax
    add rsp, 8
    pop rdx
    pop rsi
    pop rdi
    mov rcx, [rsp + 16]
    mov r11, [rsp + 32]
    mov rsp, [rsp + 40]
    swapgs
    sysretq
1:  pop r15
    pop r14
    pop r13
    pop r12
    pop rbp
    pop rbx
    pop r11
    pop r10
    pop r9
    pop r8
    pop rax
    pop rcx
    pop rdx
    pop rsi
    pop rdi
    add rsp, 16
    swapgs
    iretq

trap_in_kernel:
    push rdi
    push rsi
    push rdx
    push rcx
    push rax
    push r8
    push r9
    push r10
    push r11
    push rbx
    push rbp
    mov rbp, rsp
    mov rdi, [rsp + 88]
    mov rsi, [rsp + 96]
    mov rdx, [rsp + 104]
    cld
    and rsp, -16
    call trap_from_kernel
    mov rsp, rbp
    pop rbp
    pop rbx
    pop r11
    pop r10
    pop r9
    pop r8
    pop rax
    pop rcx
    pop rdx
    pop rsi
    pop rdi
    add rsp, 16
    iretq

    // Debug exceptions come on a stack of their own, because one can be pending when `syscall` has not switched stacks yet.
    .balign 16
    .globl debug_entry
debug_entry:
    push 0
    push 1
    test byte ptr [rsp + 24], 3
    jz 1f
    swapgs
    mov gs:[16], rax
    mov rax, gs:[0]
    pop qword ptr [rax - 56]
    pop qword ptr [rax - 48]
    pop qword ptr [rax - 40]
    pop qword ptr [rax - 32]
    pop qword ptr [rax - 24]
    pop qword ptr [rax - 16]
    pop qword ptr [rax - 8]
    lea rsp, [rax - 56]
    mov rax, gs:[16]
    jmp trap_save
1:  and qword ptr [rsp + 32], ~0x100
    add rsp, 16
    iretq

    // Double faults and machine checks, on a stack of their own, wherever they come from: the end.
    .balign 16
    .globl double_fault_entry
double_fault_entry:
    push 8
    jmp fatal
    .balign 16
    .globl machine_check_entry
machine_check_entry:
    push 0
    push 18
fatal:
    mov rdi, [rsp]
    mov rsi, [rsp + 8]
    mov rdx, [rsp + 16]
    cld
    and rsp, -16
    call trap_from_kernel
    ud2

    // Non-maskable interrupts mean nothing to this kernel (the hypervisor uses them for itself).
    .balign 16
    .globl nmi_entry
nmi_entry:
    iretq
"#
);

unsafe extern "C" {
    fn leave() -> !;
}

/// Leaves the kernel for a thread that the processor is set up for.
#[inline(always)]
fn enter(thread: *const Thread) -> ! {
    // SAFETY: `leave` takes the thread in rax; it does not come back, so nothing on the stack is needed any more.
    unsafe { core::arch::asm!("jmp {leave}", leave = sym leave, in("rax") thread, options(noreturn, nostack)) }
}

/// A `syscall` instruction. It does not return: so it need not keep the registers that the entry code has saved already.
#[unsafe(no_mangle)]
extern "C" fn syscall_from_user() -> ! {
    let k = kernel();
    if let Some(thread) = k.cpu.current.get() {
        let fast =
            if thread.is_foreign() { fastpath::foreign_call(k, thread) } else { fastpath::kernel_call(k, thread) };
        if let Some(next) = fast {
            if next != thread {
                hooks::switch_to(k, next);
            }
            enter(&*next);
        }
        if thread.is_foreign() {
            fault::foreign_call(k, thread);
        } else {
            call::kernel_call(k, thread);
        }
        if !k.cpu.attention.get() && k.cpu.current.get() == Some(thread) && thread.state.get() == State::Ready {
            enter(&*thread);
        }
    }
    enter(choose())
}

/// An exception or interrupt in user mode. Returns the thread to run.
#[unsafe(no_mangle)]
extern "C" fn trap_from_user() -> *const Thread {
    let k = kernel();
    if let Some(thread) = k.cpu.current.get() {
        let vector = thread.frame.entry.get();
        match vector {
            7 => hooks::fpu_claim(k, thread),
            0..32 => {
                let address = if vector == 14 { cpu::fault_address() } else { 0 };
                fault::fault(k, thread, vector, thread.frame.error.get(), address);
            }
            _ => hooks::note_interrupt(k, vector as u8),
        }
    }
    choose()
}

/// An exception or interrupt in kernel mode.
#[unsafe(no_mangle)]
extern "C" fn trap_from_kernel(vector: u64, error: u64, rip: u64) {
    if vector < 32 {
        panic!("exception {vector} in the kernel: error {error:#x}, rip {rip:#x}, address {:#x}", cpu::fault_address());
    }
    hooks::note_interrupt(kernel(), vector as u8);
}

/// The thread to run next, with the processor set up for it.
pub fn choose() -> *const Thread {
    let k = kernel();
    let thread = sched::settle(k);
    hooks::switch_to(k, thread);
    &*thread
}
