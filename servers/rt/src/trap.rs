//! The instruction that calls the kernel.
#![allow(unsafe_code)] // The one place of the kernel-call instruction.

use ipc::message::{REGISTER_WORDS, Request};

/// The registers of a kernel call, before or after it.
pub(crate) struct Registers {
    /// `rdi`: the capability's slot; badge or first result.
    pub first: u64,
    /// `rsi`: tag or first argument; tag or second result.
    pub second: u64,
    /// `rdx r10 r8 r9 r12 r13 r14 r15`.
    pub words: [u64; REGISTER_WORDS],
}

/// Calls the kernel and gives the raw status.
#[cfg(target_os = "none")]
pub(crate) fn trap(request: Request, registers: &mut Registers) -> u64 {
    let status: u64;
    let w = &mut registers.words;
    // SAFETY: the kernel preserves every register that is not named here, and touches user memory only where the call's
    // description says so: in the message buffer, and in ranges that the caller of the wrapper owns or shares (the
    // wrappers that pass addresses take slices). `syscall` destroys rcx and r11.
    unsafe {
        core::arch::asm!(
            "syscall",
            inlateout("rax") request.0 => status,
            inlateout("rdi") registers.first,
            inlateout("rsi") registers.second,
            inlateout("rdx") w[0],
            inlateout("r10") w[1],
            inlateout("r8") w[2],
            inlateout("r9") w[3],
            inlateout("r12") w[4],
            inlateout("r13") w[5],
            inlateout("r14") w[6],
            inlateout("r15") w[7],
            out("rcx") _,
            out("r11") _,
            options(nostack),
        );
    }
    status
}

/// There is no such kernel here.
#[cfg(not(target_os = "none"))]
pub(crate) fn trap(_: Request, _: &mut Registers) -> u64 {
    ipc::Error::InvalidCall as u64
}
