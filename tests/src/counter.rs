//! Reads the counters of the plug-in in `examples/counter.rs`: guest instructions of each CPU, and those of them that are the
//! hypervisor's.

use std::path::Path;

use anyhow::Result;

use crate::words::Words;

/// Most CPUs that are counted.
pub const CPUS: usize = 64;
/// Bytes from one CPU's counter to the next: a cache line each.
pub const STRIDE: usize = 64;
/// Where the hypervisor is mapped, and nothing else up to the end.
pub const HYPERVISOR: u64 = 0xffff_ffff_f000_0000;
/// Bytes of the file.
pub const SIZE: usize = CPUS * STRIDE;

/// The file that QEMU counts in.
pub struct Counters(Words);

impl Counters {
    /// Makes it.
    pub fn create(path: &Path) -> Result<Self> {
        Ok(Self(Words::create(path, SIZE)?))
    }

    /// QEMU's arguments for it; `plugin` is the built plug-in.
    pub fn arguments(&self, plugin: &Path) -> [String; 2] {
        self.0.arguments(plugin)
    }

    /// Instructions executed so far by each of the first `cpus` CPUs.
    pub fn read(&self, cpus: usize) -> Result<Vec<u64>> {
        self.words(cpus, 0)
    }

    /// The same for instructions at the hypervisor's addresses.
    pub fn hypervisor(&self, cpus: usize) -> Result<Vec<u64>> {
        self.words(cpus, 1)
    }

    fn words(&self, cpus: usize, offset: usize) -> Result<Vec<u64>> {
        (0..cpus.min(CPUS)).map(|cpu| self.0.read(cpu * STRIDE / 8 + offset)).collect()
    }
}
