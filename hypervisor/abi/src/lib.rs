//! The contract of the hypervisor: everything that an operating system, a tool or a cell must know to
//! talk to it, and nothing else. This crate knows nobody.
//!
//! * [`check`]: what makes a well-formed configuration also a sensible one.
//! * [`hypercall`]: call numbers, arguments, error numbers.
//! * [`comm`]: the communication region between hypervisor and cell (revision 2).
//! * [`ivshmem`]: the inter-cell shared memory device, version 2.
//! * [`header`]: the first bytes of the hypervisor image.
//! * [`cpuid`]: how a cell finds out that it is one.
//!
//! Rules: little endian everywhere; every structure has alignment 1 and no padding, so any byte slice can be
//! read in place; sizes are asserted when compiling; bytes from outside are hostile, so reading them gives a
//! value or an error that says what to change, never a panic.
#![cfg_attr(not(test), no_std)]

pub mod check;
pub mod comm;
pub mod config;
pub mod cpuid;
pub mod header;
pub mod hypercall;
pub mod ivshmem;

/// Size of the pages that everything here is counted in.
pub const PAGE_SIZE: u64 = 4096;
