//! A thread's registers, as the entry code keeps them, and what messages and kernel calls find in which.

use core::cell::Cell;
use ipc::Error;

/// Registers, in the order in which the entry code pushes them. The processor itself pushes from `ss` down to `rip`.
#[repr(C)]
#[allow(missing_docs)]
pub struct Frame {
    pub r15: Cell<u64>,
    pub r14: Cell<u64>,
    pub r13: Cell<u64>,
    pub r12: Cell<u64>,
    pub rbp: Cell<u64>,
    pub rbx: Cell<u64>,
    pub r11: Cell<u64>,
    pub r10: Cell<u64>,
    pub r9: Cell<u64>,
    pub r8: Cell<u64>,
    pub rax: Cell<u64>,
    pub rcx: Cell<u64>,
    pub rdx: Cell<u64>,
    pub rsi: Cell<u64>,
    pub rdi: Cell<u64>,
    pub entry: Cell<u64>,
    pub error: Cell<u64>,
    pub rip: Cell<u64>,
    pub cs: Cell<u64>,
    pub rflags: Cell<u64>,
    pub rsp: Cell<u64>,
    pub ss: Cell<u64>,
}

static_assertions::const_assert_eq!(size_of::<Frame>(), 176);

impl Frame {
    /// The register that carries message word `index` (0–7).
    pub fn word(&self, index: usize) -> &Cell<u64> {
        match index {
            0 => &self.rdx,
            1 => &self.r10,
            2 => &self.r8,
            3 => &self.r9,
            4 => &self.r12,
            5 => &self.r13,
            6 => &self.r14,
            _ => &self.r15,
        }
    }

    /// Argument `index` of a kernel call, counted after the capability.
    pub fn argument(&self, index: usize) -> u64 {
        if index == 0 { self.rsi.get() } else { self.word(index - 1).get() }
    }

    /// Result `index` of a kernel call.
    pub fn set_result(&self, index: usize, value: u64) {
        match index {
            0 => self.rdi.set(value),
            1 => self.rsi.set(value),
            n => self.word(n - 2).set(value),
        }
    }

    /// Sets the status of a kernel call.
    pub fn set_status(&self, status: Result<(), Error>) {
        self.rax.set(match status {
            Ok(()) => 0,
            Err(error) => error as u64,
        });
    }
}
