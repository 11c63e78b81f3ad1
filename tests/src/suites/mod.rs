//! The suites, in the order in which they run.

mod cycle;
mod front_door;
mod plain;
mod programs;
mod refusals;
mod servers;
mod signals;
mod srtos;
mod support;

use crate::suite::Suite;

/// All suites.
pub const ALL: &[&Suite] = &[
    &plain::RT,
    &plain::STOCK,
    &srtos::SUITE,
    &programs::RT,
    &signals::RT,
    &servers::RT,
    &cycle::RT,
    &programs::STOCK,
    &cycle::STOCK,
    &refusals::INSTALLED,
    &refusals::NO_SVM,
    &refusals::NO_MEMORY,
    &front_door::SUITE,
];
