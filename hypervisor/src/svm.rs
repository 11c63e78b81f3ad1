//! AMD's Secure Virtual Machine.

pub mod bitmap;
pub mod exit;
#[cfg(target_os = "none")]
pub mod vcpu;
pub mod vmcb;

use crate::memory::paging::PageTable;

/// Entry bits of nested tables: present, writable, user (the walk counts as a user access), no execute.
pub mod entry {
    use hypervisor_abi::config::MemoryFlags;

    const PRESENT: u64 = 1 << 0;
    const WRITE: u64 = 1 << 1;
    const USER: u64 = 1 << 2;
    const NO_EXECUTE: u64 = 1 << 63;

    /// Entry bits for a region with these flags. A region that cannot be read is not mapped at all (0).
    #[must_use]
    pub fn bits(flags: MemoryFlags) -> u64 {
        if !flags.contains(MemoryFlags::READ) {
            return 0;
        }
        let write = if flags.contains(MemoryFlags::WRITE) { WRITE } else { 0 };
        let execute = if flags.contains(MemoryFlags::EXECUTE) { 0 } else { NO_EXECUTE };
        PRESENT | USER | write | execute
    }

    /// Bits of an entry that leads to a table.
    pub const TABLE: u64 = PRESENT | WRITE | USER;
    /// An entry with any of these is present.
    pub const PRESENT_MASK: u64 = PRESENT;
    /// An entry with any of these can be written.
    pub const WRITE_MASK: u64 = WRITE;
}

/// A nested page table with the root `root`. Nested paging uses as many levels as the hypervisor's own tables have.
#[must_use]
pub const fn nested_table(root: u64, levels: u32) -> PageTable {
    PageTable { root, levels, table_bits: entry::TABLE, present: entry::PRESENT_MASK, max_level: 3 }
}
