//! How fast this machine's clocks run, for cells, if the configuration does not say.
//!
//! Measured against the ACPI PM timer on a CPU that was just given to a cell, so nobody else uses its APIC timer.
#![allow(unsafe_code)] // Time stamp counter and a port.

use core::arch::x86_64::_rdtsc;
use core::hint::spin_loop;

use x86_64::instructions::port::PortReadOnly;

use crate::apic::{self, register};
use crate::cell::PLATFORM;

/// Rate of the PM timer.
const PM_HZ: u64 = 3_579_545;
/// The PM timer has at least 24 bits.
const PM_MASK: u32 = 0x00ff_ffff;
/// Ticks to measure over (20 ms).
const SPAN: u32 = (PM_HZ / 50) as u32;
/// A sample is good if it took no longer than this (about 6 us): then nothing came in between.
const GOOD: u32 = 20;
const TRIES: u32 = 200;
/// Two measurements agree if they differ by no more than one part in so many.
const TOLERANCE: u32 = 200;
/// Measurements after the first one, at most.
const REPETITIONS: u32 = 5;
/// Polls of the PM timer before it is taken for dead.
const PATIENCE: u32 = 10_000_000;

struct Sample {
    pm: u32,
    apic: u32,
    tsc: u64,
}

fn pm(port: u16) -> u32 {
    // SAFETY: reading the timer has no side effect.
    unsafe { PortReadOnly::<u32>::new(port).read() & PM_MASK }
}

/// Reads all three clocks as close together as can be had.
fn sample(port: u16) -> Sample {
    let mut best = (u32::MAX, Sample { pm: 0, apic: 0, tsc: 0 });
    for _ in 0..TRIES {
        let before = pm(port);
        let apic = apic::read(register::TIMER_CURRENT);
        // SAFETY: the counter always exists.
        let tsc = unsafe { _rdtsc() };
        let width = pm(port).wrapping_sub(before) & PM_MASK;
        if width < best.0 {
            best = (width, Sample { pm: before, apic, tsc });
        }
        if width <= GOOD {
            break;
        }
    }
    best.1
}

/// Rates in kHz.
#[derive(Clone, Copy)]
struct Rates {
    apic: u32,
    tsc: u32,
}

impl Rates {
    fn agree(self, other: Rates) -> bool {
        let close = |a: u32, b: u32| a.abs_diff(b) <= a / TOLERANCE;
        close(self.apic, other.apic) && close(self.tsc, other.tsc)
    }
}

/// Measures what is not known yet. This CPU's APIC timer is free.
///
/// A clock can jump while it is measured (an emulator that was stopped for a while), so a measurement counts if the next one agrees.
pub fn measure() {
    let platform = *PLATFORM.lock();
    if platform.pm_timer == 0 || platform.apic_khz != 0 && platform.tsc_khz != 0 {
        return;
    }
    let Some(mut rates) = measure_once(platform.pm_timer) else { return };
    for _ in 0..REPETITIONS {
        let Some(again) = measure_once(platform.pm_timer) else { return };
        let agreed = again.agree(rates);
        rates = again;
        if agreed {
            break;
        }
    }
    let mut platform = PLATFORM.lock();
    if platform.apic_khz == 0 {
        platform.apic_khz = rates.apic;
    }
    if platform.tsc_khz == 0 {
        platform.tsc_khz = rates.tsc;
    }
}

fn measure_once(port: u16) -> Option<Rates> {
    apic::write(register::SVR, 0x1ff);
    apic::write(register::TIMER_DIVIDE, 0b1011); // by 1
    apic::write(register::TIMER_INITIAL, u32::MAX);
    let start = sample(port);
    let elapsed = || pm(port).wrapping_sub(start.pm) & PM_MASK;
    let alive = (0..PATIENCE).any(|_| {
        spin_loop();
        elapsed() >= SPAN
    });
    let end = sample(port);
    apic::write(register::TIMER_INITIAL, 0);
    apic::write(register::SVR, 0xff);
    let ticks = u64::from(end.pm.wrapping_sub(start.pm) & PM_MASK);
    if !alive || ticks == 0 {
        return None;
    }
    let khz = |count: u64| (count * PM_HZ / ticks / 1000) as u32;
    Some(Rates { apic: khz(u64::from(start.apic.wrapping_sub(end.apic))), tsc: khz(end.tsc.wrapping_sub(start.tsc)) })
}
