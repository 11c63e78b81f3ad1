//! A new instance begins with nothing: what the former one had started is ended first.
//!
//! The former one's programs are gone with the kernel objects that they were made of, but their proxies in Linux may still reach into
//! the pool, and the driver may still walk their page maps. So both are used again only when Linux has said of each that it is gone.

use alloc::vec::Vec;
use core::sync::atomic::Ordering;
use ipc::protocol::vfs;
use ipc::shadow::{MAX_SLOTS, ThreadEntry, mirror, thread_state};
use linux::machine::Machine;
use rt::{Start, log};

/// An event of `vfs-proxy`.
type Event = [u64; vfs::EVENT_WORDS];

/// Waits until nothing of a former instance is left; gives what has happened meanwhile and is for this one.
pub fn begin(machine: &mut impl Machine, entries: &[ThreadEntry; MAX_SLOTS]) -> Vec<Event> {
    for entry in entries {
        entry.mirror_root.store(mirror::NONE, Ordering::SeqCst);
        entry.state.store(thread_state::FREE, Ordering::Relaxed);
    }
    // An error: there is no Linux beside this system.
    let mut left = machine.vfs(vfs::ABANDON, &[]).unwrap_or(0);
    let mut early = Vec::new();
    if left != 0 {
        log!("a former instance had {left} threads in Linux: ending them");
    }
    while left != 0 {
        if let Err(error) = Start::NOTIFICATION.wait(None) {
            panic!("waiting for vfs-proxy: {error}");
        }
        for event in machine.collect() {
            match event[0] {
                vfs::EVENT_GONE => left = left.saturating_sub(1),
                vfs::EVENT_RESET => left = 0,
                vfs::EVENT_START => early.push(event),
                _ => {}
            }
        }
    }
    early
}
