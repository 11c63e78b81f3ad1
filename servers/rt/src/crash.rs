//! Ways to crash on purpose: what the supervisor is tested with.
#![allow(unsafe_code)] // Each of these is a deliberate fault.

use alloc::vec::Vec;
use ipc::slots::layout::STACK_TOP;

/// Where init sends a thread that shall crash: anywhere in its program, with any stack, `rdi` says how.
#[cfg(target_os = "none")]
#[unsafe(no_mangle)]
#[unsafe(naked)]
#[unsafe(link_section = ".text._crash")]
extern "C" fn _crash() -> ! {
    core::arch::naked_asm!("and rsp, -16", "call {run}", "ud2", run = sym crash)
}

#[cfg(target_os = "none")]
extern "C" fn crash(way: u64) -> ! {
    by(ipc::board::WAYS.get(way as usize).copied().unwrap_or("a way that there is not"))
}

/// Crashes in the named way ([`ipc::board::WAYS`]); an unknown name panics.
///
/// `null` writes through a null pointer, `wild` writes to memory that is not there, `execdata` jumps into the heap, `stack`
/// overruns the stack, `ud2` executes an invalid instruction, `port` touches an I/O port, `spin` loops for ever, `leak` takes memory until
/// there is none, `garbage` overwrites its stack with noise and returns into it, `panic` panics.
pub fn by(way: &str) -> ! {
    match way {
        "null" => write_to(0x10),
        "wild" => write_to(0x5555_0000_0000),
        "execdata" => {
            let code: &'static mut [u8] = Vec::leak(alloc::vec![0xc3u8; 16]);
            // SAFETY: the call faults: the heap is never executable. Were it, the bytes there are a return.
            let jump: extern "C" fn() = unsafe { core::mem::transmute(code.as_ptr()) };
            jump();
        }
        "stack" => {
            core::hint::black_box(overrun(1));
        }
        // SAFETY: only raises a fault.
        "ud2" => unsafe { core::arch::asm!("ud2", options(nomem, nostack)) },
        // SAFETY: user mode may not do this, so it only raises a fault.
        "port" => unsafe { core::arch::asm!("out 0x80, al", in("al") 0u8, options(nomem, nostack)) },
        "spin" => loop {
            core::hint::spin_loop();
        },
        "leak" => loop {
            core::hint::black_box(Vec::leak(alloc::vec![0u8; 4096]));
        },
        "garbage" => return_into_noise(),
        _ => {}
    }
    panic!("asked to crash: {way}")
}

fn write_to(address: usize) {
    // SAFETY: nothing is ever mapped at these addresses, so it only raises a fault.
    unsafe { core::arch::asm!("mov qword ptr [{0}], 0", in(reg) address, options(nostack)) };
}

/// The return address that it finds is no address.
fn return_into_noise() -> ! {
    // SAFETY: overwrites this thread's stack, from the stack pointer to its top, and never comes back to who uses it.
    unsafe {
        core::arch::asm!(
            "mov rdi, rsp",
            "mov rcx, {top}",
            "sub rcx, rsp",
            "mov al, 0xa5",
            "rep stosb",
            "ret",
            top = const STACK_TOP,
            options(noreturn)
        )
    }
}

#[allow(unconditional_recursion)]
fn overrun(depth: u64) -> u64 {
    let frame = core::hint::black_box([depth; 64]);
    overrun(depth + 1) + frame[depth as usize % 64]
}
