//! The first process: makes the other servers from the boot image, gives each exactly what the manifest says, and is their supervisor.
//!
//! Rules:
//! * It is two threads: the builder, which makes the servers, and the warden, which hears of their faults.
//! * It is the only process that the kernel starts, and the only one that ever holds all the memory, interrupts and ports.
//! * What a server holds comes from two pieces of memory. *Instance*: program, stack, heap, address space, thread, time; revoked with
//!   every death. *Lasting*: capability table and the server's own Untyped; kept over a death if the server has a vault (what it made
//!   lives on and the next instance finds it in the same slots), else revoked too. Endpoint, notification and vault belong to init.
//! * What cannot be built is said in words on the console; init does not panic on what the image holds.
#![cfg_attr(target_os = "none", no_std, no_main)]

#[cfg(target_os = "none")]
extern crate alloc;

#[cfg(target_os = "none")]
mod run;

rt::bare_entry!(run::main);
