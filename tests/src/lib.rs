//! The QEMU harness and the suites that need a machine.
//!
//! * [`machine`] says what a machine is; [`vm`] is a running one; [`standalone`] boots the
//!   real-time image without Linux.
//! * The agent (`src/bin/agent`) is the machine's init program; [`wire`] is what it is told.
//! * [`suite`] is what a test looks like, [`suites`] are the tests.
//!
//! Nothing here installs, downloads or builds anything: kernels, images and QEMU are given by the
//! caller, who fills [`suite::Builder`].

pub mod chaos;
pub mod counter;
pub mod cpio;
pub mod cyclictest;
pub mod initramfs;
pub mod inmate;
pub mod lan;
pub mod machine;
pub mod process;
pub mod qmp;
pub mod random;
pub mod realm;
pub mod standalone;
pub mod stretch;
pub mod suite;
pub mod suites;
pub mod vm;
pub mod wire;
pub mod words;
