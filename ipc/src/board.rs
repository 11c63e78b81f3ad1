//! The board: what `init` shows Linux of the servers, and the orders that Linux may give it.
//!
//! Both lie in the shadow device's output sections: the board in the real-time side's, so only `init` writes it; the orders in
//! Linux's. Rules:
//! * The manifest decides whether there is a board, and whether an order may make a server crash.
//! * Linux writes an order, its sequence number last, and rings [`VECTOR_ORDER`]. `init` carries out what it finds, writes the
//!   outcome, and then the sequence number. One order at a time: whoever gives orders holds the driver's lock until that came.
//! * The crash reports outlive the cell: a new `init` goes on behind those that it finds. Each has its own version, size and check
//!   sum; a reader shows those whose version it knows, and says so of others.

use crate::message::Registers;
use core::sync::atomic::{AtomicU32, AtomicU64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// [`Board::magic`].
pub const BOARD_MAGIC: u64 = u64::from_le_bytes(*b"CRTOSBRD");
/// Version of [`Board`], [`Entry`] and [`Orders`].
pub const VERSION: u32 = 1;
/// MSI-X vector by which Linux says that it has written an order.
pub const VECTOR_ORDER: u16 = 2;

/// Where things are in the board's memory.
pub mod place {
    /// [`super::Board`].
    pub const HEAD: usize = 0;
    /// [`super::Entry`] × [`super::MAX_ENTRIES`].
    pub const ENTRIES: usize = 0x1000;
    /// Slots of [`super::REPORT_SLOT`] bytes × [`super::REPORTS`].
    pub const REPORTS: usize = 0x3000;
}

/// Servers that the board can show.
pub const MAX_ENTRIES: usize = 64;
/// Crash reports that are kept; the oldest gives way.
pub const REPORTS: usize = 64;
/// Bytes of a report's slot.
pub const REPORT_SLOT: usize = 2048;

/// Head of the board.
#[repr(C)]
pub struct Board {
    /// [`BOARD_MAGIC`], written last.
    pub magic: AtomicU64,
    /// [`VERSION`].
    pub version: AtomicU32,
    /// Servers.
    pub servers: AtomicU32,
    /// Sequence number of the last order that was carried out.
    pub order_done: AtomicU32,
    /// Its [`outcome`].
    pub order_outcome: AtomicU32,
    /// Crash reports written since the store was new; report `n` is in slot `n` modulo [`REPORTS`].
    pub reports: AtomicU64,
    /// 1: an order may make a server crash.
    pub may_crash: AtomicU32,
    /// Slots of `init`'s capability table that are free.
    pub free_capabilities: AtomicU32,
    /// Turns of `init`'s own event loop.
    pub turns: AtomicU64,
}

/// A server on the board. 128 bytes.
#[repr(C)]
pub struct Entry {
    /// [`server_state`].
    pub state: AtomicU32,
    /// Its priority.
    pub priority: AtomicU32,
    /// How often it was started before.
    pub generation: AtomicU64,
    /// Crash reports about it since the cell started.
    pub crashes: AtomicU64,
    /// Time-stamp counter at its last death.
    pub died: AtomicU64,
    /// Time-stamp counter when its last instance was ready to run.
    pub started: AtomicU64,
    /// Name, zero padded.
    pub name: [AtomicU64; 4],
    /// 0.
    pub reserved: [AtomicU64; 7],
}

/// States of an [`Entry`].
pub mod server_state {
    /// Its instance runs.
    pub const RUNNING: u32 = 1;
    /// It died and a new instance is being made.
    pub const RESTARTING: u32 = 2;
    /// It stays dead.
    pub const DEAD: u32 = 3;
}

/// Linux's page of orders.
#[repr(C)]
pub struct Orders {
    /// Grows by one with each order, written last.
    pub sequence: AtomicU32,
    /// [`order`].
    pub verb: AtomicU32,
    /// Index of the server, or [`INIT`].
    pub server: AtomicU32,
    /// With [`order::CRASH`]: index in [`WAYS`].
    pub argument: AtomicU32,
}

/// What can be ordered.
pub mod order {
    /// Take the server as crashed: report, take back, and go on by its restart policy.
    pub const KILL: u32 = 1;
    /// Replace the server by a new instance, whatever its restart policy says.
    pub const RESTART: u32 = 2;
    /// Make the server crash by itself, in a given way.
    pub const CRASH: u32 = 3;
}

/// The supervisor itself; it can only be made to crash.
pub const INIT: u32 = u32::MAX;

/// How an order went.
pub mod outcome {
    /// Done.
    pub const DONE: u32 = 0;
    /// There is no such order, server or way.
    pub const UNKNOWN: u32 = 1;
    /// The manifest does not allow it.
    pub const FORBIDDEN: u32 = 2;
    /// The server is dead, and its policy says that it stays so.
    pub const DEAD: u32 = 3;
    /// A new instance could not be made.
    pub const FAILED: u32 = 4;
}

/// The ways in which a server can be made to crash.
pub const WAYS: [&str; 10] = ["null", "wild", "execdata", "stack", "ud2", "spin", "port", "leak", "garbage", "panic"];

/// Version of [`Report`].
pub const REPORT_VERSION: u32 = 2;
/// Bytes of the stack that a report keeps.
pub const STACK_BYTES: usize = 512;
/// Messages that a report keeps.
pub const MESSAGES: usize = 8;

/// A message that a server took.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Taken {
    /// Badge of the sender, or the bits of a signal.
    pub badge: u64,
    /// Tag; 0 with a signal.
    pub tag: u64,
    /// First word.
    pub word: u64,
}

/// A crash report. Every layout ever written begins with `checksum`, `version` and `size`.
#[derive(Clone, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Report {
    /// [`crate::image::checksum`] of the bytes behind this word, to `size`.
    pub checksum: u64,
    /// [`REPORT_VERSION`].
    pub version: u32,
    /// Bytes of the report.
    pub size: u32,
    /// Its number, from 0.
    pub number: u64,
    /// Time-stamp counter.
    pub tsc: u64,
    /// Ticks of it per millisecond.
    pub tsc_khz: u64,
    /// Which instance it was.
    pub generation: u64,
    /// Processor time that the instance had used, in ticks.
    pub consumed: u64,
    /// [`cause`].
    pub cause: u32,
    /// [`verdict`].
    pub verdict: u32,
    /// Exception vector, error code and address of a fault.
    pub fault: [u64; 3],
    /// Name of the server, zero padded.
    pub server: [u8; 32],
    /// Build id of the image.
    pub build_id: [u8; 32],
    /// The reason in words, zero padded.
    pub reason: [u8; 192],
    /// Registers.
    pub registers: Registers,
    /// The last messages that it took, newest first; those that there never were are zero.
    pub messages: [Taken; MESSAGES],
    /// Bytes of `stack` that count.
    pub stack_bytes: u64,
    /// The stack, from the stack pointer up.
    pub stack: [u8; STACK_BYTES],
    /// Digest of the image's manifest. Version 1 ended before this.
    pub manifest_digest: [u8; 32],
    /// Digest of the server's program.
    pub program_digest: [u8; 32],
}

static_assertions::const_assert!(size_of::<Report>() <= REPORT_SLOT);
static_assertions::const_assert_eq!(size_of::<Entry>(), 128);
static_assertions::const_assert!(size_of::<Board>() <= place::ENTRIES);
static_assertions::const_assert!(place::ENTRIES + MAX_ENTRIES * size_of::<Entry>() <= place::REPORTS);
static_assertions::const_assert!(place::REPORTS + REPORTS * REPORT_SLOT <= crate::shadow::rt_section::BOARD_SIZE);

/// Why a report was written.
pub mod cause {
    /// The processor refused what it did.
    pub const FAULT: u32 = 1;
    /// It was ordered.
    pub const ORDER: u32 = 2;
    /// It went on and on without finishing a turn of its event loop.
    pub const SPIN: u32 = 3;
}

/// What followed.
pub mod verdict {
    /// A new instance.
    pub const RESTARTED: u32 = 1;
    /// It stays dead.
    pub const STAYS_DEAD: u32 = 2;
    /// The whole system fails.
    pub const ESCALATED: u32 = 3;
}
