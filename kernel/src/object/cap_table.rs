//! CapTable: a flat table of slots. The place of slot 0, which is never a capability, holds the table's own fields.
#![allow(unsafe_code)] // Finds slots by index behind the header.

use crate::cap::{KernelObject, Slot};
use crate::list::{Adapter, Links};
use crate::memory::Ref;
use core::cell::Cell;
use core::mem::offset_of;
use ipc::ObjectType;

/// Most slots in a table.
pub const MAX_SLOTS: u64 = 1 << 20;

/// A capability table.
#[repr(C, align(64))]
pub struct CapTable {
    slots: Cell<u32>,
    reaped: Cell<u32>,
    dying: Links<CapTable>,
}

static_assertions::const_assert_eq!(size_of::<CapTable>(), size_of::<Slot>());
static_assertions::const_assert!(offset_of!(CapTable, dying) + size_of::<Links<CapTable>>() <= Slot::KIND);

impl KernelObject for CapTable {
    const TYPE: ObjectType = ObjectType::CapTable;
}

/// All slots of a dying table are empty.
#[derive(Debug)]
pub struct End;

/// The list of dying tables.
pub struct Dying;
impl Adapter for Dying {
    type Node = CapTable;
    fn links(node: &CapTable) -> &Links<CapTable> {
        &node.dying
    }
}

impl CapTable {
    /// Sets up a table in zeroed memory of `slots` × 64 bytes.
    pub fn set_up(&self, slots: u32) {
        self.slots.set(slots);
        self.reaped.set(1);
    }

    /// How many slots it has, the unusable first one included.
    pub fn len(&self) -> u32 {
        self.slots.get()
    }

    /// Never: a table has at least two slots.
    pub fn is_empty(&self) -> bool {
        false
    }

    /// A slot.
    #[inline(always)]
    pub fn slot(&self, index: u32) -> Option<Ref<Slot>> {
        self.slot_at(index.into())
    }

    /// A slot, by an index of any size.
    #[inline(always)]
    pub fn slot_at(&self, index: u64) -> Option<Ref<Slot>> {
        if index == 0 || index >= self.slots.get().into() {
            return None;
        }
        let address = Ref::from(self).address() + index * size_of::<Slot>() as u64;
        // SAFETY: the table was set up in memory for this many slots, which is kernel memory as long as the table lives.
        Some(unsafe { Ref::at_nonzero(address) })
    }

    /// A slot that may hold a capability, for readers of capabilities: the place of slot 0 reads as an empty one.
    #[inline(always)]
    pub fn capability_at(&self, index: u64) -> Option<Ref<Slot>> {
        if index >= self.slots.get().into() {
            return None;
        }
        let address = Ref::from(self).address() + index * size_of::<Slot>() as u64;
        // SAFETY: as for `slot_at`; a slot's kind lies behind the fields of the header, where memory is zero.
        Some(unsafe { Ref::at_nonzero(address) })
    }

    /// The next slot with a capability, for a dying table; `None` if there is none among the next few.
    pub fn next_to_reap(&self) -> Result<Option<Ref<Slot>>, End> {
        for _ in 0..32 {
            let index = self.reaped.get();
            let slot = self.slot(index).ok_or(End)?;
            if !slot.is_empty() {
                return Ok(Some(slot));
            }
            self.reaped.set(index + 1);
        }
        Ok(None)
    }
}
