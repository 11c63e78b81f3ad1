//! The driver's side of a process: `host/driver/shadow_uapi.h`, typed.

use std::io::{self, Seek, Write};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use anyhow::{Context, Result, anyhow};
use rustix::fs::{MemfdFlags, memfd_create};
use rustix::process::{Resource, getrlimit};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use super::forward::CANCEL_SIGNAL;
use crate::realm::{Realm, SILENT_MS};
use crate::sys;

#[derive(Default, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
struct Attach {
    argument_bytes: u32,
    policy: u16,
    priority: u16,
    cancel_signal: u32,
    slot: u32,
    generation: u32,
    padding: u32,
}

/// A slot that a worker serves.
#[derive(Default, Debug, Clone, Copy, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Slot {
    /// Its number.
    pub number: u32,
    /// Its generation.
    pub generation: u32,
}

/// What a worker gives and gets.
#[derive(Default, Debug, Clone, Copy, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Call {
    /// Of the worker.
    pub slot: u32,
    /// [`REPLY`] or 0.
    pub flags: u32,
    /// Of the call made, then of the call to make.
    pub id: u64,
    /// Result of the call made.
    pub value: i64,
    /// Of a thread that the call made.
    pub new_slot: u32,
    /// Its generation.
    pub new_generation: u32,
    /// Call to make.
    pub number: u64,
    /// Its arguments.
    pub args: [u64; 6],
    /// Scheduling policy of the caller.
    pub policy: u16,
    /// Its priority.
    pub priority: u16,
    padding: u32,
}

impl Call {
    /// What a worker starts with.
    pub fn first(slot: u32) -> Call {
        Call { slot, ..Default::default() }
    }
}

#[derive(Default, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
struct Signal {
    signo: u32,
    pid: u32,
    code: i32,
    padding: u32,
}

/// [`Call::flags`]: `id` was made, with result `value`.
pub const REPLY: u32 = 1;

const ATTACH: u32 = sys::iowr::<Attach>(0xc7, 0x10);
const THREAD: u32 = sys::ior::<Slot>(0xc7, 0x11);
const CALL: u32 = sys::iowr::<Call>(0xc7, 0x12);
const CONTROL: u32 = sys::ior::<i32>(0xc7, 0x13);
const SIGNAL: u32 = sys::iow::<Signal>(0xc7, 0x14);

/// Our own descriptors lie above this, out of the program's way, where the limit allows.
const FD_BASE: u64 = 1000;

fn move_away(fd: OwnedFd) -> Result<OwnedFd> {
    let limit = getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX);
    let base = FD_BASE.min(limit.saturating_sub(8)) as i32;
    rustix::io::fcntl_dupfd_cloexec(&fd, base)
        .context("cannot move a descriptor out of the program's way; raise ulimit -n")
}

/// An open channel, with the two descriptors that are ours.
pub struct Channel {
    realm: Realm,
    arguments: OwnedFd,
}

impl Channel {
    /// Takes over an open device node.
    pub fn new(realm: Realm) -> Result<Channel> {
        let realm = Realm::from_node(move_away(realm.into_node().into())?);
        let arguments = memfd_create(c"crtos-arguments", MemfdFlags::CLOEXEC).context("cannot make a memory file")?;
        Ok(Channel { realm, arguments: move_away(arguments)? })
    }

    /// The device node.
    pub fn node(&self) -> BorrowedFd<'_> {
        self.realm.node()
    }

    /// The argument block as a file.
    pub fn arguments(&self) -> BorrowedFd<'_> {
        self.arguments.as_fd()
    }

    /// Sets the argument block.
    pub fn set_arguments(&self, block: &[u8]) -> Result<()> {
        let mut file = std::fs::File::from(self.arguments.try_clone().context("cannot copy a descriptor")?);
        file.write_all(block).and_then(|()| file.rewind()).context("cannot store the arguments")
    }

    /// Descriptors that the program must not touch.
    pub fn own_descriptors(&self) -> [i32; 2] {
        [self.node().as_raw_fd(), self.arguments.as_raw_fd()]
    }

    /// Makes this process a proxy and this thread its first worker; the program starts.
    pub fn attach(&self, argument_bytes: usize, policy: u16, priority: u16) -> Result<u32> {
        const ENODEV: i32 = 19;
        const EUSERS: i32 = 87;
        const ENOTCONN: i32 = 107;
        let mut arg = Attach {
            argument_bytes: argument_bytes as u32,
            policy,
            priority,
            cancel_signal: CANCEL_SIGNAL,
            ..Default::default()
        };
        self.retry(ATTACH, &mut arg).map_err(|error| match error.raw_os_error() {
            Some(EUSERS) => anyhow!("all slots for real-time threads are in use: end some (crtos ps)"),
            Some(ENODEV) => anyhow!("the hypervisor is not enabled: run `crtos enable` first"),
            Some(ENOTCONN) => anyhow!("the sRTOS cell is not running: run `crtos cell start` first"),
            _ => anyhow!("cannot attach to the real-time realm: {error}"),
        })?;
        Ok(arg.slot)
    }

    /// Makes this thread a further worker.
    pub fn attach_thread(&self) -> io::Result<Slot> {
        let mut slot = Slot::default();
        self.retry(THREAD, &mut slot)?;
        Ok(slot)
    }

    /// Gives the last result and waits for the next call. An error of kind `Interrupted`: do it again with the same argument.
    pub fn next(&self, call: &mut Call) -> io::Result<()> {
        sys::ioctl(self.node(), CALL, call).map(|_| ())
    }

    /// Waits for the program's wait status.
    pub fn wait_for_end(&self) -> io::Result<i32> {
        let mut status = 0i32;
        self.retry(CONTROL, &mut status)?;
        Ok(status)
    }

    /// Tells the program of a signal.
    pub fn signal(&self, signo: i32, pid: u32, code: i32) -> io::Result<()> {
        self.retry(SIGNAL, &mut Signal { signo: signo as u32, pid, code, padding: 0 })
    }

    /// Whether the other realm shows signs of life.
    pub fn is_alive(&self) -> bool {
        self.realm.status().is_ok_and(|status| status.silent_ms < SILENT_MS)
    }

    fn retry<T: FromBytes + IntoBytes + Immutable>(&self, number: u32, argument: &mut T) -> io::Result<()> {
        loop {
            match sys::ioctl(self.node(), number, argument) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                result => return result.map(|_| ()),
            }
        }
    }
}
