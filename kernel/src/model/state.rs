//! Capabilities and objects, and what ends with what.

use super::space::Space;
use ipc::{Error, ObjectType, Rights};
use std::collections::{BTreeMap, BTreeSet};

/// An object: its address, or what the capability says of memory and ports.
pub type Name = u64;

/// Where a capability is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Place {
    /// A slot of the table with this address.
    Table(Name, u64),
    /// A slot of a thread: space, table, fault endpoint, buffer.
    Thread(Name, usize),
    /// A route of a space.
    Route(Name, usize),
    /// Given to a space for page tables.
    Extension(Name, usize),
    /// The notification of an interrupt.
    Irq(Name),
}

/// A capability.
#[derive(Clone, Debug)]
pub struct Cap {
    pub kind: ObjectType,
    pub rights: Rights,
    pub badge: u64,
    /// Address of the object; first byte of memory; first port.
    pub name: Name,
    /// Bytes of memory, number of ports.
    pub size: u64,
    /// Bytes of an Untyped that are not free, if it has descendants.
    pub used: u64,
    pub parent: Option<Place>,
    /// Untyped, SchedContext: the highest priority.
    pub ceiling: u8,
}

/// Everything.
#[derive(Default)]
pub struct State {
    pub caps: BTreeMap<Place, Cap>,
    /// Number of slots.
    pub tables: BTreeMap<Name, u64>,
    pub spaces: BTreeMap<Name, Space>,
    /// Interrupts in use, by vector: address and pin.
    pub irqs: BTreeMap<u64, (Name, Option<u64>)>,
    /// Threads with their own time.
    pub time_of: BTreeMap<Name, Name>,
    /// Threads with the notification that is bound to them.
    pub bound: BTreeMap<Name, Name>,
    /// The table, and the thread, that calls are made with.
    pub table: Name,
    pub thread: Name,
}

impl State {
    /// A slot of the caller's table.
    pub fn own(&self, index: u64) -> Result<Place, Error> {
        if index == 0 || index >= self.tables[&self.table] {
            return Err(Error::InvalidCapability);
        }
        Ok(Place::Table(self.table, index))
    }

    /// A capability of the caller.
    pub fn held(&self, index: u64) -> Result<(Place, &Cap), Error> {
        let place = self.own(index)?;
        Ok((place, self.caps.get(&place).ok_or(Error::InvalidCapability)?))
    }

    /// A capability of the caller, of this kind and with these rights.
    pub fn typed(&self, index: u64, kind: ObjectType, rights: Rights) -> Result<(Place, &Cap), Error> {
        let (place, cap) = self.held(index)?;
        if cap.kind != kind {
            Err(Error::WrongType)
        } else if !cap.rights.contains(rights) {
            Err(Error::MissingRights)
        } else {
            Ok((place, cap))
        }
    }

    pub fn children(&self, place: Place) -> BTreeSet<Place> {
        self.caps.iter().filter(|(_, cap)| cap.parent == Some(place)).map(|(place, _)| *place).collect()
    }

    /// Bytes of an Untyped that are not free: none, if nothing is derived from it.
    pub fn used(&self, place: Place) -> u64 {
        if self.caps.values().any(|cap| cap.parent == Some(place)) { self.caps[&place].used } else { 0 }
    }

    fn is_named(&self, kind: ObjectType, name: Name) -> bool {
        self.caps.values().any(|cap| cap.kind == kind && cap.name == name)
    }

    /// Derives a capability.
    pub fn derive(&self, source: Place, mask: Rights, badge: u64) -> Result<Cap, Error> {
        let mut cap = self.caps[&source].clone();
        cap.rights &= mask;
        cap.parent = Some(source);
        if badge != 0 {
            match cap.kind {
                ObjectType::Endpoint | ObjectType::Notification if cap.badge == 0 => cap.badge = badge,
                ObjectType::Untyped | ObjectType::SchedContext if badge <= 256 => {
                    cap.ceiling = (badge - 1).min(cap.ceiling.into()) as u8;
                }
                _ => return Err(Error::InvalidArgument),
            }
        }
        if cap.kind == ObjectType::Untyped {
            let used = self.used(source).next_multiple_of(4096);
            if used >= cap.size {
                return Err(Error::OutOfMemory);
            }
            cap.name += used;
            cap.size -= used;
            cap.used = 0;
        }
        Ok(cap)
    }

    /// Puts a copy where nothing is.
    pub fn copy(&mut self, source: Place, target: Place, mask: Rights, badge: u64) -> Result<(), Error> {
        let cap = self.derive(source, mask, badge)?;
        if self.caps.contains_key(&target) {
            return Err(Error::SlotOccupied);
        }
        if cap.kind == ObjectType::Untyped
            && let Some(source) = self.caps.get_mut(&source)
        {
            source.used = source.size;
        }
        self.caps.insert(target, cap);
        Ok(())
    }

    pub fn move_to(&mut self, source: Place, target: Place) -> Result<(), Error> {
        if self.caps.contains_key(&target) {
            return Err(Error::SlotOccupied);
        }
        if let Some(cap) = self.caps.remove(&source) {
            self.caps.insert(target, cap);
        }
        for cap in self.caps.values_mut().filter(|cap| cap.parent == Some(source)) {
            cap.parent = Some(target);
        }
        Ok(())
    }

    /// Deletes capabilities, and whatever ends with them.
    pub fn delete(&mut self, places: impl IntoIterator<Item = Place>) {
        let mut doomed: Vec<Place> = places.into_iter().collect();
        while let Some(place) = doomed.pop() {
            let Some(gone) = self.caps.remove(&place) else { continue };
            for cap in self.caps.values_mut().filter(|cap| cap.parent == Some(place)) {
                cap.parent = gone.parent;
            }
            match place {
                // A space that loses memory loses all its tables.
                Place::Extension(space, _) => {
                    doomed.extend([0, 1].map(|index| Place::Extension(space, index)));
                    if let Some(space) = self.spaces.get_mut(&space) {
                        space.reset();
                    }
                }
                Place::Table(..) | Place::Thread(..) | Place::Route(..) | Place::Irq(_) => {}
            }
            if !self.is_named(gone.kind, gone.name) {
                doomed.extend(self.end(gone.kind, gone.name));
            }
        }
    }

    /// Deletes everything derived from a capability.
    pub fn revoke(&mut self, root: Place) {
        let mut descendants = self.children(root);
        let mut new = descendants.clone();
        while let Some(place) = new.pop_first() {
            let children = self.children(place);
            new.extend(&children);
            descendants.extend(children);
        }
        self.delete(descendants);
    }

    /// Nothing names the object any more: it is gone, and these capabilities were part of it.
    fn end(&mut self, kind: ObjectType, name: Name) -> Vec<Place> {
        let parts = |wanted: &dyn Fn(&Place) -> bool| self.caps.keys().copied().filter(|place| wanted(place)).collect();
        match kind {
            ObjectType::CapTable => {
                self.tables.remove(&name);
                parts(&|place| matches!(place, Place::Table(table, _) if *table == name))
            }
            ObjectType::Thread => {
                self.time_of.remove(&name);
                self.bound.remove(&name);
                parts(&|place| matches!(place, Place::Thread(thread, _) if *thread == name))
            }
            ObjectType::AddressSpace => {
                self.spaces.remove(&name);
                parts(&|place| matches!(place, Place::Route(space, _) | Place::Extension(space, _) if *space == name))
            }
            ObjectType::Irq => {
                self.irqs.retain(|_, (address, _)| *address != name);
                parts(&|place| *place == Place::Irq(name))
            }
            ObjectType::Frame => {
                for space in self.spaces.values_mut() {
                    space.forget(name);
                }
                Vec::new()
            }
            ObjectType::SchedContext => {
                self.time_of.retain(|_, time| *time != name);
                Vec::new()
            }
            ObjectType::Notification => {
                self.bound.retain(|_, notification| *notification != name);
                Vec::new()
            }
            _ => Vec::new(),
        }
    }
}
