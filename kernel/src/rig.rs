//! A kernel on the host, for tests: an arena stands for private RAM, and calls are made by setting a thread's registers.
#![allow(unsafe_code)] // Makes the first objects by hand, as `first_process` does.

use crate::arch;
use crate::call;
use crate::cap::{Cap, Slot};
use crate::kernel::Kernel;
use crate::memory::{PAGE_SIZE, Page, Ref};
use crate::object::{AddressSpace, CapTable, SchedContext, Thread};
use crate::sched;
use ipc::message::Request;
use ipc::{Call, ObjectType, Tag};
use std::alloc::{Layout, alloc_zeroed, dealloc};

/// Slots that the rig fills.
pub const TABLE: u32 = 1;
pub const SPACE: u32 = 2;
pub const THREAD: u32 = 3;
pub const TIME: u32 = 4;
pub const MEMORY: u32 = 8;
const TABLE_SLOTS: u64 = 512;

/// The kernel, its memory, and the first thread.
pub struct Rig {
    pub k: Box<Kernel>,
    arena: *mut u8,
    layout: Layout,
    pub memory: u64,
}

/// What a call came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Out {
    pub status: u64,
    pub rdi: u64,
    pub rsi: u64,
    pub words: [u64; 8],
}

impl Drop for Rig {
    fn drop(&mut self) {
        // SAFETY: allocated in `new` with this layout; nothing refers to it any more.
        unsafe { dealloc(self.arena, self.layout) }
    }
}

impl Rig {
    /// A kernel with one thread of priority 100 that holds `pages` pages of Untyped.
    pub fn new(pages: u64) -> Rig {
        arch::set_now(1000);
        let own_pages = TABLE_SLOTS * 64 / PAGE_SIZE + 1 + 16 + 1 + 1 + 1;
        let layout = Layout::from_size_align(((pages + own_pages) * PAGE_SIZE) as usize, PAGE_SIZE as usize).unwrap();
        // SAFETY: the size is not 0.
        let arena = unsafe { alloc_zeroed(layout) };
        assert!(!arena.is_null());
        let k = Box::new(Kernel::new());
        let mut next = arena.expose_provenance() as u64;
        let mut take = |pages: u64| {
            let at = next;
            next += pages * PAGE_SIZE;
            at
        };
        // SAFETY: zeroed memory of the arena, each part used once.
        let (table, space, thread, time) = unsafe {
            (
                Ref::<CapTable>::at(take(TABLE_SLOTS * 64 / PAGE_SIZE)).unwrap(),
                Ref::<AddressSpace>::at(take(1)).unwrap(),
                Ref::<Thread>::at(take(1)).unwrap(),
                Ref::<SchedContext>::at(take(1)).unwrap(),
            )
        };
        table.set_up(TABLE_SLOTS as u32);
        space.set_up(&k, take(16), 16);
        thread.set_up();
        let buffer = take(1);
        let memory = take(0);
        let memory_size = pages * PAGE_SIZE;
        let put = |slot: u32, cap: Cap| table.slot(slot).unwrap().fill(&cap);
        put(TABLE, Cap::new(ObjectType::CapTable, table.address(), 0));
        put(SPACE, Cap::new(ObjectType::AddressSpace, space.address(), 0));
        put(THREAD, Cap::new(ObjectType::Thread, thread.address(), 0));
        put(TIME, Cap::new(ObjectType::SchedContext, time.address(), 0));
        put(MEMORY, Cap::new(ObjectType::Untyped, memory, memory_size));
        for (source, slot) in [(SPACE, &thread.space), (TABLE, &thread.table)] {
            crate::cap::copy(table.slot(source).unwrap(), Ref::from(slot), ipc::Rights::all(), 0).unwrap();
        }
        thread.buffer.fill(&Cap::new(ObjectType::Frame, buffer, PAGE_SIZE));
        thread.place_changed();
        thread.set_buffer_page(0);
        time.configure(&k, 100, 0, 0, 0, 0).unwrap();
        time.bind(&k, thread).unwrap();
        sched::make_ready(&k, thread);
        let rig = Rig { k, arena, layout, memory };
        rig.settle();
        rig
    }

    /// Lets the scheduler choose; says who runs.
    pub fn settle(&self) -> Ref<Thread> {
        sched::settle(&self.k)
    }

    /// The current thread.
    pub fn current(&self) -> Ref<Thread> {
        self.k.cpu.current.get().unwrap()
    }

    /// A slot of the current thread's table.
    pub fn slot(&self, index: u32) -> Ref<Slot> {
        self.current().slot(index.into()).unwrap()
    }

    /// The message buffer of a thread.
    pub fn buffer(&self, thread: Ref<Thread>) -> Page {
        thread.message_buffer().unwrap()
    }

    /// Makes a call in the current thread, whose registers are those of the result; the scheduler is not asked.
    pub fn raw(&self, request: Request, slot: u64, rsi: u64, words: [u64; 8]) -> Out {
        let thread = self.current();
        thread.frame.rax.set(request.0);
        thread.frame.rdi.set(slot);
        thread.frame.rsi.set(rsi);
        for (index, word) in words.into_iter().enumerate() {
            thread.frame.word(index).set(word);
        }
        call::kernel_call(&self.k, thread);
        self.result(thread)
    }

    /// What a thread finds in its registers.
    pub fn result(&self, thread: Ref<Thread>) -> Out {
        let frame = &thread.frame;
        let words = core::array::from_fn(|index| frame.word(index).get());
        Out { status: frame.rax.get(), rdi: frame.rdi.get(), rsi: frame.rsi.get(), words }
    }

    /// A call with plain arguments.
    pub fn call(&self, call: Call, slot: u32, arguments: &[u64]) -> Out {
        let mut all = [0; 9];
        all[..arguments.len()].copy_from_slice(arguments);
        let [rsi, words @ ..] = all;
        self.raw(Request::new(call, 0, 0), slot.into(), rsi, words)
    }

    /// A call that has to succeed.
    pub fn ok(&self, call: Call, slot: u32, arguments: &[u64]) -> Out {
        let out = self.call(call, slot, arguments);
        assert_eq!(out.status, 0, "{call:?} {arguments:?}: {:?}", ipc::Error::from_raw(out.status));
        out
    }

    /// A message.
    pub fn message(&self, call: Call, slot: u32, second: u32, tag: Tag, words: [u64; 8]) -> Out {
        self.raw(Request::new(call, second, 0), slot.into(), tag.0, words)
    }

    /// Makes one object.
    pub fn retype(&self, kind: ObjectType, size: u64, slot: u32) {
        self.ok(Call::Retype, MEMORY, &[kind as u64, size, slot.into(), 1]);
    }

    /// Makes a thread in the same space and table, with a buffer, that is ready at a priority. Takes four slots.
    pub fn thread(&self, slot: u32, priority: u64) -> Ref<Thread> {
        self.retype(ObjectType::Thread, 0, slot);
        self.retype(ObjectType::SchedContext, 0, slot + 1);
        self.retype(ObjectType::Frame, PAGE_SIZE, slot + 2);
        self.ok(Call::ThreadConfigure, slot, &[SPACE.into(), TABLE.into(), 0, (slot + 2).into(), 0, slot.into()]);
        self.ok(Call::SchedConfigure, slot + 1, &[priority, 0, 0, 0, 0]);
        self.ok(Call::SchedBind, slot + 1, &[slot.into()]);
        self.ok(Call::ThreadResume, slot, &[]);
        self.slot(slot).object().unwrap()
    }
}
