//! What this machine needs before anything can be built or booted. Everything is checked first, so
//! that a second run does nothing.

pub mod apt;
pub mod kernel;
pub mod qemu;
pub mod rust;

use anyhow::Result;

/// Packages for building and booting: (package, what it is for).
const BASE: &[(&str, &str)] = &[
    ("qemu-system-x86", "the machine that everything runs in"),
    ("kmod", "depmod, for the unpacked kernels"),
    ("gcc", "linking, and the kernel module"),
    ("libc6-dev", "linking"),
    ("make", "the kernel module"),
    ("binutils", "objcopy, for the hypervisor's image"),
    ("libelf1", "the kernel's objtool, for the kernel module"),
];

/// Packages whose programs the demo, the suites and the benchmarks run in the machine.
const PROGRAMS: &[(&str, &str)] = &[
    ("rt-tests", "cyclictest"),
    ("stress-ng", "load on Linux"),
    ("util-linux", "chrt, taskset, setsid"),
    ("procps", "ps, pkill"),
];

/// Installs what booting needs.
pub fn base() -> Result<()> {
    apt::require(BASE)
}

/// Installs what the demo, the suites and the benchmarks run.
pub fn programs() -> Result<()> {
    apt::require(&[BASE, PROGRAMS].concat())
}
