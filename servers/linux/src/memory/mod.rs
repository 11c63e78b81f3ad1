//! Application memory: pages of the pool, the published page map, virtual memory areas and what the calls do with them.

pub mod file;
pub mod mirror;
pub mod mmap;
pub mod pages;
pub mod pool;
pub mod space;
pub mod user;
pub mod vma;

pub use mirror::Mirror;
pub use pages::Pages;
pub use pool::Pool;
pub use space::{Memory, Space};

/// Bytes of a page.
pub const PAGE: u64 = 4096;

/// Rounds up to whole pages; `None` on overflow.
pub fn page_up(bytes: u64) -> Option<u64> {
    Some(bytes.checked_add(PAGE - 1)? & !(PAGE - 1))
}

/// Start of the page that holds the address.
pub const fn page_down(address: u64) -> u64 {
    address & !(PAGE - 1)
}
