//! The program's window: the part of this process's address space that shows the program's memory.
//!
//! The driver fills it page by page as calls touch it, after what the real-time side publishes. We only reserve the place.
#![allow(unsafe_code)] // One mapping.

use std::os::fd::BorrowedFd;

use anyhow::{Context, Result, bail};
use ipc::shadow::{WINDOW_END, WINDOW_START};

use crate::sys;

/// The first line of `/proc/self/maps` that lies in the window.
fn collision(maps: &str) -> Option<&str> {
    maps.lines().find(|line| {
        let range = line.split_ascii_whitespace().next().and_then(|range| range.split_once('-'));
        let start = range.and_then(|(start, _)| u64::from_str_radix(start, 16).ok());
        let end = range.and_then(|(_, end)| u64::from_str_radix(end, 16).ok());
        matches!((start, end), (Some(start), Some(end)) if start < WINDOW_END && end > WINDOW_START)
    })
}

/// Maps the window.
pub fn map(node: BorrowedFd<'_>) -> Result<()> {
    const EPERM: i32 = 1;
    let maps = std::fs::read_to_string("/proc/self/maps").context("cannot read /proc/self/maps")?;
    if let Some(line) = collision(&maps) {
        bail!(
            "this process's own memory ({line}) lies where the program's must: run it with a limited stack (ulimit -s 8192)"
        );
    }
    // SAFETY: we never look into the window ourselves; only system calls do.
    match unsafe { sys::map_window(WINDOW_START, WINDOW_END - WINDOW_START, node) } {
        Ok(()) => Ok(()),
        Err(error) if error.raw_os_error() == Some(EPERM) => {
            bail!("the lowest addresses are closed: set sysctl vm.mmap_min_addr to {WINDOW_START} or less")
        }
        Err(error) => {
            Err(error).context("cannot map the program's window; an address space limit (ulimit -v) may be in the way")
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn collisions() {
        let high = "555555554000-555555556000 r--p 00000000 08:01 1 /bin/x\nffffffffff600000-ffffffffff601000 --xp 0 00:00 0 [vsyscall]\n";
        assert_eq!(collision(high), None);
        let low = "2aaaaaaab000-2aaaaaaac000 r--p 00000000 08:01 1 /lib/ld.so";
        assert_eq!(collision(&format!("{high}{low}\n")), Some(low));
    }

    #[test]
    fn this_very_process_would_do() {
        assert_eq!(collision(&std::fs::read_to_string("/proc/self/maps").unwrap()), None);
    }
}
