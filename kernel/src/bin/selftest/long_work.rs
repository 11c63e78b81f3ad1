//! Work that takes the kernel long: none of it delays the bystander by more than a step.

use crate::bystander;
use crate::program::{Console, ENDPOINT, call, now, ok, retype};
use core::fmt::Write;
use ipc::slots;
use ipc::{Call, Error, ObjectType};

const TABLE: u32 = 270;
const FRAME: u32 = 271;
const LARGE: u32 = 272;
const SPACE: u32 = 273;
const COPIES: u64 = 10_000;
const FRAME_BYTES: u64 = 8 << 20;
const GIB: u64 = 1 << 30;
const AT: u64 = 0x10_0000_0000;

/// Makes a call on an address space until all pages are done; says how many calls that took.
pub fn whole(number: Call, space: u32, address: u64, pages: u64, map: Option<(u32, u64)>) -> u64 {
    let mut done = 0;
    for calls in 1.. {
        let (at, left) = (address + done * 4096, pages - done);
        let out = match map {
            Some((frame, protection)) => call(number, space, &[frame.into(), done, at, left, protection]),
            None => call(number, space, &[at, left]),
        };
        done += out.rdi;
        match Error::from_raw(out.status) {
            None => return calls,
            Some(error) => assert_eq!(error, Error::Partial, "{number:?} at {at:#x}"),
        }
    }
    0
}

fn report(what: &str, start: u64, calls: u64) {
    let ticks = now() - start;
    let beats = bystander::check(what);
    let _ = writeln!(Console, "selftest: {what}: {ticks} ticks, {calls} calls, beat {beats} in time");
}

/// Does all of it.
pub fn all() {
    retype(ObjectType::CapTable, COPIES + 1, TABLE);
    for index in 1..=COPIES {
        ok(Call::CapCopy, TABLE, &[index, ENDPOINT.into(), 0xff, 0]);
    }
    let start = now();
    ok(Call::CapRevoke, slots::CAP_TABLE, &[ENDPOINT.into()]);
    report("revoke of 10000 descendants", start, 1);
    assert!((1..=COPIES).all(|index| ok(Call::CapIdentify, TABLE, &[index]).rdi == 0));

    let start = now();
    retype(ObjectType::Frame, FRAME_BYTES, FRAME);
    report("zeroing of 8 MiB", start, 1);
    retype(ObjectType::AddressSpace, 3 << 20, SPACE);
    let start = now();
    let mut calls = 0;
    for at in (AT..AT + GIB).step_by(FRAME_BYTES as usize) {
        calls += whole(Call::Map, SPACE, at, FRAME_BYTES / 4096, Some((FRAME, 3)));
    }
    report("mapping of 1 GiB", start, calls);
    let start = now();
    let calls = whole(Call::Unmap, SPACE, AT, GIB / 4096, None);
    report("unmapping of 1 GiB", start, calls);

    // Large pages: all of them are there, and revoked while they are mapped.
    retype(ObjectType::Frame, FRAME_BYTES + 21, LARGE);
    let start = now();
    let calls = whole(Call::Map, slots::ADDRESS_SPACE, AT, FRAME_BYTES / 4096, Some((LARGE, 16 + 3)));
    for at in (AT..AT + FRAME_BYTES).step_by(4096) {
        let word = at as *mut u64;
        // SAFETY: mapped writable just now.
        unsafe {
            assert!(word.read_volatile() == 0, "{at:#x} is not zero");
            word.write_volatile(at);
        }
    }
    whole(Call::Map, slots::ADDRESS_SPACE, AT + GIB, FRAME_BYTES / 4096, Some((LARGE, 1)));
    for at in (AT..AT + FRAME_BYTES).step_by(4096) {
        // SAFETY: mapped just now.
        assert!(unsafe { ((at + GIB) as *const u64).read_volatile() } == at, "{at:#x} is another page");
    }
    report("large pages", start, calls);
    let start = now();
    ok(Call::CapDelete, slots::CAP_TABLE, &[LARGE.into()]);
    report("end of a frame that is mapped twice", start, 1);
    whole(Call::Map, slots::ADDRESS_SPACE, AT, FRAME_BYTES / 4096, Some((FRAME, 1)));
    // SAFETY: mapped just now.
    assert!(unsafe { (AT as *const u64).read_volatile() } == 0);
    for slot in [FRAME, TABLE, SPACE] {
        ok(Call::CapDelete, slots::CAP_TABLE, &[slot.into()]);
    }
}
