//! The suites, in the order in which they run.

mod authority;
mod commands;
mod cycle;
mod deadlines;
mod devices;
mod enable;
mod escape;
mod flat32;
mod front_door;
mod hostile;
mod image;
mod inmates;
pub mod jailhouse;
mod linux_cell;
mod memory;
mod messages;
mod plain;
mod programs;
mod refusals;
mod servers;
mod signals;
mod srtos;
pub mod support;
mod tutorial;
mod x2apic;

use crate::suite::{State, Suite, Wanted};

/// The machine in which servers can be made to crash.
pub const CRASH_MACHINE: Wanted = Wanted { manifest: "crash", ..Wanted::new(State::Running) };

pub use hostile::TRESPASS;

/// The same where time is counted, so that deadlines can be judged. The processors take turns: as few as there can be.
pub const COUNTING_MACHINE: Wanted = Wanted { counting: true, cpus: 2, ..CRASH_MACHINE };

/// All suites.
pub const ALL: &[&Suite] = &[
    &plain::RT,
    &plain::STOCK,
    &srtos::SUITE,
    &authority::SUITE,
    &image::SUITE,
    &tutorial::SUITE,
    &programs::RT,
    &signals::RT,
    &servers::RT,
    &deadlines::SUITE,
    &hostile::SUITE,
    &cycle::RT,
    &enable::SUITE,
    &programs::STOCK,
    &cycle::STOCK,
    &inmates::SUITE,
    &messages::SUITE,
    &devices::SUITE,
    &flat32::SUITE,
    &escape::SUITE,
    &x2apic::RUNNING,
    &x2apic::INMATES,
    &memory::SUITE,
    &refusals::INSTALLED,
    &refusals::NO_SVM,
    &refusals::NO_MEMORY,
    &front_door::SUITE,
];
