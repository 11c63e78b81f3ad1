//! Which pages have been written: the processor says so in its tables, and says it again after it was asked.

use crate::long_work::whole;
use crate::program::{Console, call, now, ok, retype};
use core::fmt::Write;
use ipc::slots;
use ipc::{Call, Error, ObjectType};

const FRAME: u32 = 276;
/// The range begins and ends in the middle of a table.
const AT: u64 = 0x18_0010_0000;
const PAGES: u64 = 600;
const WRITTEN: [u64; 7] = [0, 1, 63, 64, 255, 511, 599];

fn pointer(page: u64) -> *mut u64 {
    (AT + page * 4096 + page % 512 * 8) as *mut u64
}

/// Asks for all of them; they must be these.
fn expect(when: &str, wanted: &[u64]) {
    let (mut done, mut found) = (0, 0);
    while done < PAGES {
        let out = call(Call::TakeDirty, slots::ADDRESS_SPACE, &[AT + done * 4096, PAGES - done]);
        assert!(out.status == 0 || (out.status == Error::Partial as u64 && out.rdi > 0), "{when}: {}", out.status);
        for (first, mut word) in (done..).step_by(64).zip(out.words) {
            while word != 0 {
                let page = first + u64::from(word.trailing_zeros());
                assert!(wanted.get(found) == Some(&page), "{when}: page {page} is dirty");
                (found, word) = (found + 1, word & (word - 1));
            }
        }
        done += out.rdi;
    }
    assert!(found == wanted.len(), "{when}: {found} pages are dirty, not {}", wanted.len());
}

/// Does all of it.
pub fn all() {
    retype(ObjectType::Frame, PAGES * 4096, FRAME);
    whole(Call::Map, slots::ADDRESS_SPACE, AT, PAGES, Some((FRAME, 3)));
    expect("mapped", &[]);
    for round in 1..=3 {
        // Nothing else is touched between the rounds: what the processor remembers of these pages, it still remembers.
        for page in WRITTEN {
            // SAFETY: mapped writable just now; each page for itself.
            unsafe { pointer(page).write_volatile(round) };
        }
        expect("written", &WRITTEN);
        expect("asked again", &[]);
    }
    for page in 0..PAGES {
        // SAFETY: as above.
        let found = unsafe { pointer(page).read_volatile() };
        assert_eq!(found, if WRITTEN.contains(&page) { 3 } else { 0 }, "page {page}");
    }
    let start = now();
    expect("only read", &[]);
    let _ = writeln!(
        Console,
        "selftest: dirty pages: exactly those written, each time; {} ticks for {PAGES}",
        now() - start
    );
    ok(Call::CapDelete, slots::CAP_TABLE, &[FRAME.into()]);
}
