//! The Linux personality: processes, threads, memory, futexes, clocks, timers, signals and scheduling of Linux programs.
//!
//! Rules:
//! * One thread, one event loop, and it never waits for Linux: what needs Linux is a task ([`executor`]) that goes on when
//!   the answer is there.
//! * Every word that a program passes is an allegation; [`memory::user`] is the one door to its memory. Nothing that a
//!   program or Linux does makes this server panic.
//! * What is not known is ENOSYS. One table ([`table`]) says which call is answered here, which goes to Linux, and which is
//!   refused.
//! * The world is behind one trait ([`machine`]), so all of this runs on a host too.
#![cfg_attr(not(test), no_std)]

extern crate alloc;

pub mod auxv;
pub mod clock;
pub mod elf;
pub mod errno;
pub mod exec;
pub mod executor;
pub mod futex;
pub mod machine;
pub mod memory;
pub mod misc;
pub mod process;
pub mod recovery;
pub mod sched;
pub mod server;
pub mod signal;
#[cfg(test)]
mod simulation;
pub mod sleep;
pub mod table;
pub mod thread;
pub mod timers;
pub mod vdso;
