//! What every server links: start-up, kernel calls, the event loop, the heap, the panic report.
//!
//! Rules:
//! * A server is one thread with one event loop ([`serve`]); nothing here is meant for a second thread.
//! * A capability is used through a typed handle ([`Cap`]); a server finds those that it was granted by name ([`Start`]).
//! * Memory that somebody else can write is never a Rust reference to plain data: it is copied out first
//!   ([`shared::Array`]), read as atomics ([`shared::Atomics`]), or accessed as device registers ([`shared::Device`]).
//! * What a server wants to survive its own crash lies in its vault: one structure ([`vault`]), or its whole heap ([`checkpoint`]).
//! * A panic is reported on the console and ends in a fault, that the supervisor sees.
//!
//! On a host target everything compiles and the portable parts are tested; kernel calls answer `InvalidCall` there.
#![cfg_attr(not(test), no_std)]

extern crate alloc;

mod allocator;
pub mod buffer;
pub mod calls;
pub mod checkpoint;
pub mod console;
pub mod crash;
pub mod journal;
mod panic;
pub mod serve;
pub mod shared;
pub mod slots;
pub mod start;
pub mod time;
mod trap;
pub mod vault;

pub use calls::{
    AddressSpace, Cap, CapTable, Console, Endpoint, Frame, IoPort, Irq, Message, Notification, Object, Reply, Result,
    SchedContext, Thread, Untyped,
};
pub use ipc::{Error, ObjectType, Protection, Rights, Tag};
pub use serve::{Answer, Caller, Replies, Server, serve};
pub use slots::Slots;
pub use start::Start;
