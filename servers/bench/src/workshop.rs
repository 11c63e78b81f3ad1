//! Makes threads and address spaces, of the server's own memory.
#![allow(unsafe_code)] // Writes the page of loops and reads samples, in pages mapped here.

use super::loops;
use ipc::message::Registers;
use rt::calls::time::Policy;
use rt::{
    AddressSpace, Cap, CapTable, Endpoint, Frame, Notification, Object, Protection, Rights, Start, Thread, Untyped,
};

/// The endpoint that loops call and serve on.
pub const ENDPOINT: u32 = 65;
/// The Reply of the loop that serves.
pub const REPLY: u32 = 66;
/// A loop has its samples.
pub const DONE: u32 = 67;
/// What is never signalled.
pub const PARK: u32 = 68;
/// The notification whose wake-up is measured.
pub const MEASURED: u32 = 69;
/// The right to signal it: a badge says which bits.
pub const SIGNAL_MEASURED: u32 = 70;
/// The right to say that a loop has its samples.
pub const SIGNAL_DONE: u32 = 71;
/// The first slot that is given out.
const FIRST: u32 = 80;

/// Where the page of loops lies in every space.
const CODE: u64 = 0x5000_0000;
/// Where a page that all share lies: the start of a sample, if somebody else notes it.
pub const DATA: u64 = 0x5100_0000;
/// Where samples go, in every space.
const SAMPLES: u64 = 0x5200_0000;
/// Where threads have a page of stack and a message buffer each, in every space.
const STACKS: u64 = 0x5400_0000;
const PAGE: u64 = 4096;
/// Most samples of one measurement.
pub const MOST: usize = 10_000;
const WRITABLE: Protection = Protection::READ.union(Protection::WRITE);
const USER_FLAGS: u64 = 0x202;

/// Memory for what one measurement needs: all of it is free again after that.
const PASSING: u64 = 11 << 20;
/// Memory for what is made and deleted within one.
const SCRATCH: u64 = 4 << 20;

/// Its state.
pub struct Workshop {
    /// What objects are made of now.
    memory: Cap<Untyped>,
    /// Memory of which nothing else is made.
    pub scratch: Cap<Untyped>,
    next: u32,
    base: u32,
    code: Cap<Frame>,
    data: Cap<Frame>,
    samples: Cap<Frame>,
    threads: u64,
}

/// A thread made here: how it runs.
pub struct Loop {
    /// Its entry.
    pub entry: *const u8,
    /// Its priority.
    pub priority: u8,
    /// Samples that it notes.
    pub samples: usize,
}

impl Workshop {
    /// With what all have in common.
    pub fn new() -> Workshop {
        let mut workshop = Workshop {
            memory: Start::UNTYPED,
            scratch: Cap::new(0),
            next: FIRST,
            base: FIRST,
            code: Cap::new(0),
            data: Cap::new(0),
            samples: Cap::new(0),
            threads: 0,
        };
        for slot in [DONE, PARK, MEASURED] {
            made(Start::UNTYPED.make::<Notification>(0, slot));
        }
        for (slot, signal) in [(DONE, SIGNAL_DONE), (MEASURED, SIGNAL_MEASURED)] {
            made(Start::CAP_TABLE.copy(signal, Cap::<Notification>::new(slot), Rights::WRITE, 1));
        }
        workshop.code = workshop.make(PAGE);
        workshop.data = workshop.make(PAGE);
        workshop.samples = workshop.make((MOST as u64 * 4).next_multiple_of(PAGE));
        let page = loops::page();
        assert!(page.len() as u64 <= PAGE);
        made(Start::ADDRESS_SPACE.map(workshop.code, 0, CODE, 1, WRITABLE));
        // SAFETY: the page was just mapped there, for this alone.
        unsafe { core::ptr::copy_nonoverlapping(page.as_ptr(), CODE as *mut u8, page.len()) };
        made(Start::ADDRESS_SPACE.unmap(CODE, 1));
        workshop.furnish(Start::ADDRESS_SPACE);
        workshop.scratch = workshop.make(SCRATCH);
        workshop.memory = workshop.make(PASSING);
        workshop.base = workshop.next;
        workshop
    }

    /// The next slot.
    pub fn slot(&mut self) -> u32 {
        self.next += 1;
        self.next - 1
    }

    /// Makes an object.
    pub fn make<T: Object>(&mut self, size: u64) -> Cap<T> {
        let slot = self.slot();
        made(self.memory.make(size, slot))
    }

    fn furnish(&self, space: Cap<AddressSpace>) {
        made(space.map(self.code, 0, CODE, 1, Protection::READ | Protection::EXECUTE));
        made(space.map(self.data, 0, DATA, 1, WRITABLE));
        made(space.map(self.samples, 0, SAMPLES, (MOST as u64 * 4).div_ceil(PAGE), WRITABLE));
    }

    /// A space of its own.
    pub fn space(&mut self) -> Cap<AddressSpace> {
        let space = self.make(32 * PAGE);
        self.furnish(space);
        space
    }

    /// A new endpoint and Reply for a server.
    pub fn service(&mut self) {
        made(self.memory.make::<Endpoint>(0, ENDPOINT));
        made(self.memory.make::<rt::Reply>(0, REPLY));
    }

    /// Starts a thread in a space, with this table (none: a foreign thread).
    pub fn start(
        &mut self,
        run: &Loop,
        space: Cap<AddressSpace>,
        table: Option<Cap<CapTable>>,
        fault: Option<Cap<Endpoint>>,
    ) -> Cap<Thread> {
        let thread: Cap<Thread> = self.make(0);
        let time: Cap<rt::SchedContext> = self.make(0);
        let frame: Cap<Frame> = self.make(2 * PAGE);
        let stack = STACKS + self.threads * 4 * PAGE;
        self.threads += 1;
        made(space.map(frame, 0, stack, 2, WRITABLE));
        made(thread.configure(space, table, fault, Some((frame, 1)), self.threads));
        // Equals take turns.
        made(time.configure(run.priority, Policy::RoundRobin, 50_000, 0, 0));
        if run.samples != 0 {
            made(time.configure(run.priority, Policy::Fifo, 0, 0, 0));
        }
        made(time.bind(thread));
        let registers = Registers {
            rip: CODE + loops::offset(run.entry),
            rsp: stack + PAGE,
            rbx: SAMPLES,
            rbp: run.samples as u64,
            r13: stack + PAGE,
            r15: 1,
            rflags: USER_FLAGS,
            // Every program has thread-local storage.
            fs_base: if table.is_none() { stack } else { 0 },
            ..Registers::default()
        };
        made(thread.write_registers(&registers));
        made(thread.resume());
        thread
    }

    /// Waits for the samples of a loop.
    pub fn wait(&self) {
        made(Cap::<Notification>::new(DONE).wait(None));
    }

    /// What was noted.
    pub fn samples(&self, count: usize) -> &'static mut [u32] {
        // SAFETY: mapped in `furnish`, writable; the loop that wrote there has ended, and nobody else has a reference.
        unsafe { core::slice::from_raw_parts_mut(SAMPLES as *mut u32, count.min(MOST)) }
    }

    /// Takes away all that was made since the start.
    pub fn clear(&mut self) {
        for slot in (self.base..self.next).chain([ENDPOINT, REPLY]) {
            made(Start::CAP_TABLE.delete(slot));
        }
        self.next = self.base;
        self.threads = 0;
    }
}

/// What has to work.
#[track_caller]
pub fn made<T>(result: rt::Result<T>) -> T {
    match result {
        Ok(value) => value,
        Err(error) => panic!("{error:?}"),
    }
}
