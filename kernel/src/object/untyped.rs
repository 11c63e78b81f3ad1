//! Untyped: memory that nobody uses. Retype makes objects of it, from its start on; when nothing that was made of it is left, all
//! of it is free again.
//!
//! What it is, is in the capability: base, kind, size, bytes used, pages known to be zero. Two capabilities never stand for
//! the same free memory (a copy takes what is left), so this needs no object.
//!
//! | type | size argument | memory taken |
//! |---|---|---|
//! | Untyped | bytes, a multiple of 4096, plus the logarithm of the alignment (12–30; 0 is 12) | that |
//! | Frame | the same | that |
//! | AddressSpace | bytes for page tables, a multiple of 4096, at least 4096 for the root | that, and 4096 |
//! | CapTable | slots, 2 to 2²⁰; slot 0 is not usable | 64 each |
//! | Thread | 0 | 4096 |
//! | SchedContext | 0 | 128 |
//! | Endpoint, Reply, Notification | 0 | 64 |
//!
//! AddressSpaces and Threads start at multiples of 4096. Shared and device memory gives Untypeds and Frames only, and
//! is handed out as it is; other memory is zeroed.
#![allow(unsafe_code)] // The place where memory becomes objects.

use super::{AddressSpace, CapTable, Endpoint, Notification, Reply, SchedContext, Thread, cap_table};
use crate::cap::delete::{self, Progress};
use crate::cap::{Cap, Slot, derivation, slot::memory_kind};
use crate::kernel::Kernel;
use crate::memory::{PAGE_SIZE, Page, Ref, to_virtual};
use ipc::{Error, ObjectType, Rights};

/// Logarithm of the largest alignment of a Frame or Untyped.
const MAX_ORDER: u64 = 30;
/// Most objects of one retype.
pub const MAX_COUNT: u64 = 16;

/// Bytes that one object takes, and its alignment; checks the size argument.
pub fn footprint(kind: ObjectType, size: u64) -> Result<(u64, u64), Error> {
    let pages = |size: u64, extra: u64| {
        if size == 0 || !size.is_multiple_of(PAGE_SIZE) {
            return Err(Error::InvalidArgument);
        }
        Ok((size.checked_add(extra).ok_or(Error::InvalidArgument)?, PAGE_SIZE))
    };
    let fixed = |bytes: usize, align: u64| {
        if size != 0 { Err(Error::InvalidArgument) } else { Ok((bytes as u64, align)) }
    };
    match kind {
        ObjectType::Untyped | ObjectType::Frame => {
            let order = size % PAGE_SIZE;
            if order != 0 && !(12..=MAX_ORDER).contains(&order) {
                return Err(Error::InvalidArgument);
            }
            let (bytes, align) = pages(size - order, 0)?;
            Ok((bytes, align.max(1 << order)))
        }
        ObjectType::AddressSpace => pages(size, PAGE_SIZE),
        ObjectType::CapTable if (2..=cap_table::MAX_SLOTS).contains(&size) => Ok((size * 64, 64)),
        ObjectType::Thread => fixed(size_of::<Thread>(), PAGE_SIZE),
        ObjectType::SchedContext => fixed(size_of::<SchedContext>(), 64),
        ObjectType::Endpoint => fixed(size_of::<Endpoint>(), 64),
        ObjectType::Reply => fixed(size_of::<Reply>(), 64),
        ObjectType::Notification => fixed(size_of::<Notification>(), 64),
        ObjectType::CapTable | ObjectType::Irq | ObjectType::IoPort | ObjectType::Console => {
            Err(Error::InvalidArgument)
        }
    }
}

/// Where `count` objects would go in the `size` bytes from `base` on: start and end offset. Nothing is changed.
pub fn place(base: u64, used: u64, size: u64, bytes: u64, align: u64, count: u64) -> Result<(u64, u64), Error> {
    let start =
        base.checked_add(used).and_then(|at| at.checked_next_multiple_of(align)).ok_or(Error::OutOfMemory)? - base;
    let stride = bytes.checked_next_multiple_of(align).ok_or(Error::OutOfMemory)?;
    let end = stride.checked_mul(count).and_then(|all| all.checked_add(start)).ok_or(Error::OutOfMemory)?;
    if end > size { Err(Error::OutOfMemory) } else { Ok((start, end)) }
}

/// If nothing made of it is left, all of it is free.
pub fn settle(slot: Ref<Slot>) {
    // If it is free already, what an interrupted retype has zeroed stays zero.
    if slot.is(ObjectType::Untyped) && !derivation::has_children(&slot) && slot.untyped_used() != 0 {
        slot.set_untyped_used(0);
        slot.set_untyped_zeroed(0);
    }
}

/// Makes `count` objects; `target` gives the slots that their capabilities go to. `false`: an interrupt came in first; the same call,
/// made again, goes on.
pub fn retype(
    k: &Kernel,
    slot: Ref<Slot>,
    kind: u64,
    size: u64,
    count: u64,
    target: impl Fn(u64) -> Result<Ref<Slot>, Error>,
) -> Result<bool, Error> {
    let kind = ObjectType::from_raw(kind).ok_or(Error::InvalidArgument)?;
    let (bytes, align) = footprint(kind, size)?;
    let memory = slot.memory_kind();
    if memory != memory_kind::NORMAL && !matches!(kind, ObjectType::Untyped | ObjectType::Frame) {
        return Err(Error::InvalidArgument);
    }
    if count == 0 || count > MAX_COUNT {
        return Err(Error::InvalidArgument);
    }
    for index in 0..count {
        if !target(index)?.is_empty() {
            return Err(Error::SlotOccupied);
        }
    }
    if !delete::run(k, || delete::reap_step(k)) {
        return Ok(false);
    }
    settle(slot);
    let (start, end) = place(slot.memory_base(), slot.untyped_used(), slot.extra(), bytes, align, count)?;
    if memory == memory_kind::NORMAL && kind != ObjectType::Untyped && !delete::run(k, || zero_step(slot, end)) {
        return Ok(false);
    }
    let stride = bytes.next_multiple_of(align);
    for index in 0..count {
        let physical = slot.memory_base() + start + index * stride;
        let target = target(index)?;
        let cap = make(k, kind, size, bytes, physical, memory)?;
        target.fill(&Cap { rights: made_rights(slot, kind), ceiling: slot.ceiling(), ..cap });
        derivation::insert_child(slot, target);
    }
    slot.set_untyped_used(end);
    Ok(true)
}

/// The rights of what is made: all, but frames of device memory cannot be executed.
fn made_rights(slot: Ref<Slot>, kind: ObjectType) -> Rights {
    if kind == ObjectType::Frame && slot.memory_kind() == memory_kind::DEVICE {
        Rights::all() - Rights::EXECUTE
    } else {
        Rights::all()
    }
}

/// Zeroes the next page that objects up to `end` need, and what alignment skips. Free bytes below the mark are zero; if the used part ends inside a page, that
/// page is below the mark, because it was zeroed for the objects that end in it.
fn zero_step(slot: Ref<Slot>, end: u64) -> Progress {
    let next = slot.untyped_zeroed().max(slot.untyped_used() / PAGE_SIZE);
    if next * PAGE_SIZE >= end {
        return Progress::Done;
    }
    // SAFETY: the page is in the free part of an Untyped of private RAM.
    unsafe { Page::at(slot.memory_base() + next * PAGE_SIZE) }.clear();
    slot.set_untyped_zeroed(next + 1);
    Progress::More
}

/// Makes an object of zeroed memory.
fn make(k: &Kernel, kind: ObjectType, size: u64, bytes: u64, physical: u64, memory: u64) -> Result<Cap, Error> {
    let address = to_virtual(physical);
    /// The object at an address.
    fn at<T>(address: u64) -> Ref<T> {
        // SAFETY: retype calls this with zeroed, aligned memory of private RAM of the size that `footprint` gives; zero is a valid
        // value of every object's fields, and the memory stays the object's until its last capability is gone.
        unsafe { Ref::at(address) }.unwrap_or_else(|| unreachable!())
    }
    Ok(match kind {
        ObjectType::Untyped | ObjectType::Frame => Cap::new(kind, physical | memory, bytes),
        ObjectType::AddressSpace => {
            at::<AddressSpace>(address).set_up(k, physical + PAGE_SIZE, size / PAGE_SIZE);
            Cap::new(kind, address, 0)
        }
        ObjectType::CapTable => {
            at::<CapTable>(address).set_up(size as u32);
            Cap::new(kind, address, 0)
        }
        ObjectType::Thread => {
            at::<Thread>(address).set_up();
            Cap::new(kind, address, 0)
        }
        ObjectType::SchedContext | ObjectType::Endpoint | ObjectType::Reply | ObjectType::Notification => {
            Cap::new(kind, address, 0)
        }
        ObjectType::Irq | ObjectType::IoPort | ObjectType::Console => return Err(Error::InvalidArgument),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn placing() {
        assert_eq!(place(0, 0, 8192, 4096, 4096, 2), Ok((0, 8192)));
        assert_eq!(place(0, 64, 8192, 4096, 4096, 1), Ok((4096, 8192)));
        assert_eq!(place(0, 64, 8192, 4096, 4096, 2), Err(Error::OutOfMemory));
        assert_eq!(place(0, 64, 8192, 64, 64, 3), Ok((64, 256)));
        assert_eq!(place(0, 0, u64::MAX, u64::MAX, 4096, 2), Err(Error::OutOfMemory));
        // Alignment is of the memory itself.
        assert_eq!(place(0x10_1000, 4096, 4 << 20, 2 << 20, 2 << 20, 1), Ok((0xf_f000, 0x2f_f000)));
        assert_eq!(place(0x10_1000, 0x10_0000, 4 << 20, 2 << 20, 2 << 20, 2), Err(Error::OutOfMemory));
    }

    #[test]
    fn size_arguments() {
        assert_eq!(footprint(ObjectType::Frame, 4096), Ok((4096, 4096)));
        assert_eq!(footprint(ObjectType::Frame, 4097), Err(Error::InvalidArgument));
        assert_eq!(footprint(ObjectType::Frame, 8192 + 21), Ok((8192, 2 << 20)));
        assert_eq!(footprint(ObjectType::Untyped, 21), Err(Error::InvalidArgument));
        assert_eq!(footprint(ObjectType::Frame, 4096 + 31), Err(Error::InvalidArgument));
        assert_eq!(footprint(ObjectType::Frame, 0), Err(Error::InvalidArgument));
        assert_eq!(footprint(ObjectType::AddressSpace, 4096), Ok((8192, 4096)));
        assert_eq!(footprint(ObjectType::Endpoint, 8), Err(Error::InvalidArgument));
        assert_eq!(footprint(ObjectType::Irq, 0), Err(Error::InvalidArgument));
        assert_eq!(footprint(ObjectType::CapTable, 1), Err(Error::InvalidArgument));
    }
}
