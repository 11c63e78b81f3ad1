//! The partitioning hypervisor.
//!
//! It is entered under a running Linux, which becomes the root cell, and divides CPUs, memory, ports and devices between cells.
//! It never schedules: a CPU belongs to one cell. It can be left again, and Linux goes on as before.
//!
//! Rules
//! * Everything a cell hands over (registers, memory, configurations, device registers) is hostile until checked.
//! * A violation stops the cell that made it, nobody else; the reason is kept.
//! * Management (creating, starting, destroying cells) happens under one lock, with the root cell's CPUs suspended.
//! * Portable logic is in modules without `unsafe`, tested on the host; the machine is behind [`vendor`].
//! * No heap: pages from a pool, counted, and zeroed when handed out.
#![cfg_attr(not(test), no_std)]

pub mod decode;
pub mod memory;
pub mod svm;
pub mod units;
pub mod vendor;

// What follows exists only on the machine itself.
#[cfg(target_os = "none")]
pub mod apic;
#[cfg(target_os = "none")]
pub mod cell;
#[cfg(target_os = "none")]
pub mod clock;
#[cfg(target_os = "none")]
pub mod console;
#[cfg(target_os = "none")]
pub mod cpu;
#[cfg(target_os = "none")]
pub mod devices;
#[cfg(target_os = "none")]
pub mod entry;
#[cfg(target_os = "none")]
pub mod guest;
#[cfg(target_os = "none")]
pub mod hypercall;
#[cfg(target_os = "none")]
pub mod idt;
#[cfg(target_os = "none")]
pub mod manage;
#[cfg(target_os = "none")]
pub mod percpu;
#[cfg(target_os = "none")]
pub mod setup;
#[cfg(target_os = "none")]
pub mod teardown;
#[cfg(target_os = "none")]
pub mod x86;
