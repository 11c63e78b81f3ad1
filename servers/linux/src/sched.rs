//! Scheduling calls. Linux's real-time priorities 1–99 are kernel priorities above all others of programs and below the servers.

use crate::errno::{Errno, Result};
use crate::process::Job;
use crate::server::{Outcome, Server};
use core::sync::atomic::Ordering;
use linux_raw_sys::general as linux;
use zerocopy::{FromBytes, Immutable, IntoBytes};

/// Kernel priority of programs without real-time policy.
pub const OTHER_PRIORITY: u8 = 50;
/// Kernel priority of real-time priority 0, so to speak.
pub const REAL_TIME_BASE: u8 = 100;
/// Quantum of SCHED_RR in nanoseconds.
pub const QUANTUM_NS: u64 = 100_000_000;

const OTHER: u16 = linux::SCHED_NORMAL as u16;
const FIFO: u16 = linux::SCHED_FIFO as u16;
const RR: u16 = linux::SCHED_RR as u16;
const BATCH: u16 = linux::SCHED_BATCH as u16;
const IDLE: u16 = linux::SCHED_IDLE as u16;

/// Policy and priority as Linux numbers them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Scheduling {
    /// SCHED_OTHER, FIFO or RR (or BATCH, IDLE, which are like OTHER).
    pub policy: u16,
    /// 1–99, or 0.
    pub priority: u16,
    /// Children start with SCHED_OTHER.
    pub reset_on_fork: bool,
}

impl Scheduling {
    /// From numbers of Linux; what is not valid becomes SCHED_OTHER.
    pub fn new(policy: u16, priority: u16) -> Scheduling {
        match policy {
            FIFO | RR if (1..=99).contains(&priority) => Scheduling { policy, priority, reset_on_fork: false },
            _ => Scheduling { policy: OTHER, priority: 0, reset_on_fork: false },
        }
    }

    /// policy | priority << 16.
    pub fn packed(self) -> u64 {
        u64::from(self.policy) | u64::from(self.priority) << 16
    }

    /// As the published entry has it: policy << 16 | priority.
    pub fn published(self) -> u32 {
        u32::from(self.policy) << 16 | u32::from(self.priority)
    }

    /// Kernel priority.
    pub fn kernel_priority(self) -> u8 {
        match self.policy {
            FIFO | RR => REAL_TIME_BASE + self.priority.min(99) as u8,
            IDLE => OTHER_PRIORITY - 1,
            _ => OTHER_PRIORITY,
        }
    }
}

fn checked(policy: u64, priority: i32) -> Result<Scheduling> {
    let reset = u64::from(linux::SCHED_RESET_ON_FORK);
    let (policy, reset_on_fork) = (policy & !reset, policy & reset != 0);
    let policy = u16::try_from(policy).map_err(|_| Errno::EINVAL)?;
    let range = match policy {
        FIFO | RR => 1..=99,
        OTHER | BATCH | IDLE => 0..=0,
        _ => return Err(Errno::EINVAL),
    };
    if !range.contains(&priority) {
        return Err(Errno::EINVAL);
    }
    Ok(Scheduling { policy, priority: priority as u16, reset_on_fork })
}

impl Server {
    /// Tells the kernel how a thread is scheduled.
    pub fn apply_scheduling(&mut self, slot: u32) {
        let Ok(thread) = self.thread(slot) else { return };
        let scheduling = thread.scheduling;
        let priority = scheduling.kernel_priority().max(thread.inherited);
        // Programs without real-time policy share the processor.
        let quantum = (scheduling.policy != FIFO).then(|| self.clock.ticks(QUANTUM_NS));
        self.machine.thread_schedule(slot, priority, quantum);
        self.entries[slot as usize].scheduling.store(scheduling.published(), Ordering::Relaxed);
    }

    fn set_scheduling(&mut self, caller: u32, tid: u64, scheduling: Scheduling) -> Result<Outcome> {
        let Ok(target) = self.sibling(caller, tid as u32) else { return self.forward(caller) };
        let identity = {
            let thread = self.thread_mut(target)?;
            thread.scheduling = scheduling;
            thread.identity()
        };
        self.apply_scheduling(target);
        // vfs-proxy marks each request with it, so that the worker follows.
        let _ = self.machine.vfs(ipc::protocol::vfs::ADMIT, &[identity, scheduling.packed()]);
        self.jobs.push(Job::Schedule { slot: target });
        Ok(Outcome::Value(0))
    }

    /// The call is about somebody else: Linux answers it.
    pub fn forward(&mut self, slot: u32) -> Result<Outcome> {
        self.jobs.push(Job::Forward { slot });
        Ok(Outcome::Wait)
    }
}

/// `sched_setscheduler`.
pub fn setscheduler(server: &mut Server, slot: u32, arguments: [u64; 6]) -> Result<Outcome> {
    let [tid, policy, parameter, ..] = arguments;
    let priority: i32 = server.get_user(slot, parameter)?;
    server.set_scheduling(slot, tid, checked(policy & 0xffff_ffff, priority)?)
}

/// `sched_setparam`.
pub fn setparam(server: &mut Server, slot: u32, arguments: [u64; 6]) -> Result<Outcome> {
    let [tid, parameter, ..] = arguments;
    let priority: i32 = server.get_user(slot, parameter)?;
    let Ok(target) = server.sibling(slot, tid as u32) else { return server.forward(slot) };
    let policy = server.thread(target)?.scheduling.policy;
    server.set_scheduling(slot, tid, checked(policy.into(), priority)?)
}

/// `sched_getscheduler`.
pub fn getscheduler(server: &mut Server, slot: u32, arguments: [u64; 6]) -> Result<Outcome> {
    if arguments[0] as i32 != arguments[0] as u32 as i32 || (arguments[0] as i32) < 0 {
        return Err(Errno::EINVAL);
    }
    let Ok(target) = server.sibling(slot, arguments[0] as u32) else { return server.forward(slot) };
    let scheduling = server.thread(target)?.scheduling;
    let reset = if scheduling.reset_on_fork { linux::SCHED_RESET_ON_FORK } else { 0 };
    Ok(Outcome::Value(u64::from(scheduling.policy) | u64::from(reset)))
}

/// `sched_getparam`.
pub fn getparam(server: &mut Server, slot: u32, arguments: [u64; 6]) -> Result<Outcome> {
    let [tid, parameter, ..] = arguments;
    let Ok(target) = server.sibling(slot, tid as u32) else { return server.forward(slot) };
    let priority = i32::from(server.thread(target)?.scheduling.priority);
    server.put_user(slot, parameter, &priority)?;
    Ok(Outcome::Value(0))
}

/// `struct sched_attr`, first version.
#[derive(Clone, Copy, Default, FromBytes, IntoBytes, Immutable)]
#[repr(C)]
struct Attributes {
    size: u32,
    policy: u32,
    flags: u64,
    nice: i32,
    priority: u32,
    runtime: u64,
    deadline: u64,
    period: u64,
}

const ATTRIBUTES_SIZE: u32 = 48;

/// `sched_setattr`.
pub fn setattr(server: &mut Server, slot: u32, arguments: [u64; 6]) -> Result<Outcome> {
    let [tid, address, flags, ..] = arguments;
    let attributes: Attributes = server.get_user(slot, address)?;
    if flags != 0 || (attributes.size != 0 && attributes.size < ATTRIBUTES_SIZE) {
        return Err(Errno::EINVAL);
    }
    let reset = if attributes.flags & 1 != 0 { u64::from(linux::SCHED_RESET_ON_FORK) } else { 0 };
    let priority = i32::try_from(attributes.priority).map_err(|_| Errno::EINVAL)?;
    server.set_scheduling(slot, tid, checked(u64::from(attributes.policy) | reset, priority)?)
}

/// `sched_getattr`.
pub fn getattr(server: &mut Server, slot: u32, arguments: [u64; 6]) -> Result<Outcome> {
    let [tid, address, size, flags, ..] = arguments;
    if flags != 0 || size < ATTRIBUTES_SIZE.into() {
        return Err(Errno::EINVAL);
    }
    let Ok(target) = server.sibling(slot, tid as u32) else { return server.forward(slot) };
    let scheduling = server.thread(target)?.scheduling;
    let attributes = Attributes {
        size: ATTRIBUTES_SIZE,
        policy: scheduling.policy.into(),
        flags: scheduling.reset_on_fork.into(),
        priority: scheduling.priority.into(),
        ..Attributes::default()
    };
    server.put_user(slot, address, &attributes)?;
    Ok(Outcome::Value(0))
}

/// `sched_yield`.
pub fn sched_yield(_: &mut Server, _: u32, _: [u64; 6]) -> Result<Outcome> {
    Ok(Outcome::Yield)
}

/// `sched_get_priority_max`.
pub fn priority_max(_: &mut Server, _: u32, arguments: [u64; 6]) -> Result<Outcome> {
    priority_limit(arguments[0], 99)
}

/// `sched_get_priority_min`.
pub fn priority_min(_: &mut Server, _: u32, arguments: [u64; 6]) -> Result<Outcome> {
    priority_limit(arguments[0], 1)
}

fn priority_limit(policy: u64, real_time: u64) -> Result<Outcome> {
    match u16::try_from(policy).map_err(|_| Errno::EINVAL)? {
        FIFO | RR => Ok(Outcome::Value(real_time)),
        OTHER | BATCH | IDLE | 6 => Ok(Outcome::Value(0)),
        _ => Err(Errno::EINVAL),
    }
}

/// `sched_rr_get_interval`.
pub fn rr_interval(server: &mut Server, slot: u32, arguments: [u64; 6]) -> Result<Outcome> {
    let [tid, address, ..] = arguments;
    let Ok(target) = server.sibling(slot, tid as u32) else { return server.forward(slot) };
    let interval = if server.thread(target)?.scheduling.policy == FIFO { 0 } else { QUANTUM_NS };
    server.put_user(slot, address, &[0, interval])?;
    Ok(Outcome::Value(0))
}

/// `sched_setaffinity`: there is one processor, number 0.
pub fn setaffinity(server: &mut Server, slot: u32, arguments: [u64; 6]) -> Result<Outcome> {
    let [tid, size, address, ..] = arguments;
    if server.sibling(slot, tid as u32).is_err() {
        return server.forward(slot);
    }
    if size == 0 {
        return Err(Errno::EINVAL);
    }
    let first: u8 = server.get_user(slot, address)?;
    if first & 1 == 0 { Err(Errno::EINVAL) } else { Ok(Outcome::Value(0)) }
}

/// `sched_getaffinity`.
pub fn getaffinity(server: &mut Server, slot: u32, arguments: [u64; 6]) -> Result<Outcome> {
    let [tid, size, address, ..] = arguments;
    if server.sibling(slot, tid as u32).is_err() {
        return server.forward(slot);
    }
    if size < 8 || !size.is_multiple_of(8) {
        return Err(Errno::EINVAL);
    }
    server.put_user(slot, address, &1u64)?;
    Ok(Outcome::Value(8))
}

/// `getcpu`.
pub fn getcpu(server: &mut Server, slot: u32, arguments: [u64; 6]) -> Result<Outcome> {
    for address in [arguments[0], arguments[1]].into_iter().filter(|address| *address != 0) {
        server.put_user(slot, address, &0u32)?;
    }
    Ok(Outcome::Value(0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn policies_and_priorities_are_checked() {
        assert_eq!(checked(1, 90).unwrap().kernel_priority(), 190);
        assert_eq!(checked(0, 0).unwrap().kernel_priority(), OTHER_PRIORITY);
        assert!(checked(0x4000_0002, 1).unwrap().reset_on_fork);
        for (policy, priority) in [(1, 0), (1, 100), (2, -1), (0, 1), (6, 0), (4, 0), (99, 0), (u64::MAX, 0)] {
            assert_eq!(checked(policy, priority), Err(Errno::EINVAL));
        }
        assert_eq!(Scheduling::new(1, 200), Scheduling::new(0, 0));
    }
}
