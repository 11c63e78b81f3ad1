//! Instances follow each other on one vault. (The global allocator of a host is another one: what is kept here is written by hand.)

use super::*;
use std::sync::Mutex;

/// There is one journal.
static ONE: Mutex<()> = Mutex::new(());

const PAGES: usize = 16;
const BYTES: usize = PAGE + journal::BYTES + 2 * PAGES * PAGE;

struct Memory(&'static mut [u64]);

impl Memory {
    fn new() -> Memory {
        let layout = std::alloc::Layout::from_size_align(BYTES, PAGE).unwrap();
        // SAFETY: the layout is not empty; zeroed memory is valid words; never freed.
        Memory(unsafe { std::slice::from_raw_parts_mut(std::alloc::alloc_zeroed(layout).cast(), BYTES / 8) })
    }

    fn open(&mut self) -> (KeptHeap, Found) {
        // SAFETY: page aligned, lives for ever, one instance at a time.
        let vault = unsafe { Vault::new(self.0.as_mut_ptr().expose_provenance(), BYTES) };
        KeptHeap::open(vault).unwrap()
    }

    /// Allocates on the heap there.
    fn allocate(&self, kept: &KeptHeap, bytes: usize) -> &'static AtomicU64 {
        let heap: *mut Kept = core::ptr::with_exposed_provenance_mut(kept.heap);
        let layout = std::alloc::Layout::from_size_align(bytes, 8).unwrap();
        // SAFETY: `begin` has written the heap; it gives a block of eight bytes at least, that is written before it is read.
        unsafe {
            HEAP.keep(heap, kept.heap..kept.heap + kept.bytes);
            let block = std::alloc::GlobalAlloc::alloc(&HEAP, layout);
            assert!(!block.is_null());
            AtomicU64::from_ptr(block.cast())
        }
    }
}

fn whole(torn: bool, given: bool, attempts: u64, again: bool) -> Found {
    Found::Whole { torn, given, attempts, again }
}

/// A state of one word in the heap, of an instance that has just begun.
fn begun(memory: &mut Memory) -> (KeptHeap, &'static AtomicU64) {
    let (kept, found) = memory.open();
    assert_eq!(found, Found::Nothing);
    kept.begin();
    let word = memory.allocate(&kept, 8);
    word.store(1, Ordering::Relaxed);
    kept.begin_with(Box::new(()));
    (kept, word)
}

#[test]
fn a_turn_that_did_not_end_has_not_been() {
    let _one = ONE.lock();
    let mut memory = Memory::new();
    let (kept, word) = begun(&mut memory);
    assert_eq!(memory.open().1, whole(false, true, 0, false));
    kept.commit(&mut ());
    kept.turn([7, 8, 9]);
    word.store(2, Ordering::Relaxed);
    let (kept, found) = memory.open();
    assert_eq!((found, get(word)), (whole(true, false, 1, false), 1));
    // Dying in the recovery counts as well.
    assert_eq!(memory.open().1, whole(true, false, 2, true));
    word.store(3, Ordering::Relaxed);
    kept.commit(&mut ());
    kept.given();
    word.store(4, Ordering::Relaxed);
    assert_eq!((memory.open().1, get(word)), (whole(false, true, 2, false), 3));
}

#[test]
fn a_death_while_copying_keeps_the_turn() {
    let _one = ONE.lock();
    let mut memory = Memory::new();
    let (kept, word) = begun(&mut memory);
    kept.turn([1; 3]);
    word.store(2, Ordering::Relaxed);
    journal::note(&[journal::FIRST_KIND, 1]);
    set(&kept.head.phase, COPYING);
    let (_, found) = memory.open();
    assert_eq!((found, get(word)), (whole(false, false, 0, false), 2));
    assert!(journal::is_empty());
}

#[test]
fn what_crashed_a_turn_twice_is_known_until_it_goes_well() {
    let _one = ONE.lock();
    let mut memory = Memory::new();
    let (kept, _) = begun(&mut memory);
    let end = || {
        kept.commit(&mut ());
        kept.given();
    };
    for (taken, again, attempts) in [([5; 3], false, 1), ([5; 3], true, 2), ([6; 3], false, 3)] {
        kept.turn(taken);
        assert_eq!(memory.open().1, whole(true, true, attempts, again));
        end();
    }
    // Another turn goes well: it is not that one.
    kept.turn([7; 3]);
    end();
    kept.turn([6; 3]);
    assert_eq!(memory.open().1, whole(true, true, 1, true));
    end();
    kept.turn([6; 3]);
    end();
    kept.turn([6; 3]);
    assert_eq!(memory.open().1, whole(true, true, 1, false));
}

#[test]
fn what_was_done_elsewhere_is_undone_backwards() {
    let _one = ONE.lock();
    let mut memory = Memory::new();
    let (kept, _) = begun(&mut memory);
    let (long, [short, other]) = (AtomicU64::new(1), [1, 4].map(core::sync::atomic::AtomicU32::new));
    kept.turn([0; 3]);
    journal::store(&long, 2, Ordering::Relaxed);
    journal::note(&[journal::FIRST_KIND, 11]);
    journal::store(&long, 3, Ordering::Relaxed);
    journal::note(&[journal::FIRST_KIND + 1, 12, 13]);
    assert!(journal::exchange(&short, 1, 2) && !journal::exchange(&short, 1, 3) && journal::exchange(&other, 4, 5));
    // Somebody else was there after us.
    short.store(9, Ordering::Relaxed);
    memory.open();
    assert!(!journal::is_full());
    for _ in 0..2 {
        let mut entries = vec![];
        journal::undo(|entry| entries.push(entry.to_vec()));
        assert_eq!(entries, [vec![journal::FIRST_KIND + 1, 12, 13], vec![journal::FIRST_KIND, 11]]);
        assert_eq!((get(&long), [&short, &other].map(|word| word.load(Ordering::Relaxed))), (1, [9, 4]));
    }
    // The recovery's own changes are not noted; those of later turns are.
    journal::store(&long, 5, Ordering::Relaxed);
    kept.commit(&mut ());
    assert!(journal::is_empty());
    journal::store(&long, 6, Ordering::Relaxed);
    assert!(!journal::is_empty());
}

#[test]
fn a_full_journal_says_so() {
    let _one = ONE.lock();
    let mut memory = Memory::new();
    begun(&mut memory);
    for _ in 0..journal::BYTES / 8 / 3 + 1 {
        journal::note(&[journal::FIRST_KIND, 0]);
    }
    assert!(journal::is_full());
}

#[test]
fn a_vault_that_is_too_small_is_refused() {
    let _one = ONE.lock();
    let memory = Memory::new();
    // SAFETY: as in `open`.
    let vault = unsafe { Vault::new(memory.0.as_mut_ptr().expose_provenance(), PAGE + journal::BYTES) };
    assert!(KeptHeap::open(vault).is_none());
}
