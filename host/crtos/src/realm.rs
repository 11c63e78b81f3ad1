//! What the real-time side shows of itself, read through `/dev/crtos-shadow`.
//!
//! The other realm writes it while we read, and is not trusted: every number is only shown or bounded.

use std::fs::File;
use std::io::ErrorKind;
use std::mem::offset_of;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::fs::FileExt;
use std::time::Duration;

use anyhow::{Context, Result, anyhow, bail};
use ipc::shadow::{
    self, CONSOLE_MAGIC, ConsoleRing, MAX_SLOTS, RT_MAGIC, RtHeader, ThreadEntry, rt_section, thread_state,
};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use crate::sys;

/// The word at `offset` of bytes that are at least so many.
fn word(bytes: &[u8], offset: usize) -> u64 {
    u64::from_le_bytes(bytes[offset..offset + 8].try_into().unwrap_or_default())
}

/// The driver's view of the channel.
#[derive(Default, Debug, Clone, Copy, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Status {
    /// [`ABSENT`], [`DOWN`] or [`UP`].
    pub state: u32,
    /// Slots in use.
    pub slots: u32,
    /// Proxies attached.
    pub processes: u32,
    /// Of this driver instance.
    pub epoch: u32,
    /// Pages of the pool.
    pub pool_pages: u64,
    /// Pages mapped in proxies.
    pub pages_mapped: u64,
    /// Pages that only the kernel still uses.
    pub pages_pinned: u64,
    /// Requests taken.
    pub requests: u64,
    /// Responses sent.
    pub responses: u64,
    /// Requests that made no sense.
    pub dropped: u64,
    /// Milliseconds since the last sign of life.
    pub silent_ms: u64,
    /// Bytes of the section that can be read.
    pub section_size: u64,
}

/// No device.
pub const ABSENT: u32 = 0;
/// A device, and nobody behind it.
pub const DOWN: u32 = 1;
/// The real-time side is there.
pub const UP: u32 = 2;

const GET_STATUS: u32 = sys::ior::<Status>(0xc7, 0x15);

/// A head that has not moved for so long belongs to a dead realm.
pub const SILENT_MS: u64 = 3000;

/// The other realm, to look at.
pub struct Realm {
    node: File,
}

impl Realm {
    /// Opens the device node.
    pub fn open() -> Result<Realm> {
        match File::options().read(true).write(true).open("/dev/crtos-shadow") {
            Ok(node) => Ok(Realm { node }),
            Err(error) if error.kind() == ErrorKind::NotFound => {
                Err(anyhow!("crtos.ko is not loaded: run `crtos enable` first"))
            }
            Err(error) if error.kind() == ErrorKind::PermissionDenied => {
                Err(anyhow!("no permission to open /dev/crtos-shadow: run this as root"))
            }
            Err(error) => Err(error).context("cannot open /dev/crtos-shadow"),
        }
    }

    /// Takes over an open device node.
    pub fn from_node(node: impl Into<File>) -> Realm {
        Realm { node: node.into() }
    }

    /// The device node.
    pub fn node(&self) -> BorrowedFd<'_> {
        self.node.as_fd()
    }

    /// Gives up the device node.
    pub fn into_node(self) -> File {
        self.node
    }

    /// The driver's view.
    pub fn status(&self) -> Result<Status> {
        let mut status = Status::default();
        sys::ioctl(self.node.as_fd(), GET_STATUS, &mut status).context("cannot ask the driver")?;
        Ok(status)
    }

    /// Waits until the real-time side is there; false: it has not come in time.
    pub fn wait(&self, patience: Duration) -> Result<bool> {
        let mut fds = [PollFd::new(&self.node, PollFlags::IN)];
        let timeout = Timespec { tv_sec: patience.as_secs() as i64, tv_nsec: i64::from(patience.subsec_nanos()) };
        loop {
            match poll(&mut fds, Some(&timeout)) {
                Ok(ready) => return Ok(ready > 0 && fds[0].revents().contains(PollFlags::IN)),
                Err(rustix::io::Errno::INTR) => {}
                Err(error) => return Err(error).context("cannot wait for the real-time side"),
            }
        }
    }

    /// Bytes of the section that the other realm writes.
    pub fn read(&self, offset: usize, bytes: usize) -> Result<Vec<u8>> {
        let mut buffer = vec![0; bytes];
        match self.node.read_exact_at(&mut buffer, offset as u64) {
            Ok(()) => Ok(buffer),
            Err(_) => bail!("the hypervisor is not enabled: run `crtos enable` first"),
        }
    }

    /// Counters of the real-time side.
    pub fn counters(&self) -> Result<Counters> {
        let header = self.read(rt_section::HEADER, size_of::<RtHeader>())?;
        let of_header = |offset: usize| word(&header, offset);
        if of_header(offset_of!(RtHeader, magic)) != RT_MAGIC {
            bail!("the real-time side has not started: run `crtos cell start`");
        }
        let counters = self.read(rt_section::COUNTERS, size_of::<shadow::Counters>())?;
        let counter = |offset: usize| word(&counters, offset);
        Ok(Counters {
            tsc_khz: of_header(offset_of!(RtHeader, tsc_khz)),
            pool_pages: counter(offset_of!(shadow::Counters, pool_pages)),
            pool_free: counter(offset_of!(shadow::Counters, pool_free)),
            pool_quarantine: counter(offset_of!(shadow::Counters, pool_quarantine)),
            mirror_nodes: counter(offset_of!(shadow::Counters, mirror_nodes)),
            processes_started: counter(offset_of!(shadow::Counters, processes_started)),
            processes: counter(offset_of!(shadow::Counters, processes)),
            free_capabilities: counter(offset_of!(shadow::Counters, free_capabilities)),
            requests_sent: of_header(offset_of!(RtHeader, requests_sent)),
            responses_dropped: of_header(offset_of!(RtHeader, responses_dropped)),
        })
    }

    /// The real-time threads that exist.
    pub fn threads(&self) -> Result<Vec<Thread>> {
        let entries = self.read(rt_section::THREADS, MAX_SLOTS * size_of::<ThreadEntry>())?;
        let calls = self.read(rt_section::HEADER + offset_of!(RtHeader, calls), MAX_SLOTS * 8)?;
        Ok(entries
            .chunks_exact(size_of::<ThreadEntry>())
            .zip(calls.chunks_exact(8))
            .enumerate()
            .filter_map(|(slot, (entry, calls))| Thread::parse(slot as u32, entry, word(calls, 0)))
            .collect())
    }

    /// The console: bytes ever written, and the last of them.
    pub fn console(&self) -> Result<(u64, Vec<u8>)> {
        let bytes = self.read(rt_section::CONSOLE, rt_section::CONSOLE_SIZE)?;
        Ok(console(&bytes).unwrap_or_default())
    }
}

/// Unrolls a console ring, head included.
fn console(bytes: &[u8]) -> Option<(u64, Vec<u8>)> {
    let (head, text) = bytes.split_at_checked(size_of::<ConsoleRing>())?;
    let word = |index: usize| word(head, index * 8);
    let (magic, size, written) = (word(0), word(1) as usize, word(2));
    if magic != CONSOLE_MAGIC || size == 0 || size > text.len() {
        return None;
    }
    let text = &text[..size];
    let next = (written % size as u64) as usize;
    let unrolled = if written <= size as u64 {
        text[..written as usize].to_vec()
    } else {
        [&text[next..], &text[..next]].concat()
    };
    Some((written, unrolled))
}

/// Counters that the real-time side keeps.
#[derive(Debug)]
pub struct Counters {
    /// Time-stamp counter ticks per millisecond.
    pub tsc_khz: u64,
    /// Pool pages.
    pub pool_pages: u64,
    /// Free ones.
    pub pool_free: u64,
    /// Those that wait for Linux.
    pub pool_quarantine: u64,
    /// Mirror nodes in use.
    pub mirror_nodes: u64,
    /// Since boot.
    pub processes_started: u64,
    /// Now.
    pub processes: u64,
    /// Slots of the personality's capability table.
    pub free_capabilities: u64,
    /// Requests to Linux.
    pub requests_sent: u64,
    /// Answers that were not valid.
    pub responses_dropped: u64,
}

/// A real-time thread.
#[derive(Debug, PartialEq, Eq)]
pub struct Thread {
    /// Its slot.
    pub slot: u32,
    /// [`thread_state`].
    pub state: u32,
    /// Slot of its process's leader.
    pub leader: u32,
    /// Process id.
    pub pid: u32,
    /// Thread id.
    pub tid: u32,
    /// Policy.
    pub policy: u16,
    /// Priority.
    pub priority: u16,
    /// Ticks.
    pub consumed: u64,
    /// Remote calls.
    pub remote_calls: u32,
    /// Local calls.
    pub local_calls: u64,
    /// Pages of the process.
    pub pages: u64,
    /// Name.
    pub name: String,
}

impl Thread {
    /// `calls` is the slot's word of [`RtHeader::calls`].
    fn parse(slot: u32, entry: &[u8], calls: u64) -> Option<Thread> {
        let u32_at = |at: usize| u32::from_le_bytes(entry[at..at + 4].try_into().unwrap_or_default());
        let u64_at = |at: usize| word(entry, at);
        let state = u32_at(offset_of!(ThreadEntry, state));
        if state == thread_state::FREE {
            return None;
        }
        let scheduling = u32_at(offset_of!(ThreadEntry, scheduling));
        let generation = u32_at(offset_of!(ThreadEntry, generation));
        let name = &entry[offset_of!(ThreadEntry, name)..][..16];
        let name: String = String::from_utf8_lossy(name.split(|byte| *byte == 0).next().unwrap_or_default())
            .chars()
            .map(|c| if c.is_control() { '?' } else { c })
            .collect();
        Some(Thread {
            slot,
            state,
            leader: u32_at(offset_of!(ThreadEntry, leader)),
            pid: u32_at(offset_of!(ThreadEntry, pid)),
            tid: u32_at(offset_of!(ThreadEntry, tid)),
            policy: (scheduling >> 16) as u16,
            priority: scheduling as u16,
            consumed: u64_at(offset_of!(ThreadEntry, consumed)),
            remote_calls: if (calls >> 32) as u32 == generation { calls as u32 } else { 0 },
            local_calls: u64_at(offset_of!(ThreadEntry, local_calls)),
            pages: u64_at(offset_of!(ThreadEntry, pages)),
            name,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ring(size: u64, written: u64, text: &[u8]) -> Vec<u8> {
        let mut bytes = Vec::new();
        for word in [CONSOLE_MAGIC, size, written, 0] {
            bytes.extend(word.to_le_bytes());
        }
        bytes.extend(text);
        bytes
    }

    #[test]
    fn consoles() {
        assert_eq!(console(&ring(4, 2, b"abcd")), Some((2, b"ab".to_vec())));
        assert_eq!(console(&ring(4, 4, b"abcd")), Some((4, b"abcd".to_vec())));
        assert_eq!(console(&ring(4, 6, b"efcd")), Some((6, b"cdef".to_vec())));
        assert_eq!(console(&ring(5, 2, b"abcd")), None);
        assert_eq!(console(&ring(0, 2, b"abcd")), None);
        assert_eq!(console(b"short"), None);
    }

    #[test]
    fn threads() {
        let mut entry = [0; 128];
        assert_eq!(Thread::parse(3, &entry, 7), None);
        entry[4] = 2;
        entry[24..28].copy_from_slice(&(1u32 << 16 | 90).to_le_bytes());
        entry[offset_of!(ThreadEntry, name)..][..4].copy_from_slice(b"a\x1bb\0");
        entry[offset_of!(ThreadEntry, generation)] = 5;
        let thread = Thread::parse(3, &entry, 5 << 32 | 7).unwrap();
        assert_eq!((thread.policy, thread.priority, thread.name.as_str()), (1, 90, "a?b"));
        assert_eq!(thread.remote_calls, 7);
        assert_eq!(Thread::parse(3, &entry, 4 << 32 | 7).unwrap().remote_calls, 0, "of the slot's former thread");
    }
}
