//! A crash in words.

use alloc::format;
use alloc::string::String;

/// What the fault message says.
#[derive(Clone, Copy, Debug)]
pub struct Fault {
    /// Exception vector.
    pub vector: u64,
    /// Error code.
    pub code: u64,
    /// Faulting address of a page fault.
    pub address: u64,
    /// Where the program was.
    pub rip: u64,
}

/// What happened, in one line.
pub fn words(fault: &Fault) -> String {
    let rip = fault.rip;
    match fault.vector {
        0 => format!("divided by zero at {rip:#x}"),
        1 | 3 => format!("stopped at a breakpoint at {rip:#x}"),
        6 => format!("executed an invalid instruction at {rip:#x} (a panic ends so)"),
        13 => {
            format!("did something that user mode may not do at {rip:#x} (general protection, code {:#x})", fault.code)
        }
        14 => page_fault(fault),
        vector => format!("raised exception {vector} (code {:#x}) at {rip:#x}", fault.code),
    }
}

fn page_fault(fault: &Fault) -> String {
    let (address, rip) = (fault.address, fault.rip);
    let absent = fault.code & 1 == 0;
    let what = match (fault.code & 0x10 != 0, fault.code & 2 != 0) {
        (true, _) => "executed",
        (_, true) => "wrote to",
        _ => "read from",
    };
    let why = match (absent, address) {
        (true, 0..0x1000) => "a null pointer",
        (true, _) => "memory that is not there",
        (false, _) => "memory that it may not use so",
    };
    format!("{what} {why}, {address:#x}, at {rip:#x}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn crashes_are_told_apart() {
        let say = |vector, code, address| words(&Fault { vector, code, address, rip: 0x40_1000 });
        assert_eq!(say(14, 4, 0x10), "read from a null pointer, 0x10, at 0x401000");
        assert_eq!(say(14, 6, 0x5000_0000), "wrote to memory that is not there, 0x50000000, at 0x401000");
        assert_eq!(say(14, 0x15, 0x2000_0000), "executed memory that it may not use so, 0x20000000, at 0x401000");
        assert!(say(6, 0, 0).contains("panic"));
        assert!(say(200, 1, 0).contains("exception 200"));
    }
}
