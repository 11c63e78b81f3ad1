//! What is measured. A group is a function that gives figures; add yours to [`GROUPS`].
//!
//! Figures are bytes, guest instructions, counts: things that are the same on every machine. Times
//! of an emulator are not.

mod boot;
mod exits;
mod faults;
mod hypervisor;
mod kernel;
mod realm;
mod size;

use anyhow::Result;

use crate::tree::Tree;

/// Figures that are measured together.
pub struct Group {
    /// Its name on the command line.
    pub name: &'static str,
    /// What it measures.
    pub what: &'static str,
    /// Measures.
    pub measure: fn(&Tree) -> Result<Vec<Figure>>,
}

/// One measured value.
pub struct Figure {
    /// Dotted name.
    pub name: String,
    /// How much.
    pub value: u64,
    /// Of what.
    pub unit: &'static str,
    /// The promise, if there is one.
    pub at_most: Option<u64>,
    /// Median, minimum, maximum and number, if it was measured more than once.
    pub spread: Option<[u64; 4]>,
}

impl Figure {
    /// A figure without a promise.
    pub fn new(name: impl Into<String>, value: u64, unit: &'static str) -> Self {
        Self { name: name.into(), value, unit, at_most: None, spread: None }
    }

    /// The same with one.
    pub fn at_most(mut self, limit: u64) -> Self {
        self.at_most = Some(limit);
        self
    }

    /// The same with median, minimum, maximum and number of the samples.
    pub fn of(mut self, spread: [u64; 4]) -> Self {
        self.spread = Some(spread);
        self
    }

    /// Whether the promise is kept.
    pub fn kept(&self) -> bool {
        self.at_most.is_none_or(|limit| self.value <= limit)
    }
}

/// All groups.
pub const GROUPS: &[Group] = &[
    Group { name: "size", what: "bytes of image and hypervisor", measure: size::measure },
    Group { name: "kernel", what: "instructions of kernel calls, and of closed interrupts", measure: kernel::measure },
    Group { name: "boot", what: "instructions until the servers are ready", measure: boot::measure },
    Group { name: "faults", what: "instructions from a crash to the new instance", measure: faults::measure },
    Group {
        name: "hypervisor",
        what: "its size, and instructions of VM exits and of a cell's life",
        measure: hypervisor::measure,
    },
    Group { name: "exits", what: "VM exits of Linux and of the real-time processor", measure: exits::measure },
    Group { name: "realm", what: "instructions of system calls, and VM exits", measure: realm::measure },
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_promise_is_kept_up_to_its_limit() {
        assert!(Figure::new("a", 5, "bytes").kept());
        assert!(Figure::new("a", 5, "bytes").at_most(5).kept());
        assert!(!Figure::new("a", 6, "bytes").at_most(5).kept());
    }
}
