//! Large pages; frames and capabilities that go while they are in use; long operations that are interrupted.

use super::status;
use crate::arch;
use crate::cap::delete::{Progress, reap_step};
use crate::object::AddressSpace;
use crate::object::irq::FIRST_VECTOR;
use crate::rig::{MEMORY, Rig, SPACE, TABLE};
use ipc::message::Request;
use ipc::{Call, Error, ObjectType, Tag};

const FRAME: u32 = 40;
const OTHER: u32 = 41;
const LARGE: u64 = 2 << 20;
/// Read, write, by large pages.
const LARGE_WRITABLE: u64 = 16 + 3;

/// How much of something; Miri is slow, and a little of it goes the same ways.
const fn amount(full: u64, under_miri: u64) -> u64 {
    if cfg!(miri) { under_miri } else { full }
}

/// A call that is interrupted after every step, and made again until it is done. How often that was.
pub fn interrupted(rig: &Rig, call: Call, slot: u32, arguments: &[u64], mut between: impl FnMut(u32)) -> u32 {
    let thread = rig.current();
    for tries in 1..100_000 {
        rig.k.cpu.note_interrupt(FIRST_VECTOR + 90);
        let rip = thread.frame.rip.replace(0x1000);
        let mut all = [0; 9];
        all[..arguments.len()].copy_from_slice(arguments);
        let [rsi, words @ ..] = all;
        let out = rig.raw(Request::new(call, 0, 0), slot.into(), rsi, words);
        let again = thread.frame.rip.replace(rip) == 0x1000 - arch::SYSCALL_LENGTH;
        assert!(rig.settle() == thread);
        if !again {
            assert_eq!(out.status, 0, "{call:?}: {:?}", Error::from_raw(out.status));
            return tries;
        }
        assert_eq!((out.status as u8, out.rdi), (call as u8, slot.into()), "the call can be made again");
        between(tries);
    }
    panic!("{call:?} does not get on")
}

#[test]
fn large_pages_are_mapped_shared_and_go_as_a_whole() {
    let rig = Rig::new(3 * 512 + 64);
    rig.retype(ObjectType::AddressSpace, 8 * 4096, OTHER);
    rig.retype(ObjectType::Frame, LARGE + 21, FRAME);
    let frame = rig.ok(Call::FrameInfo, FRAME, &[]);
    assert_eq!((frame.rdi % LARGE, frame.rsi), (0, LARGE));
    let spaces: [crate::memory::Ref<AddressSpace>; 2] = [SPACE, OTHER].map(|slot| rig.slot(slot).object().unwrap());
    let refused = |arguments: &[u64]| rig.call(Call::Map, SPACE, arguments).status;
    assert_eq!(refused(&[FRAME.into(), 0, 0x40_1000, 512, LARGE_WRITABLE]), status(Error::InvalidArgument));
    assert_eq!(refused(&[FRAME.into(), 0, 0x40_0000, 511, LARGE_WRITABLE]), status(Error::InvalidArgument));
    assert_eq!(refused(&[FRAME.into(), 0, 0x40_0000, 1024, LARGE_WRITABLE]), status(Error::InvalidArgument));
    assert_eq!(refused(&[FRAME.into(), 0, 0x40_0000, 512, 16 + 7]), status(Error::InvalidArgument));
    for slot in [SPACE, OTHER] {
        assert_eq!(rig.ok(Call::Map, slot, &[FRAME.into(), 0, 0x40_0000, 512, LARGE_WRITABLE]).rdi, 512);
    }
    // Its parts are seen where they should be, in both.
    spaces[0].writable(0x40_0000 + 511 * 4096).unwrap().write(3, 0xabcd);
    assert_eq!(spaces[1].readable(0x40_0000 + 511 * 4096).unwrap().read(3), 0xabcd);
    assert!(spaces[0].readable(0x60_0000).is_none() && spaces[0].readable(0x3f_f000).is_none());
    // Small and large pages exclude each other.
    rig.retype(ObjectType::Frame, 4096, 43);
    assert_eq!(refused(&[43, 0, 0x50_0000, 1, 3]), status(Error::Busy));
    rig.ok(Call::Map, SPACE, &[43, 0, 0x60_0000, 1, 3]);
    assert_eq!(refused(&[FRAME.into(), 0, 0x60_0000, 512, LARGE_WRITABLE]), status(Error::Busy));
    // A part of it is nothing that can be unmapped or protected; what comes before it is done.
    for (address, pages, done) in [(0x40_1000, 512, 0), (0x40_0000, 511, 0), (0x3f_0000, 17, 16)] {
        let out = rig.call(Call::Unmap, SPACE, &[address, pages]);
        assert_eq!((out.status, out.rdi), (status(Error::InvalidArgument), done));
        let out = rig.call(Call::Protect, SPACE, &[address, pages, 1]);
        assert_eq!((out.status, out.rdi), (status(Error::InvalidArgument), done));
    }
    rig.ok(Call::Protect, SPACE, &[0x40_0000, 512, 1]);
    assert!(spaces[0].writable(0x40_5000).is_none() && spaces[0].readable(0x40_5000).is_some());
    assert!(spaces[1].writable(0x40_5000).is_some());
    assert_eq!(rig.call(Call::Protect, SPACE, &[0x40_0000, 512, 16 + 1]).status, status(Error::InvalidArgument));
    rig.ok(Call::Unmap, SPACE, &[0x40_0000, 513]);
    assert!(spaces[0].readable(0x40_5000).is_none() && spaces[0].readable(0x60_0000).is_none());
    rig.ok(Call::Map, SPACE, &[FRAME.into(), 0, 0x80_0000, 512, LARGE_WRITABLE]);
    // Revoked while it is mapped, by small pages too.
    rig.ok(Call::Map, OTHER, &[FRAME.into(), 7, 0x10_0000, 2, 3]);
    rig.ok(Call::CapCopy, TABLE, &[44, FRAME.into(), 0xff, 0]);
    interrupted(&rig, Call::CapRevoke, TABLE, &[MEMORY.into()], |_| {});
    assert!(spaces[0].readable(0x80_0000).is_none() && rig.slot(44).is_empty());
    rig.retype(ObjectType::Frame, LARGE + 21, FRAME);
    let stride = amount(1, 61) as usize;
    assert!(
        (0..512).step_by(stride).all(|page| (0..512).all(|word| rig
            .slot(FRAME)
            .frame_page(page as u64)
            .unwrap()
            .read(word)
            == 0))
    );
}

#[test]
fn zeroing_and_unmapping_go_on_where_they_were_interrupted() {
    let pages = amount(600, 40);
    let rig = Rig::new(pages + 100);
    rig.retype(ObjectType::Frame, pages * 4096, FRAME);
    rig.ok(Call::Map, SPACE, &[FRAME.into(), 0, 0x40_0000, pages, 3]);
    let space = rig.current().space().unwrap();
    for page in 0..pages {
        space.writable(0x40_0000 + page * 4096).unwrap().write(1, page + 1);
    }
    // Unmap says how far it came.
    rig.k.cpu.note_interrupt(FIRST_VECTOR + 90);
    let out = rig.call(Call::Unmap, SPACE, &[0x40_0000, pages]);
    assert_eq!(out.status, status(Error::Partial));
    assert!(out.rdi > 0 && out.rdi < pages);
    assert!(space.readable(0x40_0000 + (out.rdi - 1) * 4096).is_none());
    assert!(space.readable(0x40_0000 + out.rdi * 4096).is_some());
    rig.settle();
    // Mapped in a second space when its last capability goes.
    rig.retype(ObjectType::AddressSpace, 8 * 4096, OTHER);
    rig.ok(Call::Map, OTHER, &[FRAME.into(), 0, 0x40_0000, pages, 1]);
    let other = rig.slot(OTHER).object::<AddressSpace>().unwrap();
    let steps = interrupted(&rig, Call::CapDelete, TABLE, &[FRAME.into()], |_| {
        // What is on its way out gives nothing any more.
        let out = rig.call(Call::Map, SPACE, &[FRAME.into(), 0, 0x90_0000, 1, 1]);
        let gone = rig.slot(FRAME).is_empty();
        assert_eq!(out.status, status(if gone { Error::InvalidCapability } else { Error::MissingRights }));
    });
    assert!(u64::from(steps) > 2 * pages / 16, "{steps}");
    for page in 0..pages {
        assert!(space.readable(0x40_0000 + page * 4096).is_none() && other.readable(0x40_0000 + page * 4096).is_none());
    }
    rig.ok(Call::CapDelete, TABLE, &[OTHER.into()]);
    // One that is given up on its way, and aligned otherwise, leaves nothing dirty behind.
    rig.k.cpu.note_interrupt(FIRST_VECTOR + 90);
    rig.call(Call::Retype, MEMORY, &[ObjectType::Frame as u64, 4096 + 20, FRAME.into(), 1]);
    assert!(rig.slot(FRAME).is_empty() && rig.settle() == rig.current());
    let steps =
        interrupted(&rig, Call::Retype, MEMORY, &[ObjectType::Frame as u64, pages * 4096, FRAME.into(), 1], |_| {});
    assert!((pages - 2..=pages + 1).contains(&steps.into()), "{steps}");
    assert!((0..pages).all(|page| rig.slot(FRAME).frame_page(page).unwrap().read(1) == 0));
}

#[test]
fn pages_written_are_told_once_each() {
    const AT: u64 = 0x40_0000 + 509 * 4096;
    let rig = Rig::new(2 * 512 + 80);
    rig.retype(ObjectType::Frame, 40 * 4096, FRAME);
    rig.ok(Call::Map, SPACE, &[FRAME.into(), 0, AT, 20, 3]);
    rig.ok(Call::Map, SPACE, &[FRAME.into(), 20, AT + 511 * 4096, 4, 3]);
    let space = rig.current().space().unwrap();
    let write = |page: u64| assert!(space.writable(AT + page * 4096).is_some());
    let take = |first: u64, pages: u64| rig.ok(Call::TakeDirty, SPACE, &[AT + first * 4096, pages]);
    assert_eq!((take(0, 512).rdi, take(0, 512).words), (512, [0; 8]));
    // In two tables, with others and nothing between them; the last one of them is not asked for.
    for page in [0, 2, 3, 11, 12, 19, 511, 512] {
        write(page);
    }
    assert!(space.readable(AT + 4096).is_some());
    let some = 1 | 1 << 2 | 1 << 3 | 1 << 11 | 1 << 12 | 1 << 19;
    assert_eq!(take(0, 512).words, [some, 0, 0, 0, 0, 0, 0, 1 << 63]);
    assert_eq!(take(0, 512).words, [0; 8]);
    assert_eq!(take(512, 1).words[0], 1);
    write(12);
    rig.ok(Call::Protect, SPACE, &[AT, 20, 1]);
    assert!(space.writable(AT + 12 * 4096).is_none());
    rig.ok(Call::Protect, SPACE, &[AT, 20, 3]);
    assert_eq!(take(12, 2).words[0], 1, "a change of protection forgets nothing");
    write(12);
    rig.ok(Call::Unmap, SPACE, &[AT + 12 * 4096, 1]);
    rig.ok(Call::Map, SPACE, &[FRAME.into(), 12, AT + 12 * 4096, 1, 3]);
    assert_eq!(take(0, 20).words[0], 0, "a new mapping is clean");

    // What a server reads from its caller is written by the kernel.
    rig.ok(Call::Map, SPACE, &[FRAME.into(), 30, 0x10_0000, 2, 3]);
    assert_eq!(crate::message::lease::copy(&space, AT, &space, 0x10_0ff8, 16), Ok(16));
    assert_eq!(rig.ok(Call::TakeDirty, SPACE, &[0x10_0000, 2]).words[0], 0b11);
    assert_eq!(take(0, 20).words[0], 0);

    // Interrupted after a few, and for more than an answer holds: what is done is told, and the rest is left.
    for page in 0..20 {
        write(page);
    }
    rig.k.cpu.note_interrupt(FIRST_VECTOR + 90);
    let out = rig.call(Call::TakeDirty, SPACE, &[AT, 20]);
    assert_eq!((out.status, out.rdi, out.words[0]), (status(Error::Partial), 3, 0b111));
    rig.settle();
    assert_eq!(take(0, 20).words[0], 0xf_fff8);
    write(0);
    write(512);
    let out = rig.call(Call::TakeDirty, SPACE, &[AT, 513]);
    assert_eq!((out.status, out.rdi, out.words), (status(Error::Partial), 512, [1, 0, 0, 0, 0, 0, 0, 0]));
    assert_eq!(take(512, 1).words[0], 1);

    // Nonsense, too few rights; a large page has one bit for all of it.
    let refused = |slot: u32, arguments: &[u64]| rig.call(Call::TakeDirty, slot, arguments).status;
    for arguments in [[AT + 8, 1], [AT, 0], [1 << 47, 1], [AT, 1 << 60], [AT, u64::MAX]] {
        assert_eq!(refused(SPACE, &arguments), status(Error::InvalidArgument));
    }
    rig.ok(Call::CapCopy, TABLE, &[OTHER.into(), SPACE.into(), !u64::from(ipc::Rights::CONTROL.bits()) & 0xff, 0]);
    assert_eq!(refused(OTHER, &[AT, 1]), status(Error::MissingRights));
    rig.retype(ObjectType::Frame, LARGE + 21, 43);
    rig.ok(Call::Map, SPACE, &[43, 0, 0xa0_0000, 512, LARGE_WRITABLE]);
    space.writable(0xa0_5000).unwrap().write(1, 1);
    let out = rig.call(Call::TakeDirty, SPACE, &[0xa0_0000 - 2 * 4096, 10]);
    assert_eq!((out.status, out.rdi), (status(Error::InvalidArgument), 2));
}

#[test]
fn ten_thousand_descendants_are_revoked_while_they_are_used() {
    let count = amount(10_000, 70);
    let rig = Rig::new(count / 64 + 32);
    rig.retype(ObjectType::Endpoint, 0, 20);
    rig.retype(ObjectType::CapTable, count + 8, 42);
    for index in 0..count {
        rig.ok(Call::CapCopy, 42, &[1 + index, 20, 0xff, 0]);
    }
    // A third of them are copies of copies.
    let table = rig.slot(42).object::<crate::object::CapTable>().unwrap();
    for index in (2..count).step_by(3) {
        let (from, to) = (table.slot_at(index).unwrap(), table.slot_at(index + 1).unwrap());
        while crate::cap::delete::delete_step(&rig.k, to) == Progress::More {}
        crate::cap::copy(from, to, ipc::Rights::all(), 0).unwrap();
    }
    // A server waits on the endpoint.
    let server = rig.thread(30, 150);
    assert!(rig.settle() == server);
    rig.message(Call::Receive, 20, 0, Tag(0), [0; 8]);
    rig.settle();
    let mut used = 0;
    let steps = interrupted(&rig, Call::CapRevoke, TABLE, &[20], |tries| {
        if tries % 64 == 1 {
            // A new one comes while they go; it goes too.
            rig.call(Call::CapCopy, TABLE, &[300, 20, 0xff, 0]);
            used += u32::from(rig.message(Call::TrySend, 300, 0, Tag(0), [0; 8]).status == 0);
            if rig.settle() == server {
                rig.message(Call::Receive, 20, 0, Tag(0), [0; 8]);
                rig.settle();
            }
        }
    });
    assert!(u64::from(steps) > count, "{steps}");
    assert!(u64::from(used) >= count / 64, "{used}");
    assert!((1..count + 8).all(|index| table.slot_at(index).unwrap().is_empty()) && rig.slot(300).is_empty());
    assert!(!rig.slot(20).is_empty() && server.endpoint.get().is_some());
    assert_eq!(reap_step(&rig.k), Progress::Done);
}

#[test]
fn a_frame_is_swept_out_of_many_spaces_while_some_of_them_go() {
    let spaces = amount(40, 9) as u32;
    let rig = Rig::new(500);
    rig.retype(ObjectType::Frame, 4096, FRAME);
    for slot in 100..100 + spaces {
        rig.retype(ObjectType::AddressSpace, 5 * 4096, slot);
        if slot % 2 == 0 {
            rig.ok(Call::Map, slot, &[FRAME.into(), 0, 0x40_0000, 1, 3]);
        }
    }
    rig.ok(Call::CapMove, TABLE, &[200, FRAME.into()]);
    let steps = interrupted(&rig, Call::CapDelete, TABLE, &[200], |tries| {
        // The space where the sweep goes on ends, too.
        if tries % 5 == 0
            && let Some((_, space)) = rig.k.sweep.get()
            && let Some(slot) = (100..100 + spaces).find(|slot| rig.slot(*slot).object::<AddressSpace>() == Some(space))
        {
            rig.ok(Call::CapDelete, TABLE, &[slot.into()]);
        }
    });
    assert!(steps > spaces, "{steps}");
    assert!(rig.k.sweep.get().is_none());
    for slot in 100..100 + spaces {
        if let Some(space) = rig.slot(slot).object::<AddressSpace>() {
            assert!(space.readable(0x40_0000).is_none());
        }
    }
}
