//! The shadow channel: what lies in the shared memory between the real-time realm and Linux.
//!
//! There are two output sections, each written by one side only (ivshmem v2), and the application pool that both write.
//! Rules:
//! * An index, length, id or address that the other side wrote is hostile until checked, each time it is read. Read it once.
//! * A ring has one producer and one consumer. Each side's index lies in its own section; indices run freely, modulo 2³².
//! * The driver (Linux) gives out slots and their generations; a message with a stale generation is dropped.
//! * The real-time side gives out request ids; a return whose id is not in flight for that slot is dropped.
//! * Producer: write the entry, release-store the tail, then ring the doorbell (vector 1). Consumer: acquire-load the tail,
//!   take entries until head = tail, release-store the head. A doorbell can be lost or merged: look at the ring again after enabling interrupts.
//! * Start: a side fills its header, the magic last, and then sets its ivshmem state to RUN (3); state 0 means it is gone. A side that starts afresh
//!   takes over the other's view of the rings if the other's magic is there (its tail := the other's head, its head := the other's tail), else zeros.
//! * A slot has at most [`CALLS_PER_SLOT`] calls queued or in execution, executed in order; one more is answered with EAGAIN.
//! * A mirror node is used for something else only after an UNMAP or a GONE that was sent after its unlinking was answered;
//!   an address shows another page, or a page loses WRITABLE, likewise. WRITABLE can be added at any time.

use core::sync::atomic::{AtomicU32, AtomicU64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// ivshmem protocol of the shadow device (class ff, subclass 43h, programming interface 72h).
pub const PROTOCOL: u16 = 0x4372;
/// MSI-X vector of state changes.
pub const VECTOR_STATE: u16 = 0;
/// MSI-X vector of ring news.
pub const VECTOR_DOORBELL: u16 = 1;
/// Peer number of Linux.
pub const PEER_LINUX: u32 = 0;
/// Peer number of the real-time side.
pub const PEER_RT: u32 = 1;

/// [`RtHeader::magic`].
pub const RT_MAGIC: u64 = u64::from_le_bytes(*b"CRTOS-RT");
/// [`LinuxHeader::magic`].
pub const LINUX_MAGIC: u64 = u64::from_le_bytes(*b"CRTOS-LX");
/// Version of everything in this module.
pub const VERSION: u32 = 1;

/// Thread slots: real-time threads that can exist at once.
pub const MAX_SLOTS: usize = 256;
/// Entries of the request ring.
pub const REQUESTS: usize = 512;
/// Entries of the response ring.
pub const RESPONSES: usize = 512;

/// Calls of one slot that Linux keeps, the one in execution included.
pub const CALLS_PER_SLOT: usize = 8;

/// First address of an application's window.
pub const WINDOW_START: u64 = 0x1_0000;
/// End of an application's window; the proxy process keeps itself above.
pub const WINDOW_END: u64 = 0x4000_0000_0000;

/// Offsets in output section 1, that the real-time side writes.
pub mod rt_section {
    /// [`super::RtHeader`].
    pub const HEADER: usize = 0;
    /// [`super::Request`] × [`super::REQUESTS`].
    pub const REQUESTS: usize = 0x1000;
    /// [`super::ThreadEntry`] × [`super::MAX_SLOTS`].
    pub const THREADS: usize = 0x2_0000;
    /// [`super::Counters`], behind the threads: the same server writes both.
    pub const COUNTERS: usize = THREADS + super::MAX_SLOTS * size_of::<super::ThreadEntry>();
    /// [`super::ConsoleRing`], including its head.
    pub const CONSOLE: usize = 0x3_0000;
    /// Bytes of the console ring.
    pub const CONSOLE_SIZE: usize = 0x1_0000;
    /// [`crate::board`].
    pub const BOARD: usize = 0x4_0000;
    /// Bytes of the board.
    pub const BOARD_SIZE: usize = 0x4_0000;
    /// Mirror nodes of 4 KiB each, to the end of the section.
    pub const MIRROR: usize = 0x10_0000;
}

/// Offsets in output section 0, that Linux writes.
pub mod linux_section {
    /// [`super::LinuxHeader`].
    pub const HEADER: usize = 0;
    /// [`super::Response`] × [`super::RESPONSES`].
    pub const RESPONSES: usize = 0x1000;
    /// [`crate::board::Orders`].
    pub const ORDERS: usize = 0x1_0000;
    /// One bit per page of the pool: the driver has, or had and has not let go, this page mapped in a proxy.
    pub const HELD: usize = 0x2_0000;
}

/// Start of output section 1; written by the server that owns the rings, and by no other.
#[repr(C)]
pub struct RtHeader {
    /// [`RT_MAGIC`], written last.
    pub magic: AtomicU64,
    /// [`VERSION`].
    pub version: AtomicU32,
    /// Grows by one with each start of the server that owns the rings.
    pub epoch: AtomicU32,
    /// Requests produced.
    pub request_tail: AtomicU32,
    /// Responses consumed.
    pub response_head: AtomicU32,
    /// Grows at least ten times a second while the real-time side lives.
    pub heartbeat: AtomicU64,
    /// Time-stamp counter ticks per millisecond.
    pub tsc_khz: AtomicU64,
    /// Requests sent since boot.
    pub requests_sent: AtomicU64,
    /// Responses dropped because they were not valid.
    pub responses_dropped: AtomicU64,
    /// How often Linux's heartbeat is to grow, in microseconds; 0: as it likes.
    pub pulse_us: AtomicU64,
    /// Of each slot: its generation << 32 | calls sent for that.
    pub calls: [AtomicU64; MAX_SLOTS],
}

/// Start of output section 0.
#[repr(C)]
pub struct LinuxHeader {
    /// [`LINUX_MAGIC`], written last.
    pub magic: AtomicU64,
    /// [`VERSION`].
    pub version: AtomicU32,
    /// Grows by one with each load of the driver.
    pub epoch: AtomicU32,
    /// Requests consumed.
    pub request_head: AtomicU32,
    /// Responses produced.
    pub response_tail: AtomicU32,
    /// Grows at least ten times a second while Linux lives.
    pub heartbeat: AtomicU64,
    /// Odd while the two clock words below are being written.
    pub clock_sequence: AtomicU64,
    /// `CLOCK_REALTIME` in nanoseconds at `clock_tsc`.
    pub clock_realtime: AtomicU64,
    /// Value of the time-stamp counter, as the real-time side reads it.
    pub clock_tsc: AtomicU64,
    /// `CLOCK_MONOTONIC` in nanoseconds at `clock_tsc`.
    pub clock_monotonic: AtomicU64,
}

/// What the real-time side asks of Linux.
pub mod request_kind {
    /// Execute `number(args…)` in the worker of the slot, or a [`super::special`] call; answered by a return.
    pub const CALL: u32 = 1;
    /// Interrupt the call with id `args[0]` if the worker of the slot is still in it: it returns EINTR. Not answered itself.
    pub const CANCEL: u32 = 2;
    /// The process led by the slot has ended with wait status `args[0]`. Not answered; the driver answers with GONE when the proxy has gone.
    pub const EXIT: u32 = 3;
    /// The thread of the slot has ended: its worker may go. Answered by GONE.
    pub const THREAD_EXIT: u32 = 4;
    /// Take the pages of `args[0]..args[0]+args[1]` away from the proxy of the process led by the slot, and clear the held bits
    /// of those with no pin left (of the others as soon as it ends). Answered by the driver itself, by a return of 0.
    pub const UNMAP: u32 = 5;
}

/// Numbers of calls that only the proxy knows.
pub mod special {
    /// (address, bytes): write the argument block of the START message there. Returns bytes.
    pub const ARGUMENTS: u64 = 0x1_0000;
    /// (): start a worker for a new thread. Returns its tid; the response's `new_slot`, `new_generation` say which slot it has.
    pub const CLONE: u64 = 0x1_0001;
    /// (policy, priority): set the worker's scheduling.
    pub const SCHEDULE: u64 = 0x1_0002;
}

/// Real-time side → Linux. 128 bytes.
#[derive(Clone, Copy, Debug, Default, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Request {
    /// Never 0, never used again.
    pub id: u64,
    /// [`request_kind`].
    pub kind: u32,
    /// Slot of the thread (or of the process leader).
    pub slot: u32,
    /// Generation of the slot.
    pub generation: u32,
    /// Linux scheduling policy of the caller (0 OTHER, 1 FIFO, 2 RR): the worker follows.
    pub policy: u16,
    /// Linux real-time priority of the caller, 1–99, or 0.
    pub priority: u16,
    /// System call number.
    pub number: u64,
    /// Arguments.
    pub args: [u64; 6],
    /// 0.
    pub reserved: [u64; 6],
}

/// What Linux tells the real-time side.
pub mod response_kind {
    /// A call returned `value`.
    pub const RETURN: u32 = 1;
    /// A proxy attached: start a program. `value` bytes of arguments wait ([`super::special::ARGUMENTS`]);
    /// `pid`, `policy`, `priority` are the proxy's.
    pub const START: u32 = 2;
    /// Signal `value` arrived for the process led by the slot; `pid` is the sender's, `code` the `si_code`.
    pub const SIGNAL: u32 = 3;
    /// The worker of this slot (or, for a leader's slot, the whole proxy) is gone: the slot is free for use again once this message is consumed.
    pub const GONE: u32 = 4;
}

/// Linux → real-time side. 64 bytes.
#[derive(Clone, Copy, Debug, Default, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Response {
    /// Id of the request answered, else 0.
    pub id: u64,
    /// [`response_kind`].
    pub kind: u32,
    /// Slot.
    pub slot: u32,
    /// Generation of the slot.
    pub generation: u32,
    /// Linux id of the process or thread.
    pub pid: u32,
    /// See the kinds. Results are Linux's: −4095 to −1 is an error number.
    pub value: i64,
    /// Scheduling policy.
    pub policy: u16,
    /// Real-time priority.
    pub priority: u16,
    /// `si_code` of a signal.
    pub code: i32,
    /// Slot of a new thread ([`special::CLONE`]).
    pub new_slot: u32,
    /// Its generation.
    pub new_generation: u32,
    /// 0.
    pub reserved: [u64; 2],
}

/// States of a [`ThreadEntry`].
pub mod thread_state {
    /// The slot is free.
    pub const FREE: u32 = 0;
    /// Being set up.
    pub const STARTING: u32 = 1;
    /// Runs, or is ready to.
    pub const RUNNING: u32 = 2;
    /// Waits for Linux.
    pub const REMOTE: u32 = 3;
    /// Waits for something local.
    pub const WAITING: u32 = 4;
    /// Has ended; its resources are being taken back.
    pub const ENDING: u32 = 5;
}

/// What the personality publishes of itself as a whole.
#[repr(C)]
pub struct Counters {
    /// Pool pages in all.
    pub pool_pages: AtomicU64,
    /// Pool pages free.
    pub pool_free: AtomicU64,
    /// Pool pages that wait for Linux to let go.
    pub pool_quarantine: AtomicU64,
    /// Mirror nodes in use.
    pub mirror_nodes: AtomicU64,
    /// Processes started since boot.
    pub processes_started: AtomicU64,
    /// Processes that exist.
    pub processes: AtomicU64,
    /// Slots of the personality's capability table that are free.
    pub free_capabilities: AtomicU64,
}

/// What the real-time side publishes of a thread: for `crtos ps`, and for the driver's fault handler. 128 bytes.
#[repr(C)]
pub struct ThreadEntry {
    /// Generation of the slot.
    pub generation: AtomicU32,
    /// [`thread_state`].
    pub state: AtomicU32,
    /// Slot of the process leader; equals the own slot for a leader.
    pub leader: AtomicU32,
    /// Root node of the process's mirror (leader's entry only); `u32::MAX`: none.
    pub mirror_root: AtomicU32,
    /// Process id.
    pub pid: AtomicU32,
    /// Thread id.
    pub tid: AtomicU32,
    /// Policy << 16 | priority.
    pub scheduling: AtomicU32,
    /// 0.
    pub reserved: AtomicU32,
    /// Processor time used, in TSC ticks.
    pub consumed: AtomicU64,
    /// Local calls made.
    pub local_calls: AtomicU64,
    /// Pool pages of the process (leader's entry only).
    pub pages: AtomicU64,
    /// Name, zero padded.
    pub name: [AtomicU64; 2],
    /// 0.
    pub reserved2: [AtomicU64; 7],
}

/// Bits of a mirror entry. A node has 512 entries; four levels translate as on x86-64 (9 bits each, from bit 47 down).
pub mod mirror {
    /// The entry is valid.
    pub const PRESENT: u64 = 1;
    /// (Last level) the page may be written.
    pub const WRITABLE: u64 = 2;
    /// Above this bit: index of the next node, or (last level) of the page in the pool.
    pub const INDEX_SHIFT: u32 = 12;
    /// No node.
    pub const NONE: u32 = u32::MAX;
}

/// The console as a ring that the other realm can read: head, then the bytes to the end of its memory.
#[repr(C)]
pub struct ConsoleRing {
    /// [`CONSOLE_MAGIC`].
    pub magic: AtomicU64,
    /// Bytes of the ring after this head.
    pub size: AtomicU64,
    /// Bytes ever written; the newest is at (written − 1) mod size.
    pub written: AtomicU64,
    /// 0.
    pub reserved: AtomicU64,
}

/// [`ConsoleRing::magic`].
pub const CONSOLE_MAGIC: u64 = u64::from_le_bytes(*b"CRTOSLOG");

static_assertions::const_assert_eq!(size_of::<Request>(), 128);
static_assertions::const_assert_eq!(size_of::<Response>(), 64);
static_assertions::const_assert_eq!(size_of::<ThreadEntry>(), 128);
static_assertions::const_assert!(rt_section::HEADER + size_of::<RtHeader>() <= rt_section::REQUESTS);
static_assertions::const_assert!(rt_section::REQUESTS + REQUESTS * size_of::<Request>() <= rt_section::THREADS);
static_assertions::const_assert!(rt_section::COUNTERS + size_of::<Counters>() <= rt_section::CONSOLE);
static_assertions::const_assert!(rt_section::CONSOLE + rt_section::CONSOLE_SIZE <= rt_section::BOARD);
static_assertions::const_assert!(rt_section::BOARD + rt_section::BOARD_SIZE <= rt_section::MIRROR);
static_assertions::const_assert!(linux_section::RESPONSES + RESPONSES * size_of::<Response>() <= linux_section::ORDERS);
static_assertions::const_assert!(linux_section::ORDERS < linux_section::HELD);

/// The identity that a foreign thread's messages carry: slot in bits 0–15, generation in bits 32–63.
pub const fn thread_identity(slot: u32, generation: u32) -> u64 {
    (slot as u64 & 0xffff) | ((generation as u64) << 32)
}

/// Slot and generation of an identity.
pub const fn identity_parts(identity: u64) -> (u32, u32) {
    ((identity & 0xffff) as u32, (identity >> 32) as u32)
}
