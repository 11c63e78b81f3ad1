//! Random calls to the kernel and to the specification: the same status, the same results, and from time to time everything is compared.
//! `CRTOS_SEED=0x…` repeats one round, `CRTOS_STEPS=…` sets how many steps are made in all.
#![allow(unsafe_code)] // Objects are looked at by the addresses that the specification predicts.

use super::calls;
use super::state::{Cap, Place, State};

use crate::cap::delete::{Progress, reap_step};
use crate::cap::{self, Slot, derivation};
use crate::memory::Ref;
use crate::object::irq::FIRST_VECTOR;
use crate::object::{AddressSpace, CapTable, Thread};
use crate::random::Random;
use crate::rig::{MEMORY, Rig, SPACE, TABLE, THREAD, TIME};
use ipc::{Call, Error, ObjectType, Protection};
use std::collections::{BTreeMap, BTreeSet};

const IRQ: u32 = 5;
const PORT: u32 = 6;
/// The caller's slots that random calls may change.
const FIRST: u64 = 9;
const LAST: u64 = 72;
const PAGES: u64 = 192;

impl Random {
    /// A slot of the caller, with a capability of that kind if there is one.
    fn held(&mut self, s: &State, fits: impl Fn(Option<&Cap>) -> bool) -> u64 {
        let start = self.below(LAST);
        let held = |index: u64| s.caps.get(&Place::Table(s.table, index));
        (0..LAST).map(|offset| (start + offset) % LAST).find(|index| *index > 0 && fits(held(*index))).unwrap_or(start)
    }

    fn of(&mut self, s: &State, kind: ObjectType) -> u64 {
        self.held(s, |cap| cap.is_some_and(|cap| cap.kind == kind))
    }

    fn free(&mut self, s: &State) -> u64 {
        self.held(s, |cap| cap.is_none())
    }

    fn rarely(&mut self, otherwise: u64) -> u64 {
        if self.below(25) == 0 { self.one_of(&[0, 1, u64::MAX, 1 << 47, 4096, 512, 300]) } else { otherwise }
    }
}

/// A kernel and what there is in it at first.
fn set_up() -> (Rig, State) {
    let rig = Rig::new(PAGES);
    let thread = rig.current();
    rig.slot(IRQ).fill(&cap::Cap::new(ObjectType::Irq, 0, 0));
    rig.slot(PORT).fill(&cap::Cap::new(ObjectType::IoPort, 0x100, 64));
    let mut s = State { table: rig.slot(TABLE).object_word(), thread: thread.address(), ..State::default() };
    let mut put = |place: Place, slot: &Slot, parent: Option<Place>| {
        let cap = slot.cap().unwrap();
        let size = if matches!(cap.kind, ObjectType::Untyped | ObjectType::Frame | ObjectType::IoPort) {
            cap.extra
        } else {
            0
        };
        s.caps.insert(
            place,
            Cap {
                kind: cap.kind,
                rights: cap.rights,
                badge: 0,
                name: cap.object,
                size,
                used: 0,
                parent,
                ceiling: u8::MAX,
            },
        );
    };
    let table = rig.slot(TABLE).object_word();
    for index in [TABLE, SPACE, THREAD, TIME, MEMORY, IRQ, PORT] {
        put(Place::Table(table, index.into()), &rig.slot(index), None);
    }
    put(Place::Thread(thread.address(), 0), &thread.space, Some(Place::Table(table, SPACE.into())));
    put(Place::Thread(thread.address(), 1), &thread.table, Some(Place::Table(table, TABLE.into())));
    put(Place::Thread(thread.address(), 3), &thread.buffer, None);
    s.tables.insert(table, 512);
    s.spaces.insert(rig.slot(SPACE).object_word(), super::space::Space { memory: 16, ..Default::default() });
    s.time_of.insert(thread.address(), rig.slot(TIME).object_word());
    (rig, s)
}

/// The kernel's slot for a place.
fn slot_at(rig: &Rig, place: Place) -> Ref<Slot> {
    // SAFETY: the specification says that such an object lives there; if it is wrong, the test fails one way or the other.
    unsafe {
        match place {
            Place::Table(name, index) => Ref::<CapTable>::at_nonzero(name).slot_at(index).unwrap(),
            Place::Thread(name, index) => {
                let thread = Ref::<Thread>::at_nonzero(name);
                let slots: [&Slot; 4] = [&thread.space, &thread.table, &thread.fault_endpoint, &thread.buffer];
                Ref::from(slots[index])
            }
            Place::Route(name, index) => Ref::from(&Ref::<AddressSpace>::at_nonzero(name).routes[index]),
            Place::Extension(name, index) => Ref::from(&Ref::<AddressSpace>::at_nonzero(name).extensions[index]),
            Place::Irq(vector) => Ref::from(rig.k.irqs[vector as usize - usize::from(FIRST_VECTOR)].bound_slot()),
        }
    }
}

/// The kernel's state is what the specification says.
fn compare(rig: &Rig, s: &State) {
    crate::invariants::check(&rig.k, rig.slot(TABLE).object().unwrap());
    let places: BTreeMap<u64, Place> = s.caps.keys().map(|place| (slot_at(rig, *place).address(), *place)).collect();
    let mut children: BTreeMap<Place, BTreeSet<Place>> = BTreeMap::new();
    for (place, cap) in &s.caps {
        if let Some(parent) = cap.parent {
            children.entry(parent).or_default().insert(*place);
        }
    }
    for (place, wanted) in &s.caps {
        let slot = slot_at(rig, *place);
        let found = slot.cap().unwrap_or_else(|| panic!("{place:?} is empty, not {wanted:?}"));
        let name = match found.kind {
            ObjectType::Irq if found.object != 0 => slot.object::<crate::object::Irq>().unwrap().vector().into(),
            _ => found.object,
        };
        assert_eq!((found.kind, found.rights, name), (wanted.kind, wanted.rights, wanted.name), "{place:?}");
        assert_eq!(found.ceiling, wanted.ceiling, "{place:?}");
        if wanted.size != 0 {
            assert_eq!(found.extra, wanted.size, "{place:?}");
        }
        let mut below = BTreeSet::new();
        derivation::check_children(slot, &mut |child| {
            let child = places.get(&child.address());
            below.insert(*child.unwrap_or_else(|| panic!("{place:?} has a child that should not be")));
        });
        assert_eq!(below, children.remove(place).unwrap_or_default(), "{place:?}");
        match wanted.kind {
            ObjectType::Untyped if !below.is_empty() => assert_eq!(slot.untyped_used(), wanted.used, "{place:?}"),
            ObjectType::Endpoint | ObjectType::Notification => assert_eq!(found.badge, wanted.badge, "{place:?}"),
            _ => {}
        }
    }
    assert!(children.is_empty(), "a parent is not there: {children:?}");
    for (name, slots) in &s.tables {
        // SAFETY: as for `slot_at`.
        let table = unsafe { Ref::<CapTable>::at_nonzero(*name) };
        let full = (1..*slots).filter(|index| !table.slot_at(*index).unwrap().is_empty()).count();
        let wanted = s.caps.keys().filter(|place| matches!(place, Place::Table(table, _) if table == name)).count();
        assert_eq!((u64::from(table.len()), full), (*slots, wanted), "table {name:#x}");
    }
    let mut spaces = 0;
    let mut next = rig.k.spaces.first();
    while let Some(space) = next {
        spaces += 1;
        let wanted = &s.spaces[&space.address()];
        for (page, mapping) in &wanted.pages {
            use crate::object::page_entry::bits;
            let entry = space.entry(page << 12);
            let writable = entry & bits::WRITE != 0;
            let executable = entry & bits::NO_EXECUTE == 0;
            let protection = mapping.protection;
            let found = (entry & bits::ADDRESS, writable, executable);
            let wanted =
                (mapping.physical, protection.contains(Protection::WRITE), protection.contains(Protection::EXECUTE));
            assert_eq!(found, wanted, "page {page:#x}");
        }
        assert_eq!(space.mapped_pages(), wanted.pages.len() as u64);
        next = rig.k.spaces.after(space);
    }
    assert_eq!(spaces, s.spaces.len());
}

/// A random call: number, slot, arguments.
fn random_call(random: &mut Random, s: &State) -> (Call, u64, [u64; 6]) {
    use ObjectType::*;
    let table = if random.below(3) == 0 { random.of(s, CapTable) } else { TABLE.into() };
    // In the caller's own table, the first slots stay as they are.
    let own = s.held(table).is_ok_and(|(_, cap)| cap.name == s.table) || s.held(table).is_err();
    let changed = |random: &mut Random| if own { FIRST + random.below(LAST - FIRST) } else { 1 + random.below(12) };
    let address = |random: &mut Random| {
        let page = random.one_of(&[0, 0x200, 0x201, 0x3ff, 0x4_0000, 0x800_0000]) + random.below(6);
        random.rarely(page << 12)
    };
    let number = random.one_of(&[
        Call::Retype,
        Call::Retype,
        Call::Retype,
        Call::Retype,
        Call::CapCopy,
        Call::CapCopy,
        Call::CapCopy,
        Call::CapMove,
        Call::CapDelete,
        Call::CapDelete,
        Call::CapDelete,
        Call::CapRevoke,
        Call::CapIdentify,
        Call::UntypedInfo,
        Call::FrameInfo,
        Call::Map,
        Call::Map,
        Call::Unmap,
        Call::Protect,
        Call::TakeDirty,
        Call::TakeDirty,
        Call::BindRoute,
        Call::Extend,
        Call::ThreadConfigure,
        Call::ThreadBindNotification,
        Call::SchedBind,
        Call::SchedConfigure,
        Call::IrqDerive,
        Call::IrqBind,
        Call::PortDerive,
    ]);
    let (kind, slot, args) = match number {
        Call::Retype => {
            let kind = 1 + random.below(9);
            let size = match kind {
                1 | 2 => random.one_of(&[4096, 4096, 8192, 5 * 4096, 4096 + 13, 16 * 4096, 4096 + 7]),
                3 => random.one_of(&[4096, 4 * 4096, 6 * 4096]),
                4 => random.one_of(&[2, 9, 16]),
                _ => random.rarely(0),
            };
            (Untyped, 0, [random.rarely(kind), size, random.free(s), random.rarely(1 + random.0 % 3 / 2), 0, 0])
        }
        Call::CapCopy => {
            let source = random.held(s, |cap| cap.is_some());
            let target = if own { random.free(s) } else { 1 + random.below(12) };
            let mask = random.one_of(&[0xff, 0xff, 0xff, 0x103, 0x13, 1, 0x1e]);
            (
                CapTable,
                table,
                [random.rarely(target), random.rarely(source), mask, random.one_of(&[0, 0, 0, 7, 150, 256, 257]), 0, 0],
            )
        }
        Call::CapMove => {
            let target = if own { random.free(s) } else { 1 + random.below(12) };
            let source = FIRST + random.below(LAST - FIRST);
            (CapTable, table, [random.rarely(target), source, 0, 0, 0, 0])
        }
        Call::CapDelete => (CapTable, table, [changed(random), 0, 0, 0, 0, 0]),
        Call::CapRevoke => {
            let everything = own && random.below(12) == 0;
            let about = if everything { random.one_of(&[MEMORY, IRQ, PORT]).into() } else { changed(random) };
            (CapTable, table, [about, 0, 0, 0, 0, 0])
        }
        Call::CapIdentify => (CapTable, table, [random.rarely(1 + random.0 % LAST), 0, 0, 0, 0, 0]),
        Call::UntypedInfo => (Untyped, 0, [0; 6]),
        Call::FrameInfo => (Frame, 0, [0; 6]),
        Call::Map => {
            let (at, protection) = (address(random), random.one_of(&[1, 3, 3, 5, 7, 2, 32]));
            let (first, pages) = (random.below(3), 1 + random.below(4));
            (AddressSpace, 0, [random.of(s, Frame), random.rarely(first), at, random.rarely(pages), protection, 0])
        }
        Call::Unmap => (AddressSpace, 0, [address(random), 1 + random.below(600), 0, 0, 0, 0]),
        Call::Protect => {
            (AddressSpace, 0, [address(random), 1 + random.below(600), random.one_of(&[1, 3, 5, 7, 17]), 0, 0, 0])
        }
        Call::TakeDirty => {
            let pages = random.one_of(&[1, 5, 64, 512, 513, 900]);
            (AddressSpace, 0, [address(random), random.rarely(pages), 0, 0, 0, 0])
        }
        Call::BindRoute => (AddressSpace, 0, [random.below(8), random.of(s, Endpoint), 0, 0, 0, 0]),
        Call::Extend => (
            AddressSpace,
            0,
            [random.held(s, |cap| cap.is_some_and(|c| c.kind == Untyped && c.size < 20 << 12)), 0, 0, 0, 0, 0],
        ),
        Call::ThreadConfigure => {
            let mut optional = |kind| if random.below(3) == 0 { 0 } else { random.of(s, kind) };
            let (table, fault, buffer) = (optional(CapTable), optional(Endpoint), optional(Frame));
            (Thread, 0, [random.of(s, AddressSpace), table, fault, buffer, random.below(2), 0])
        }
        Call::ThreadBindNotification => {
            let notification = if random.below(3) == 0 { 0 } else { random.of(s, Notification) };
            (Thread, 0, [notification, 0, 0, 0, 0, 0])
        }
        Call::SchedBind => (SchedContext, 0, [random.of(s, Thread), 0, 0, 0, 0, 0]),
        // Whatever its priority: nobody else runs.
        Call::SchedConfigure => (SchedContext, 0, [random.below(260), 0, 0, 0, 0, 0]),
        Call::IrqDerive => {
            (Irq, IRQ.into(), [random.below(2), random.below(26), random.below(4), random.free(s), 0, 0])
        }
        Call::IrqBind => {
            let notification = if random.below(3) == 0 { 0 } else { random.of(s, Notification) };
            (Irq, 0, [notification, 0, 0, 0, 0, 0])
        }
        _ => (IoPort, 0, [0xf8 + random.below(70), random.rarely(random.0 % 9), random.free(s), 0, 0, 0]),
    };
    // What CapTable calls change was chosen by what their table is.
    let slot = match slot {
        0 if random.below(30) == 0 => random.below(LAST + 4),
        0 => random.of(s, kind),
        slot => slot,
    };
    (number, slot, args)
}

/// Writes to a page as the kernel does for its user, if it may be written.
fn write_somewhere(random: &mut Random, s: &mut State) {
    let chosen = random.below(s.spaces.len() as u64) as usize;
    let Some((name, space)) = s.spaces.iter_mut().nth(chosen) else { return };
    let chosen = random.below(space.pages.len().max(1) as u64) as usize;
    let Some((page, mapping)) = space.pages.iter_mut().nth(chosen) else { return };
    // SAFETY: as for `slot_at`.
    let written = unsafe { Ref::<AddressSpace>::at_nonzero(*name) }.writable(page << 12).is_some();
    assert_eq!(written, mapping.protection.contains(Protection::WRITE), "page {page:#x}");
    mapping.dirty |= written;
}

/// One round: a fresh kernel, so many calls. How many of each came back with success.
fn round(seed: u64, steps: u64, successes: &mut BTreeMap<u8, u64>) {
    let mut random = Random(seed | 1);
    let (rig, mut s) = set_up();
    let thread = rig.current();
    for step in 0..steps {
        let (number, slot, args) = random_call(&mut random, &s);
        if random.below(4) == 0 {
            write_somewhere(&mut random, &mut s);
        }
        let wanted = calls::call(&mut s, number, slot, args);
        // What can be interrupted and made again, sometimes is.
        let restarts = matches!(
            number,
            Call::Retype | Call::CapDelete | Call::CapRevoke | Call::ThreadConfigure | Call::BindRoute | Call::Extend
        );
        let out = loop {
            if restarts && random.below(3) == 0 {
                rig.k.cpu.note_interrupt(FIRST_VECTOR + 95);
            }
            let rip = thread.frame.rip.replace(0x1000);
            let out = rig.call(number, slot as u32, &args);
            let again = thread.frame.rip.replace(rip) != 0x1000;
            assert!(rig.settle() == thread);
            if !again {
                break out;
            }
        };
        while reap_step(&rig.k) == Progress::More {}
        match &wanted {
            Ok(results) => {
                assert_eq!(
                    out.status,
                    0,
                    "step {step}: {number:?} {slot} {args:x?}: {:?}",
                    Error::from_raw(out.status)
                );
                let found = [&[out.rdi, out.rsi][..], &out.words].concat();
                assert_eq!(&found[..results.len()], &results[..], "step {step}: {number:?} {slot} {args:x?}");
                *successes.entry(number as u8).or_default() += 1;
            }
            Err((error, count)) => {
                let found = Error::from_raw(out.status);
                assert_eq!(found, Some(*error), "step {step}: {number:?} {slot} {args:x?}");
                assert!(count.is_none_or(|count| out.rdi == count), "step {step}: {number:?} {args:x?}: {count:?}");
            }
        }
        if step % 256 == 0 || step + 1 == steps {
            compare(&rig, &s);
        }
    }
    assert!(rig.settle() == thread);
    // In the end all memory can be had again.
    let root = Place::Table(s.table, MEMORY.into());
    s.revoke(root);
    rig.ok(Call::CapRevoke, TABLE, &[MEMORY.into()]);
    compare(&rig, &s);
    rig.retype(ObjectType::Frame, PAGES * 4096, 100);
}

#[test]
fn the_kernel_does_what_its_specification_says() {
    let number = |name: &str| {
        let text = std::env::var(name).ok()?;
        match text.strip_prefix("0x") {
            Some(hex) => u64::from_str_radix(hex, 16).ok(),
            None => text.parse().ok(),
        }
    };
    // Miri is slow.
    let steps = if cfg!(miri) { 60 } else { 5000 };
    let all = number("CRTOS_STEPS").unwrap_or(if cfg!(miri) { steps } else { 1_000_000 });
    let mut successes = BTreeMap::new();
    if let Some(seed) = number("CRTOS_SEED") {
        return round(seed, steps, &mut successes);
    }
    for index in 0..all.div_ceil(steps) {
        let seed = 0x2545_f491_4f6c_dd1d_u64.wrapping_mul(index + 1);
        std::println!("CRTOS_SEED={seed:#x}");
        round(seed, steps, &mut successes);
    }
    std::println!("{successes:?}");
    assert!(cfg!(miri) || successes.len() == 21, "some call never succeeds: {successes:?}");
}
