//! What a turn has changed outside of the kept heap ([`crate::checkpoint`]): noted before it is done, so that the next instance can undo it.
//!
//! There is one for the program, as there is one heap: whoever changes such a thing is far from who keeps the state. Without a kept heap, noting does nothing.
#![allow(unsafe_code)] // Words at the addresses that were noted.

use core::sync::atomic::{AtomicBool, AtomicPtr, AtomicU32, AtomicU64, Ordering, compiler_fence};

/// Bytes of the journal in the vault. (Miri is slow.)
pub const BYTES: usize = if cfg!(miri) { 16 << 10 } else { 1 << 20 };
const WORDS: usize = BYTES / 8 - 2;

/// Kinds of entries; the program's own are higher.
const WORD32: u64 = 4;
const WORD64: u64 = 8;
/// The first kind that the program may use.
pub const FIRST_KIND: u64 = 16;

#[repr(C)]
struct Journal {
    used: AtomicU64,
    /// 1: something was not noted because it was full.
    full: AtomicU64,
    /// Entries: kind and words, then how many words that is.
    words: [AtomicU64; WORDS],
}

static JOURNAL: AtomicPtr<Journal> = AtomicPtr::new(core::ptr::null_mut());
static ENABLED: AtomicBool = AtomicBool::new(false);

fn journal() -> Option<&'static Journal> {
    // SAFETY: `open` has stored the address of memory that is mapped for ever and reached through this alone; it is made of atomics.
    unsafe { JOURNAL.load(Ordering::Relaxed).as_ref() }
}

/// Takes the memory of the journal, with what a former instance has noted there.
///
/// # Safety
/// [`BYTES`] bytes at this address, aligned to 8, are mapped writable for ever and used by nobody else.
pub(crate) unsafe fn open(address: usize) {
    JOURNAL.store(core::ptr::with_exposed_provenance_mut(address), Ordering::Relaxed);
    ENABLED.store(false, Ordering::Relaxed);
}

/// From now on it is (or is not) written.
pub(crate) fn enable(on: bool) {
    ENABLED.store(on, Ordering::Relaxed);
}

/// Forgets all entries.
pub(crate) fn clear() {
    if let Some(journal) = journal() {
        journal.used.store(0, Ordering::Relaxed);
        journal.full.store(0, Ordering::Relaxed);
    }
    compiler_fence(Ordering::SeqCst);
}

/// Notes what is about to be done: a kind from [`FIRST_KIND`] on, and words that say how to undo it.
pub fn note(entry: &[u64]) {
    let Some(journal) = journal().filter(|_| ENABLED.load(Ordering::Relaxed)) else { return };
    let used = journal.used.load(Ordering::Relaxed) as usize;
    let end = used + entry.len();
    if end >= WORDS {
        journal.full.store(1, Ordering::Relaxed);
        return;
    }
    for (place, word) in journal.words[used..end].iter().zip(entry) {
        place.store(*word, Ordering::Relaxed);
    }
    journal.words[end].store(entry.len() as u64, Ordering::Relaxed);
    compiler_fence(Ordering::SeqCst);
    journal.used.store(end as u64 + 1, Ordering::Relaxed);
    // What is noted is done after this.
    compiler_fence(Ordering::SeqCst);
}

/// Stores to a word that others see, noting what was there.
pub fn store(word: &AtomicU64, value: u64, order: Ordering) {
    let address = core::ptr::from_ref(word).expose_provenance() as u64;
    note(&[WORD64, address, word.load(Ordering::Relaxed), value]);
    word.store(value, order);
}

/// Stores to a word of 32 bits.
pub fn store32(word: &AtomicU32, value: u32) {
    note(&entry32(word, word.load(Ordering::SeqCst), value));
    word.store(value, Ordering::SeqCst);
}

fn entry32(word: &AtomicU32, old: u32, new: u32) -> [u64; 4] {
    [WORD32, core::ptr::from_ref(word).expose_provenance() as u64, old.into(), new.into()]
}

/// Changes a word of 32 bits, that others change too, from one value to another, and notes it. `false`: it had another value.
pub fn exchange(word: &AtomicU32, old: u32, new: u32) -> bool {
    let used = journal().map(|journal| journal.used.load(Ordering::Relaxed));
    note(&entry32(word, old, new));
    let changed = word.compare_exchange(old, new, Ordering::SeqCst, Ordering::SeqCst).is_ok();
    if let (false, Some(journal), Some(used)) = (changed, journal(), used) {
        // It was not done after all.
        journal.used.store(used, Ordering::Relaxed);
    }
    changed
}

/// Whether something could not be noted, so that undoing would leave something done.
pub fn is_full() -> bool {
    journal().is_some_and(|journal| journal.full.load(Ordering::Relaxed) != 0)
}

/// Whether anything was noted.
pub fn is_empty() -> bool {
    journal().is_none_or(|journal| journal.used.load(Ordering::Relaxed) == 0)
}

/// Undoes what was noted, the last first: words get their old value where they have the new one still; then `undo` gets each other entry. Can be made
/// again from the start.
pub fn undo(mut undo: impl FnMut(&[u64])) {
    each(|entry| match *entry {
        [WORD64, address, old, new] => {
            // SAFETY: noted by `store` in an instance of this program, of a word that is mapped at the same address in each.
            let word = unsafe { AtomicU64::from_ptr(core::ptr::with_exposed_provenance_mut(address as usize)) };
            let _ = word.compare_exchange(new, old, Ordering::SeqCst, Ordering::SeqCst);
        }
        [WORD32, address, old, new] => {
            // SAFETY: as above, by `exchange` or `store32`.
            let word = unsafe { AtomicU32::from_ptr(core::ptr::with_exposed_provenance_mut(address as usize)) };
            let _ = word.compare_exchange(new as u32, old as u32, Ordering::SeqCst, Ordering::SeqCst);
        }
        _ => {}
    });
    each(|entry| {
        if entry.first().is_some_and(|kind| *kind >= FIRST_KIND) {
            undo(entry);
        }
    });
}

/// Longest entry that is given back.
const LONGEST: usize = 32;

/// Goes through the entries, the last first.
fn each(mut each: impl FnMut(&[u64])) {
    let Some(journal) = journal() else { return };
    let mut end = (journal.used.load(Ordering::Relaxed) as usize).min(WORDS);
    while let Some(last) = end.checked_sub(1) {
        let length = journal.words[last].load(Ordering::Relaxed) as usize;
        let Some(start) = last.checked_sub(length).filter(|_| length <= LONGEST) else { return };
        let mut entry = [0; LONGEST];
        for (word, place) in entry.iter_mut().zip(&journal.words[start..last]) {
            *word = place.load(Ordering::Relaxed);
        }
        each(&entry[..length]);
        end = start;
    }
}
