//! MSI-X tables of physical functions: they lie in memory, on pages that are not mapped to the cell.

use hypervisor_abi::ivshmem::msix::{
    ENTRY_ADDRESS_HIGH, ENTRY_ADDRESS_LOW, ENTRY_CONTROL, ENTRY_DATA, ENTRY_MASKED, ENTRY_SIZE,
};

use super::function::Message;
use super::{ConfigSpace, ROOT_CELL};

/// What becomes of an access to a page with an MSI-X table. The machine's address is the cell's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MsixAccess {
    /// Make the same access to the machine.
    PassThrough,
    /// If the message is one that the cell may send, make the same access; otherwise it is a violation.
    Checked(Message),
    /// Reads 0, writes nothing.
    Ignore,
}

impl ConfigSpace {
    /// A cell accesses `size` bytes at guest-physical `address`; `write` is the value, `None` for a read. The answer
    /// is `None` if no MSI-X table of the cell's functions is there. `machine` reads 32 bits of a table.
    ///
    /// Entries are not followed: the rest of an entry is what the machine has. A masked entry may hold anything,
    /// the write that unmasks it is checked.
    pub fn msix(
        &mut self,
        cell_id: u32,
        address: u64,
        size: u8,
        write: Option<u64>,
        machine: &mut impl FnMut(u64) -> u32,
    ) -> Option<MsixAccess> {
        let mut owned = self.functions.iter().filter(|function| function.owner() == cell_id);
        let (bdf, (vectors, offset)) =
            owned.find_map(|function| Some((function.bdf(), function.msix_table(address)?)))?;
        let given_away = |function: &super::Function| function.bdf() == bdf && function.owner() != ROOT_CELL;
        if cell_id == ROOT_CELL && self.functions.iter().any(given_away) {
            return Some(MsixAccess::Ignore);
        }
        let entry_size = u64::from(ENTRY_SIZE);
        let Some(value) = write else {
            return Some(MsixAccess::PassThrough);
        };
        if offset >= u64::from(vectors) * entry_size {
            // Pending bits, and whatever else shares the page.
            return Some(MsixAccess::PassThrough);
        }
        if !matches!(size, 4 | 8) || !offset.is_multiple_of(size.into()) {
            return Some(MsixAccess::Ignore);
        }
        let within = offset % entry_size;
        let start = address - within;
        let mut word = |at: u32| match u64::from(at).checked_sub(within) {
            Some(written) if written < size.into() => (value >> (8 * written)) as u32,
            _ => machine(start + u64::from(at)),
        };
        if word(ENTRY_CONTROL) & ENTRY_MASKED != 0 {
            return Some(MsixAccess::PassThrough);
        }
        let address = u64::from(word(ENTRY_ADDRESS_HIGH)) << 32 | u64::from(word(ENTRY_ADDRESS_LOW));
        Some(MsixAccess::Checked(Message { address, data: word(ENTRY_DATA), vectors: 1 }))
    }
}
