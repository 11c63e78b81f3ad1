//! How capabilities end: delete, revoke, and the taking apart of objects that nobody names any more.
//!
//! An object with slots of its own (CapTable, Thread, AddressSpace) cannot be taken apart at once, nor by recursion: it goes to the
//! kernel's list of dying objects, out of everybody's reach, and its slots are emptied one by one. Memory is used again only when
//! that list is empty, so nothing of a dying object is ever overwritten.

use super::derivation;
use super::slot::{Home, Slot};
use crate::kernel::Kernel;
use crate::memory::Ref;
use crate::object::cap_table::End;
use crate::object::{self, CapTable, Endpoint, Irq, Notification, Reply, SchedContext, Thread};
use ipc::ObjectType;

/// How far a long operation has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Progress {
    /// Nothing is left to do.
    Done,
    /// A bounded step was made; more are needed.
    More,
}

/// Makes a bounded step towards an empty slot.
pub fn delete_step(k: &Kernel, slot: Ref<Slot>) -> Progress {
    let Some(kind) = slot.kind() else { return Progress::Done };
    if derivation::is_last(slot) || kind == ObjectType::Untyped {
        // What can still be reached through this slot ends here.
        let progress = match kind {
            ObjectType::Frame => {
                slot.disarm();
                object::frame::sweep_step(k, slot.memory_base())
            }
            ObjectType::Endpoint => slot.object::<Endpoint>().map_or(Progress::Done, |o| o.drain_step(k)),
            ObjectType::Notification => slot.object::<Notification>().map_or(Progress::Done, |o| o.drain_step(k)),
            ObjectType::Reply => slot.object::<Reply>().map_or(Progress::Done, |o| o.end(k)),
            ObjectType::SchedContext => slot.object::<SchedContext>().map_or(Progress::Done, |o| o.end(k)),
            ObjectType::Irq => slot.object::<Irq>().map_or(Progress::Done, |o| o.end_step(k)),
            ObjectType::Thread => {
                if let Some(thread) = slot.object::<Thread>() {
                    thread.end(k);
                    k.dying.threads.push_back(thread);
                }
                Progress::Done
            }
            ObjectType::CapTable => {
                if let Some(table) = slot.object::<CapTable>() {
                    k.dying.tables.push_back(table);
                }
                Progress::Done
            }
            ObjectType::AddressSpace => {
                if let Some(space) = slot.object() {
                    object::address_space::end(k, space);
                    k.dying.spaces.push_back(space);
                }
                Progress::Done
            }
            ObjectType::Untyped | ObjectType::IoPort | ObjectType::Console => Progress::Done,
        };
        if progress == Progress::More {
            return Progress::More;
        }
    }
    let home = slot.home();
    derivation::remove(slot);
    slot.clear();
    if home != Home::Table {
        object::slot_emptied(k, slot, home);
    }
    Progress::More
}

/// Makes a bounded step towards a capability without descendants. What its caller needs to make the call again, a handful of capabilities at
/// most, goes last, and all of it in one step: then there is nothing left to make it again for.
pub fn revoke_step(k: &Kernel, slot: Ref<Slot>, needed: impl Fn(Ref<Slot>) -> bool) -> Progress {
    let mut next = derivation::next_below(slot, slot);
    while let Some(found) = next {
        if !needed(found) {
            delete_step(k, found);
            return Progress::More;
        }
        next = derivation::next_below(slot, found);
    }
    while let Some(child) = derivation::first_child(slot) {
        delete_step(k, child);
    }
    Progress::Done
}

/// Makes a bounded step in the taking apart of dying objects.
pub fn reap_step(k: &Kernel) -> Progress {
    if let Some(thread) = k.dying.threads.first() {
        let slots = [&thread.space, &thread.table, &thread.fault_endpoint, &thread.buffer];
        match slots.into_iter().find(|slot| !slot.is_empty()) {
            Some(slot) => {
                delete_step(k, Ref::from(slot));
            }
            None => k.dying.threads.remove(thread),
        }
        return Progress::More;
    }
    if let Some(space) = k.dying.spaces.first() {
        let mut slots = space.routes.iter().chain(&space.extensions);
        match slots.find(|slot| !slot.is_empty()) {
            Some(slot) => {
                delete_step(k, Ref::from(slot));
            }
            None => k.dying.spaces.remove(space),
        }
        return Progress::More;
    }
    if let Some(table) = k.dying.tables.first() {
        match table.next_to_reap() {
            Ok(Some(slot)) => {
                delete_step(k, slot);
            }
            Ok(None) => {}
            Err(End) => k.dying.tables.remove(table),
        }
        return Progress::More;
    }
    Progress::Done
}

/// Runs steps until the work is done or an interrupt came in. `true`: done. Interrupts are let in after every step.
pub fn run(k: &Kernel, mut step: impl FnMut() -> Progress) -> bool {
    while step() == Progress::More {
        if k.interrupted() {
            return false;
        }
    }
    true
}

/// Empties slots that are part of an object. `false`: an interrupt came in first.
pub fn empty(k: &Kernel, slots: &[&Slot]) -> bool {
    run(k, || match slots.iter().find(|slot| !slot.is_empty()) {
        Some(slot) => delete_step(k, Ref::from(*slot)),
        None => Progress::Done,
    })
}
