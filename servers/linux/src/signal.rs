//! Signals: what is pending, what is to be done about it, and for whom.
//!
//! A signal is delivered when its thread is about to return to user mode: after a call answered here, after a fault, or,
//! if it runs or is in a forwarded call, after it was stopped or the call interrupted. (This server is more urgent than any
//! program, so nothing of the program runs in between.)

mod calls;
mod deliver;
mod frame;
mod raise;

pub use calls::*;
pub use deliver::fault;

use alloc::collections::VecDeque;
use linux_raw_sys::general as linux;

/// Handler that means the default action.
pub const DEFAULT: u64 = 0;
/// Handler that means: ignore.
pub const IGNORE: u64 = 1;
/// Signals that can be neither blocked nor caught: SIGKILL and SIGSTOP.
pub const UNBLOCKABLE: u64 = bit(linux::SIGKILL as u8) | bit(linux::SIGSTOP as u8);
/// Most queued signals of a thread or process, besides the standard ones.
const MAX_QUEUED: usize = 32;
/// Bytes of a `siginfo_t`.
pub const INFO_SIZE: usize = 128;

/// The bit of a signal (1–64) in a set.
pub const fn bit(signal: u8) -> u64 {
    1 << (signal - 1)
}

/// What happens without a handler.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DefaultAction {
    /// The process ends.
    Terminate,
    /// Nothing.
    Ignore,
}

/// The default action of a signal. Job control is the proxy's business: stopping and continuing do nothing here.
pub fn default_action(signal: u8) -> DefaultAction {
    match u32::from(signal) {
        linux::SIGCHLD | linux::SIGURG | linux::SIGWINCH | linux::SIGCONT => DefaultAction::Ignore,
        linux::SIGSTOP | linux::SIGTSTP | linux::SIGTTIN | linux::SIGTTOU => DefaultAction::Ignore,
        _ => DefaultAction::Terminate,
    }
}

/// A signal with its `siginfo_t`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Info {
    /// 1–64.
    pub signal: u8,
    /// `siginfo_t`.
    pub bytes: [u8; INFO_SIZE],
}

impl Info {
    fn new(signal: u8, code: i32) -> Info {
        let mut info = Info { signal, bytes: [0; INFO_SIZE] };
        info.set(0, &i32::from(signal).to_le_bytes());
        info.set(8, &code.to_le_bytes());
        info
    }

    fn set(&mut self, offset: usize, bytes: &[u8]) {
        self.bytes[offset..offset + bytes.len()].copy_from_slice(bytes);
    }

    /// Sent by the system.
    pub fn kernel(signal: u8) -> Info {
        Info::new(signal, linux::SI_KERNEL as i32)
    }

    /// Sent by a process or thread.
    pub fn sent(signal: u8, code: i32, pid: u32, uid: u32) -> Info {
        let mut info = Info::new(signal, code);
        info.set(16, &pid.to_le_bytes());
        info.set(20, &uid.to_le_bytes());
        info
    }

    /// Of a timer.
    pub fn timer(signal: u8, id: u32, overrun: u32, value: u64) -> Info {
        let mut info = Info::new(signal, linux::SI_TIMER);
        info.set(16, &id.to_le_bytes());
        info.set(20, &overrun.to_le_bytes());
        info.set(24, &value.to_le_bytes());
        info
    }

    /// Of a fault at an address.
    pub fn fault(signal: u8, code: i32, address: u64) -> Info {
        let mut info = Info::new(signal, code);
        info.set(16, &address.to_le_bytes());
        info
    }

    /// As a program gives it.
    pub fn from_bytes(signal: u8, mut bytes: [u8; INFO_SIZE]) -> Info {
        bytes[..4].copy_from_slice(&i32::from(signal).to_le_bytes());
        Info { signal, bytes }
    }
}

/// Signals that wait.
#[derive(Clone, Debug, Default)]
pub struct Pending {
    set: u64,
    queue: VecDeque<Info>,
}

impl Pending {
    /// Which ones.
    pub fn set(&self) -> u64 {
        self.set
    }

    /// Adds a signal. Standard signals are pending once at most; real-time signals queue. False: the queue is full.
    pub fn add(&mut self, info: Info) -> bool {
        let known = self.set & bit(info.signal) != 0;
        if info.signal < 32 && known {
            return true;
        }
        // Each standard signal has its place; only those that queue can be too many.
        if info.signal >= 32 && self.queue.len() >= MAX_QUEUED {
            return false;
        }
        self.set |= bit(info.signal);
        self.queue.push_back(info);
        true
    }

    /// Takes the first signal of the set: faults before others, then by number.
    pub fn take(&mut self, wanted: u64) -> Option<Info> {
        let synchronous = [linux::SIGSEGV, linux::SIGBUS, linux::SIGILL, linux::SIGTRAP, linux::SIGFPE, linux::SIGSYS];
        let candidates = self.set & wanted;
        if candidates == 0 {
            return None;
        }
        let first = synchronous.into_iter().map(|signal| signal as u8).find(|signal| candidates & bit(*signal) != 0);
        let signal = first.unwrap_or(candidates.trailing_zeros() as u8 + 1);
        let index = self.queue.iter().position(|info| info.signal == signal)?;
        let info = self.queue.remove(index)?;
        if !self.queue.iter().any(|info| info.signal == signal) {
            self.set &= !bit(signal);
        }
        Some(info)
    }

    /// Drops all of one signal.
    pub fn drop_signal(&mut self, signal: u8) {
        self.set &= !bit(signal);
        self.queue.retain(|info| info.signal != signal);
    }
}

/// What is done about a signal.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Action {
    /// Address, or [`DEFAULT`] or [`IGNORE`].
    pub handler: u64,
    /// SA_ flags.
    pub flags: u64,
    /// Where the handler returns to.
    pub restorer: u64,
    /// Blocked meanwhile.
    pub mask: u64,
}

/// Signals of a process.
#[derive(Clone, Debug)]
pub struct SharedSignals {
    /// By signal number − 1.
    pub actions: [Action; 64],
    /// For any thread.
    pub pending: Pending,
}

impl Default for SharedSignals {
    fn default() -> Self {
        SharedSignals { actions: [Action::default(); 64], pending: Pending::default() }
    }
}

impl SharedSignals {
    /// The action of a signal.
    pub fn action(&self, signal: u8) -> Action {
        self.actions[usize::from(signal) - 1]
    }

    /// Whether nothing happens when it arrives.
    pub fn ignores(&self, signal: u8) -> bool {
        let handler = self.action(signal).handler;
        bit(signal) & UNBLOCKABLE == 0
            && (handler == IGNORE || (handler == DEFAULT && default_action(signal) == DefaultAction::Ignore))
    }
}

/// The alternate signal stack.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AltStack {
    /// Lowest address.
    pub start: u64,
    /// Bytes.
    pub size: u64,
    /// SS_ flags: SS_DISABLE or 0, perhaps SS_AUTODISARM.
    pub flags: u32,
}

impl Default for AltStack {
    fn default() -> Self {
        AltStack { start: 0, size: 0, flags: linux::SS_DISABLE }
    }
}

impl AltStack {
    /// Whether the stack pointer is on it.
    pub fn holds(&self, pointer: u64) -> bool {
        self.flags & linux::SS_DISABLE == 0 && pointer > self.start && pointer - self.start <= self.size
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn standard_signals_merge_and_real_time_signals_queue() {
        let mut pending = Pending::default();
        assert!(pending.add(Info::kernel(10)) && pending.add(Info::sent(10, 0, 1, 2)));
        assert!(pending.add(Info::timer(40, 1, 0, 7)) && pending.add(Info::timer(40, 2, 0, 8)));
        assert!(pending.add(Info::fault(11, 1, 0x123)));
        assert_eq!(pending.take(u64::MAX).unwrap().signal, 11);
        assert_eq!(pending.take(u64::MAX), Some(Info::kernel(10)));
        assert_eq!(pending.take(bit(10)), None);
        assert_eq!(pending.take(u64::MAX), Some(Info::timer(40, 1, 0, 7)));
        assert_eq!(pending.set(), bit(40));
        assert!(pending.take(u64::MAX).is_some() && pending.set() == 0);
    }

    #[test]
    fn the_queue_is_bounded() {
        let mut pending = Pending::default();
        assert!((0..MAX_QUEUED).all(|_| pending.add(Info::kernel(64))));
        assert!(!pending.add(Info::kernel(64)));
        pending.drop_signal(64);
        assert!(pending.take(u64::MAX).is_none() && pending.add(Info::kernel(64)));
    }

    #[test]
    fn sigkill_is_never_ignored() {
        let mut signals = SharedSignals::default();
        signals.actions.iter_mut().for_each(|action| action.handler = IGNORE);
        assert!(signals.ignores(15) && !signals.ignores(9));
        assert!(SharedSignals::default().ignores(17) && !SharedSignals::default().ignores(15));
    }
}
