//! The name space: forwards system calls of real-time programs to Linux over the shadow channel.
//!
//! Rules:
//! * It never waits for Linux. A forwarded call is a kept Reply and an entry in the books; the next request is served at once.
//! * It owns the rings and the shadow device. The books are in its vault and the Replies in its lasting memory, so a new instance
//!   goes on where a dead one stopped.
//! * Without the device (a system that runs alone) every forwarded call fails with EIO.
#![cfg_attr(target_os = "none", no_std, no_main)]

#[cfg(target_os = "none")]
extern crate alloc;

#[cfg(target_os = "none")]
mod run;

rt::entry!(run::main);
