//! Watches the cell of the real-time realm, and starts it anew when it has failed, as often as its manifest says.
//!
//! One process does that, in the background from `crtos cell start` on. While it lives it holds a lock, which tells others of it. It ends
//! when somebody stops or destroys the cell, so whoever does that waits for its end: it may have the driver open.

use std::collections::VecDeque;
use std::fs::File;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use image::manifest::{Restart, RestartWord};
use rustix::fs::{FlockOperation, flock};

use crate::files;

const LOCK: &str = "/run/crtos-cell-watch.lock";
/// Between two looks at the cell.
pub const LOOK: Duration = Duration::from_millis(100);
/// A watcher that is just starting the cell anew ends after that.
const PATIENCE: Duration = Duration::from_secs(40);

fn lock_file() -> Result<File> {
    File::options().create(true).truncate(false).write(true).open(LOCK).with_context(|| format!("cannot open {LOCK}"))
}

/// Whether nobody watches.
fn is_free(lock: &File) -> bool {
    flock(lock, FlockOperation::NonBlockingLockExclusive).is_ok_and(|()| flock(lock, FlockOperation::Unlock).is_ok())
}

/// Waits, at most for [`PATIENCE`].
fn until(mut is_so: impl FnMut() -> bool) {
    let end = Instant::now() + PATIENCE;
    while !is_so() && Instant::now() < end {
        std::thread::sleep(LOOK / 10);
    }
}

/// Starts the watcher, if the manifest wants the cell to be restarted and there is none.
pub fn begin() -> Result<()> {
    let lock = lock_file()?;
    if matches!(files::restart()?, Restart::Unset | Restart::Word(RestartWord::Never)) || !is_free(&lock) {
        return Ok(());
    }
    let program = std::env::current_exe().context("our own program is gone")?;
    let mut watcher = Command::new(program)
        .args(["cell", "watch"])
        .current_dir("/")
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .context("cannot start the process that watches the cell")?;
    until(|| !is_free(&lock) || !matches!(watcher.try_wait(), Ok(None)));
    Ok(())
}

/// The cell was stopped: waits until nobody watches it.
pub fn settle() -> Result<()> {
    let lock = lock_file()?;
    until(|| is_free(&lock));
    Ok(())
}

/// Becomes the watcher, once there is no other; as long as the value lives.
pub fn become_it() -> Result<File> {
    // By hand, and in a terminal, it stays there.
    let _ = rustix::process::setsid();
    let lock = lock_file()?;
    flock(&lock, FlockOperation::LockExclusive).context("cannot lock")?;
    Ok(lock)
}

/// Says something in the kernel's log.
pub fn say(text: &str) {
    let line = format!("<4>crtos: {text}\n");
    // Who watches by hand sees it too.
    eprint!("{}", &line[3..]);
    let _ = std::fs::write("/dev/kmsg", line);
}

/// The failures that the policy still counts.
#[derive(Default)]
pub struct History {
    failures: VecDeque<Instant>,
}

impl History {
    /// The cell has failed now: whether it is started anew.
    pub fn failed(&mut self, policy: &Restart, now: Instant) -> bool {
        match policy {
            Restart::Word(RestartWord::Always) => true,
            Restart::Word(_) | Restart::Unset => false,
            Restart::Limited(limit) => {
                let window = Duration::from_millis(limit.window_ms);
                self.failures.retain(|failure| now.saturating_duration_since(*failure) < window);
                if self.failures.len() >= limit.times as usize {
                    return false;
                }
                self.failures.push_back(now);
                true
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use image::manifest::RestartLimit;

    #[test]
    fn so_often_in_a_window() {
        let policy = Restart::Limited(RestartLimit { times: 2, window_ms: 10 });
        let (mut history, start) = (History::default(), Instant::now());
        let verdicts = [0, 5, 9, 10, 14, 16].map(|ms| history.failed(&policy, start + Duration::from_millis(ms)));
        assert_eq!(verdicts, [true, true, false, true, false, true]);
        let mut none = History::default();
        assert!(none.failed(&Restart::Word(RestartWord::Always), start));
        assert!(!none.failed(&Restart::Word(RestartWord::Never), start));
        assert!(!none.failed(&Restart::Unset, start));
    }
}
