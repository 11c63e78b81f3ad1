//! The contract of the real-time realm: what the kernel, the servers, the composer and the Linux side agree on.
//!
//! Rules:
//! * This crate knows nobody. It holds numbers, layouts and their meaning; no behaviour beyond checked conversions.
//! * Everything that crosses a trust boundary is plain data with an explicit layout; a reader checks before it believes.
//! * A number, once used, keeps its meaning. A changed layout changes the version beside it.
#![cfg_attr(not(test), no_std)]

#[cfg(feature = "blob")]
extern crate alloc;

#[cfg(feature = "blob")]
pub mod blob;
pub mod board;
pub mod calls;
pub mod error;
pub mod image;
pub mod message;
pub mod protocol;
pub mod rights;
pub mod shadow;
pub mod slots;

pub use calls::Call;
pub use error::Error;
pub use message::{MessageBuffer, Tag};
pub use rights::{ObjectType, Protection, Rights};
