//! The QEMU harness: builds a machine, boots it, runs commands in it, and ends it.
//!
//! * [`machine`] says what the machine is; [`vm`] is a running one.
//! * The agent (`src/bin/agent`) is the machine's init program; [`wire`] is what it is told.
//! * Nothing here installs or downloads anything: kernels and QEMU are given by the caller.

pub mod cpio;
pub mod initramfs;
pub mod machine;
pub mod process;
pub mod vm;
pub mod wire;
