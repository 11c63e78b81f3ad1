//! Where things are: the checkout, what is built in it, and the directory we were called from.

use std::fs::{self, File};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

/// The places of one checkout.
pub struct Tree {
    /// The checkout.
    pub root: PathBuf,
    /// Downloads, kernels, images, logs: `build/` in it. Not in git, may be deleted at any time.
    pub build: PathBuf,
    /// Cargo's output.
    pub target: PathBuf,
    /// The directory that `./x` was called from.
    pub caller: PathBuf,
}

impl Tree {
    /// Finds out.
    pub fn new() -> Result<Self> {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().context("xtask/ is in a checkout")?;
        let caller = std::env::current_dir().context("the current directory is gone")?;
        let target = match std::env::var_os("CARGO_TARGET_DIR") {
            Some(path) => caller.join(path),
            None => root.join("target"),
        };
        let build = root.join("build");
        fs::create_dir_all(&build).with_context(|| build.display().to_string())?;
        Ok(Self { root: root.to_owned(), build, target, caller })
    }

    /// Keeps other instances of us from building the same thing; until the guard is dropped.
    pub fn lock(&self, what: &str) -> Result<File> {
        let file = File::create(self.build.join(format!(".{what}.lock")))?;
        if file.try_lock().is_err() {
            say(&format!("waiting for another ./x that works on {what}"));
            file.lock()?;
        }
        Ok(file)
    }

    /// A new directory for the logs of one machine; old ones are thrown away.
    pub fn new_log_directory(&self, name: &str) -> Result<PathBuf> {
        const KEPT: usize = 60;
        let logs = self.build.join("logs");
        fs::create_dir_all(&logs)?;
        let mut old: Vec<_> = fs::read_dir(&logs)?
            .filter_map(|entry| {
                let entry = entry.ok()?;
                Some((entry.metadata().ok()?.modified().ok()?, entry.path()))
            })
            .collect();
        old.sort();
        for (_, path) in old.iter().rev().skip(KEPT) {
            let _ = fs::remove_dir_all(path);
        }
        let seconds = std::time::UNIX_EPOCH.elapsed()?.as_secs();
        let path = logs.join(format!("{name}-{seconds}-{}", std::process::id()));
        fs::create_dir_all(&path)?;
        Ok(path)
    }
}

/// Says what goes on, on standard error.
pub fn say(text: &str) {
    eprintln!("x: {text}");
}
