//! The inter-cell shared memory device (ivshmem) version 2: everything a driver sees.
//!
//! The guest-physical address of the shared memory is in the vendor capability of the PCI function or, where the configuration gives the
//! function a BAR 2, preset there; the capability is then the shorter one. From that address on lie, contiguously, the state table (a u32
//! a peer, read-only for all), the read/write section (may be empty) and one output section a peer (writable by its owner only).
//! Writing BAR 2 does not move them.
//!
//! There is no pending state: an event while interrupts are off is lost, so look at the rings again after
//! switching them on.

/// PCI vendor id (also subsystem vendor).
pub const VENDOR_ID: u16 = 0x110a;
/// PCI device id (also subsystem id).
pub const DEVICE_ID: u16 = 0x4106;
/// Class of the function; subclass and programming interface hold the protocol.
pub const BASE_CLASS: u8 = 0xff;
/// Most peers on one link.
pub const MAX_PEERS: usize = 12;
/// Most MSI-X vectors of one peer.
pub const MAX_VECTORS: usize = 16;
/// Memory regions of a link besides the output sections: state table and read/write section.
pub const FIXED_REGIONS: u32 = 2;

/// Configuration space of the function.
pub mod cfg {
    /// Bytes that exist; everything behind reads as all-ones.
    pub const SIZE: u16 = 0x80;
    /// Vendor and device id.
    pub const ID: u16 = 0x00;
    /// Command (u16).
    pub const COMMAND: u16 = 0x04;
    /// Status (u16): capability list, constant.
    pub const STATUS: u16 = 0x06;
    /// Revision, protocol, class.
    pub const CLASS: u16 = 0x08;
    /// Header type (u8 at 0x0e).
    pub const HEADER: u16 = 0x0c;
    /// BAR 0: registers.
    pub const BAR0: u16 = 0x10;
    /// BAR 1: MSI-X table and pending bits.
    pub const BAR1: u16 = 0x14;
    /// BAR 2, low half: the shared memory, or absent.
    pub const BAR2: u16 = 0x18;
    /// BAR 2, high half.
    pub const BAR3: u16 = 0x1c;
    /// Low bits of a BAR 2 that is there: memory, 64 bits wide, prefetchable.
    pub const BAR2_KIND: u32 = 0xc;
    /// Subsystem vendor and id.
    pub const SUBSYSTEM: u16 = 0x2c;
    /// First capability (u8).
    pub const CAP_POINTER: u16 = 0x34;
    /// Interrupt line and pin.
    pub const INTERRUPT: u16 = 0x3c;
    /// Vendor capability.
    pub const VENDOR_CAP: u16 = 0x40;
    /// MSI-X capability.
    pub const MSIX_CAP: u16 = 0x60;

    /// Command bit: memory decoding on.
    pub const COMMAND_MEMORY: u16 = 1 << 1;
    /// Command bit: bus master; without it no interrupt leaves.
    pub const COMMAND_MASTER: u16 = 1 << 2;
    /// Command bit: legacy interrupt off.
    pub const COMMAND_INTX_OFF: u16 = 1 << 10;
    /// Command bits that can be written.
    pub const COMMAND_WRITABLE: u16 = COMMAND_MEMORY | COMMAND_MASTER | COMMAND_INTX_OFF;
    /// The constant status word.
    pub const STATUS_VALUE: u16 = 0x0010;
}

/// Vendor capability: offsets from [`cfg::VENDOR_CAP`].
pub mod vendor_cap {
    /// Capability id.
    pub const ID: u8 = 0x09;
    /// Length, with the base address.
    pub const LEN: u8 = 0x20;
    /// Length without it, where there is a BAR 2.
    pub const SHORT_LEN: u8 = 0x18;
    /// Privileged control (u8).
    pub const CONTROL: u16 = 0x03;
    /// Privileged control bit: an interrupt switches further ones off.
    pub const CONTROL_ONE_SHOT: u8 = 1 << 0;
    /// Size of the state table (u32).
    pub const STATE_TABLE_SIZE: u16 = 0x04;
    /// Size of the read/write section (u64).
    pub const RW_SECTION_SIZE: u16 = 0x08;
    /// Size of each output section (u64).
    pub const OUTPUT_SECTION_SIZE: u16 = 0x10;
    /// Guest-physical address of the state table (u64), unless there is a BAR 2.
    pub const BASE_ADDRESS: u16 = 0x18;
}

/// MSI-X capability: offsets from [`cfg::MSIX_CAP`], and the layout of BAR 1.
pub mod msix {
    /// Capability id.
    pub const ID: u8 = 0x11;
    /// Message control (u16).
    pub const CONTROL: u16 = 0x02;
    /// Message control bit: enabled.
    pub const CONTROL_ENABLE: u16 = 1 << 15;
    /// Message control bit: all vectors masked.
    pub const CONTROL_MASK_ALL: u16 = 1 << 14;
    /// Table BAR and offset (u32).
    pub const TABLE: u16 = 0x04;
    /// Pending bit BAR and offset (u32).
    pub const PBA: u16 = 0x08;
    /// BAR that holds both.
    pub const BAR: u32 = 1;
    /// Offset of the table in the BAR.
    pub const TABLE_OFFSET: u32 = 0;
    /// Offset of the pending bits in the BAR.
    pub const PBA_OFFSET: u32 = 0x100;
    /// Bytes of the BAR that are registers.
    pub const SIZE: u32 = 0x200;
    /// Bytes of a table entry.
    pub const ENTRY_SIZE: u32 = 16;
    /// In an entry: message address, low half.
    pub const ENTRY_ADDRESS_LOW: u32 = 0;
    /// In an entry: message address, high half.
    pub const ENTRY_ADDRESS_HIGH: u32 = 4;
    /// In an entry: message data.
    pub const ENTRY_DATA: u32 = 8;
    /// In an entry: vector control.
    pub const ENTRY_CONTROL: u32 = 12;
    /// Vector control bit: masked.
    pub const ENTRY_MASKED: u32 = 1 << 0;
}

/// Registers in BAR 0; aligned 32-bit accesses only.
pub mod reg {
    /// Own peer number, read-only.
    pub const ID: u32 = 0x00;
    /// Number of peers, read-only.
    pub const MAX_PEERS: u32 = 0x04;
    /// Interrupt control.
    pub const INT_CONTROL: u32 = 0x08;
    /// Doorbell, write-only: vector in bits 0..16, target peer in bits 16..32.
    pub const DOORBELL: u32 = 0x0c;
    /// Own state.
    pub const STATE: u32 = 0x10;
    /// Size of the register page.
    pub const SIZE: u32 = 0x1000;
    /// Interrupt control bit: interrupts on.
    pub const INT_ENABLE: u32 = 1 << 0;
}

/// The value to write to [`reg::DOORBELL`].
#[must_use]
pub const fn doorbell(target: u16, vector: u16) -> u32 {
    (target as u32) << 16 | vector as u32
}

/// Vector that tells of a changed state.
pub const VECTOR_STATE: u16 = 0;

/// State values; only 0 has a meaning to the device (a peer that left), the others are the common convention.
pub mod state {
    /// Gone, or not there yet.
    pub const RESET: u32 = 0;
    /// Preparing.
    pub const INIT: u32 = 1;
    /// Prepared.
    pub const READY: u32 = 2;
    /// At work.
    pub const RUN: u32 = 3;
}

/// Protocol numbers (programming interface and subclass of the function).
pub mod protocol {
    /// Not said.
    pub const UNDEFINED: u16 = 0x0000;
    /// Ethernet.
    pub const ETHERNET: u16 = 0x0001;
    /// First of the range for users.
    pub const USER_FIRST: u16 = 0x4000;
    /// Last of the range for users.
    pub const USER_LAST: u16 = 0x7fff;
}
