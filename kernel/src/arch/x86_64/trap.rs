//! Ways into the kernel and out of it: exceptions, interrupts, `syscall`.
//!
//! From user mode, everything is saved straight in the current thread's object: the processor starts there because the task
//! segment's stack pointer leads to the end of its frame, and the `syscall` path does the same by hand. Then the CPU's one kernel
//! stack is used, from its top. On the way out the frame of the thread that was chosen is loaded: what `syscall` and `sysret` need if it
//! came that way, else all of it. A frame always says that its thread came by `syscall`, but between an exception and its `iretq`.
//!
//! From kernel mode (idle, or a window in a long operation) only interrupts are expected. They are noted and nothing else.
#![allow(unsafe_code)] // Entry points called from assembly.

use super::{cpu, hooks, kernel};
use crate::kernel::Kernel;
use crate::memory::Ref;
use crate::message::fastpath::{self, Fast};
use crate::object::thread::{Frame, State, Thread, entry};
use crate::object::{CapTable, irq};
use crate::{call, fault, sched};
use core::mem::offset_of;
use ipc::Call;

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

    // The general registers, in the order of `Frame`.
    .macro push_registers
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
    .endm
    .macro pop_registers
    pop r15
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
    .endm

    .globl trap_common
trap_common:
    test byte ptr [rsp + 24], 3
    jz trap_in_kernel
    swapgs
trap_save:
    push_registers
    cld
    mov rdi, rsp
    mov rsp, gs:[{stack}]
    jmp trap_from_user

    // `syscall`: rcx = rip, r11 = rflags; stack still the user's. What is the same at every entry this way (selectors, how it came) is
    // in the frame already, and what the instruction itself destroys need not be kept. The registers that calls pass arguments in are
    // handed on as they are.
    .balign 16
    .globl syscall_entry
syscall_entry:
    swapgs
    mov gs:[{scratch}], rsp
    mov rsp, gs:[{frame_end}]
    mov [rsp - {size} + {rip}], rcx
    mov [rsp - {size} + {rflags}], r11
    mov [rsp - {size} + {rdx}], rdx
    mov rcx, gs:[{scratch}]
    lea rdx, [rsp - {size}]
    mov rsp, gs:[{stack}]
    mov [rdx + {user_rsp}], rcx
    mov [rdx + {rdi}], rdi
    mov [rdx + {rsi}], rsi
    mov [rdx + {rax}], rax
    mov [rdx + {r8}], r8
    mov [rdx + {r9}], r9
    mov [rdx + {r10}], r10
    mov [rdx + {rbx}], rbx
    mov [rdx + {rbp}], rbp
    mov [rdx + {r12}], r12
    mov [rdx + {r13}], r13
    mov [rdx + {r14}], r14
    mov [rdx + {r15}], r15
    mov rcx, [rdx + {table}]
    test rcx, rcx
    jz foreign_from_user
    cmp rax, {call}
    je call_from_user
    cmp ax, {reply_receive}
    je reply_receive_from_user
    jmp syscall_from_user

    // rdi: the thread to run; its registers lie at its start.
    .balign 16
    .globl leave
leave:
    cmp qword ptr [rdi + {entry}], {by_syscall}
    jne 1f
    mov rcx, [rdi + {rip}]
    mov r11, [rdi + {rflags}]
    mov rsp, [rdi + {user_rsp}]
    mov rsi, [rdi + {rsi}]
    mov rdx, [rdi + {rdx}]
    mov rax, [rdi + {rax}]
    mov r8, [rdi + {r8}]
    mov r9, [rdi + {r9}]
    mov r10, [rdi + {r10}]
    mov rbx, [rdi + {rbx}]
    mov rbp, [rdi + {rbp}]
    mov r12, [rdi + {r12}]
    mov r13, [rdi + {r13}]
    mov r14, [rdi + {r14}]
    mov r15, [rdi + {r15}]
    mov rdi, [rdi + {rdi}]
    swapgs
    sysretq
1:  mov qword ptr [rdi + {entry}], {by_syscall}
    mov rsp, rdi
    pop_registers
    add rsp, 16
    swapgs
    iretq

trap_in_kernel:
    push_registers
    mov rbp, rsp
    mov rdi, [rsp + {entry}]
    mov rsi, [rsp + {error}]
    mov rdx, [rsp + {rip}]
    cld
    and rsp, -16
    call trap_from_kernel
    mov rsp, rbp
    pop_registers
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
    mov gs:[{scratch}], rax
    mov rax, gs:[{frame_end}]
    pop qword ptr [rax - 56]
    pop qword ptr [rax - 48]
    pop qword ptr [rax - 40]
    pop qword ptr [rax - 32]
    pop qword ptr [rax - 24]
    pop qword ptr [rax - 16]
    pop qword ptr [rax - 8]
    lea rsp, [rax - 56]
    mov rax, gs:[{scratch}]
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
"#,
    stack = const cpu::STACK,
    scratch = const cpu::SCRATCH,
    frame_end = const cpu::FRAME_END,
    by_syscall = const entry::SYSCALL,
    table = const Thread::TABLE,
    call = const Call::Call as u64,
    reply_receive = const Call::ReplyReceive as u64,
    size = const size_of::<Frame>(),
    r15 = const offset_of!(Frame, r15),
    r14 = const offset_of!(Frame, r14),
    r13 = const offset_of!(Frame, r13),
    r12 = const offset_of!(Frame, r12),
    rbp = const offset_of!(Frame, rbp),
    rbx = const offset_of!(Frame, rbx),
    r10 = const offset_of!(Frame, r10),
    r9 = const offset_of!(Frame, r9),
    r8 = const offset_of!(Frame, r8),
    rax = const offset_of!(Frame, rax),
    rdx = const offset_of!(Frame, rdx),
    rsi = const offset_of!(Frame, rsi),
    rdi = const offset_of!(Frame, rdi),
    entry = const offset_of!(Frame, entry),
    error = const offset_of!(Frame, error),
    rip = const offset_of!(Frame, rip),
    rflags = const offset_of!(Frame, rflags),
    user_rsp = const offset_of!(Frame, rsp),
);

unsafe extern "C" {
    fn leave() -> !;
}

/// Leaves the kernel for a thread that the processor is set up for.
#[inline(always)]
pub fn enter(thread: Ref<Thread>) -> ! {
    // SAFETY: `leave` takes the thread in rdi; it does not come back, so nothing on the stack is needed any more.
    unsafe {
        core::arch::asm!("jmp {leave}", leave = sym leave, in("rdi") thread.address(), options(noreturn, nostack))
    }
}

/// Goes on with a thread that is current now.
#[inline(always)]
pub fn run(k: &Kernel, thread: Ref<Thread>) -> ! {
    if hooks::switch_to(k, thread) {
        enter(thread)
    }
    run_special(k, thread)
}

#[inline(never)]
fn run_special(k: &Kernel, thread: Ref<Thread>) -> ! {
    hooks::switch_special(k, thread);
    enter(thread)
}

/// Goes where the fast path says.
#[inline(always)]
fn go(k: &Kernel, thread: Ref<Thread>, fast: Fast) -> ! {
    match fast {
        Fast::Switch(next) => run(k, next),
        Fast::Stay => enter(thread),
    }
}

/// A `call` of `thread`, which is current.
#[unsafe(no_mangle)]
extern "C" fn call_from_user(slot: u64, tag: u64, thread: Ref<Thread>, table: Ref<CapTable>) -> ! {
    let k = kernel();
    match fastpath::call::<true>(k, thread, table, slot, tag) {
        Some(fast) => go(k, thread, fast),
        None => less_simple(thread),
    }
}

/// A `reply_receive`.
#[unsafe(no_mangle)]
extern "C" fn reply_receive_from_user(slot: u64, tag: u64, thread: Ref<Thread>, table: Ref<CapTable>) -> ! {
    let k = kernel();
    match fastpath::reply_receive::<true>(k, thread, table, slot, tag) {
        Some(fast) => go(k, thread, fast),
        None => less_simple(thread),
    }
}

/// Any other kernel call.
#[unsafe(no_mangle)]
extern "C" fn syscall_from_user(_: u64, _: u64, thread: Ref<Thread>) -> ! {
    let k = kernel();
    match fastpath::plain(k, thread) {
        Some(fast) => go(k, thread, fast),
        None => less_simple(thread),
    }
}

/// What is not simple, but may be fast.
#[inline(never)]
fn less_simple(thread: Ref<Thread>) -> ! {
    let k = kernel();
    match fastpath::less_simple(k, thread) {
        Some(fast) => go(k, thread, fast),
        None => ordinary(thread),
    }
}

/// A `syscall` of a foreign thread.
#[unsafe(no_mangle)]
extern "C" fn foreign_from_user(_: u64, _: u64, thread: Ref<Thread>) -> ! {
    let k = kernel();
    match fastpath::foreign_call(k, thread) {
        Some(fast) => go(k, thread, fast),
        None => ordinary(thread),
    }
}

/// A `syscall` that the fast path has not taken.
#[inline(never)]
fn ordinary(thread: Ref<Thread>) -> ! {
    let k = kernel();
    if thread.is_foreign() {
        fault::foreign_call(k, thread);
    } else {
        call::kernel_call(k, thread);
    }
    if !k.cpu.attention.get() && k.cpu.current.get() == Some(thread) && thread.state.get() == State::Ready {
        enter(thread);
    }
    run(k, sched::settle(k))
}

/// An exception or interrupt of `thread`, which is current.
#[unsafe(no_mangle)]
extern "C" fn trap_from_user(thread: Ref<Thread>) -> ! {
    let k = kernel();
    let vector = thread.frame.entry.get();
    match vector {
        7 => hooks::fpu_claim(k, thread),
        0..32 => {
            let address = if vector == 14 { cpu::fault_address() } else { 0 };
            fault::fault(k, thread, vector, thread.frame.error.get(), address);
        }
        _ => {
            let vector = vector as u8;
            irq::hold(k, vector);
            if hooks::acknowledge(vector) {
                match sched::woken_by(k, thread, vector) {
                    Some(woken) => run(k, woken),
                    None => k.cpu.note_interrupt(vector),
                }
            }
        }
    }
    run(k, sched::settle(k))
}

/// An exception or interrupt in kernel mode.
#[unsafe(no_mangle)]
extern "C" fn trap_from_kernel(vector: u64, error: u64, rip: u64) {
    if vector < 32 {
        panic!("exception {vector} in the kernel: error {error:#x}, rip {rip:#x}, address {:#x}", cpu::fault_address());
    }
    irq::hold(kernel(), vector as u8);
    if hooks::acknowledge(vector as u8) {
        kernel().cpu.note_interrupt(vector as u8);
    }
}
