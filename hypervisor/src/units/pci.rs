//! PCI configuration space: which function a cell sees, and what it may change.
//!
//! Pure logic. An access comes in as a [`ConfigAddress`] (decoded from ports 0xcf8..0xd00 by [`AddressPort`] or
//! from the memory-mapped window by [`Mmconfig`]), and the answer says what to do with it: a value, the same
//! access to the machine, or nothing.
//!
//! Rules
//! * A physical function belongs to the non-root cell whose configuration names it, and otherwise to the root
//!   cell. Nobody else sees it: it reads all-ones.
//! * The root cell may do what it likes to its functions, but for interrupt messages.
//! * Shared memory functions are not seen here: [`super::ivshmem`] is asked first, so they hide physical ones at the same address.
//! * Other cells see their BARs as if they could move them (nothing moves), change what the header allows,
//!   and write those capabilities that the configuration flags.
//! * An interrupt message of any cell becomes effective only after the caller has found its target among the cell's
//!   CPUs: in MSI capabilities here, in MSI-X tables in [`ConfigSpace::msix`].

mod address;
mod function;
mod msix;
#[cfg(test)]
mod tests;

use arrayvec::ArrayVec;
use hypervisor_abi::config::{CellConfig, PciKind};

pub use address::{ADDRESS_PORT, AddressPort, ConfigAddress, DATA_PORT, Mmconfig, PortAccess};
pub use function::{MAX_CAPS, Message};
pub use msix::MsixAccess;

use function::{Function, is_interrupt_cap};

/// Most physical functions of non-root cells, and of the root cell those with message-signalled interrupts.
pub const MAX_FUNCTIONS: usize = 128;
/// Id of the root cell.
pub const ROOT_CELL: u32 = 0;

/// What a read gives.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Read {
    /// This value, cut to the size of the access.
    Value(u32),
    /// What the machine gives.
    PassThrough,
}

/// What becomes of a write.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Write {
    /// All is done.
    Done,
    /// Make the same access to the machine.
    PassThrough,
    /// Replace only the bits in `mask` (counted from the address of the access) on the machine.
    Masked {
        /// Bits that the cell may change.
        mask: u32,
    },
    /// If the message is one that the cell may send (its target among the cell's CPUs), replace the bits in `mask` as above;
    /// otherwise it is a violation.
    Checked {
        /// The message.
        message: Message,
        /// Bits that the cell may change; all of the access, mostly.
        mask: u32,
    },
    /// The cell may not do this; the machine is left alone.
    Deny,
}

/// An access to the machine's configuration space that hands a function over in a defined state.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Quiesce {
    /// Where.
    pub address: ConfigAddress,
    /// Bits to replace.
    pub mask: u32,
    /// Their value.
    pub value: u32,
}

/// Why a cell's functions cannot be given to it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AssignError {
    /// Too many physical functions.
    NoSpace,
    /// A capability array beyond the configuration, or too many capabilities.
    Capabilities,
    /// Another non-root cell has the function.
    Busy,
}

/// Physical functions in the configuration space of all cells.
#[derive(Debug, Default)]
pub struct ConfigSpace {
    functions: ArrayVec<Function, MAX_FUNCTIONS>,
}

impl ConfigSpace {
    /// Without any cell.
    #[must_use]
    pub const fn new() -> Self {
        Self { functions: ArrayVec::new_const() }
    }

    /// Gives a new cell its functions. `read` reads the machine's configuration space, `quiesce` writes it.
    /// On an error the cell has none.
    pub fn attach_cell(
        &mut self,
        cell_id: u32,
        cell: &CellConfig<'_>,
        read: &mut impl FnMut(ConfigAddress) -> u32,
        quiesce: &mut impl FnMut(Quiesce),
    ) -> Result<(), AssignError> {
        let result = self.try_attach(cell_id, cell, read, quiesce);
        if result.is_err() {
            self.detach_cell(cell_id, quiesce);
        }
        result
    }

    fn try_attach(
        &mut self,
        cell_id: u32,
        cell: &CellConfig<'_>,
        read: &mut impl FnMut(ConfigAddress) -> u32,
        quiesce: &mut impl FnMut(Quiesce),
    ) -> Result<(), AssignError> {
        for device in cell.pci_devices().iter().filter(|device| device.kind() != Some(PciKind::Ivshmem)) {
            let caps = cell.caps_of(device);
            if caps.len() != usize::from(device.num_caps.get()) {
                return Err(AssignError::Capabilities);
            }
            let is_root = cell_id == ROOT_CELL;
            let interrupts = device.num_msix_vectors.get() > 0 || caps.iter().any(is_interrupt_cap);
            if is_root && !interrupts {
                // The root cell has what nobody else has: nothing to remember.
                continue;
            }
            let taken = |other: &Function| other.bdf() == device.bdf() && (other.owner() == ROOT_CELL) == is_root;
            if self.functions.iter().any(taken) {
                return Err(AssignError::Busy);
            }
            let mut function = Function::new(cell_id, device, caps, read).ok_or(AssignError::Capabilities)?;
            if !is_root {
                function.quiesce(quiesce);
                self.forget_message(device.bdf());
            }
            self.functions.try_push(function).map_err(|_| AssignError::NoSpace)?;
        }
        Ok(())
    }

    /// Takes a cell's functions away: they go back to the root cell, silenced.
    pub fn detach_cell(&mut self, cell_id: u32, quiesce: &mut impl FnMut(Quiesce)) {
        let mut gone = ArrayVec::<u16, MAX_FUNCTIONS>::new();
        self.functions.retain(|function| {
            let stays = function.owner() != cell_id;
            if !stays && cell_id != ROOT_CELL {
                function.quiesce(quiesce);
                gone.push(function.bdf());
            }
            stays
        });
        for bdf in gone {
            self.forget_message(bdf);
        }
    }

    /// A function was silenced on behalf of another cell: what the root cell wrote to it does not hold any more.
    fn forget_message(&mut self, bdf: u16) {
        for function in self.functions.iter_mut().filter(|function| function.bdf() == bdf) {
            function.forget_message();
        }
    }

    /// The function at an address as the machine's owner sees it: a non-root cell's before the root cell's.
    fn physical(&mut self, bdf: u16) -> Option<&mut Function> {
        let at =
            |root: bool| move |function: &Function| function.bdf() == bdf && (function.owner() == ROOT_CELL) == root;
        let position = self.functions.iter().position(at(false)).or(self.functions.iter().position(at(true)));
        position.map(|position| &mut self.functions[position])
    }

    /// Resets a cell's functions before it starts; the root cell never does.
    pub fn reset_cell(
        &mut self,
        cell_id: u32,
        read: &mut impl FnMut(ConfigAddress) -> u32,
        quiesce: &mut impl FnMut(Quiesce),
    ) {
        if cell_id == ROOT_CELL {
            return;
        }
        for function in self.functions.iter_mut().filter(|function| function.owner() == cell_id) {
            function.quiesce(quiesce);
            function.reset(read);
        }
    }

    /// A cell reads configuration space.
    pub fn read(&mut self, cell_id: u32, at: ConfigAddress) -> Read {
        match self.physical(at.bdf) {
            Some(function) if function.owner() == cell_id => function.read(at),
            None if cell_id == ROOT_CELL => Read::PassThrough,
            _ => Read::Value(at.ones()),
        }
    }

    /// A cell writes configuration space.
    pub fn write(&mut self, cell_id: u32, at: ConfigAddress, value: u32) -> Write {
        match self.physical(at.bdf) {
            Some(function) if function.owner() == cell_id => function.write(at, value),
            None if cell_id == ROOT_CELL => Write::PassThrough,
            // Probing for devices that are not there is no violation.
            _ => Write::Done,
        }
    }
}
