//! Capability slots with a fixed meaning. Slot 0 is never a capability.

/// A server's own CapTable.
pub const CAP_TABLE: u32 = 1;
/// A server's own AddressSpace.
pub const ADDRESS_SPACE: u32 = 2;
/// A server's own (first) Thread.
pub const THREAD: u32 = 3;
/// A server's own SchedContext.
pub const SCHED_CONTEXT: u32 = 4;
/// The Endpoint on which a server receives (READ), if it offers a service.
pub const ENDPOINT: u32 = 5;
/// The Notification bound to a server's first thread.
pub const NOTIFICATION: u32 = 6;
/// The kernel's console (WRITE), if the manifest grants it.
pub const CONSOLE: u32 = 7;
/// The Untyped that a server makes its own objects of.
pub const UNTYPED: u32 = 8;
/// First slot of what the manifest grants by name; the start information says which is which.
pub const FIRST_GRANT: u32 = 16;
/// First slot that a server may use as it likes.
pub const FIRST_FREE: u32 = 64;

/// What only `init` holds at its start.
pub mod boot {
    /// All interrupts.
    pub const IRQ: u32 = 9;
    /// All I/O ports.
    pub const IO_PORT: u32 = 10;
    /// The frame that holds the image from its header to its end (READ, EXECUTE), the boot blob in it. It is also mapped, read only, at
    /// [`super::layout::START_INFO`] of the first process, which has no start information of the usual form.
    pub const BLOB: u32 = 11;
    /// The frame of the first thread's message buffer (READ, WRITE).
    pub const BUFFER: u32 = 12;
    /// First of the Untyped capabilities, one per [`crate::image::Range`] of the image header, in its order.
    /// For private RAM it covers what the kernel, the image and the first process left over; a range may be split
    /// in several Untypeds, so walk the slots until an empty one and ask `untyped_info`.
    pub const FIRST_UNTYPED: u32 = 64;
    /// First free slot after them.
    pub const FIRST_FREE: u32 = 128;
    /// Slots in `init`'s table.
    pub const TABLE_SLOTS: u32 = 4096;
}

/// Where things are in a server's address space.
pub mod layout {
    /// Link address of server programs.
    pub const PROGRAM: u64 = 0x40_0000;
    /// Where a server's program crashes on purpose, in the way (index in [`crate::board::WAYS`]) that `rdi` says. `init` sends it there.
    pub const CRASH: u64 = PROGRAM + 0x40;
    /// The start information (a postcard `StartInfo`), read only. `init` finds the boot image there, from its header to its end.
    pub const START_INFO: u64 = 0x1000_0000;
    /// The first thread's message buffer.
    pub const MESSAGE_BUFFER: u64 = 0x1100_0000;
    /// Top of the first thread's stack; a guard page lies below the stack.
    pub const STACK_TOP: u64 = 0x1200_0000;
    /// The heap, if the manifest gives one.
    pub const HEAP: u64 = 0x2000_0000;
    /// The vault: the frame that survives the server.
    pub const VAULT: u64 = 0x3000_0000;
    /// Shared memory and devices that the manifest grants, placed by the composer: each at its guest-physical address above this.
    pub const GRANTS: u64 = 0x1_0000_0000;
    /// Those end at this guest-physical address.
    pub const GUEST_END: u64 = 1 << 45;
    /// Private memory that servers share, at the same address in each of them.
    pub const PRIVATE_GRANTS: u64 = GRANTS + GUEST_END;
    /// End of all that.
    pub const GRANTS_END: u64 = 1 << 46;
}
