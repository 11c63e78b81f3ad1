//! Memory: the page pool, page tables, and what they are used for.

#[cfg(target_os = "none")]
pub mod host;
#[cfg(target_os = "none")]
pub mod nested;
pub mod paging;
pub mod pool;
pub mod walk;
