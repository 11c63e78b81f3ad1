//! What the composer tells `init`: which servers there are and what each of them holds. Encoded with postcard.

use alloc::string::String;
use alloc::vec::Vec;
use serde::{Deserialize, Serialize};

/// [`System::version`].
pub const BLOB_VERSION: u32 = 4;

/// The composed system.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct System {
    /// [`BLOB_VERSION`].
    pub version: u32,
    /// Name in the manifest.
    pub name: String,
    /// The servers, in start order.
    pub servers: Vec<Server>,
    /// Shared memory and device registers that grants refer to.
    pub regions: Vec<Region>,
    /// Notifications that grants refer to, by name.
    pub notifications: Vec<String>,
    /// PCI functions that `init` sets up before it starts anyone.
    pub devices: Vec<Device>,
    /// Where `init` shows the servers to Linux and takes orders from it; `None`: nowhere.
    pub supervision: Option<Supervision>,
}

/// The places of [`crate::board`].
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Supervision {
    /// Index in `devices`, whose vector [`crate::board::VECTOR_ORDER`] tells of orders.
    pub device: u32,
    /// Guest-physical address of the board.
    pub board: u64,
    /// Guest-physical address of the orders.
    pub orders: u64,
    /// An order may make a server crash.
    pub may_crash: bool,
}

/// A server.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Server {
    /// Name in the manifest.
    pub name: String,
    /// Entry point.
    pub entry: u64,
    /// Program pieces; offsets count from the image header.
    pub segments: Vec<Segment>,
    /// Priority, 0–254.
    pub priority: u8,
    /// The highest priority of time that it makes of its Untyped.
    pub ceiling: u8,
    /// Processor time per period in microseconds; 0: unlimited.
    pub budget_us: u64,
    /// Period in microseconds.
    pub period_us: u64,
    /// Stack bytes, a multiple of 4 KiB.
    pub stack: u64,
    /// Heap bytes, a multiple of 4 KiB; 0: none.
    pub heap: u64,
    /// Bytes of Untyped for its own kernel objects; 0: none.
    pub untyped: u64,
    /// Slots in its CapTable.
    pub cap_slots: u32,
    /// Vault bytes, a multiple of 4 KiB; 0: none.
    pub vault: u64,
    /// What happens when it dies.
    pub restart: Restart,
    /// Priority at which a new instance is made.
    pub rebuild_priority: u8,
    /// Arguments, as the manifest gives them.
    pub args: Vec<String>,
    /// What it holds besides its own objects.
    pub grants: Vec<Grant>,
    /// Digest of its program.
    pub digest: [u8; 32],
}

/// A piece of a program.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Segment {
    /// Virtual address, a multiple of 4 KiB.
    pub vaddr: u64,
    /// Offset of its bytes from the image header, a multiple of 4 KiB.
    pub offset: u64,
    /// Bytes in the image.
    pub file_size: u64,
    /// Bytes in memory, a multiple of 4 KiB.
    pub memory_size: u64,
    /// Bits of [`crate::Protection`].
    pub protection: u8,
}

/// Restart policy.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum Restart {
    /// Stays dead.
    Never,
    /// Restarted each time.
    Always,
    /// Restarted at most `times` within `window_ms`, then stays dead.
    Limited {
        /// Restarts allowed in the window.
        times: u32,
        /// The window in milliseconds.
        window_ms: u64,
    },
    /// The whole system fails.
    Escalate,
}

/// A range of memory with a name.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Region {
    /// Name in the manifest.
    pub name: String,
    /// Guest-physical address, for SHARED and DEVICE kinds; 0 for private memory, that `init` takes from its RAM.
    pub physical: u64,
    /// Bytes, a multiple of 4 KiB.
    pub size: u64,
    /// [`crate::image::range_kind`].
    pub kind: u32,
}

/// A PCI function: `init` programs its BARs and enables it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Device {
    /// Name in the manifest.
    pub name: String,
    /// Bus, device and function: bus << 8 | device << 3 | function.
    pub bdf: u16,
    /// Vendor and device that must be there.
    pub vendor: u16,
    /// See `vendor`.
    pub device: u16,
    /// Guest-physical addresses to program into the memory BARs (index, address).
    pub bars: Vec<(u8, u64)>,
    /// Interrupts to enable.
    pub vectors: u16,
    /// They are MSI (one vector), not MSI-X.
    pub msi: bool,
}

/// Something a server holds.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Grant {
    /// The name by which the server finds it in its start information.
    pub name: String,
    /// Slot in its table.
    pub slot: u32,
    /// What it is.
    pub what: GrantKind,
}

/// Kinds of grants.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum GrantKind {
    /// May call that server (index in `servers`), which sees the badge.
    Call {
        /// Index of the server called.
        server: u32,
        /// Badge it sees.
        badge: u64,
        /// May send capabilities along.
        grant: bool,
    },
    /// The write side of a notification with these bits; or the read side if `bits` is 0.
    Notification {
        /// Index in `notifications`.
        index: u32,
        /// Bits that a signal sets.
        bits: u64,
    },
    /// The signals of that server's own notification ([`crate::slots::NOTIFICATION`]).
    SignalServer {
        /// Index of the server.
        server: u32,
        /// Bits that a signal sets.
        bits: u64,
    },
    /// A Frame that covers (a part of) a region, mapped at `vaddr` if that is not 0.
    Memory {
        /// Index in `regions`.
        region: u32,
        /// First byte in the region.
        offset: u64,
        /// Bytes.
        size: u64,
        /// Where it is mapped.
        vaddr: u64,
        /// Bits of [`crate::Protection`].
        protection: u8,
        /// The capability may map executable pages elsewhere (application memory).
        executable: bool,
    },
    /// One interrupt of a device (index in `devices`), MSI-X entry `vector`, signalling the server's own notification with `bits`.
    Irq {
        /// Index in `devices`.
        device: u32,
        /// MSI-X entry.
        vector: u16,
        /// Bits that the interrupt sets in the server's notification.
        bits: u64,
    },
    /// A range of I/O ports.
    Ports {
        /// First port.
        first: u16,
        /// How many.
        count: u16,
    },
    /// The kernel's console, at [`crate::slots::CONSOLE`].
    Console {
        /// May also end the system.
        halt: bool,
    },
}

/// What a server finds at [`crate::slots::layout::START_INFO`]: a u32 length, a u32 number of heap pages (the decoder needs
/// a heap), then so many bytes of postcard.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct StartInfo {
    /// Its name.
    pub name: String,
    /// How often it was started before: 0 the first time. Part of what makes an instance a different peer.
    pub generation: u64,
    /// Arguments.
    pub args: Vec<String>,
    /// Grants by name.
    pub grants: Vec<Granted>,
    /// Heap bytes at [`crate::slots::layout::HEAP`].
    pub heap: u64,
    /// Vault bytes at [`crate::slots::layout::VAULT`].
    pub vault: u64,
    /// Bytes of Untyped in [`crate::slots::UNTYPED`].
    pub untyped: u64,
    /// Slots in its CapTable.
    pub cap_slots: u32,
    /// TSC ticks per millisecond.
    pub tsc_khz: u64,
}

/// A grant as its holder sees it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Granted {
    /// The name in the manifest.
    pub name: String,
    /// The slot.
    pub slot: u32,
    /// Where it is mapped; 0: not mapped.
    pub vaddr: u64,
    /// Bytes of memory; 0 for other grants.
    pub size: u64,
    /// Guest-physical address of memory; 0 for other grants.
    pub physical: u64,
}
