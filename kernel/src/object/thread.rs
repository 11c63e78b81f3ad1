//! Thread: registers, what it runs in, what it waits for. One page with its FPU state.
#![allow(unsafe_code)] // Finds the thread that a slot is part of, and the FPU area for the instructions that save and load it.

mod frame;
mod time;

pub use frame::Frame;

use super::{AddressSpace, CapTable, Endpoint, Notification, Reply, SchedContext};
use crate::cap::{Home, KernelObject, Slot, derivation};
use crate::heap;
use crate::kernel::Kernel;
use crate::list::{Adapter, Links};
use crate::memory::{Page, Ref};
use crate::{arch, sched};
use core::cell::{Cell, UnsafeCell};
use core::mem::offset_of;
use ipc::{Error, ObjectType};

/// How a thread came into the kernel: kept where exceptions have their vector.
pub mod entry {
    /// By `syscall`.
    pub const SYSCALL: u64 = 0x100;
    /// Registers were written from outside: load all of them.
    pub const WRITTEN: u64 = 0x101;
}

/// What a thread has that most have not; of a processor, what it holds of its thread.
pub mod special {
    /// An FS base that is not 0.
    pub const FS: u8 = 1;
    /// A GS base that is not 0.
    pub const GS: u8 = 2;
    /// Its FPU state is in the registers; of a processor: they are open to use.
    pub const FPU: u8 = 4;
}

/// What a thread is doing; numbers as in `thread_state`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(u8)]
pub enum State {
    /// Does not run until resumed.
    #[default]
    Stopped = 0,
    /// Runs, or would if it had the processor.
    Ready = 1,
    /// Waits for a receiver.
    Sending = 2,
    /// Waits for a message.
    Receiving = 3,
    /// Waits for an answer.
    WaitingReply = 4,
    /// Waits for a signal.
    WaitingSignal = 5,
    /// Has faulted, and nobody has said yet how to go on.
    Faulted = 6,
}

/// What kind of message a thread sends.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(u8)]
pub enum Sending {
    /// Nothing.
    #[default]
    Nothing = 0,
    /// A message without answer.
    Send = 1,
    /// A message with answer.
    Call = 2,
    /// A foreign system call.
    Foreign = 3,
    /// A fault.
    Fault = 4,
    /// A used-up budget.
    Budget = 5,
}

/// Bytes for the FPU state: XSAVE with x87, SSE, AVX.
pub const FPU_BYTES: usize = 1024;

/// The FPU state.
#[repr(C, align(64))]
pub struct FpuArea(UnsafeCell<[u8; FPU_BYTES]>);

/// A thread.
#[repr(C, align(4096))]
pub struct Thread {
    /// Registers. At the very start: the entry code pushes down to the address of the thread.
    pub frame: Frame,
    /// FS base.
    pub fs_base: Cell<u64>,
    /// GS base.
    pub gs_base: Cell<u64>,
    /// What it is doing.
    pub state: Cell<State>,
    /// What it sends, while `Sending` or `WaitingReply`.
    pub sending: Cell<Sending>,
    /// Whether what it sends may carry capabilities.
    pub may_grant: Cell<bool>,
    /// Whether it is in the ready queue of `queued_priority`.
    pub queued: Cell<bool>,
    /// The priority whose ready queue it is in.
    pub queued_priority: Cell<u8>,
    /// Priority that came with the donated time.
    pub donated_priority: Cell<u8>,
    /// Whether it has used the FPU since its state was last reset.
    pub uses_fpu: Cell<bool>,
    /// Whether it waits for a deadline.
    pub has_deadline: Cell<bool>,
    /// The identity that its faults and foreign calls carry.
    pub id: Cell<u64>,
    /// Badge of the capability by which it sends.
    pub badge: Cell<u64>,
    /// The endpoint in whose queue it is.
    pub endpoint: Cell<Option<Ref<Endpoint>>>,
    /// The notification in whose queue it is.
    pub waiting_on: Cell<Option<Ref<Notification>>>,
    /// The notification whose signals also end its receives.
    pub bound: Cell<Option<Ref<Notification>>>,
    /// Where a caller is kept when its receive gets one.
    pub receive_reply: Cell<Option<Ref<Reply>>>,
    /// The Reply that keeps this thread.
    pub kept_by: Cell<Option<Ref<Reply>>>,
    /// Its own time.
    pub own_time: Cell<Option<Ref<SchedContext>>>,
    /// Time lent with the call that it serves.
    pub lent_time: Cell<Option<Ref<SchedContext>>>,
    /// Address of the SchedContext lent with the call in progress; only ever compared.
    pub lent_out: Cell<u64>,
    /// The deadline, if it has one.
    pub deadline: Cell<u64>,
    /// How much later it may be while somebody less urgent runs, if the processor polls.
    pub slack: Cell<u64>,
    /// A fault's words.
    pub fault: [Cell<u64>; 6],
    /// Ready queue, notification queue or list of the dying.
    pub queue: Links<Thread>,
    /// Queue of senders or receivers of an endpoint.
    pub at_endpoint: heap::Links<Thread>,
    /// Timeout queue.
    pub timeout: heap::Links<Thread>,
    /// Address space.
    pub space: Slot,
    /// Capability table; empty: a foreign thread.
    pub table: Slot,
    /// Where its faults go.
    pub fault_endpoint: Slot,
    /// Frame of its message buffer.
    pub buffer: Slot,
    /// Page of the message buffer in its frame, plus 1.
    buffer_page: Cell<u64>,
    /// The space in its slot.
    running_in: Cell<Option<Ref<AddressSpace>>>,
    /// The root of its page tables: the space's, or the kernel's.
    root: Cell<u64>,
    /// The table in its slot.
    naming_by: Cell<Option<Ref<CapTable>>>,
    /// What the processor must be set up for besides its general registers: [`special`].
    pub special: Cell<u8>,
    /// FPU state.
    pub fpu: FpuArea,
}

static_assertions::const_assert!(size_of::<Thread>() <= 4096);

impl KernelObject for Thread {
    const TYPE: ObjectType = ObjectType::Thread;
}

/// Ready queues, notification queues.
pub struct InQueue;
impl Adapter for InQueue {
    type Node = Thread;
    fn links(node: &Thread) -> &Links<Thread> {
        &node.queue
    }
}

/// The senders, or the receivers, of an endpoint.
pub struct AtEndpoint;
impl heap::Adapter for AtEndpoint {
    type Node = Thread;
    fn links(node: &Thread) -> &heap::Links<Thread> {
        &node.at_endpoint
    }
}

/// The timeout queue.
pub struct InTimeouts;
impl heap::Adapter for InTimeouts {
    type Node = Thread;
    fn links(node: &Thread) -> &heap::Links<Thread> {
        &node.timeout
    }
}

/// The thread that a slot is part of.
pub fn of_slot(slot: Ref<Slot>, home: Home) -> Ref<Thread> {
    let offset = match home {
        Home::ThreadTable => offset_of!(Thread, table),
        Home::ThreadFault => offset_of!(Thread, fault_endpoint),
        Home::ThreadBuffer => offset_of!(Thread, buffer),
        _ => offset_of!(Thread, space),
    };
    // SAFETY: only slots inside threads have these homes, each at its own offset.
    unsafe { Ref::at(slot.address() - offset as u64) }.unwrap_or_else(|| unreachable!())
}

impl Thread {
    /// Offset of what [`Thread::table`] reads, for the entry code: it is an address, 0 for a foreign thread.
    pub const TABLE: usize = offset_of!(Thread, naming_by);

    /// Sets up a thread in zeroed memory.
    pub fn set_up(&self) {
        self.space.set_home(Home::ThreadSpace);
        self.table.set_home(Home::ThreadTable);
        self.fault_endpoint.set_home(Home::ThreadFault);
        self.buffer.set_home(Home::ThreadBuffer);
        self.frame.cs.set(arch::USER_CODE);
        self.frame.ss.set(arch::USER_DATA);
        self.frame.rflags.set(arch::USER_FLAGS);
        self.frame.entry.set(entry::WRITTEN);
        arch::fpu_reset(&self.fpu);
    }

    /// Its address space.
    #[inline(always)]
    pub fn space(&self) -> Option<Ref<AddressSpace>> {
        self.running_in.get()
    }

    /// The root of its page tables.
    #[inline(always)]
    pub fn root(&self) -> u64 {
        self.root.get()
    }

    /// The capability in the slot of its address space, or of its table, has changed.
    pub fn place_changed(&self) {
        let space = self.space.object::<AddressSpace>();
        self.running_in.set(space);
        self.root.set(space.map_or(arch::kernel_root(), |space| space.root()));
        self.naming_by.set(self.table.object());
    }

    /// Its capability table; without one it is foreign.
    #[inline(always)]
    pub fn table(&self) -> Option<Ref<CapTable>> {
        self.naming_by.get()
    }

    /// Whether its `syscall` instructions are messages rather than kernel calls.
    pub fn is_foreign(&self) -> bool {
        self.naming_by.get().is_none()
    }

    /// Its segment bases have changed, or whether its FPU state is in the registers.
    pub fn see_special(&self, owns_fpu: bool) {
        let flag = |is: bool, flag: u8| if is { flag } else { 0 };
        let bases = flag(self.fs_base.get() != 0, special::FS) | flag(self.gs_base.get() != 0, special::GS);
        self.special.set(bases | flag(owns_fpu, special::FPU));
    }

    /// A slot of its table with a capability in it.
    pub fn capability(&self, index: u64) -> Result<Ref<Slot>, Error> {
        let slot = self.slot(index)?;
        if slot.is_empty() { Err(Error::InvalidCapability) } else { Ok(slot) }
    }

    /// A slot of its table.
    pub fn slot(&self, index: u64) -> Result<Ref<Slot>, Error> {
        let index = u32::try_from(index).map_err(|_| Error::InvalidCapability)?;
        self.table().and_then(|table| table.slot(index)).ok_or(Error::InvalidCapability)
    }

    /// Chooses the page of the buffer frame.
    pub fn set_buffer_page(&self, page: u64) {
        self.buffer_page.set(page + 1);
    }

    /// Its message buffer.
    pub fn message_buffer(&self) -> Option<Page> {
        self.buffer.frame_page(self.buffer_page.get().checked_sub(1)?)
    }

    /// The time it runs on now.
    pub fn time(&self) -> Option<Ref<SchedContext>> {
        match (self.lent_time.get(), self.own_time.get()) {
            (Some(lent), own) if !lent.exhausted() || own.is_none() => Some(lent),
            (_, own) => own,
        }
    }

    /// Whether it would run if the processor were free.
    pub fn runnable(&self) -> bool {
        self.state.get() == State::Ready && self.time().is_some_and(|sc| !sc.exhausted())
    }

    /// Whether it could not go on without this capability: its space, its table, the last one to itself or to time that it has.
    pub fn lives_by(&self, slot: Ref<Slot>) -> bool {
        let itself = || slot.object() == Some(Ref::from(self));
        let time =
            || slot.object().is_some_and(|time| [self.own_time.get(), self.lent_time.get()].contains(&Some(time)));
        slot == Ref::from(&self.space)
            || slot == Ref::from(&self.table)
            || ((itself() || time()) && derivation::is_last(slot))
    }

    /// Whether somebody may look at, or change, its registers.
    pub fn is_still(&self) -> bool {
        self.state.get() != State::Ready
    }

    /// Takes it out of whatever it waits for, without a result.
    pub fn unlink(&self, k: &Kernel) {
        let this = Ref::from(self);
        sched::unqueue(k, this);
        sched::timeouts::cancel(k, this);
        if let Some(endpoint) = self.endpoint.take() {
            endpoint.unqueue(this);
        }
        if let Some(notification) = self.waiting_on.take() {
            notification.waiters.remove(this);
        }
        if let Some(reply) = self.kept_by.take() {
            reply.caller.set(None);
            self.take_back_time();
        }
        if let Some(reply) = self.receive_reply.take() {
            reply.receiver.set(None);
        }
    }

    /// Ends what it waits for with an error, and makes it ready.
    pub fn abort(&self, k: &Kernel, error: Error) {
        self.unlink(k);
        self.set_aborted(error);
        if self.state.get() != State::Faulted {
            sched::make_ready(k, Ref::from(self));
        }
    }

    fn set_aborted(&self, error: Error) {
        match self.sending.replace(Sending::Nothing) {
            Sending::Foreign => {
                let number = if error == Error::PeerDead { errno::EIO } else { errno::EINTR };
                self.frame.rax.set(number.wrapping_neg());
            }
            Sending::Fault => self.state.set(State::Faulted),
            // It was interrupted anywhere: its registers are its own.
            Sending::Budget => {}
            _ => self.frame.set_status(Err(error)),
        }
    }

    /// Stops it wherever it is. A call in progress ends with an error.
    pub fn suspend(&self, k: &Kernel) {
        match self.state.get() {
            State::Stopped => {}
            State::Ready => sched::unqueue(k, Ref::from(self)),
            State::Faulted => {
                self.unlink(k);
                self.sending.set(Sending::Nothing);
            }
            _ => {
                self.unlink(k);
                self.set_aborted(Error::Cancelled);
            }
        }
        self.state.set(State::Stopped);
        k.cpu.reschedule();
    }

    /// The last capability to it is gone: it stops for good, and nobody refers to it any more. Its slots are emptied later.
    pub fn end(&self, k: &Kernel) {
        self.suspend(k);
        let this = Ref::from(self);
        if let Some(notification) = self.bound.take() {
            notification.bound.set(None);
        }
        if let Some(time) = self.own_time.take() {
            time.owner.set(None);
        }
        if let Some(time) = self.lent_time.take() {
            time.user.set(None);
        }
        k.cpu.forget_thread(this);
    }

    /// One of its slots has lost its capability.
    pub fn slot_lost(&self, k: &Kernel, home: Home) {
        match home {
            Home::ThreadSpace | Home::ThreadTable => {
                self.place_changed();
                self.suspend(k);
            }
            _ => self.buffer_page.set(0),
        }
    }
}

impl FpuArea {
    /// Its address, for the instructions that save and load it.
    pub fn as_ptr(&self) -> *mut u8 {
        self.0.get().cast()
    }

    /// Copies a part of another one, or of a staging area, here.
    pub fn with<R>(&self, f: impl FnOnce(&mut [u8; FPU_BYTES]) -> R) -> R {
        // SAFETY: the kernel's exclusion: nobody else looks at the area during `f`, which is short and does not call back.
        f(unsafe { &mut *self.0.get() })
    }
}

/// Linux error numbers that the kernel itself answers foreign calls with.
pub mod errno {
    /// Interrupted.
    pub const EINTR: u64 = 4;
    /// The server died.
    pub const EIO: u64 = 5;
    /// No such call.
    pub const ENOSYS: u64 = 38;
}
