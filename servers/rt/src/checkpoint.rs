//! A heap that outlives its server: it lies in the vault, and after each turn of the event loop what the turn has changed is copied.
//!
//! The vault holds a head, the journal ([`crate::journal`]), the heap, and the copy of the heap. A server that crashes in a turn is gone on
//! with from the copy, as it was when the last turn ended; the journal tells what the turn had changed elsewhere. Rules:
//! * The whole state of the server hangs on one root on this heap. Its stack, its statics and its first heap are new in each instance: nothing on
//!   this heap refers to them. (The program is the same and lies at the same addresses, so references to statics and functions hold.)
//! * A turn changes the heap, and what it can undo by the journal. What others must see once and only once (answers, requests) it notes on the heap;
//!   it is done after [`KeptHeap::commit`], and can be done again by the next instance until [`KeptHeap::given`] says that it is done.
//! * While the phase is *copying*, the heap is whole; while it is *copied*, the copy is.
#![allow(unsafe_code)] // Memory at fixed addresses, copied as it is.

use crate::allocator::{HEAP, Kept};
use crate::journal;
use crate::vault::Vault;
use alloc::boxed::Box;
use core::mem::size_of;
use core::sync::atomic::{AtomicU64, Ordering, compiler_fence};

const PAGE: usize = 4096;
const MAGIC: u64 = u64::from_le_bytes(*b"RTHEAP01");

/// The heap is whole, the copy is not.
const COPYING: u64 = 1;
/// The copy is whole; the heap may be in the middle of a turn.
const COPIED: u64 = 2;

/// A turn that was taken from outside.
const TURN: u64 = 1;
/// What a new instance does before its first turn.
const RECOVERY: u64 = 2;

/// What a turn has taken: who called, the number of the call, its first argument.
pub type Taken = [u64; 3];

/// First page of the vault. Atomics, so that stores happen where they are written; nobody else looks while the server lives.
#[derive(Debug)]
#[repr(C)]
struct Head {
    magic: AtomicU64,
    phase: AtomicU64,
    /// [`TURN`] or [`RECOVERY`] has not come to its end, or 0.
    in_turn: AtomicU64,
    /// 1: what the last turn that ended had to give was given.
    given: AtomicU64,
    /// Crashes in a turn since a turn came to its end.
    attempts: AtomicU64,
    /// What the turn has taken.
    taken: [AtomicU64; 3],
    /// What the last turn that crashed had taken; zeroes if such a turn has come to its end since.
    suspect: [AtomicU64; 3],
}

/// What a former instance left.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Found {
    /// Nothing. [`KeptHeap::begin`] makes the heap.
    Nothing,
    /// The state at the end of a turn.
    Whole {
        /// It had begun another turn: the journal is to be undone, then [`KeptHeap::commit`].
        torn: bool,
        /// What the last turn had to give was given; else it is to be given (again).
        given: bool,
        /// Crashes in a turn in a row, this one counted.
        attempts: u64,
        /// The turn had taken what the turn of the crash before this one had taken: it must not be tried again.
        again: bool,
    },
}

/// The heap in the vault.
#[derive(Clone, Copy, Debug)]
pub struct KeptHeap {
    head: &'static Head,
    heap: usize,
    copy: usize,
    bytes: usize,
}

fn get(word: &AtomicU64) -> u64 {
    word.load(Ordering::Relaxed)
}

/// Stores, after everything before and before everything after: a crash is of this thread, so program order is enough.
fn set(word: &AtomicU64, value: u64) {
    compiler_fence(Ordering::SeqCst);
    word.store(value, Ordering::Relaxed);
    compiler_fence(Ordering::SeqCst);
}

impl KeptHeap {
    /// Looks at what the vault holds; restores the heap if it is to be gone on with. `None`: the vault is too small.
    pub fn open(vault: Vault) -> Option<(KeptHeap, Found)> {
        let (address, bytes) = vault.into_range();
        let start = address + PAGE + journal::BYTES;
        let half = (bytes.checked_sub(PAGE + journal::BYTES)? / 2) & !(PAGE - 1);
        if half < 4 * PAGE {
            return None;
        }
        // SAFETY: page aligned memory of this server for ever (the vault's contract), made of atomics here and reached in no other way.
        let head: &'static Head = unsafe { &*core::ptr::with_exposed_provenance(address) };
        // SAFETY: likewise, behind the head.
        unsafe { journal::open(address + PAGE) };
        let kept = KeptHeap { head, heap: start, copy: start + half, bytes: half };
        if get(&head.magic) != MAGIC {
            return Some((kept, Found::Nothing));
        }
        let copying = get(&head.phase) == COPYING;
        if copying {
            kept.copy_all(kept.heap, kept.copy);
            kept.turn_is_over();
        } else {
            kept.copy_all(kept.copy, kept.heap);
        }
        kept.each_dirty(|_| {});
        let torn = get(&head.in_turn) != 0;
        let mut again = false;
        if torn {
            set(&head.attempts, get(&head.attempts) + 1);
            let taken = kept.taken();
            again = taken != [0; 3] && taken == head.suspect.each_ref().map(get);
            head.suspect.iter().zip(taken).for_each(|(word, value)| set(word, value));
        }
        let found =
            Found::Whole { torn, given: !copying && get(&head.given) != 0, attempts: get(&head.attempts), again };
        set(&head.in_turn, RECOVERY);
        Some((kept, found))
    }

    /// Makes an empty heap, whatever was there. From now on everything is allocated on it.
    pub fn begin(&self) {
        set(&self.head.magic, 0);
        let kept: *mut Kept = core::ptr::with_exposed_provenance_mut(self.heap);
        let first = self.heap + size_of::<Kept>().next_multiple_of(64);
        // SAFETY: the range is this heap's, page aligned and nobody uses it; it is never taken away.
        unsafe {
            kept.write(Kept::new(first, self.heap + self.bytes - first));
            HEAP.keep(kept, self.heap..self.heap + self.bytes);
        }
        for word in [&self.head.in_turn, &self.head.given, &self.head.attempts] {
            set(word, 0);
        }
        self.head.taken.iter().chain(&self.head.suspect).for_each(|word| set(word, 0));
        journal::clear();
    }

    /// Hangs the state on the heap and makes the first copy.
    pub fn begin_with<T>(&self, root: Box<T>) -> &'static mut T {
        let root = Box::leak(root);
        let address = core::ptr::from_mut(root).expose_provenance();
        // SAFETY: `begin` has written it there.
        unsafe { (*core::ptr::with_exposed_provenance_mut::<Kept>(self.heap)).root = address };
        set(&self.head.phase, COPYING);
        self.copy_all(self.heap, self.copy);
        self.each_dirty(|_| {});
        self.turn_is_over();
        set(&self.head.given, 1);
        set(&self.head.phase, COPIED);
        set(&self.head.magic, MAGIC);
        journal::enable(true);
        root
    }

    /// The state that was found, as the type that it has. From now on everything is allocated on that heap.
    ///
    /// # Safety
    /// [`KeptHeap::open`] has found it, this program has put it there with [`KeptHeap::begin_with`] as this type, and this is called once.
    pub unsafe fn adopt<T>(&self) -> &'static mut T {
        // SAFETY: `open` has restored what `begin` and the allocator have written there.
        unsafe {
            let kept: *mut Kept = core::ptr::with_exposed_provenance_mut(self.heap);
            HEAP.keep(kept, self.heap..self.heap + self.bytes);
            &mut *core::ptr::with_exposed_provenance_mut::<T>((*kept).root)
        }
    }

    /// A turn begins, that has taken this.
    pub fn turn(&self, taken: Taken) {
        self.head.taken.iter().zip(taken).for_each(|(word, value)| set(word, value));
        set(&self.head.in_turn, TURN);
    }

    /// The turn has come to its end: the heap as it is now is what a next instance goes on with. `state`: the root, and whatever else refers to
    /// the heap, so that it is in memory and not in registers.
    pub fn commit<T: ?Sized>(&self, state: &mut T) {
        core::hint::black_box(state);
        set(&self.head.phase, COPYING);
        self.each_dirty(|offset| {
            // SAFETY: both lie in the vault, and do not overlap.
            unsafe { copy_pages(self.heap + offset, self.copy + offset, 1) }
        });
        self.turn_is_over();
        set(&self.head.given, 0);
        set(&self.head.phase, COPIED);
        journal::enable(true);
    }

    /// What the last turn had to give is given.
    pub fn given(&self) {
        set(&self.head.given, 1);
    }

    /// What the last turn has taken.
    pub fn taken(&self) -> Taken {
        self.head.taken.each_ref().map(get)
    }

    fn turn_is_over(&self) {
        if get(&self.head.in_turn) == TURN {
            set(&self.head.attempts, 0);
            if self.taken() == self.head.suspect.each_ref().map(get) {
                self.head.suspect.iter().for_each(|word| set(word, 0));
            }
        }
        journal::clear();
        set(&self.head.in_turn, 0);
    }

    /// Bytes from the start of the heap that were ever in use.
    fn used(&self, at: usize) -> usize {
        // SAFETY: heap and copy begin with it, and nothing holds a reference to it now.
        let top = unsafe { (*core::ptr::with_exposed_provenance::<Kept>(at)).top };
        (top - self.heap).next_multiple_of(PAGE).min(self.bytes)
    }

    fn copy_all(&self, from: usize, to: usize) {
        // SAFETY: both lie in the vault and do not overlap; nobody uses the target.
        unsafe { copy_pages(from, to, self.used(from) / PAGE) }
    }

    /// Goes through the pages of the heap that were written since the last time.
    fn each_dirty(&self, mut each: impl FnMut(usize)) {
        let pages = (self.used(self.heap) / PAGE) as u64;
        each_dirty(self.heap as u64, pages, |address| each(address as usize - self.heap));
    }
}

/// # Safety
/// Both ranges are mapped, page aligned, do not overlap, and the target is writable and used by nobody.
unsafe fn copy_pages(from: usize, to: usize, pages: usize) {
    // An instruction of its own: what is copied are bytes of memory, whatever the language thinks of them.
    #[cfg(target_os = "none")]
    // SAFETY: handed on to our caller; the direction flag is clear by the calling convention.
    unsafe {
        core::arch::asm!("rep movsq", inout("rsi") from => _, inout("rdi") to => _, inout("rcx") pages * (PAGE / 8) => _, options(nostack));
    }
    #[cfg(not(target_os = "none"))]
    // SAFETY: handed on to our caller; nothing else looks there in the tests.
    unsafe {
        let (from, to) = (core::ptr::with_exposed_provenance::<u64>(from), core::ptr::with_exposed_provenance_mut(to));
        core::ptr::copy_nonoverlapping(from, to, pages * (PAGE / 8));
    }
}

/// Gives the addresses of the pages that were written since they were last asked for.
#[cfg(target_os = "none")]
fn each_dirty(address: u64, pages: u64, each: impl FnMut(u64)) {
    if let Err(error) = crate::Start::ADDRESS_SPACE.take_dirty(address, pages, each) {
        panic!("asking for dirty pages: {error}");
    }
}

/// Without a kernel, all of them.
#[cfg(not(target_os = "none"))]
fn each_dirty(address: u64, pages: u64, each: impl FnMut(u64)) {
    (0..pages).map(|page| address + page * PAGE as u64).for_each(each);
}

#[cfg(test)]
mod tests;
