//! Measures the kernel from outside: what its operations take, in ticks of the time-stamp counter, for whoever calls. Where that counts
//! instructions (`./x bench kernel`), the figures are those of the whole path, the caller's own instructions included.
//!
//! Threads whose every instruction counts are written in assembly (`loops.rs`); this program makes them, lets them run, and says on the
//! console what they noted: a line `bench: NAME median M min L max H n N` each. At last it does what takes the kernel long, while
//! somebody more urgent sleeps and wakes; how long the kernel is closed to interrupts meanwhile is measured from outside.
#![cfg_attr(target_os = "none", no_std, no_main)]

#[cfg(target_os = "none")]
extern crate alloc;

#[cfg(target_os = "none")]
mod dirty;
#[cfg(target_os = "none")]
mod load;
#[cfg(target_os = "none")]
mod loops;
#[cfg(target_os = "none")]
mod run;
#[cfg(target_os = "none")]
mod workshop;

rt::entry!(run::main);
