//! The kernel's own state: per CPU, and common. All objects besides are made by users.

use crate::arch;
use crate::heap::Heap;
use crate::list::List;
use crate::memory::Ref;
use crate::object::address_space::{AllSpaces, DyingSpaces};
use crate::object::sched_context::Exhausted;
use crate::object::thread::{InQueue, InTimeouts};
use crate::object::{AddressSpace, Irq, Thread, cap_table, irq};
use crate::sched::ready::Ready;
use core::cell::Cell;

/// State of one CPU.
pub struct Cpu {
    /// The thread that runs: in no ready queue. `None`: idle, or the thread that ran is gone.
    pub current: Cell<Option<Ref<Thread>>>,
    /// Threads that could run.
    pub ready: Ready,
    /// Threads that wait for a deadline, soonest first.
    pub timeouts: Heap<InTimeouts>,
    /// Time that is used up, by the time of its refill.
    pub exhausted: Heap<Exhausted>,
    /// The tables in the page-table register, once a thread has run.
    pub loaded: Cell<u64>,
    /// The thread whose FPU state is in the registers.
    pub fpu_owner: Cell<Option<Ref<Thread>>>,
    /// What the processor holds of the current thread that the next one must not see, or needs otherwise: [`special`](crate::object::thread::special).
    pub special: Cell<u8>,
    /// Up to when time is accounted for.
    pub stamp: Cell<u64>,
    /// What the timer is set to; `u64::MAX`: nothing.
    pub armed: Cell<u64>,
    /// The current thread goes behind its equals at the next opportunity.
    pub rotate: Cell<bool>,
    /// Something has happened since the scheduler last looked: it has to look again before the kernel is left.
    pub attention: Cell<bool>,
    noted: Cell<bool>,
    pending: [Cell<u64>; 4],
}

impl Cpu {
    const fn new() -> Cpu {
        Cpu {
            current: Cell::new(None),
            ready: Ready::new(),
            timeouts: Heap::new(),
            exhausted: Heap::new(),
            loaded: Cell::new(0),
            fpu_owner: Cell::new(None),
            special: Cell::new(0),
            stamp: Cell::new(0),
            armed: Cell::new(u64::MAX),
            rotate: Cell::new(false),
            attention: Cell::new(true),
            noted: Cell::new(false),
            pending: [const { Cell::new(0) }; 4],
        }
    }

    /// The time-stamp counter.
    pub fn now(&self) -> u64 {
        arch::now()
    }

    /// An interrupt came while the kernel ran: it is dealt with before the kernel is left.
    pub fn note_interrupt(&self, vector: u8) {
        let word = &self.pending[usize::from(vector >> 6)];
        word.set(word.get() | 1 << (vector & 63));
        self.noted.set(true);
        self.attention.set(true);
    }

    /// Takes the highest interrupt noted.
    pub fn take_interrupt(&self) -> Option<u8> {
        if !self.noted.get() {
            return None;
        }
        for (index, word) in self.pending.iter().enumerate().rev() {
            let bits = word.get();
            if bits != 0 {
                let bit = 63 - bits.leading_zeros();
                word.set(bits & !(1 << bit));
                return Some((index as u32 * 64 + bit) as u8);
            }
        }
        self.noted.set(false);
        None
    }

    /// Whether an interrupt is noted.
    pub fn has_interrupt(&self) -> bool {
        self.noted.get()
    }

    /// The scheduler has to look before the kernel is left.
    pub fn reschedule(&self) {
        self.attention.set(true);
    }

    /// From here on, the FPU registers hold the state of this thread.
    pub fn own_fpu(&self, owner: Option<Ref<Thread>>) {
        let last = self.fpu_owner.replace(owner);
        for thread in [last, owner].into_iter().flatten() {
            thread.see_special(owner == Some(thread));
        }
    }

    /// A thread ends.
    pub fn forget_thread(&self, thread: Ref<Thread>) {
        self.attention.set(true);
        if self.current.get() == Some(thread) {
            self.current.set(None);
        }
        if self.fpu_owner.get() == Some(thread) {
            self.own_fpu(None);
        }
    }
}

/// Objects that are being taken apart.
pub struct Dying {
    /// Threads.
    pub threads: List<InQueue>,
    /// Address spaces.
    pub spaces: List<DyingSpaces>,
    /// Capability tables.
    pub tables: List<cap_table::Dying>,
}

/// What is known of the machine.
#[derive(Clone, Copy, Debug, Default)]
pub struct Machine {
    /// TSC ticks per millisecond.
    pub tsc_khz: u64,
    /// Whether this is a cell under the hypervisor.
    pub in_cell: bool,
    /// Physical address of the image header.
    pub image_header: u64,
    /// Whether the processor polls while it has nothing to do.
    pub polls: bool,
}

/// All of the kernel's state.
pub struct Kernel {
    /// The CPU.
    pub cpu: Cpu,
    /// Interrupts.
    pub irqs: [Irq; irq::COUNT],
    /// Objects that are being taken apart.
    pub dying: Dying,
    /// All address spaces that live.
    pub spaces: List<AllSpaces>,
    /// The Frame that is being unmapped everywhere, by its base, and the space where that goes on.
    pub sweep: Cell<Option<(u64, Ref<AddressSpace>)>>,
    /// The first process's thread: nobody hears of its faults.
    pub first: Cell<Option<Ref<Thread>>>,
    /// What is known of the machine.
    pub machine: Cell<Machine>,
}

impl Kernel {
    /// A kernel without threads.
    pub const fn new() -> Kernel {
        Kernel {
            cpu: Cpu::new(),
            irqs: [const { Irq::new() }; irq::COUNT],
            dying: Dying { threads: List::new(), spaces: List::new(), tables: List::new() },
            spaces: List::new(),
            sweep: Cell::new(None),
            first: Cell::new(None),
            machine: Cell::new(Machine { tsc_khz: 0, in_cell: false, image_header: 0, polls: false }),
        }
    }

    /// Lets interrupts in for a moment. Whether one came.
    pub fn interrupted(&self) -> bool {
        arch::interrupt_window();
        self.cpu.has_interrupt()
    }
}

impl Default for Kernel {
    fn default() -> Self {
        Self::new()
    }
}
