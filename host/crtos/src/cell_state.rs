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

/// Why a cell failed.
pub fn failure(reason: i64) -> &'static str {
    match reason {
        0 => "no reason known",
        1 => "access to memory outside of the cell",
        2 => "access to a port that is not its own",
        3 => "access to a forbidden model-specific register",
        4 => "triple fault",
        5 => "access to device memory by an instruction that cannot be decoded",
        6 => "forbidden PCI access",
        7 => "interrupt to a processor outside of the cell",
        8 => "unexpected exit",
        9 => "no answer to a message",
        10 => "forbidden control register value",
        11 => "invalid guest state",
        _ => "unknown reason",
    }
}
