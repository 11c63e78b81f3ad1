//! The signal calls.

pub use super::deliver::sigreturn;
use super::{Action, AltStack, INFO_SIZE, Info, UNBLOCKABLE, bit};
use crate::errno::{Errno, Result};
use crate::server::{Outcome, Server};
use crate::sleep::read_timespec;
use crate::thread::Wait;
use linux_raw_sys::general as linux;

fn check_size(size: u64) -> Result<()> {
    if size == 8 { Ok(()) } else { Err(Errno::EINVAL) }
}

fn number(raw: u64) -> Result<u8> {
    u8::try_from(raw as u32).ok().filter(|signal| (1..=64).contains(signal)).ok_or(Errno::EINVAL)
}

/// `rt_sigaction`.
pub fn sigaction(server: &mut Server, slot: u32, arguments: [u64; 6]) -> Result<Outcome> {
    let [signal, new, old, size, ..] = arguments;
    check_size(size)?;
    let signal = number(signal)?;
    let new: Option<[u64; 4]> = if new == 0 { None } else { Some(server.get_user(slot, new)?) };
    if new.is_some() && bit(signal) & UNBLOCKABLE != 0 {
        return Err(Errno::EINVAL);
    }
    let leader = server.thread(slot)?.leader;
    let index = usize::from(signal) - 1;
    let previous = server.process(leader)?.signals.actions[index];
    if old != 0 {
        server.put_user(slot, old, &[previous.handler, previous.flags, previous.restorer, previous.mask])?;
    }
    if let Some([handler, flags, restorer, mask]) = new {
        let process = server.process_mut(leader)?;
        process.signals.actions[index] = Action { handler, flags, restorer, mask: mask & !UNBLOCKABLE };
        if process.signals.ignores(signal) {
            process.signals.pending.drop_signal(signal);
            for thread in process.threads.clone() {
                if let Ok(thread) = server.thread_mut(thread) {
                    thread.pending.drop_signal(signal);
                }
            }
        }
    }
    Ok(Outcome::Value(0))
}

/// `rt_sigprocmask`.
pub fn sigprocmask(server: &mut Server, slot: u32, arguments: [u64; 6]) -> Result<Outcome> {
    let [how, new, old, size, ..] = arguments;
    check_size(size)?;
    let previous = server.thread(slot)?.blocked;
    let set: Option<u64> = if new == 0 { None } else { Some(server.get_user(slot, new)?) };
    let blocked = match set {
        None => previous,
        Some(set) => match how as u32 {
            linux::SIG_BLOCK => previous | set,
            linux::SIG_UNBLOCK => previous & !set,
            linux::SIG_SETMASK => set,
            _ => return Err(Errno::EINVAL),
        },
    };
    if old != 0 {
        server.put_user(slot, old, &previous)?;
    }
    server.thread_mut(slot)?.blocked = blocked & !UNBLOCKABLE;
    Ok(Outcome::Value(0))
}

/// `rt_sigpending`.
pub fn sigpending(server: &mut Server, slot: u32, arguments: [u64; 6]) -> Result<Outcome> {
    let [address, size, ..] = arguments;
    if size > 8 {
        return Err(Errno::EINVAL);
    }
    let thread = server.thread(slot)?;
    let shared = server.process(thread.leader)?.signals.pending.set();
    let pending = (thread.pending.set() | shared) & thread.blocked;
    server.write_user(slot, address, &pending.to_le_bytes()[..size as usize])?;
    Ok(Outcome::Value(0))
}

fn suspend(server: &mut Server, slot: u32) -> Result<Outcome> {
    if server.signal_is_due(slot) {
        return Err(Errno::EINTR);
    }
    server.thread_mut(slot)?.wait = Wait::Suspended;
    Ok(Outcome::Wait)
}

/// `pause`.
pub fn pause(server: &mut Server, slot: u32, _: [u64; 6]) -> Result<Outcome> {
    suspend(server, slot)
}

/// `rt_sigsuspend`.
pub fn sigsuspend(server: &mut Server, slot: u32, arguments: [u64; 6]) -> Result<Outcome> {
    let [address, size, ..] = arguments;
    check_size(size)?;
    let mask: u64 = server.get_user(slot, address)?;
    let thread = server.thread_mut(slot)?;
    // Restored by the frame of the handler that ends the wait.
    thread.saved_mask = Some(thread.blocked);
    thread.blocked = mask & !UNBLOCKABLE;
    suspend(server, slot)
}

/// `rt_sigtimedwait`.
pub fn sigtimedwait(server: &mut Server, slot: u32, arguments: [u64; 6]) -> Result<Outcome> {
    let [address, info_address, timeout, size, ..] = arguments;
    check_size(size)?;
    let set = server.get_user::<u64>(slot, address)? & !UNBLOCKABLE;
    let time = if timeout == 0 { None } else { Some(read_timespec(server, slot, timeout)?) };
    if let Some(info) = server.take_of(slot, set)? {
        if info_address != 0 {
            server.write_user(slot, info_address, &info.bytes)?;
        }
        return Ok(Outcome::Value(info.signal.into()));
    }
    if time == Some(0) {
        return Err(Errno::EAGAIN);
    }
    if server.signal_is_due(slot) {
        return Err(Errno::EINTR);
    }
    if let Some(time) = time {
        let until = server.monotonic().saturating_add(time);
        server.set_deadline(slot, until);
    }
    server.thread_mut(slot)?.wait = Wait::Signal { set, info: info_address };
    Ok(Outcome::Wait)
}

/// `sigaltstack`.
pub fn sigaltstack(server: &mut Server, slot: u32, arguments: [u64; 6]) -> Result<Outcome> {
    let [new, old, ..] = arguments;
    let thread = server.thread(slot)?;
    let (current, pointer) = (thread.alt_stack, thread.call.stack);
    let on_it = current.holds(pointer);
    let new: Option<[u64; 3]> = if new == 0 { None } else { Some(server.get_user(slot, new)?) };
    if old != 0 {
        let flags = if on_it { linux::SS_ONSTACK } else { current.flags };
        server.put_user(slot, old, &[current.start, flags.into(), current.size])?;
    }
    if let Some([start, flags, size]) = new {
        let flags = flags as u32;
        if on_it {
            return Err(Errno::EPERM);
        }
        let mode = flags & !(1 << 31);
        let stack = match mode {
            linux::SS_DISABLE => AltStack::default(),
            0 | linux::SS_ONSTACK if size >= u64::from(linux::MINSIGSTKSZ) => AltStack { start, size, flags: 0 },
            0 | linux::SS_ONSTACK => return Err(Errno::ENOMEM),
            _ => return Err(Errno::EINVAL),
        };
        server.thread_mut(slot)?.alt_stack = stack;
    }
    Ok(Outcome::Value(0))
}

/// The signal of a `kill`; 0 only asks.
fn optional(raw: u64) -> Result<Option<u8>> {
    if raw as u32 == 0 { Ok(None) } else { number(raw).map(Some) }
}

/// `kill`. Process groups and processes elsewhere are Linux's.
pub fn kill(server: &mut Server, slot: u32, arguments: [u64; 6]) -> Result<Outcome> {
    let signal = optional(arguments[1])?;
    let leader = server.thread(slot)?.leader;
    let (pid, uid) = {
        let process = server.process(leader)?;
        (process.pid, process.uid)
    };
    if arguments[0] as u32 != pid {
        return server.forward(slot);
    }
    if let Some(signal) = signal {
        server.signal_process(leader, Info::sent(signal, linux::SI_USER as i32, pid, uid));
    }
    Ok(Outcome::Value(0))
}

fn signal_sibling(server: &mut Server, slot: u32, tid: u64, signal: u64) -> Result<Outcome> {
    let signal = optional(signal)?;
    if tid as i32 <= 0 {
        return Err(Errno::EINVAL);
    }
    let Ok(target) = server.sibling(slot, tid as u32) else { return server.forward(slot) };
    if let Some(signal) = signal {
        let process = server.process_of(slot)?;
        let info = Info::sent(signal, linux::SI_TKILL, process.pid, process.uid);
        server.signal_thread(target, info);
    }
    Ok(Outcome::Value(0))
}

/// `tkill`.
pub fn tkill(server: &mut Server, slot: u32, arguments: [u64; 6]) -> Result<Outcome> {
    signal_sibling(server, slot, arguments[0], arguments[1])
}

/// `tgkill`.
pub fn tgkill(server: &mut Server, slot: u32, arguments: [u64; 6]) -> Result<Outcome> {
    let [group, tid, signal, ..] = arguments;
    if group as i32 <= 0 {
        return Err(Errno::EINVAL);
    }
    if group as u32 != server.process_of(slot)?.pid {
        return server.forward(slot);
    }
    if tid as i32 > 0 && server.sibling(slot, tid as u32).is_err() {
        return Err(Errno::ESRCH);
    }
    signal_sibling(server, slot, tid, signal)
}

fn read_info(server: &Server, slot: u32, signal: u8, address: u64) -> Result<Info> {
    let mut bytes = [0; INFO_SIZE];
    server.read_user(slot, address, &mut bytes)?;
    Ok(Info::from_bytes(signal, bytes))
}

/// `rt_sigqueueinfo`.
pub fn sigqueueinfo(server: &mut Server, slot: u32, arguments: [u64; 6]) -> Result<Outcome> {
    let [pid, signal, address, ..] = arguments;
    let leader = server.thread(slot)?.leader;
    if pid as u32 != server.process(leader)?.pid {
        return server.forward(slot);
    }
    if let Some(signal) = optional(signal)? {
        let info = read_info(server, slot, signal, address)?;
        server.signal_process(leader, info);
    }
    Ok(Outcome::Value(0))
}

/// `rt_tgsigqueueinfo`.
pub fn tgsigqueueinfo(server: &mut Server, slot: u32, arguments: [u64; 6]) -> Result<Outcome> {
    let [group, tid, signal, address, ..] = arguments;
    if group as u32 != server.process_of(slot)?.pid {
        return server.forward(slot);
    }
    let target = server.sibling(slot, tid as u32)?;
    if let Some(signal) = optional(signal)? {
        let info = read_info(server, slot, signal, address)?;
        server.signal_thread(target, info);
    }
    Ok(Outcome::Value(0))
}
