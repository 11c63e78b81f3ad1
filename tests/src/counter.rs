//! Reads the counters of the plug-in in `examples/counter.rs`: guest instructions of each CPU.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

/// Most CPUs that are counted.
pub const CPUS: usize = 64;
/// Bytes from one CPU's counter to the next: a cache line each.
pub const STRIDE: usize = 64;
/// Bytes of the file.
pub const SIZE: usize = CPUS * STRIDE;

/// The file that QEMU counts in.
pub struct Counters {
    file: File,
    path: PathBuf,
}

impl Counters {
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
        ["-plugin".into(), format!("{},counters={}", plugin.display(), self.path.display())]
    }

    /// Instructions executed so far by each of the first `cpus` CPUs.
    pub fn read(&self, cpus: usize) -> Result<Vec<u64>> {
        (0..cpus.min(CPUS))
            .map(|cpu| {
                // One aligned word: it is read whole.
                let mut word = [0; 8];
                self.file.read_exact_at(&mut word, (cpu * STRIDE) as u64)?;
                Ok(u64::from_le_bytes(word))
            })
            .collect()
    }
}
