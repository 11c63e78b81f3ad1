//! The functions that share one memory.

use hypervisor_abi::ivshmem::{MAX_PEERS, VECTOR_STATE, reg, state};

use super::peer::{BARS, Bar, Peer};
use super::setup::PeerSetup;
use super::{Action, AttachError};

/// Up to 12 functions at the same PCI address of different cells.
#[derive(Debug)]
pub struct Link {
    /// What all peers agree on, taken from the first.
    first: PeerSetup,
    peers: [Option<Peer>; MAX_PEERS],
}

impl Link {
    pub(super) fn new(first: &PeerSetup) -> Self {
        Self { first: *first, peers: [const { None }; MAX_PEERS] }
    }

    pub(super) fn is_at(&self, domain: u16, bdf: u16) -> bool {
        (self.first.domain, self.first.bdf) == (domain, bdf)
    }

    pub(super) fn is_empty(&self) -> bool {
        self.peers.iter().all(Option::is_none)
    }

    /// Bus, device, function of all its functions.
    #[must_use]
    pub fn bdf(&self) -> u16 {
        self.first.bdf
    }

    fn peer(&self, id: u8) -> Option<&Peer> {
        self.peers.get(usize::from(id))?.as_ref()
    }

    fn peer_mut(&mut self, id: u8) -> Option<&mut Peer> {
        self.peers.get_mut(usize::from(id))?.as_mut()
    }

    /// Peer numbers of a cell (one, unless a cell talks to itself).
    pub(super) fn peers_of(&self, owner: u32) -> impl Iterator<Item = u8> + use<> {
        let mut ids = [false; MAX_PEERS];
        for (id, peer) in ids.iter_mut().zip(&self.peers) {
            *id = peer.as_ref().is_some_and(|peer| peer.setup.owner == owner);
        }
        ids.into_iter().enumerate().filter_map(|(id, owned)| owned.then_some(id as u8))
    }

    /// The peer number of a cell.
    #[must_use]
    pub fn peer_of(&self, owner: u32) -> Option<u8> {
        self.peers_of(owner).next()
    }

    pub(super) fn attach(&mut self, setup: &PeerSetup, actions: &mut impl FnMut(Action)) -> Result<(), AttachError> {
        let shared = |s: &PeerSetup| (s.peers, s.vectors, s.table, s.table_size, s.rw_size, s.output_size);
        if shared(setup) != shared(&self.first) || setup.id >= setup.peers {
            return Err(AttachError::Mismatch);
        }
        let was_empty = self.is_empty();
        let slot = self.peers.get_mut(usize::from(setup.id)).ok_or(AttachError::Mismatch)?;
        if slot.is_some() {
            return Err(AttachError::Taken);
        }
        *slot = Some(Peer::new(setup));
        if was_empty {
            // Whatever was in that memory must not look like states.
            actions(Action::ClearStateTable { table: setup.table, size: setup.table_size.into() });
        }
        Ok(())
    }

    /// Resets a function: interrupts off, windows closed, state 0, and the others are told of the last.
    pub fn reset(&mut self, id: u8, actions: &mut impl FnMut(Action)) {
        self.changing_windows(id, actions, Peer::reset);
        self.set_state(id, state::RESET, actions);
    }

    pub(super) fn detach(&mut self, id: u8, actions: &mut impl FnMut(Action)) {
        self.reset(id, actions);
        if let Some(slot) = self.peers.get_mut(usize::from(id)) {
            *slot = None;
        }
    }

    /// Makes a change that may open, move or close windows, and tells the difference.
    fn changing_windows(&mut self, id: u8, actions: &mut impl FnMut(Action), change: impl FnOnce(&mut Peer)) {
        let Some(peer) = self.peer_mut(id) else {
            return;
        };
        let before = BARS.map(|bar| peer.window(bar));
        change(peer);
        let owner = peer.setup.owner;
        let after = BARS.map(|bar| peer.window(bar));
        let moved = |n: usize| before[n] != after[n];
        for (address, size) in (0..BARS.len()).filter(|&n| moved(n)).filter_map(|n| before[n]) {
            actions(Action::UnmapBar { owner, address, size });
        }
        for (address, size) in (0..BARS.len()).filter(|&n| moved(n)).filter_map(|n| after[n]) {
            actions(Action::MapBar { owner, address, size });
        }
    }

    fn set_state(&mut self, id: u8, value: u32, actions: &mut impl FnMut(Action)) {
        let table = self.first.table;
        let Some(peer) = self.peer_mut(id) else {
            return;
        };
        if peer.state == value {
            return;
        }
        peer.state = value;
        actions(Action::WriteStateTable { table, index: id, value });
        for other in 0..MAX_PEERS as u8 {
            if other != id {
                self.interrupt(other, VECTOR_STATE, actions);
            }
        }
    }

    fn interrupt(&mut self, id: u8, vector: u16, actions: &mut impl FnMut(Action)) {
        let Some(peer) = self.peer_mut(id) else {
            return;
        };
        if let Some((address, data)) = peer.interrupt(vector) {
            actions(Action::Notify { owner: peer.setup.owner, peer: id, iommu: peer.setup.iommu, address, data });
        }
    }

    /// The window of a cell's function that holds guest-physical `address`.
    pub(super) fn locate(&self, owner: u32, address: u64) -> Option<(u8, Bar, u32)> {
        self.peers_of(owner).find_map(|id| {
            let peer = self.peer(id)?;
            BARS.into_iter().find_map(|bar| {
                let (start, size) = peer.window(bar)?;
                let offset = address.checked_sub(start).filter(|&offset| offset < size)?;
                Some((id, bar, u32::try_from(offset).ok()?))
            })
        })
    }

    /// Reads configuration space of a function.
    #[must_use]
    pub fn config_read(&self, id: u8, offset: u16, size: u8) -> u32 {
        self.peer(id).map_or(u32::MAX, |peer| peer.config_read(offset, size))
    }

    /// Writes configuration space of a function.
    pub fn config_write(&mut self, id: u8, offset: u16, size: u8, value: u32, actions: &mut impl FnMut(Action)) {
        self.changing_windows(id, actions, |peer| peer.config_write(offset, size, value));
    }

    /// Reads a register of a function.
    #[must_use]
    pub fn read(&self, id: u8, bar: Bar, offset: u32, size: u8) -> u64 {
        self.peer(id).map_or(0, |peer| peer.read(bar, offset, size))
    }

    /// Writes a register of a function.
    ///
    /// The caller makes sure that what the writing CPU stored before is visible before it carries out a
    /// [`Action::Notify`].
    pub fn write(&mut self, id: u8, bar: Bar, offset: u32, size: u8, value: u64, actions: &mut impl FnMut(Action)) {
        let Some(peer) = self.peer_mut(id) else {
            return;
        };
        if bar == Bar::Msix {
            return peer.write_table(offset, size, value);
        }
        if size != 4 {
            return;
        }
        let value = value as u32;
        match offset {
            reg::INT_CONTROL => peer.write_interrupt_control(value),
            reg::DOORBELL => {
                // Out of range, and nobody there: nothing happens.
                if let Ok(target) = u8::try_from(value >> 16) {
                    self.interrupt(target, value as u16, actions);
                }
            }
            reg::STATE => self.set_state(id, value, actions),
            _ => {}
        }
    }
}
