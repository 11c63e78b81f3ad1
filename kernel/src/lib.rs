//! The microkernel of the real-time realm. It schedules and passes messages, and does nothing else.
//!
//! Principles:
//! * Everything is named by a capability. Who holds nothing can do nothing.
//! * No heap: every object is made, by retype, of memory that user mode handed over. Zeroed memory is a valid object of any type.
//! * One stack per CPU. A thread's registers are saved straight into its object; a blocked thread has no kernel stack.
//! * Interrupts are off in the kernel except in idle and in short windows between the steps of long operations. Those return
//!   `Partial`, or restart: the thread's `rip` goes back to its `syscall` instruction and the progress lies in the object.
//! * The kernel never touches a user virtual address: it walks the tables and goes through the direct map, so no kernel access can fault.
//! * All checks first, then the effect, which cannot fail.
//!
//! The portable logic is everything outside [`arch`]; it is built and tested on the host against `arch/host.rs`.
//! `unsafe` is confined to `arch`, [`memory`], and the few places that turn memory into objects (`cap/slot.rs`, `object/untyped.rs`, `first_process.rs`).
#![cfg_attr(not(test), no_std)]

pub mod arch;
pub mod call;
pub mod cap;
pub mod fault;
pub mod first_process;
pub mod heap;
#[cfg(test)]
mod hostile;
#[cfg(any(test, feature = "invariants"))]
pub mod invariants;
pub mod kernel;
pub mod list;
pub mod memory;
pub mod message;
#[cfg(test)]
mod model;
pub mod object;
#[cfg(test)]
mod random;
#[cfg(test)]
mod rig;
#[cfg(test)]
mod scenario;
pub mod sched;

pub use kernel::Kernel;
