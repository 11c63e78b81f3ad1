//! Deleting and revoking what the caller itself lives by: the whole of it happens, however often it is interrupted.

use super::memory::interrupted;
use super::status;
use crate::cap::delete::{Progress, reap_step};
use crate::memory::Ref;
use crate::object::Thread;
use crate::object::irq::FIRST_VECTOR;
use crate::object::thread::State;
use crate::rig::{MEMORY, Rig, TABLE};
use ipc::{Call, Error, ObjectType, Rights};

const ENDPOINT: u32 = 20;
const FIRST_COPY: u64 = 300;
const COPIES: u64 = 40;
/// Slots of the actor's things in the first table.
const PART: u32 = 40;
const ACTOR: u32 = 60;

#[test]
fn a_revoke_that_takes_along_its_own_capability_goes_to_its_end() {
    let rig = Rig::new(64);
    // Ten ways to the table below a capability that is revoked by one of them: the last that was made, which goes first; some that are not;
    // the parent of another one, and that one.
    for way in [109, 108, 100, 103, 104] {
        rig.ok(Call::CapCopy, TABLE, &[90, TABLE.into(), 0xff, 0]);
        for slot in 100..110 {
            let source = if slot == 104 { 103 } else { 90 };
            rig.ok(Call::CapCopy, TABLE, &[slot, source, 0xff, 0]);
        }
        let tries = interrupted(&rig, Call::CapRevoke, way, &[90], |_| {});
        assert!(tries >= 10, "{way}: {tries}");
        assert!((100..110).all(|slot| rig.slot(slot).is_empty()), "{way}");
        assert!(!rig.slot(90).is_empty());
        rig.ok(Call::CapDelete, TABLE, &[90]);
    }
}

#[test]
fn a_delete_of_its_own_capability_is_a_success() {
    let rig = Rig::new(64);
    rig.ok(Call::CapCopy, TABLE, &[90, TABLE.into(), 0xff, 0]);
    assert_eq!(interrupted(&rig, Call::CapDelete, 90, &[90], |_| {}), 1);
    assert!(rig.slot(90).is_empty());
    assert_eq!(rig.call(Call::CapDelete, 90, &[90]).status, status(Error::InvalidCapability));
}

/// A thread with space, table and time of its own, made of an Untyped that it can revoke, and more of it besides: capabilities
/// of the first table that are derived from there.
fn actor(rig: &Rig) -> Ref<Thread> {
    rig.retype(ObjectType::Untyped, 40 * 4096, PART);
    let make = |kind: ObjectType, size: u64, slot: u32| {
        rig.ok(Call::Retype, PART, &[kind as u64, size, slot.into(), 1]);
    };
    make(ObjectType::AddressSpace, 8 * 4096, ACTOR);
    make(ObjectType::CapTable, 32, ACTOR + 1);
    make(ObjectType::Thread, 0, ACTOR + 2);
    make(ObjectType::SchedContext, 0, ACTOR + 3);
    make(ObjectType::Endpoint, 0, ENDPOINT);
    for index in 0..COPIES {
        rig.ok(Call::CapCopy, TABLE, &[FIRST_COPY + index, ENDPOINT.into(), 0xff, 0]);
    }
    let [space, table, thread, time] = [0, 1, 2, 3].map(|part| ACTOR + part);
    rig.ok(Call::ThreadConfigure, thread, &[space.into(), table.into(), 0, 0, 0, 5]);
    rig.ok(Call::SchedConfigure, time, &[150, 0, 0, 0, 0]);
    rig.ok(Call::SchedBind, time, &[thread.into()]);
    // It holds the table by which it revokes, in that table, and the first table.
    rig.ok(Call::CapCopy, table, &[1, TABLE.into(), Rights::all().bits().into(), 0]);
    rig.ok(Call::ThreadResume, thread, &[]);
    rig.slot(thread).object().unwrap()
}

#[test]
fn who_revokes_what_it_is_made_of_takes_all_of_it_along() {
    let rig = Rig::new(64);
    let first = rig.current();
    let table = first.table().unwrap();
    let actor = actor(&rig);
    assert!(rig.settle() == actor);
    // It is interrupted after every step until there is no more of it.
    let mut tries = 0;
    while rig.k.cpu.current.get() == Some(actor) {
        tries += 1;
        assert!(tries < 10_000);
        rig.k.cpu.note_interrupt(FIRST_VECTOR + 90);
        actor.frame.rip.set(0x1000);
        rig.call(Call::CapRevoke, 1, &[PART.into()]);
        rig.settle();
    }
    assert!(tries > COPIES);
    assert!(rig.current() == first && first.state.get() == State::Ready);
    let left = (0..512).filter(|&index| table.slot(index).is_some_and(|slot| !slot.is_empty())).count();
    assert_eq!(left, 6, "its own five, and the Untyped");
    while reap_step(&rig.k) == Progress::More {}
    assert_eq!(rig.ok(Call::UntypedInfo, PART, &[]).words[0], 0);
    rig.ok(Call::Retype, PART, &[ObjectType::Frame as u64, 40 * 4096, ACTOR.into(), 1]);
    rig.ok(Call::CapRevoke, TABLE, &[MEMORY.into()]);
}
