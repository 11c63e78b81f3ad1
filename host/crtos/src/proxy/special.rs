//! Calls that are not simply made: those that only the proxy knows, and those that would hit the proxy itself.

use std::sync::mpsc;
use std::thread;

use ipc::shadow::special;

use super::channel::{Channel, Slot};
use super::{forward, worker};
use crate::sys;

const EAGAIN: i64 = -11;
const EBADF: i64 = -9;
const EINVAL: i64 = -22;
const ENOSYS: i64 = -38;

const PREAD64: u64 = 17;
const DUP2: u64 = 33;
const PRCTL: u64 = 157;
const MBIND: u64 = 237;
const DUP3: u64 = 292;
const CLOSE_RANGE: u64 = 436;

/// Calls about memory, threads, processes and signals: the real-time side's own, which it never forwards. Made here they
/// would change the proxy: the window, its threads, its signal handling.
const REFUSED: &[u64] = &[
    9, 10, 11, 12, 13, 14, 15, 25, 27, 28, 30, 56, 57, 58, 59, 60, 67, 101, 127, 128, 130, 131, 134, 149, 150, 151,
    152, 154, 158, 216, 218, 219, 231, 272, 273, 274, 308, 317, 322, 323, 324, 325, 329, 330, 331, 334, 435, 440, 450,
    453,
];

/// Settings of `prctl` that would hit the proxy: memory layout, system call filters and dispatch, time-stamp counter.
const REFUSED_PRCTL: &[u64] = &[22, 26, 35, 59];

/// Calls whose first argument is a descriptor, and that could harm ours.
const DESCRIPTOR_FIRST: &[u64] = &[
    0, 1, 3, 5, 8, 16, 17, 18, 19, 20, 32, DUP2, 40, 72, 73, 74, 75, 77, 81, 91, 93, 138, 217, 221, 285, DUP3, 295,
    296, 327, 328,
];

/// Calls that set a signal mask while they wait, and which argument points to it: masks are the real-time side's business.
const MASKED: &[(u64, usize)] = &[(270, 5), (271, 3), (281, 4), (441, 4), (333, 5)];

/// What to do with a call.
#[derive(Debug, PartialEq, Eq)]
enum Plan {
    Make([u64; 6]),
    Answer(i64),
}

fn plan(number: u64, mut args: [u64; 6], own: &[i32]) -> Plan {
    let is_own = |fd: u64| own.contains(&(fd as i32));
    if REFUSED.contains(&number) || (number == PRCTL && REFUSED_PRCTL.contains(&args[0])) {
        return Plan::Answer(ENOSYS);
    }
    // Where application memory lies is settled; a wish about it is heard and has no effect.
    if number == MBIND {
        return Plan::Answer(0);
    }
    if DESCRIPTOR_FIRST.contains(&number) && is_own(args[0]) || matches!(number, DUP2 | DUP3) && is_own(args[1]) {
        return Plan::Answer(EBADF);
    }
    if let Some((_, index)) = MASKED.iter().find(|(masked, _)| *masked == number) {
        args[*index] = 0;
    }
    Plan::Make(args)
}

/// The parts of `first..=last` that leave out our descriptors.
fn without_own(first: u32, last: u32, own: &[i32]) -> Vec<(u32, u32)> {
    let mut own: Vec<u32> = own.iter().map(|fd| *fd as u32).filter(|fd| (first..=last).contains(fd)).collect();
    own.sort_unstable();
    let mut parts = Vec::new();
    let mut next = Some(first);
    for fd in own {
        if let Some(start) = next
            && start < fd
        {
            parts.push((start, fd - 1));
        }
        next = fd.checked_add(1);
    }
    if let Some(start) = next
        && start <= last
    {
        parts.push((start, last));
    }
    parts
}

fn close_range(id: u64, args: [u64; 6], own: &[i32]) -> i64 {
    const CLOEXEC: u64 = 4;
    let (first, last) = (args[0] as u32, args[1] as u32);
    // All threads of the program share the descriptors; a worker alone cannot leave them.
    if args[2] & !CLOEXEC != 0 || first > last {
        return EINVAL;
    }
    for (first, last) in without_own(first, last, own) {
        let result = forward::forward(id, CLOSE_RANGE, [first.into(), last.into(), args[2], 0, 0, 0]);
        if result < 0 {
            return result;
        }
    }
    0
}

/// Starts a worker for a new thread of the program: its tid and slot.
fn clone(channel: &'static Channel, policy: u16, priority: u16) -> (i64, Slot) {
    let (tell, hear) = mpsc::sync_channel(1);
    let spawned = thread::Builder::new().stack_size(super::STACK).spawn(move || match channel.attach_thread() {
        Ok(slot) => {
            let _ = tell.send((sys::thread_id(), slot));
            worker::work(channel, slot.number, policy, priority);
        }
        Err(_) => {
            let _ = tell.send((EAGAIN, Slot::default()));
        }
    });
    match spawned.map(|_| hear.recv()) {
        Ok(Ok(told)) => told,
        _ => (EAGAIN, Slot::default()),
    }
}

/// Makes a call: its result, and the slot of a thread that it made.
pub fn make(
    channel: &'static Channel,
    id: u64,
    number: u64,
    args: [u64; 6],
    scheduling: &mut (u16, u16),
) -> (i64, Slot) {
    let value = match number {
        special::ARGUMENTS => {
            let file = std::os::fd::AsRawFd::as_raw_fd(&channel.arguments()) as u64;
            forward::forward(id, PREAD64, [file, args[0], args[1], 0, 0, 0])
        }
        special::CLONE => return clone(channel, scheduling.0, scheduling.1),
        special::SCHEDULE => {
            let wanted = (args[0] as u16, args[1] as u16);
            match sys::set_scheduling(wanted.0, wanted.1) {
                Ok(()) => {
                    *scheduling = wanted;
                    0
                }
                Err(error) => -i64::from(error.raw_os_error().unwrap_or(22)),
            }
        }
        CLOSE_RANGE => close_range(id, args, &channel.own_descriptors()),
        _ => match plan(number, args, &channel.own_descriptors()) {
            Plan::Make(args) => forward::forward(id, number, args),
            Plan::Answer(error) => error,
        },
    };
    (value, Slot::default())
}

#[cfg(test)]
mod tests {
    use super::*;

    const OWN: [i32; 2] = [1000, 1001];

    #[test]
    fn own_descriptors_are_not_there() {
        assert_eq!(plan(3, [1000, 0, 0, 0, 0, 0], &OWN), Plan::Answer(EBADF));
        assert_eq!(plan(3, [5, 0, 0, 0, 0, 0], &OWN), Plan::Make([5, 0, 0, 0, 0, 0]));
        assert_eq!(plan(DUP2, [1, 1001, 0, 0, 0, 0], &OWN), Plan::Answer(EBADF));
        // Only the low half of a register is a descriptor.
        assert_eq!(plan(3, [1 << 32 | 1000, 0, 0, 0, 0, 0], &OWN), Plan::Answer(EBADF));
    }

    #[test]
    fn what_would_hit_the_proxy_is_refused() {
        for number in [9, 11, 12, 59, 60, 231, 435] {
            assert_eq!(plan(number, [0; 6], &OWN), Plan::Answer(ENOSYS));
        }
        assert_eq!(plan(PRCTL, [22, 2, 0, 0, 0, 0], &OWN), Plan::Answer(ENOSYS));
        assert_eq!(plan(PRCTL, [15, 2, 0, 0, 0, 0], &OWN), Plan::Make([15, 2, 0, 0, 0, 0]));
    }

    #[test]
    fn masks_are_dropped() {
        assert_eq!(plan(271, [1, 2, 3, 4, 8, 0], &OWN), Plan::Make([1, 2, 3, 0, 8, 0]));
    }

    #[test]
    fn ranges_leave_ours_out() {
        assert_eq!(without_own(3, u32::MAX, &OWN), [(3, 999), (1002, u32::MAX)]);
        assert_eq!(without_own(3, 1000, &OWN), [(3, 999)]);
        assert_eq!(without_own(1000, 1001, &OWN), []);
        assert_eq!(without_own(3, 4, &OWN), [(3, 4)]);
    }
}
