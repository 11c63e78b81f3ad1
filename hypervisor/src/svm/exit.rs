//! What an exit code means.

use super::vmcb::{Vmcb, exit_code};
use crate::vendor::{Exit, IoAccess, MemoryAccess};

/// Reads the reason of an exit out of the control block.
#[must_use]
pub fn decode(vmcb: &Vmcb) -> Exit {
    let (code, info1, info2) = (vmcb.exit_code, vmcb.exit_info1, vmcb.exit_info2);
    if code as u32 == exit_code::INVALID {
        return Exit::InvalidState;
    }
    match code {
        exit_code::NMI => Exit::Nmi,
        exit_code::CPUID => Exit::Cpuid,
        exit_code::VMMCALL => Exit::Hypercall,
        exit_code::MSR if info1 & 1 != 0 => Exit::MsrWrite,
        exit_code::MSR => Exit::MsrRead,
        exit_code::XSETBV => Exit::SetXcr,
        exit_code::SHUTDOWN => Exit::TripleFault,
        exit_code::INVLPGA | exit_code::VMRUN..=exit_code::SKINIT => Exit::Undefined,
        exit_code::IO => Exit::Io(IoAccess {
            port: (info1 >> 16) as u16,
            size: (info1 >> 4 & 7) as u8,
            input: info1 & 1 != 0,
            string: info1 & 4 != 0,
            next_rip: info2,
        }),
        exit_code::NESTED_FAULT => Exit::Memory(MemoryAccess {
            address: info2,
            write: info1 & 2 != 0,
            fetch: info1 & 16 != 0,
            walk: info1 & 1 << 33 != 0,
        }),
        code => Exit::Unexpected(code),
    }
}
