//! Words for what the hypervisor says of a cell.

/// A cell's state (hypercall 6).
pub fn state(state: i32) -> &'static str {
    match state {
        0 => "running",
        1 => "running, locked",
        2 => "shut down",
        3 => "failed",
        4 => "failed: wrong communication revision",
        _ => "unknown",
    }
}

/// Reasons, by number.
pub const MEMORY: i64 = 1;
/// A port.
pub const PORT: i64 = 2;
/// A model-specific register.
pub const MSR: i64 = 3;
/// An instruction that the emulation does not know.
pub const INSTRUCTION: i64 = 5;
/// A PCI function.
pub const PCI: i64 = 6;
/// An interrupt.
pub const INTERRUPT: i64 = 7;
/// An exit.
pub const EXIT: i64 = 8;
/// A message that was not answered.
pub const TIMEOUT: i64 = 9;
/// A control register.
pub const CONTROL_REGISTER: i64 = 10;

/// Why a cell failed.
pub fn failure(reason: i64) -> &'static str {
    match reason {
        0 => "no reason known",
        MEMORY => "access to memory outside of the cell",
        PORT => "access to a port that is not its own",
        MSR => "access to a forbidden model-specific register",
        4 => "triple fault",
        INSTRUCTION => "access to device memory by an instruction that cannot be decoded",
        PCI => "forbidden PCI access",
        INTERRUPT => "interrupt to a processor outside of the cell",
        EXIT => "unexpected exit",
        TIMEOUT => "no answer to a message",
        CONTROL_REGISTER => "forbidden control register value",
        11 => "invalid guest state",
        _ => "unknown reason",
    }
}
