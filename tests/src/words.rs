//! Words in a file that QEMU has mapped: how its plug-ins (`examples/`) report while a machine runs.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

/// The file.
pub struct Words {
    file: File,
    path: PathBuf,
}

impl Words {
    /// Makes it, of `size` bytes, all zero.
    pub fn create(path: &Path, size: usize) -> Result<Self> {
        let file = File::options()
            .read(true)
            .write(true)
            .create(true)
            .truncate(true)
            .open(path)
            .with_context(|| path.display().to_string())?;
        file.set_len(size as u64)?;
        Ok(Self { file, path: path.to_owned() })
    }

    /// QEMU's arguments for it; `plugin` is the built plug-in.
    pub fn arguments(&self, plugin: &Path) -> [String; 2] {
        ["-plugin".into(), format!("{},words={}", plugin.display(), self.path.display())]
    }

    /// The word with that index. It is aligned, so it is read whole.
    pub fn read(&self, index: usize) -> Result<u64> {
        let mut bytes = [0; 8];
        self.file.read_exact_at(&mut bytes, 8 * index as u64)?;
        Ok(u64::from_le_bytes(bytes))
    }
}
