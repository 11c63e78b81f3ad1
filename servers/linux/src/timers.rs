//! Deadlines of everything, in one queue; interval timers and POSIX timers.

use crate::clock::SECOND;
use crate::errno::{Errno, Result};
use crate::server::{Outcome, Server};
use crate::signal::Info;
use crate::sleep::{Clockid, read_timespec, timespec};
use crate::thread::Wait;
use alloc::collections::BTreeMap;
use alloc::vec::Vec;
use core::sync::atomic::Ordering;
use linux_raw_sys::general as linux;
use zerocopy::{FromBytes, Immutable, IntoBytes};

/// Most POSIX timers of a process.
const MAX_TIMERS: usize = 64;
/// A periodic timer expires at most so often; what comes between counts as overrun. (Else a program could keep this server busy.)
const LEAST_PERIOD_NS: u64 = 50_000;
/// How often clocks are compared with Linux and counters are published.
const HOUSEKEEPING_NS: u64 = SECOND / 2;

/// A deadline in the queue: counter value, and a number that tells equal ones apart.
pub type Key = (u64, u64);

/// What happens when a deadline passes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Due {
    /// A thread's wait ends.
    Wake {
        /// The thread.
        slot: u32,
    },
    /// The real-time interval timer of a process.
    Interval {
        /// The process.
        leader: u32,
    },
    /// A POSIX timer.
    Timer {
        /// The process.
        leader: u32,
        /// Its number.
        id: u32,
    },
    /// Clocks, counters, quarantine.
    Housekeeping,
}

/// The queue.
#[derive(Default)]
pub struct Timers {
    queue: BTreeMap<Key, Due>,
    last: u64,
}

impl Timers {
    /// Adds a deadline (a counter value).
    pub fn set(&mut self, deadline: u64, due: Due) -> Key {
        self.last += 1;
        self.queue.insert((deadline, self.last), due);
        (deadline, self.last)
    }

    /// Removes a deadline.
    pub fn cancel(&mut self, key: Key) {
        self.queue.remove(&key);
    }

    /// The first deadline.
    pub fn next(&self) -> Option<u64> {
        self.queue.first_key_value().map(|((deadline, _), _)| *deadline)
    }

    /// Takes a deadline that has passed.
    fn pop(&mut self, now: u64) -> Option<(Key, Due)> {
        let (key, due) = self.queue.first_key_value()?;
        let (key, due) = (*key, *due);
        (key.0 <= now).then(|| self.queue.remove(&key));
        (key.0 <= now).then_some((key, due))
    }
}

/// What a timer of a process is set to. Times are nanoseconds of CLOCK_MONOTONIC.
#[derive(Clone, Copy, Debug, Default)]
pub struct Setting {
    key: Option<Key>,
    until: u64,
    interval: u64,
}

impl Setting {
    fn remaining(&self, now: u64) -> u64 {
        if self.key.is_some() { self.until.saturating_sub(now).max(1) } else { 0 }
    }
}

/// A POSIX timer.
#[derive(Clone, Copy, Debug)]
pub struct PosixTimer {
    clock: Clockid,
    setting: Setting,
    /// 0: no signal.
    signal: u8,
    value: u64,
    /// Thread to signal; 0: the process.
    thread: u32,
    overrun: u32,
}

/// Timers of a process.
#[derive(Default)]
pub struct ProcessTimers {
    interval: Setting,
    posix: Vec<Option<PosixTimer>>,
}

impl Server {
    /// Puts a thread's wait under a deadline (nanoseconds of CLOCK_MONOTONIC).
    pub fn set_deadline(&mut self, slot: u32, until: u64) {
        let key = self.timers.set(self.clock.tsc_at(until), Due::Wake { slot });
        if let Ok(thread) = self.thread_mut(slot)
            && let Some(old) = thread.deadline.replace(key)
        {
            self.timers.cancel(old);
        }
    }

    /// Sets the next housekeeping.
    pub fn schedule_housekeeping(&mut self) {
        let deadline = self.machine.now().saturating_add(self.clock.ticks(HOUSEKEEPING_NS));
        self.timers.set(deadline, Due::Housekeeping);
    }

    /// Does what is due.
    pub fn run_timers(&mut self) {
        while let Some((key, due)) = self.timers.pop(self.machine.now()) {
            match due {
                Due::Wake { slot } => self.wait_timed_out(slot, key),
                Due::Interval { leader } => {
                    if let Ok(process) = self.process_mut(leader) {
                        let (setting, _) = expired(process.timers.interval, self.monotonic());
                        self.arm(setting, Due::Interval { leader });
                        self.signal_process(leader, Info::kernel(linux::SIGALRM as u8));
                    }
                }
                Due::Timer { leader, id } => self.timer_expired(leader, id),
                Due::Housekeeping => {
                    self.housekeeping();
                    self.schedule_housekeeping();
                }
            }
        }
    }

    fn wait_timed_out(&mut self, slot: u32, key: Key) {
        let Ok(thread) = self.thread_mut(slot) else { return };
        if thread.deadline != Some(key) {
            return;
        }
        thread.deadline = None;
        match thread.wait {
            Wait::Sleep { .. } => self.finish(slot, Ok(0)),
            Wait::Futex => {
                self.futex_timed_out(slot);
                self.finish(slot, Err(Errno::ETIMEDOUT));
            }
            Wait::Signal { .. } => self.finish(slot, Err(Errno::EAGAIN)),
            _ => {}
        }
    }

    fn housekeeping(&mut self) {
        if self.clock.synchronise(self.linux) {
            self.vdso.update(&self.memory, &self.clock);
        }
        self.memory.pages.sweep();
        for slot in 0..self.threads.len() as u32 {
            if self.threads[slot as usize].is_some() {
                let ticks = self.machine.thread_consumed(slot);
                self.entries[slot as usize].consumed.store(ticks, Ordering::Relaxed);
            }
        }
        self.publish_counters();
    }

    /// Puts a timer into the queue (or not, if it is not set) and stores its setting.
    fn arm(&mut self, mut setting: Setting, due: Due) {
        if let Some(old) = setting.key.take() {
            self.timers.cancel(old);
        }
        if setting.until != 0 {
            setting.key = Some(self.timers.set(self.clock.tsc_at(setting.until), due));
        }
        match due {
            Due::Interval { leader } => {
                if let Ok(process) = self.process_mut(leader) {
                    process.timers.interval = setting;
                }
            }
            Due::Timer { leader, id } => {
                if let Ok(timer) = self.timer(leader, id) {
                    timer.setting = setting;
                }
            }
            Due::Wake { .. } | Due::Housekeeping => {}
        }
    }

    fn timer(&mut self, leader: u32, id: u32) -> Result<&mut PosixTimer> {
        self.process_mut(leader)?.timers.posix.get_mut(id as usize).and_then(Option::as_mut).ok_or(Errno::EINVAL)
    }

    fn timer_expired(&mut self, leader: u32, id: u32) {
        let now = self.monotonic();
        let Ok(timer) = self.timer(leader, id) else { return };
        let (setting, missed) = expired(timer.setting, now);
        timer.overrun = missed;
        let (signal, value, thread) = (timer.signal, timer.value, timer.thread);
        self.arm(setting, Due::Timer { leader, id });
        if signal != 0 {
            let info = Info::timer(signal, id, missed, value);
            match self.sibling(leader, thread) {
                Ok(target) if thread != 0 => self.signal_thread(target, info),
                _ => self.signal_process(leader, info),
            }
        }
    }

    /// Takes all timers of a process out of the queue.
    pub fn stop_process_timers(&mut self, leader: u32) {
        let Some(process) = self.processes[leader as usize].as_deref_mut() else { return };
        let timers = core::mem::take(&mut process.timers);
        let settings = timers.posix.iter().flatten().map(|timer| timer.setting).chain([timers.interval]);
        for key in settings.filter_map(|setting| setting.key) {
            self.timers.cancel(key);
        }
    }
}

/// The setting after an expiry, and how many periods were missed.
fn expired(setting: Setting, now: u64) -> (Setting, u32) {
    if setting.interval == 0 {
        return (Setting::default(), 0);
    }
    let late = if setting.interval < LEAST_PERIOD_NS { now.saturating_add(LEAST_PERIOD_NS) } else { now };
    let missed = late.saturating_sub(setting.until) / setting.interval;
    let until = setting.until.saturating_add(setting.interval.saturating_mul(missed.saturating_add(1)));
    (Setting { key: None, until, ..setting }, u32::try_from(missed).unwrap_or(i32::MAX as u32))
}

/// `struct itimerval` and `struct itimerspec` are four words: interval, then value.
type Words = [i64; 4];

fn from_timeval([seconds, microseconds]: [i64; 2]) -> Result<u64> {
    if !(0..1_000_000).contains(&microseconds) {
        return Err(Errno::EINVAL);
    }
    timespec(seconds, microseconds * 1000)
}

fn to_timeval(ns: u64) -> [i64; 2] {
    // A timer that runs never shows as 0.
    let microseconds = ns.div_ceil(1000);
    [(microseconds / 1_000_000) as i64, (microseconds % 1_000_000) as i64]
}

/// `setitimer`. Only ITIMER_REAL: processor time is not measured by timers here.
pub fn setitimer(server: &mut Server, slot: u32, arguments: [u64; 6]) -> Result<Outcome> {
    let [which, new, old, ..] = arguments;
    if which != u64::from(linux::ITIMER_REAL) {
        return Err(Errno::EINVAL);
    }
    let words: Words = if new == 0 { [0; 4] } else { server.get_user(slot, new)? };
    let interval = from_timeval([words[0], words[1]])?;
    let value = from_timeval([words[2], words[3]])?;
    let previous = set_interval(server, slot, value, interval)?;
    if old != 0 {
        server.put_user(slot, old, &previous)?;
    }
    Ok(Outcome::Value(0))
}

fn set_interval(server: &mut Server, slot: u32, value: u64, interval: u64) -> Result<Words> {
    let now = server.monotonic();
    let leader = server.thread(slot)?.leader;
    let setting = server.process(leader)?.timers.interval;
    let until = if value == 0 { 0 } else { now.saturating_add(value) };
    server.arm(Setting { key: setting.key, until, interval }, Due::Interval { leader });
    let ([a, b], [c, d]) = (to_timeval(setting.interval), to_timeval(setting.remaining(now)));
    Ok([a, b, c, d])
}

/// `getitimer`.
pub fn getitimer(server: &mut Server, slot: u32, arguments: [u64; 6]) -> Result<Outcome> {
    let [which, address, ..] = arguments;
    if which != u64::from(linux::ITIMER_REAL) {
        return Err(Errno::EINVAL);
    }
    let now = server.monotonic();
    let setting = server.process_of(slot)?.timers.interval;
    let ([a, b], [c, d]) = (to_timeval(setting.interval), to_timeval(setting.remaining(now)));
    server.put_user(slot, address, &[a, b, c, d])?;
    Ok(Outcome::Value(0))
}

/// `alarm`.
pub fn alarm(server: &mut Server, slot: u32, arguments: [u64; 6]) -> Result<Outcome> {
    let seconds = arguments[0] & 0xffff_ffff;
    let [_, _, left, fraction] = set_interval(server, slot, seconds * SECOND, 0)?;
    // Rounded as Linux does, but never to 0 if one was set.
    let rounded = left + i64::from(fraction >= 500_000 || (left == 0 && fraction > 0));
    Ok(Outcome::Value(rounded as u64))
}

/// `struct sigevent`, as far as it is used.
#[derive(FromBytes, IntoBytes, Immutable)]
#[repr(C)]
struct Event {
    value: u64,
    signal: i32,
    notify: i32,
    thread: u32,
    rest: [u8; 44],
}

/// `timer_create`.
pub fn timer_create(server: &mut Server, slot: u32, arguments: [u64; 6]) -> Result<Outcome> {
    let [clock, event, id_address, ..] = arguments;
    let clock = Clockid::from_raw(clock).filter(|clock| *clock != Clockid::Cpu).ok_or(Errno::EINVAL)?;
    let event: Option<Event> = if event == 0 { None } else { Some(server.get_user(slot, event)?) };
    let valid = |signal: i32| u8::try_from(signal).ok().filter(|signal| (1..=64).contains(signal)).ok_or(Errno::EINVAL);
    let (signal, value, thread) = match &event {
        None => (linux::SIGALRM as u8, None, 0),
        Some(event) => match event.notify as u32 {
            linux::SIGEV_NONE => (0, Some(event.value), 0),
            linux::SIGEV_SIGNAL => (valid(event.signal)?, Some(event.value), 0),
            4 => {
                // SIGEV_THREAD_ID
                server.sibling(slot, event.thread).map_err(|_| Errno::EINVAL)?;
                (valid(event.signal)?, Some(event.value), event.thread)
            }
            _ => return Err(Errno::EINVAL),
        },
    };
    let timers = &mut server.process_of(slot)?.timers.posix;
    let id = match timers.iter().position(Option::is_none) {
        Some(id) => id,
        None if timers.len() < MAX_TIMERS => {
            timers.push(None);
            timers.len() - 1
        }
        None => return Err(Errno::EAGAIN),
    };
    let value = value.unwrap_or(id as u64);
    timers[id] = Some(PosixTimer { clock, setting: Setting::default(), signal, value, thread, overrun: 0 });
    if let Err(error) = server.put_user(slot, id_address, &(id as i32)) {
        server.process_of(slot)?.timers.posix[id] = None;
        return Err(error);
    }
    Ok(Outcome::Value(0))
}

fn to_words(setting: Setting, now: u64) -> Words {
    let remaining = setting.remaining(now);
    let part = |ns: u64| [(ns / SECOND) as i64, (ns % SECOND) as i64];
    let ([a, b], [c, d]) = (part(setting.interval), part(remaining));
    [a, b, c, d]
}

/// `timer_settime`.
pub fn timer_settime(server: &mut Server, slot: u32, arguments: [u64; 6]) -> Result<Outcome> {
    let [id, flags, new, old, ..] = arguments;
    let leader = server.thread(slot)?.leader;
    let interval = read_timespec(server, slot, new)?;
    let value = read_timespec(server, slot, new.wrapping_add(16))?;
    let now = server.monotonic();
    let timer = *server.timer(leader, id as u32)?;
    let until = match value {
        0 => 0,
        _ if flags & u64::from(linux::TIMER_ABSTIME) != 0 => timer.clock.to_monotonic(&server.clock, value).max(1),
        _ => now.saturating_add(value),
    };
    if old != 0 {
        server.put_user(slot, old, &to_words(timer.setting, now))?;
    }
    server.timer(leader, id as u32)?.overrun = 0;
    server.arm(Setting { key: timer.setting.key, until, interval }, Due::Timer { leader, id: id as u32 });
    Ok(Outcome::Value(0))
}

/// `timer_gettime`.
pub fn timer_gettime(server: &mut Server, slot: u32, arguments: [u64; 6]) -> Result<Outcome> {
    let leader = server.thread(slot)?.leader;
    let now = server.monotonic();
    let setting = server.timer(leader, arguments[0] as u32)?.setting;
    server.put_user(slot, arguments[1], &to_words(setting, now))?;
    Ok(Outcome::Value(0))
}

/// `timer_getoverrun`.
pub fn timer_getoverrun(server: &mut Server, slot: u32, arguments: [u64; 6]) -> Result<Outcome> {
    let leader = server.thread(slot)?.leader;
    Ok(Outcome::Value(server.timer(leader, arguments[0] as u32)?.overrun.into()))
}

/// `timer_delete`.
pub fn timer_delete(server: &mut Server, slot: u32, arguments: [u64; 6]) -> Result<Outcome> {
    let leader = server.thread(slot)?.leader;
    let id = arguments[0] as u32;
    let key = server.timer(leader, id)?.setting.key;
    if let Some(key) = key {
        server.timers.cancel(key);
    }
    server.process_mut(leader)?.timers.posix[id as usize] = None;
    Ok(Outcome::Value(0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn deadlines_come_in_order_and_can_be_cancelled() {
        let mut timers = Timers::default();
        let late = timers.set(20, Due::Wake { slot: 1 });
        timers.set(10, Due::Wake { slot: 2 });
        timers.set(10, Due::Housekeeping);
        assert_eq!((timers.next(), timers.pop(9)), (Some(10), None));
        assert_eq!(timers.pop(15).unwrap().1, Due::Wake { slot: 2 });
        assert_eq!(timers.pop(15).unwrap().1, Due::Housekeeping);
        timers.cancel(late);
        assert_eq!(timers.pop(u64::MAX), None);
    }

    #[test]
    fn missed_periods_are_counted() {
        let ms = 1_000_000;
        let setting = Setting { key: None, until: 100 * ms, interval: 10 * ms };
        let (next, missed) = expired(setting, 100 * ms);
        assert_eq!((next.until, missed), (110 * ms, 0));
        let (next, missed) = expired(setting, 125 * ms);
        assert_eq!((next.until, missed), (130 * ms, 2));
        let (next, missed) = expired(Setting { interval: 1, ..setting }, 100 * ms);
        assert_eq!((next.until, u64::from(missed)), (100 * ms + LEAST_PERIOD_NS + 1, LEAST_PERIOD_NS));
        assert_eq!(expired(Setting { interval: 0, ..setting }, 100 * ms).0.until, 0);
    }
}
