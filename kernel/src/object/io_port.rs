//! IoPort: a range of I/O ports. The range is in the capability itself: first port in its object word, number in its extra word.

use crate::arch;
use crate::cap::{self, Cap, Slot};
use crate::memory::Ref;
use ipc::{Error, ObjectType};

/// Makes a capability to a part of the range in `source`.
pub fn derive(source: Ref<Slot>, first: u64, count: u64, target: Ref<Slot>) -> Result<(), Error> {
    check(&source, first, count)?;
    if !target.is_empty() {
        return Err(Error::SlotOccupied);
    }
    target.fill(&Cap { rights: source.rights(), ..Cap::new(ObjectType::IoPort, first, count) });
    cap::derivation::insert_child(source, target);
    Ok(())
}

fn check(slot: &Slot, first: u64, count: u64) -> Result<(), Error> {
    let end = first.checked_add(count).ok_or(Error::InvalidArgument)?;
    let limit = slot.object_word() + slot.extra();
    if count == 0 || first < slot.object_word() || end > limit { Err(Error::InvalidArgument) } else { Ok(()) }
}

fn width(bytes: u64) -> Result<u8, Error> {
    match bytes {
        1 | 2 | 4 => Ok(bytes as u8),
        _ => Err(Error::InvalidArgument),
    }
}

/// Reads a port.
pub fn read(slot: &Slot, port: u64, bytes: u64) -> Result<u64, Error> {
    let width = width(bytes)?;
    check(slot, port, bytes)?;
    Ok(arch::port_in(port as u16, width))
}

/// Writes a port.
pub fn write(slot: &Slot, port: u64, bytes: u64, value: u64) -> Result<(), Error> {
    let width = width(bytes)?;
    check(slot, port, bytes)?;
    arch::port_out(port as u16, width, value);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_ports_inside_the_range() {
        let slot = Slot::new();
        slot.fill(&Cap::new(ObjectType::IoPort, 0x3f8, 8));
        assert!(check(&slot, 0x3f8, 8).is_ok());
        assert!(check(&slot, 0x3ff, 1).is_ok());
        assert_eq!(check(&slot, 0x3ff, 2), Err(Error::InvalidArgument));
        assert_eq!(check(&slot, 0x3f7, 1), Err(Error::InvalidArgument));
        assert_eq!(check(&slot, u64::MAX, 2), Err(Error::InvalidArgument));
        assert_eq!(check(&slot, 0x3f8, 0), Err(Error::InvalidArgument));
    }
}
