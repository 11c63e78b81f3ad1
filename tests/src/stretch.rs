//! Reads the report of the plug-in in `examples/stretch.rs`: the longest stretch of a kernel with interrupts off.

use std::path::Path;

use anyhow::Result;

use crate::words::Words;

/// Index of the number of instructions.
pub const LONGEST: usize = 0;
/// Index of the address where that stretch began.
pub const FROM: usize = 1;
/// Index of the address of the block in which it was that long.
pub const TO: usize = 2;
/// Index of the address of the block that the most instructions of it were in.
pub const MOSTLY: usize = 3;
/// Bytes of the file.
pub const SIZE: usize = 4096;

/// The file that QEMU writes to.
pub struct Report(Words);

impl Report {
    /// Makes it.
    pub fn create(path: &Path) -> Result<Self> {
        Ok(Self(Words::create(path, SIZE)?))
    }

    /// QEMU's arguments for it; `plugin` is the built plug-in.
    pub fn arguments(&self, plugin: &Path) -> [String; 2] {
        self.0.arguments(plugin)
    }

    /// Instructions of the longest stretch so far, the addresses of its start and end, and where most of it was spent.
    pub fn read(&self) -> Result<[u64; 4]> {
        Ok([self.0.read(LONGEST)?, self.0.read(FROM)?, self.0.read(TO)?, self.0.read(MOSTLY)?])
    }
}
