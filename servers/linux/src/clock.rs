//! Clocks: one time base for every call, for the vDSO and for deadlines.
//!
//! CLOCK_MONOTONIC runs on the time-stamp counter from the first agreement with Linux on; it never steps. CLOCK_REALTIME is
//! CLOCK_MONOTONIC plus an offset that follows what Linux publishes.

use core::sync::atomic::{Ordering, fence};
use ipc::shadow::{LINUX_MAGIC, LinuxHeader};

/// Nanoseconds per second.
pub const SECOND: u64 = 1_000_000_000;

/// The time base.
#[derive(Clone, Copy, Debug)]
pub struct Clock {
    /// Ticks per millisecond.
    pub tsc_khz: u64,
    /// Nanoseconds per tick, times 2³².
    pub multiplier: u64,
    /// Counter at the base.
    pub base_tsc: u64,
    /// CLOCK_MONOTONIC at the base.
    pub base_ns: u64,
    /// CLOCK_REALTIME minus CLOCK_MONOTONIC.
    pub wall_offset: u64,
    /// Whether Linux has told the time yet.
    pub synchronised: bool,
}

impl Clock {
    /// Starts at 0 now.
    pub fn new(tsc_khz: u64, now: u64) -> Clock {
        let tsc_khz = tsc_khz.max(1);
        let multiplier = ((1_000_000u128 << 32) / u128::from(tsc_khz)) as u64;
        Clock { tsc_khz, multiplier: multiplier.max(1), base_tsc: now, base_ns: 0, wall_offset: 0, synchronised: false }
    }

    /// CLOCK_MONOTONIC at a counter value.
    pub fn monotonic(&self, tsc: u64) -> u64 {
        let delta = tsc.saturating_sub(self.base_tsc);
        let ns = (u128::from(delta) * u128::from(self.multiplier)) >> 32;
        self.base_ns.saturating_add(u64::try_from(ns).unwrap_or(u64::MAX))
    }

    /// CLOCK_REALTIME at a counter value.
    pub fn realtime(&self, tsc: u64) -> u64 {
        self.monotonic(tsc).wrapping_add(self.wall_offset)
    }

    /// The first counter value at which CLOCK_MONOTONIC has reached `ns`.
    pub fn tsc_at(&self, ns: u64) -> u64 {
        let delta = u128::from(ns.saturating_sub(self.base_ns)) << 32;
        let ticks = delta.div_ceil(u128::from(self.multiplier));
        self.base_tsc.saturating_add(u64::try_from(ticks).unwrap_or(u64::MAX))
    }

    /// Nanoseconds in so many ticks.
    pub fn nanoseconds(&self, ticks: u64) -> u64 {
        ((u128::from(ticks) * u128::from(self.multiplier)) >> 32) as u64
    }

    /// Ticks in so many nanoseconds.
    pub fn ticks(&self, ns: u64) -> u64 {
        u64::try_from((u128::from(ns) << 32) / u128::from(self.multiplier)).unwrap_or(u64::MAX)
    }

    /// Takes over what Linux publishes. True if something changed.
    pub fn synchronise(&mut self, linux: &LinuxHeader) -> bool {
        let Some((tsc, monotonic, realtime)) = read(linux) else { return false };
        let mut changed = false;
        if !self.synchronised {
            // Time has not been given to anybody yet, or only the time since our own start: it may step forward once.
            let before = self.monotonic(tsc.max(self.base_tsc));
            if monotonic >= before {
                (self.base_tsc, self.base_ns) = (tsc, monotonic);
            }
            self.synchronised = true;
            changed = true;
        }
        let offset = realtime.wrapping_sub(self.monotonic(tsc));
        changed |= offset != self.wall_offset;
        self.wall_offset = offset;
        changed
    }
}

/// A consistent copy of the clock words, if Linux is there.
fn read(linux: &LinuxHeader) -> Option<(u64, u64, u64)> {
    if linux.magic.load(Ordering::Acquire) != LINUX_MAGIC {
        return None;
    }
    for _ in 0..64 {
        let before = linux.clock_sequence.load(Ordering::Acquire);
        let words =
            [&linux.clock_tsc, &linux.clock_monotonic, &linux.clock_realtime].map(|word| word.load(Ordering::Relaxed));
        fence(Ordering::Acquire);
        let after = linux.clock_sequence.load(Ordering::Relaxed);
        if before == after && before.is_multiple_of(2) {
            let [tsc, monotonic, realtime] = words;
            return (realtime != 0).then_some((tsc, monotonic, realtime));
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;
    use core::sync::atomic::{AtomicU32, AtomicU64};

    #[test]
    fn deadlines_are_never_early() {
        for khz in [1, 999, 1_000_000, 2_100_123, 3_700_000] {
            let clock = Clock { base_ns: 123_456_789, ..Clock::new(khz, 55) };
            for ns in [123_456_789, 123_456_790, 5 * SECOND, 86_400 * SECOND] {
                let tsc = clock.tsc_at(ns);
                assert!(clock.monotonic(tsc) >= ns);
                assert!(tsc == 55 || clock.monotonic(tsc - 1) < ns);
            }
            assert_eq!(clock.tsc_at(0), 55);
            assert_eq!(clock.tsc_at(u64::MAX).max(1), clock.tsc_at(u64::MAX));
        }
    }

    #[test]
    fn follows_linux_without_stepping_back() {
        let linux = header();
        let mut clock = Clock::new(1_000_000, 1000);
        assert!(!clock.synchronise(&linux));
        linux.clock_tsc.store(5000, Ordering::Relaxed);
        linux.clock_monotonic.store(77_000, Ordering::Relaxed);
        linux.clock_realtime.store(1_700_000_000 * SECOND, Ordering::Relaxed);
        linux.magic.store(LINUX_MAGIC, Ordering::Relaxed);
        assert!(clock.synchronise(&linux));
        assert_eq!(clock.monotonic(6000), 78_000);
        assert_eq!(clock.realtime(5000), 1_700_000_000 * SECOND);
        linux.clock_sequence.store(1, Ordering::Relaxed);
        assert!(!clock.synchronise(&linux));
        linux.clock_sequence.store(2, Ordering::Relaxed);
        linux.clock_realtime.store(1_700_000_001 * SECOND, Ordering::Relaxed);
        assert!(clock.synchronise(&linux));
        assert_eq!(clock.monotonic(6000), 78_000);
    }

    fn header() -> LinuxHeader {
        LinuxHeader {
            magic: AtomicU64::new(0),
            version: AtomicU32::new(0),
            epoch: AtomicU32::new(0),
            request_head: AtomicU32::new(0),
            response_tail: AtomicU32::new(0),
            heartbeat: AtomicU64::new(0),
            clock_sequence: AtomicU64::new(0),
            clock_realtime: AtomicU64::new(0),
            clock_tsc: AtomicU64::new(0),
            clock_monotonic: AtomicU64::new(0),
        }
    }
}
