//! Reads the report of the plug-in in `examples/stretch.rs`: the longest stretch of a kernel with interrupts off.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

/// Index of the number of instructions.
pub const LONGEST: usize = 0;
/// Index of the address where that stretch began.
pub const FROM: usize = 1;
/// Index of the address of the block in which it was that long.
pub const TO: usize = 2;
/// Bytes of the file.
pub const SIZE: usize = 4096;

/// The file that QEMU writes to.
pub struct Report {
    file: File,
    path: PathBuf,
}

impl Report {
    /// Makes it.
    pub fn create(path: &Path) -> Result<Self> {
        let file = File::options()
            .read(true)
            .write(true)
            .create(true)
            .truncate(true)
            .open(path)
            .with_context(|| path.display().to_string())?;
        file.set_len(SIZE as u64)?;
        Ok(Self { file, path: path.to_owned() })
    }

    /// QEMU's arguments for it; `plugin` is the built plug-in.
    pub fn arguments(&self, plugin: &Path) -> [String; 2] {
        ["-plugin".into(), format!("{},report={}", plugin.display(), self.path.display())]
    }

    /// Instructions of the longest stretch so far, and the addresses of its start and end.
    pub fn read(&self) -> Result<[u64; 3]> {
        let mut words = [0; 3];
        for (index, word) in [LONGEST, FROM, TO].into_iter().zip(&mut words) {
            let mut bytes = [0; 8];
            self.file.read_exact_at(&mut bytes, 8 * index as u64)?;
            *word = u64::from_le_bytes(bytes);
        }
        Ok(words)
    }
}
