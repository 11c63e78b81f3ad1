//! Untyped memory and capability tables.

use super::{Cap, CapTable, Object, Result, Untyped};
use ipc::{Call, Error, ObjectType, Rights};

/// Where an Untyped lies and how much of it is used.
#[derive(Clone, Copy, Debug)]
pub struct UntypedInfo {
    /// Guest-physical address.
    pub physical: u64,
    /// Bytes.
    pub bytes: u64,
    /// Bytes used, from the start.
    pub used: u64,
    /// 0 normal, 1 shared, 2 device.
    pub kind: u64,
}

/// What a slot holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Identity {
    /// Type of the object.
    pub object: ObjectType,
    /// Rights.
    pub rights: Rights,
    /// Badge; the ceiling of an Untyped or SchedContext.
    pub badge: u64,
}

impl Cap<Untyped> {
    /// Makes `count` objects in adjacent empty slots from `first` on.
    pub fn retype(self, object: ObjectType, size: u64, first: u32, count: u32) -> Result {
        self.invoke(Call::Retype, [object as u64, size, first.into(), count.into()]).map(drop)
    }

    /// Makes one object.
    pub fn make<T: Object>(self, size: u64, slot: u32) -> Result<Cap<T>> {
        self.retype(T::TYPE, size, slot, 1)?;
        Ok(Cap::new(slot))
    }

    /// Where and how much.
    pub fn info(self) -> Result<UntypedInfo> {
        let [physical, bytes, used, kind] = self.invoke(Call::UntypedInfo, [])?;
        Ok(UntypedInfo { physical, bytes, used, kind })
    }
}

impl Cap<CapTable> {
    /// Copies one of the caller's capabilities into the table. Badge 0 keeps the old one.
    pub fn copy<T>(self, destination: u32, source: Cap<T>, rights: Rights, badge: u64) -> Result<Cap<T>> {
        self.invoke(Call::CapCopy, [destination.into(), source.slot.into(), rights.bits().into(), badge])?;
        Ok(Cap::new(destination))
    }

    /// Copies an Untyped or SchedContext: time that is made of the copy, or configured by it, has this priority at most.
    pub fn copy_with_ceiling<T>(self, destination: u32, source: Cap<T>, rights: Rights, ceiling: u8) -> Result<Cap<T>> {
        self.copy(destination, source, rights, u64::from(ceiling) + 1)
    }

    /// Moves one of the caller's capabilities into the table.
    pub fn take<T>(self, destination: u32, source: Cap<T>) -> Result<Cap<T>> {
        self.invoke(Call::CapMove, [destination.into(), source.slot.into()])?;
        Ok(Cap::new(destination))
    }

    /// Empties the slot.
    pub fn delete(self, slot: u32) -> Result {
        self.until_done(Call::CapDelete, slot)
    }

    /// Deletes everything derived from the capability in the slot.
    pub fn revoke(self, slot: u32) -> Result {
        self.until_done(Call::CapRevoke, slot)
    }

    /// The kernel does long work in bounded steps; each step ends in `Partial`.
    fn until_done(self, call: Call, slot: u32) -> Result {
        loop {
            match self.invoke(call, [slot.into()]) {
                Err(Error::Partial) => continue,
                other => return other.map(drop),
            }
        }
    }

    /// What the slot holds; `None`: it is empty.
    pub fn identify(self, slot: u32) -> Result<Option<Identity>> {
        let [object, rights, badge, _] = self.invoke(Call::CapIdentify, [slot.into()])?;
        Ok(ObjectType::from_raw(object).map(|object| Identity {
            object,
            rights: Rights::from_bits_truncate(rights as u8),
            badge,
        }))
    }
}
