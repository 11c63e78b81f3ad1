//! Capabilities: where they are kept, what was derived from what, and how they end.

pub mod delete;
pub mod derivation;
pub mod slot;

pub use slot::{Cap, Home, KernelObject, Slot};

use crate::memory::Ref;
use ipc::{Error, ObjectType, Rights};

/// Makes a capability that is derived from the one in `source`, in the empty slot `target`: rights and-ed with the mask; if `badge` is not 0,
/// badge set if there was none, or ceiling lowered to one less.
///
/// A copy of an Untyped takes all the memory that the source has left: two capabilities never retype the same memory.
pub fn copy(source: Ref<Slot>, target: Ref<Slot>, mask: Rights, badge: u64) -> Result<(), Error> {
    let cap = derive(source, mask, badge)?;
    if !target.is_empty() {
        return Err(Error::SlotOccupied);
    }
    if cap.kind == ObjectType::Untyped {
        source.set_untyped_used(source.extra());
    }
    target.fill(&cap);
    derivation::insert_child(source, target);
    Ok(())
}

/// What a copy of the capability in `source` would be.
pub fn derive(source: Ref<Slot>, mask: Rights, badge: u64) -> Result<Cap, Error> {
    let mut cap = source.cap().ok_or(Error::InvalidCapability)?;
    cap.rights &= mask;
    match cap.kind {
        _ if badge == 0 => {}
        ObjectType::Endpoint | ObjectType::Notification if cap.badge == 0 => cap.badge = badge,
        ObjectType::Untyped | ObjectType::SchedContext => {
            let ceiling = u8::try_from(badge - 1).map_err(|_| Error::InvalidArgument)?;
            cap.ceiling = cap.ceiling.min(ceiling);
        }
        _ => return Err(Error::InvalidArgument),
    }
    if cap.kind == ObjectType::Untyped {
        crate::object::untyped::settle(source);
        let used = source.untyped_used().next_multiple_of(crate::memory::PAGE_SIZE);
        if used >= cap.extra {
            return Err(Error::OutOfMemory);
        }
        cap.object += used;
        cap.extra -= used;
        cap.badge = 0;
        cap.zeroed = 0;
    }
    Ok(cap)
}

/// Moves the capability in `source` to the empty slot `target`; it keeps its place in the derivation tree.
pub fn transfer(source: Ref<Slot>, target: Ref<Slot>) -> Result<(), Error> {
    let cap = source.cap().ok_or(Error::InvalidCapability)?;
    if !target.is_empty() {
        return Err(Error::SlotOccupied);
    }
    target.fill(&cap);
    derivation::replace(source, target);
    source.clear();
    Ok(())
}
