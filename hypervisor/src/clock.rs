//! How fast this machine's clocks run, for cells.
//!
//! Measured against the ACPI PM timer on a CPU that was just given to a cell, so nobody else uses its APIC timer.
#![allow(unsafe_code)] // Time stamp counter and a port.

use core::arch::x86_64::_rdtsc;
use core::hint::spin_loop;
use core::sync::atomic::{AtomicBool, Ordering};

use x86_64::instructions::port::PortReadOnly;

use crate::apic::{self, register};
use crate::cell::PLATFORM;
use crate::say;
use crate::units::rates::{self, Rates};

/// Rate of the PM timer.
const PM_HZ: u64 = 3_579_545;
/// The PM timer has at least 24 bits.
const PM_MASK: u32 = 0x00ff_ffff;
/// Ticks to measure over (20 ms).
const SPAN: u32 = (PM_HZ / 50) as u32;
/// A sample is good if it took no longer than this (about 6 us): then nothing came in between.
const GOOD: u32 = 20;
const TRIES: u32 = 200;
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

/// The machine's rates were measured since the hypervisor was enabled.
static MEASURED: AtomicBool = AtomicBool::new(false);

/// Once, at enable.
pub fn init() {
    MEASURED.store(false, Ordering::Release);
}

/// Whether the rates that cells are told can be relied on.
#[must_use]
pub fn known() -> bool {
    MEASURED.load(Ordering::Acquire) || PLATFORM.lock().pm_timer == 0
}

/// Measures, if that was not done yet. This CPU's APIC timer is free.
///
/// What the configuration or Linux says is not just taken over: Linux measures too, and on an emulated or busy machine it may be far off.
pub fn measure() {
    if known() {
        return;
    }
    let port = PLATFORM.lock().pm_timer;
    let Some(rates) = rates::settle(|| measure_once(port)) else {
        say!(
            "the rates of the clocks cannot be told: measurements disagree, or the PM timer at port {port:#x} stands still"
        );
        return;
    };
    let mut platform = PLATFORM.lock();
    if platform.tsc_khz != 0 && rates::choose(platform.tsc_khz, rates.tsc) != platform.tsc_khz {
        say!("the TSC was said to run at {} kHz and runs at {} kHz", platform.tsc_khz, rates.tsc);
    }
    platform.apic_khz = rates::choose(platform.apic_khz, rates.apic);
    platform.tsc_khz = rates::choose(platform.tsc_khz, rates.tsc);
    MEASURED.store(true, Ordering::Release);
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
