//! Inter-cell shared memory devices: a pure state machine.
//!
//! A [`Link`] joins the functions of up to 12 cells that name the same PCI address; each of them is a [`Peer`].
//! Configuration space and register accesses of a cell go in, values and [`Action`]s come out, and the caller
//! carries the actions out in the order given. The shared memory itself consists of ordinary memory regions of
//! the cells and never passes through here: BAR 2, where there is one, shows where it is, and does not move it.
//!
//! Rules
//! * An event is delivered or lost, never kept: nothing is pending.
//! * A peer that goes (reset, destroyed) leaves state 0 behind, and the others are told.
//! * What a cell writes is hostile: an index out of range does nothing, an odd access reads 0 and writes nothing.

mod link;
mod peer;
mod setup;
#[cfg(test)]
mod tests;

use arrayvec::ArrayVec;
use hypervisor_abi::config::{CellConfig, PciKind};

pub use link::Link;
pub use peer::{Bar, Peer};
pub use setup::{PeerSetup, SetupError};

/// Most links.
pub const MAX_LINKS: usize = 8;

/// Something that the caller has to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// Send the message-signalled interrupt that cell `owner` programmed. The target CPU is that cell's choice
    /// and must be checked against its CPUs.
    Notify {
        /// Cell that gets the interrupt.
        owner: u32,
        /// Its peer number.
        peer: u8,
        /// The IOMMU that its function is behind.
        iommu: u8,
        /// Message address.
        address: u64,
        /// Message data.
        data: u32,
    },
    /// Write `value` to entry `index` of the state table at machine address `table`.
    WriteStateTable {
        /// Machine address of the table.
        table: u64,
        /// Entry.
        index: u8,
        /// Value.
        value: u32,
    },
    /// Zero the state table.
    ClearStateTable {
        /// Machine address of the table.
        table: u64,
        /// Its size.
        size: u64,
    },
    /// From now on accesses of cell `owner` to this guest-physical range are register accesses: its pages must not
    /// be mapped. Old configurations have windows smaller than a page: round outwards.
    MapBar {
        /// Cell.
        owner: u32,
        /// Guest-physical address.
        address: u64,
        /// Bytes.
        size: u64,
    },
    /// The opposite: what the cell's memory regions say of these pages holds again.
    UnmapBar {
        /// Cell.
        owner: u32,
        /// Guest-physical address.
        address: u64,
        /// Bytes.
        size: u64,
    },
}

/// Why a function cannot join a link.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AttachError {
    /// Too many links.
    NoSpace,
    /// The peer number is taken.
    Taken,
    /// Number of peers, vectors, memory or sizes differ from the link's.
    Mismatch,
}

/// Why a cell cannot have its shared memory functions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LinkError {
    /// A function's record is wrong.
    Setup(SetupError),
    /// A function cannot join its link.
    Attach(AttachError),
}

/// All links.
#[derive(Debug, Default)]
pub struct Links {
    links: ArrayVec<Link, MAX_LINKS>,
}

impl Links {
    /// No links.
    #[must_use]
    pub const fn new() -> Self {
        Self { links: ArrayVec::new_const() }
    }

    /// A cell is created: its functions make or join their links. On an error it has none.
    pub fn attach_cell(
        &mut self,
        owner: u32,
        cell: &CellConfig<'_>,
        actions: &mut impl FnMut(Action),
    ) -> Result<(), LinkError> {
        let functions = cell.pci_devices().iter().filter(|device| device.kind() == Some(PciKind::Ivshmem));
        let mut setups = functions.map(|device| PeerSetup::from_config(owner, cell, device));
        let result = setups
            .try_for_each(|setup| self.attach(&setup.map_err(LinkError::Setup)?, actions).map_err(LinkError::Attach));
        if result.is_err() {
            self.detach_cell(owner, actions);
        }
        result
    }

    /// A cell with this function is created: makes the link or joins it. On an error nothing has changed.
    pub fn attach(&mut self, setup: &PeerSetup, actions: &mut impl FnMut(Action)) -> Result<(), AttachError> {
        if let Some(link) = self.links.iter_mut().find(|link| link.is_at(setup.domain, setup.bdf)) {
            return link.attach(setup, actions);
        }
        let mut link = Link::new(setup);
        if self.links.is_full() {
            return Err(AttachError::NoSpace);
        }
        link.attach(setup, actions)?;
        self.links.push(link);
        Ok(())
    }

    /// A cell is gone: all its functions leave their links, and links without peers end.
    pub fn detach_cell(&mut self, owner: u32, actions: &mut impl FnMut(Action)) {
        for link in &mut self.links {
            while let Some(id) = link.peer_of(owner) {
                link.detach(id, actions);
            }
        }
        self.links.retain(|link| !link.is_empty());
    }

    /// A cell is stopped or starts anew: all its functions are reset.
    pub fn reset_cell(&mut self, owner: u32, actions: &mut impl FnMut(Action)) {
        for link in &mut self.links {
            for id in link.peers_of(owner) {
                link.reset(id, actions);
            }
        }
    }

    /// The function at `bdf` in the cell's configuration space.
    pub fn function(&mut self, owner: u32, bdf: u16) -> Option<(&mut Link, u8)> {
        self.links.iter_mut().filter(|link| link.bdf() == bdf).find_map(|link| {
            let id = link.peer_of(owner)?;
            Some((link, id))
        })
    }

    /// The function whose registers lie at guest-physical `address` in the cell, which BAR, and the offset in it.
    pub fn locate(&mut self, owner: u32, address: u64) -> Option<(&mut Link, u8, Bar, u32)> {
        self.links.iter_mut().find_map(|link| {
            let (id, bar, offset) = link.locate(owner, address)?;
            Some((link, id, bar, offset))
        })
    }

    /// A register access at guest-physical `address`: `None` if no function of the cell is there.
    pub fn read(&mut self, owner: u32, address: u64, size: u8) -> Option<u64> {
        let (link, id, bar, offset) = self.locate(owner, address)?;
        Some(link.read(id, bar, offset, size))
    }

    /// The same for a write; `false` if no function of the cell is there.
    pub fn write(&mut self, owner: u32, address: u64, size: u8, value: u64, actions: &mut impl FnMut(Action)) -> bool {
        let Some((link, id, bar, offset)) = self.locate(owner, address) else {
            return false;
        };
        link.write(id, bar, offset, size, value, actions);
        true
    }

    /// The links.
    #[must_use]
    pub fn links(&self) -> &[Link] {
        &self.links
    }
}
