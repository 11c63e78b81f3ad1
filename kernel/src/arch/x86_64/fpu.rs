//! FPU, SSE and AVX state: kept in the registers until another thread wants them. Threads that never use them never pay.
#![allow(unsafe_code)] // The instructions that save and load the state.

use super::cpu::{self, Exclusive};
use crate::kernel::Kernel;
use crate::memory::Ref;
use crate::object::Thread;
use crate::object::thread::{FPU_BYTES, FpuArea};
use core::arch::asm;
use core::cell::Cell;
use raw_cpuid::CpuId;

struct State {
    xsave: Cell<bool>,
    components: Cell<u64>,
    bytes: Cell<usize>,
}

static STATE: Exclusive<State> =
    Exclusive(State { xsave: Cell::new(false), components: Cell::new(3), bytes: Cell::new(512) });

/// Chooses how state is saved, and what belongs to it: x87, SSE, and AVX where there is room.
pub fn set_up() {
    let cpuid = CpuId::new();
    if !cpuid.get_feature_info().is_some_and(|features| features.has_xsave()) {
        return;
    }
    let supported = u64::from(core::arch::x86_64::__cpuid_count(0xd, 0).eax);
    let components = supported & 7 | 3;
    // SAFETY: XSAVE is there and enabled; x87 and SSE always may be set, AVX if supported.
    unsafe { asm!("xsetbv", in("ecx") 0, in("eax") components as u32, in("edx") 0, options(nostack)) };
    let bytes = core::arch::x86_64::__cpuid_count(0xd, 0).ebx as usize;
    assert!(bytes <= FPU_BYTES, "the FPU state takes {bytes} bytes");
    STATE.0.xsave.set(true);
    STATE.0.components.set(components);
    STATE.0.bytes.set(bytes);
}

/// Bytes of the state.
pub fn bytes() -> usize {
    STATE.0.bytes.get()
}

/// Makes of a zeroed area the state of a thread that has never used the FPU.
pub fn reset(area: &FpuArea) {
    area.with(|bytes| {
        bytes[0..2].copy_from_slice(&0x37f_u16.to_le_bytes());
        bytes[24..28].copy_from_slice(&0x1f80_u32.to_le_bytes());
    });
}

/// Makes a state that a user wrote into one that the processor accepts.
pub fn mend(area: &FpuArea) {
    let state = &STATE.0;
    area.with(|bytes| {
        let mut mxcsr = [0; 4];
        mxcsr.copy_from_slice(&bytes[24..28]);
        bytes[24..28].copy_from_slice(&(u32::from_le_bytes(mxcsr) & 0xffff).to_le_bytes());
        let mut present = [0; 8];
        present.copy_from_slice(&bytes[512..520]);
        bytes[512..520].copy_from_slice(&(u64::from_le_bytes(present) & state.components.get()).to_le_bytes());
        bytes[520..576].fill(0);
    });
}

/// Saves the registers of a thread that is not running. Whoever runs next finds them closed.
pub fn save(area: &FpuArea) {
    cpu::open_fpu(true);
    store(area);
    cpu::open_fpu(false);
}

fn store(area: &FpuArea) {
    // SAFETY: the area is large enough (checked at the start) and aligned to 64.
    unsafe {
        if STATE.0.xsave.get() {
            asm!("xsave64 [{}]", in(reg) area.as_ptr(), in("eax") 7, in("edx") 0, options(nostack));
        } else {
            asm!("fxsave64 [{}]", in(reg) area.as_ptr(), options(nostack));
        }
    }
}

fn load(area: &FpuArea) {
    // SAFETY: as above; the area holds a valid state: saved, reset, or mended.
    unsafe {
        if STATE.0.xsave.get() {
            asm!("xrstor64 [{}]", in(reg) area.as_ptr(), in("eax") 7, in("edx") 0, options(nostack));
        } else {
            asm!("fxrstor64 [{}]", in(reg) area.as_ptr(), options(nostack));
        }
    }
}

/// The current thread wants the FPU.
pub fn claim(k: &Kernel, thread: Ref<Thread>) {
    cpu::open_fpu(true);
    if k.cpu.fpu_owner.get() == Some(thread) {
        return;
    }
    if let Some(owner) = k.cpu.fpu_owner.get() {
        store(&owner.fpu);
    }
    load(&thread.fpu);
    thread.uses_fpu.set(true);
    k.cpu.own_fpu(Some(thread));
}
