//! Emulated devices of a cell: where the pure units meet guest accesses.

use crate::cell::Violation;
use crate::cpu::Cpu;

/// A cell's emulated devices.
pub struct Devices;

impl Devices {
    /// None yet.
    #[must_use]
    pub const fn new() -> Self {
        Self
    }
}

/// An access by the guest to an emulated register.
#[derive(Clone, Copy, Debug)]
pub enum Access {
    /// Read.
    Read,
    /// Write of a value.
    Write(u64),
}

/// Memory access; `None` if no device is there. The value read, or 0.
pub fn memory(_cpu: &mut Cpu, _address: u64, _size: u8, _access: Access) -> Option<Result<u64, Violation>> {
    None
}

/// Port access; `None` if no device is there.
pub fn port(_cpu: &mut Cpu, _port: u16, _size: u8, _access: Access) -> Option<Result<u64, Violation>> {
    None
}

/// Once, at enable.
pub fn init(_system: &hypervisor_abi::config::SystemConfig<'static>) -> Result<(), hypervisor_abi::hypercall::Error> {
    Ok(())
}

/// A cell was made (its memory is mapped, its CPUs do not run yet).
pub fn cell_init(_cell: &'static crate::cell::Cell) -> Result<(), hypervisor_abi::hypercall::Error> {
    Ok(())
}

/// A cell starts or stops: its devices are as after a reset.
pub fn cell_reset(_cell: &'static crate::cell::Cell) {}

/// A cell goes.
pub fn cell_exit(_cell: &'static crate::cell::Cell) {}

/// The hypervisor goes.
pub fn shutdown(root: &'static crate::cell::Cell) {
    cell_exit(root);
}

/// Ports that are always moderated, whatever a configuration says.
pub fn forbid_ports(cell: &crate::cell::Cell) {
    cell.allow_ports(0xcf8, 8, false);
}
