//! Tests that need no machine: format, lints, unit tests, Miri.

mod fuzz;
mod lint;
mod miri;
mod unit;

use anyhow::Result;
use tests::suite::Count;

use crate::tree::Tree;

/// One of them.
pub struct Check {
    /// Its name.
    pub name: &'static str,
    /// What it does.
    pub what: &'static str,
    /// Whether it runs only when long tests are asked for.
    pub long: bool,
    /// Does it; an error is a failure.
    pub run: fn(&Tree) -> Result<Outcome>,
}

/// How it went.
pub enum Outcome {
    /// So many tests.
    Counted(Count),
    /// Not possible here, and why.
    Skipped(String),
}

impl Outcome {
    /// One test, passed.
    fn passed() -> Self {
        Self::Counted(Count { passed: 1, failed: 0 })
    }
}

/// In the order in which they run.
pub const ALL: &[Check] = &[
    Check { name: "format", what: "rustfmt has nothing to change", long: false, run: lint::format },
    Check { name: "lint", what: "clippy has nothing to say", long: false, run: lint::clippy },
    Check { name: "unit", what: "unit and property tests of all crates", long: false, run: unit::run },
    Check {
        name: "miri",
        what: "the same of portable code with unsafe parts, under Miri",
        long: false,
        run: miri::run,
    },
    Check { name: "fuzz", what: "ten minutes of hostile manifests and images", long: true, run: fuzz::run },
];
