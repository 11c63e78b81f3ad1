//! A crash in words, and as a report.

use alloc::format;
use alloc::string::String;
use ipc::board::{MESSAGES, Report, Taken};
use ipc::message::Trace;
use zerocopy::IntoBytes;

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

/// The checksum of a report.
pub fn checksum(report: &Report) -> u64 {
    ipc::image::checksum(&report.as_bytes()[size_of::<u64>()..])
}

/// Text cut to a field that is padded with zeroes. It is cut between characters.
pub fn padded<const N: usize>(text: &str) -> [u8; N] {
    let mut end = text.len().min(N);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    let mut field = [0; N];
    field[..end].copy_from_slice(&text.as_bytes()[..end]);
    field
}

/// The words that a panicking server left, if what is there is text.
pub fn panic_words(trace: &Trace) -> Option<&str> {
    let bytes = trace.panic.as_bytes();
    let length = bytes.iter().position(|byte| *byte == 0).unwrap_or(bytes.len());
    // The text may have been cut in the middle of a character.
    let text = match core::str::from_utf8(&bytes[..length]) {
        Ok(text) => text,
        Err(error) => core::str::from_utf8(&bytes[..error.valid_up_to()]).unwrap_or_default(),
    };
    (!text.is_empty() && !text.contains(char::is_control)).then_some(text)
}

/// The last messages that a trace tells of, newest first.
pub fn last_messages(trace: &Trace) -> [Taken; MESSAGES] {
    core::array::from_fn(|back| match trace.turns.checked_sub(back as u64 + 1) {
        Some(turn) => trace.taken[(turn % MESSAGES as u64) as usize],
        None => Taken::default(),
    })
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

    #[test]
    fn a_trace_is_read_newest_first() {
        let mut trace = Trace { turns: 2, ..Trace::default() };
        trace.taken[0].badge = 10;
        trace.taken[1].badge = 11;
        let badges = last_messages(&trace).map(|taken| taken.badge);
        assert_eq!(badges[..3], [11, 10, 0]);
        trace.turns = u64::MAX;
        assert_eq!(last_messages(&trace).len(), MESSAGES);
    }

    #[test]
    fn a_panic_is_words_or_nothing() {
        let mut trace = Trace::default();
        assert_eq!(panic_words(&trace), None);
        trace.panic.as_mut_bytes()[..4].copy_from_slice(b"a\xc3\xa4\xc3");
        assert_eq!(panic_words(&trace), Some("a\u{e4}"));
        trace.panic.as_mut_bytes()[1] = 7;
        assert_eq!(panic_words(&trace), None);
        assert_eq!(padded::<2>("a\u{e4}"), [b'a', 0]);
        assert_eq!(padded::<4>("ab"), *b"ab\0\0");
    }
}
