//! What a kernel call answers in `rax`: 0 for success, else one of these.

use core::fmt;

/// Why a kernel call did nothing. The call table says for each call which of these it can give.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u64)]
pub enum Error {
    /// No kernel call has this number.
    InvalidCall = 1,
    /// The slot named is outside the caller's table, or empty.
    InvalidCapability = 2,
    /// The capability names an object of another type than the call needs.
    WrongType = 3,
    /// The capability lacks a right that the call needs.
    MissingRights = 4,
    /// An argument is out of range, misaligned or contradicts another.
    InvalidArgument = 5,
    /// The untyped memory (or the page-table memory of an address space) does not suffice.
    OutOfMemory = 6,
    /// The destination slot already holds a capability.
    SlotOccupied = 7,
    /// A non-blocking call would have had to wait.
    WouldBlock = 8,
    /// The deadline passed before the operation could complete.
    TimedOut = 9,
    /// The operation was cancelled: the object waited on was deleted or revoked, or a holder of the thread cancelled it.
    Cancelled = 10,
    /// The server that had taken the request died, or dropped its `Reply`, before it answered.
    PeerDead = 11,
    /// The object is in a state in which this cannot be done (bound already, running, mapped).
    Busy = 12,
    /// Nothing is there: no mapping at the address, no waiter, no pending call in the `Reply`.
    NotFound = 13,
    /// Part of the work is done and the rest needs another call; the first result says how much.
    Partial = 14,
}

impl Error {
    /// Every error, in numeric order.
    pub const ALL: [Error; 14] = [
        Error::InvalidCall,
        Error::InvalidCapability,
        Error::WrongType,
        Error::MissingRights,
        Error::InvalidArgument,
        Error::OutOfMemory,
        Error::SlotOccupied,
        Error::WouldBlock,
        Error::TimedOut,
        Error::Cancelled,
        Error::PeerDead,
        Error::Busy,
        Error::NotFound,
        Error::Partial,
    ];

    /// The error that a raw status names; `None` for 0 (success) and for numbers that are not in use.
    pub fn from_raw(raw: u64) -> Option<Error> {
        let index = usize::try_from(raw.checked_sub(1)?).ok()?;
        Self::ALL.get(index).copied()
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Error::InvalidCall => "no kernel call has this number",
            Error::InvalidCapability => "the slot is empty or outside the table",
            Error::WrongType => "the capability names an object of another type",
            Error::MissingRights => "the capability lacks a right that the call needs",
            Error::InvalidArgument => "an argument is out of range, misaligned or contradictory",
            Error::OutOfMemory => "the untyped memory does not suffice",
            Error::SlotOccupied => "the destination slot already holds a capability",
            Error::WouldBlock => "the call would have had to wait",
            Error::TimedOut => "the deadline passed",
            Error::Cancelled => "the operation was cancelled",
            Error::PeerDead => "the server died before it answered",
            Error::Busy => "the object is in a state in which this cannot be done",
            Error::NotFound => "nothing is there",
            Error::Partial => "part of the work is done; call again for the rest",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn raw_numbers_and_errors_agree() {
        assert_eq!(Error::from_raw(0), None);
        for error in Error::ALL {
            assert_eq!(Error::from_raw(error as u64), Some(error));
        }
        assert_eq!(Error::from_raw(15), None);
        assert_eq!(Error::from_raw(u64::MAX), None);
    }
}
