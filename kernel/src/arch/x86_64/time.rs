//! The timer: TSC deadline where the processor has it, else the APIC's countdown. Rates from the communication region in a cell, else
//! measured against the ACPI timer of the machine, or its 8254 if that does not run.
#![allow(unsafe_code)] // The deadline register is ordered by fences.

use super::cpu::{Exclusive, write_msr};
use super::{apic, cell, hooks};
use core::cell::Cell;

const TSC_DEADLINE_MSR: u32 = 0x6e0;
const ACPI_TIMER_HZ: u64 = 3_579_545;
const ACPI_TIMER_PORT: u16 = 0x608;
const PIT_HZ: u64 = 1_193_182;

struct State {
    deadline_mode: Cell<bool>,
    apic_khz: Cell<u64>,
    /// APIC ticks per TSC tick, 32 fractional bits.
    ratio: Cell<u64>,
}

static STATE: Exclusive<State> =
    Exclusive(State { deadline_mode: Cell::new(false), apic_khz: Cell::new(0), ratio: Cell::new(0) });

/// Finds the rates and starts the timer. Returns TSC ticks per millisecond.
pub fn set_up(in_cell: bool) -> u64 {
    let features = raw_cpuid::CpuId::new().get_feature_info();
    let deadline = features.is_some_and(|features| features.has_tsc_deadline());
    let (tsc_khz, apic_khz) = if in_cell { cell::clocks() } else { measure() };
    if tsc_khz == 0 || apic_khz == 0 {
        panic!("no clock: TSC {tsc_khz} kHz, APIC {apic_khz} kHz");
    }
    STATE.0.apic_khz.set(apic_khz);
    STATE.0.ratio.set((apic_khz << 32) / tsc_khz);
    STATE.0.deadline_mode.set(deadline);
    apic::timer_mode(deadline);
    tsc_khz
}

/// APIC timer ticks per millisecond.
pub fn apic_khz() -> u64 {
    STATE.0.apic_khz.get()
}

/// The timer interrupt comes when the TSC reaches `deadline`, or sooner if that is far off, never later than can be helped.
pub fn set_timer(deadline: u64) {
    if STATE.0.deadline_mode.get() {
        write_msr(TSC_DEADLINE_MSR, deadline.max(1));
        return;
    }
    let ticks = deadline.saturating_sub(hooks::now());
    let count = (u128::from(ticks) * u128::from(STATE.0.ratio.get())) >> 32;
    apic::timer_count(count.clamp(1, 0xffff_ffff) as u32 + u32::from(count < 0xffff_ffff));
}

/// Stops the timer.
pub fn stop() {
    if STATE.0.deadline_mode.get() {
        write_msr(TSC_DEADLINE_MSR, 0);
    } else {
        apic::timer_count(0);
    }
}

/// A reading of the reference clock between two of the TSC, and the APIC count beside them: the tightest of several tries.
fn sample(clock: impl Fn() -> u64) -> (u64, u64, u64) {
    let mut best = (u64::MAX, 0, 0, 0);
    for _ in 0..16 {
        let before = hooks::now();
        let reference = clock();
        let count = apic::timer_left();
        let after = hooks::now();
        if after - before < best.0 {
            best = (after - before, before + (after - before) / 2, reference, u64::from(count));
        }
    }
    (best.1, best.2, best.3)
}

fn measure() -> (u64, u64) {
    apic::timer_count(u32::MAX);
    let acpi = || hooks::port_in(ACPI_TIMER_PORT, 4) & 0xff_ffff;
    let first = acpi();
    let runs = (0..100_000).any(|_| acpi() != first) && first != 0xff_ffff;
    let rates = if runs {
        against(acpi, 0xff_ffff, ACPI_TIMER_HZ)
    } else {
        // Channel 2 of the 8254, counting down freely.
        hooks::port_out(0x61, 1, hooks::port_in(0x61, 1) & !2 | 1);
        hooks::port_out(0x43, 1, 0xb4);
        hooks::port_out(0x42, 1, 0);
        hooks::port_out(0x42, 1, 0);
        let pit = || {
            hooks::port_out(0x43, 1, 0x80);
            let low = hooks::port_in(0x42, 1);
            0xffff - (low | hooks::port_in(0x42, 1) << 8)
        };
        against(pit, 0xffff, PIT_HZ)
    };
    apic::timer_count(0);
    rates
}

/// Rates over a twentieth of a second, by a reference clock that counts up modulo `mask` + 1.
fn against(clock: impl Fn() -> u64, mask: u64, hz: u64) -> (u64, u64) {
    let start = sample(&clock);
    let wanted = hz / 20;
    while (clock().wrapping_sub(start.1) & mask) < wanted {
        core::hint::spin_loop();
    }
    let end = sample(&clock);
    let reference = (end.1.wrapping_sub(start.1) & mask).max(1);
    let khz = |ticks: u64| (u128::from(ticks) * u128::from(hz) / u128::from(reference) / 1000) as u64;
    (khz(end.0 - start.0), khz(start.2.saturating_sub(end.2)))
}
