//! Clocks and sleeping, for programs that do not (or cannot) use the vDSO.

use crate::clock::{Clock, SECOND};
use crate::errno::{Errno, Result};
use crate::server::{Outcome, Server};
use crate::thread::Wait;
use linux_raw_sys::general as linux;

/// What a clock number names.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Clockid {
    /// CLOCK_REALTIME and its kin.
    Real,
    /// CLOCK_MONOTONIC and its kin.
    Monotonic,
    /// Processor time of the caller.
    Cpu,
}

impl Clockid {
    /// The clock with this number. Processor time of other processes is not known here.
    pub fn from_raw(raw: u64) -> Option<Clockid> {
        match raw as u32 {
            linux::CLOCK_REALTIME | linux::CLOCK_REALTIME_COARSE | linux::CLOCK_REALTIME_ALARM | linux::CLOCK_TAI => {
                Some(Clockid::Real)
            }
            linux::CLOCK_MONOTONIC
            | linux::CLOCK_MONOTONIC_RAW
            | linux::CLOCK_MONOTONIC_COARSE
            | linux::CLOCK_BOOTTIME
            | linux::CLOCK_BOOTTIME_ALARM => Some(Clockid::Monotonic),
            linux::CLOCK_PROCESS_CPUTIME_ID | linux::CLOCK_THREAD_CPUTIME_ID => Some(Clockid::Cpu),
            _ => None,
        }
    }

    /// A time of this clock as CLOCK_MONOTONIC.
    pub fn to_monotonic(self, clock: &Clock, ns: u64) -> u64 {
        match self {
            Clockid::Real => ns.saturating_sub(clock.wall_offset),
            _ => ns,
        }
    }
}

/// Nanoseconds of a checked `struct timespec`; times beyond 584 years count as that.
pub fn timespec(seconds: i64, nanoseconds: i64) -> Result<u64> {
    if seconds < 0 || !(0..SECOND as i64).contains(&nanoseconds) {
        return Err(Errno::EINVAL);
    }
    Ok((seconds as u64).saturating_mul(SECOND).saturating_add(nanoseconds as u64))
}

/// Reads a `struct timespec`.
pub fn read_timespec(server: &Server, slot: u32, address: u64) -> Result<u64> {
    let [seconds, nanoseconds]: [i64; 2] = server.get_user(slot, address)?;
    timespec(seconds, nanoseconds)
}

fn write_timespec(server: &Server, slot: u32, address: u64, ns: u64) -> Result<()> {
    server.put_user(slot, address, &[ns / SECOND, ns % SECOND])
}

fn sleep(server: &mut Server, slot: u32, until: u64, remaining: u64) -> Result<Outcome> {
    if until <= server.monotonic() {
        return Ok(Outcome::Value(0));
    }
    if server.signal_is_due(slot) {
        return Err(Errno::EINTR);
    }
    server.set_deadline(slot, until);
    server.thread_mut(slot)?.wait = Wait::Sleep { until, remaining };
    Ok(Outcome::Wait)
}

impl Server {
    /// Writes what remains of an interrupted sleep.
    pub fn write_remaining(&self, slot: u32, until: u64, address: u64) {
        if address != 0 {
            // The program learns of a bad address by the missing value; the call is interrupted anyway.
            let _ = write_timespec(self, slot, address, until.saturating_sub(self.monotonic()));
        }
    }
}

/// `nanosleep`.
pub fn nanosleep(server: &mut Server, slot: u32, arguments: [u64; 6]) -> Result<Outcome> {
    let time = read_timespec(server, slot, arguments[0])?;
    let until = server.monotonic().saturating_add(time);
    sleep(server, slot, until, arguments[1])
}

/// `clock_nanosleep`.
pub fn clock_nanosleep(server: &mut Server, slot: u32, arguments: [u64; 6]) -> Result<Outcome> {
    let [clock, flags, request, remaining, ..] = arguments;
    let clock = Clockid::from_raw(clock).ok_or(Errno::EINVAL)?;
    if clock == Clockid::Cpu {
        return Err(Errno::EOPNOTSUPP);
    }
    let time = read_timespec(server, slot, request)?;
    if flags & u64::from(linux::TIMER_ABSTIME) != 0 {
        let until = clock.to_monotonic(&server.clock, time);
        return sleep(server, slot, until, 0);
    }
    let until = server.monotonic().saturating_add(time);
    sleep(server, slot, until, remaining)
}

/// `clock_gettime`.
pub fn clock_gettime(server: &mut Server, slot: u32, arguments: [u64; 6]) -> Result<Outcome> {
    let [raw, address, ..] = arguments;
    let ns = match Clockid::from_raw(raw) {
        Some(Clockid::Real) => server.clock.realtime(server.machine.now()),
        Some(Clockid::Monotonic) => server.monotonic(),
        Some(Clockid::Cpu) => {
            let ticks = if raw as u32 == linux::CLOCK_THREAD_CPUTIME_ID {
                server.machine.thread_consumed(slot)
            } else {
                let threads = server.process_of(slot)?.threads.clone();
                threads.into_iter().map(|thread| server.machine.thread_consumed(thread)).sum()
            };
            server.clock.nanoseconds(ticks)
        }
        // Negative numbers name processor time clocks of processes and threads, and clock devices: Linux's.
        None => return server.forward(slot),
    };
    write_timespec(server, slot, address, ns)?;
    Ok(Outcome::Value(0))
}

/// `clock_getres`.
pub fn clock_getres(server: &mut Server, slot: u32, arguments: [u64; 6]) -> Result<Outcome> {
    let [raw, address, ..] = arguments;
    Clockid::from_raw(raw).ok_or(Errno::EINVAL)?;
    if address != 0 {
        write_timespec(server, slot, address, 1)?;
    }
    Ok(Outcome::Value(0))
}

/// `gettimeofday`.
pub fn gettimeofday(server: &mut Server, slot: u32, arguments: [u64; 6]) -> Result<Outcome> {
    let [time, zone, ..] = arguments;
    if time != 0 {
        let ns = server.clock.realtime(server.machine.now());
        server.put_user(slot, time, &[ns / SECOND, ns % SECOND / 1000])?;
    }
    if zone != 0 {
        server.put_user(slot, zone, &0u64)?;
    }
    Ok(Outcome::Value(0))
}

/// `time`.
pub fn time(server: &mut Server, slot: u32, arguments: [u64; 6]) -> Result<Outcome> {
    let seconds = server.clock.realtime(server.machine.now()) / SECOND;
    if arguments[0] != 0 {
        server.put_user(slot, arguments[0], &seconds)?;
    }
    Ok(Outcome::Value(seconds))
}
