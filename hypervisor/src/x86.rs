//! Single instructions that have no better home.
#![allow(unsafe_code)] // Privileged instructions.

use core::arch::asm;
use core::arch::x86_64::__cpuid_count;

use x86_64::registers::control::Cr4;
use x86_64::registers::model_specific::Msr;

/// Reads an MSR that every CPU has that this runs on.
#[must_use]
pub fn read_msr(msr: u32) -> u64 {
    // SAFETY: the caller's MSRs exist.
    unsafe { Msr::new(msr).read() }
}

/// CPUID as EAX, EBX, ECX, EDX.
#[must_use]
pub fn cpuid(leaf: u32, subleaf: u32) -> [u32; 4] {
    let result = __cpuid_count(leaf, subleaf);
    [result.eax, result.ebx, result.ecx, result.edx]
}

/// Puts the floating point and vector state of this CPU into its initial state: nothing of one guest is to be seen by another.
pub fn reset_extended_state() {
    const OSXSAVE: u64 = 1 << 18;
    #[repr(align(64))]
    struct Area([u8; 1024]);
    static INITIAL: Area = Area([0; 1024]);
    // SAFETY: the hypervisor uses no such state. An area with an empty header stands for the initial state of every component,
    // and its legacy part for MXCSR, which is then set to its own initial value.
    unsafe {
        asm!("clts", options(nomem, nostack));
        if Cr4::read_raw() & OSXSAVE != 0 {
            asm!("xgetbv", "xrstor [{area}]", "ldmxcsr dword ptr [{mxcsr}]", "mov eax, 1", "xor edx, edx", "xsetbv",
                area = in(reg) INITIAL.0.as_ptr(), mxcsr = in(reg) &MXCSR, in("ecx") 0, out("eax") _, out("edx") _, options(nostack));
        } else {
            asm!("fxrstor [{area}]", "ldmxcsr dword ptr [{mxcsr}]", "fninit", area = in(reg) INITIAL.0.as_ptr(), mxcsr = in(reg) &MXCSR, options(nostack));
        }
    }
}

static MXCSR: u32 = 0x1f80;

/// Sets XCR0 for the guest, if the value is one that the CPU takes; whether it did.
#[must_use]
pub fn set_xcr0(value: u64) -> bool {
    const OSXSAVE: u64 = 1 << 18;
    let [low, _, _, high] = cpuid(0xd, 0);
    let supported = u64::from(high) << 32 | u64::from(low);
    let bad_avx = value & 6 == 4;
    let avx512 = value & 0xe0;
    let bad_avx512 = avx512 != 0 && (avx512 != 0xe0 || value & 6 != 6);
    let bad_mpx = value & 0x18 != 0 && value & 0x18 != 0x18;
    let bad_amx = value & 0x6_0000 != 0 && value & 0x6_0000 != 0x6_0000;
    if Cr4::read_raw() & OSXSAVE == 0
        || value & 1 == 0
        || value & !supported != 0
        || bad_avx
        || bad_avx512
        || bad_mpx
        || bad_amx
    {
        return false;
    }
    // SAFETY: a valid value; the hypervisor itself uses no extended state.
    unsafe {
        asm!("xsetbv", in("ecx") 0, in("eax") value as u32, in("edx") (value >> 32) as u32, options(nomem, nostack))
    };
    true
}
