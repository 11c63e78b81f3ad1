//! What makes a well-formed configuration a sensible one.
//!
//! [`crate::config`] reads records; this looks at what they say together: regions that overlap, a shared memory
//! device without its regions, a CPU in two cells. Every [`Finding`] says where, what is wrong and what to do.
//! [`cell`] looks at one cell, [`system`] at a system with its root cell, [`together`] at a set of cells that
//! are to run on it.

mod finding;
mod memory;
mod pci;
mod together;

#[cfg(test)]
mod tests;

pub use finding::{Finding, Place, Problem, Severity};
pub use together::{beside, together};

use crate::config::{CellConfig, SystemConfig};

/// Ports of PCI configuration space, which are always moderated.
const CONFIG_PORTS: core::ops::Range<u32> = 0xcf8..0xd00;

/// Which rules hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// The cell of the system configuration.
    Root,
    /// Any other.
    NonRoot,
}

/// Looks at one cell.
pub fn cell(config: &CellConfig<'_>, role: Role, found: &mut dyn FnMut(Finding)) {
    let mut report = |place, problem| found(Finding { place, problem });
    if config.cpus().next().is_none() {
        report(Place::CpuSet, Problem::NoCpus);
    }
    memory::check(config, role, &mut report);
    pci::check(config, &mut report);
    for (index, range) in config.ports().iter().enumerate() {
        let place = Place::Ports(index);
        if range.length() == 0 || range.end() > 0x1_0000 {
            report(place, Problem::PortRange);
        } else if u32::from(range.base()) < CONFIG_PORTS.end && range.end() > CONFIG_PORTS.start {
            report(place, Problem::ConfigPorts);
        }
    }
}

/// Looks at a system and its root cell.
pub fn system(config: &SystemConfig<'_>, found: &mut dyn FnMut(Finding)) {
    let root = config.root_cell();
    cell(root, Role::Root, found);
    let mut report = |place, problem| found(Finding { place, problem });
    if root.id() != 0 {
        report(Place::Cell, Problem::RootId(root.id()));
    }
    if config.header().pm_timer_address.get() == 0 {
        report(Place::System, Problem::NoPmTimer);
    }
    if !root.has_cpu(0) {
        report(Place::CpuSet, Problem::CpuZero);
    }
    memory::check_hypervisor(config, root, &mut report);
}

/// The first error of a check; warnings are passed over.
///
/// ```
/// # use hypervisor_abi::{check, config::{CellConfig, CellParts}};
/// # let mut bytes = [0; 512];
/// # let parts = CellParts { name: "idle", cpu_set: &[0], ..CellParts::default() };
/// # parts.write(&mut bytes).unwrap();
/// let cell = CellConfig::parse(&bytes).unwrap();
/// let error = check::first_error(|found| check::cell(&cell, check::Role::NonRoot, found));
/// assert_eq!(error.unwrap().to_string(), "cpus: the cell has no CPU: give it at least one");
/// ```
pub fn first_error(check: impl FnOnce(&mut dyn FnMut(Finding))) -> Option<Finding> {
    let mut first = None;
    check(&mut |finding| {
        if first.is_none() && finding.problem.severity() == Severity::Error {
            first = Some(finding);
        }
    });
    first
}
