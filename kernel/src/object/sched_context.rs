//! SchedContext: processor time. Priority, policy, and a budget per period; owned by a thread, lent along its calls.

use super::thread::Thread;
use crate::cap::KernelObject;
use crate::cap::delete::Progress;
use crate::heap::{Adapter, Links};
use crate::kernel::Kernel;
use crate::memory::Ref;
use crate::sched;
use core::cell::Cell;
use ipc::{Error, ObjectType};

/// A scheduling context.
#[repr(C, align(64))]
pub struct SchedContext {
    /// The thread whose own time it is.
    pub owner: Cell<Option<Ref<Thread>>>,
    /// The thread that it is lent to.
    pub user: Cell<Option<Ref<Thread>>>,
    priority: Cell<u8>,
    round_robin: Cell<bool>,
    exhausted: Cell<bool>,
    metered: Cell<bool>,
    quantum: Cell<u64>,
    quantum_left: Cell<u64>,
    budget: Cell<u64>,
    budget_left: Cell<u64>,
    period: Cell<u64>,
    /// When the budget is filled up.
    pub refill_at: Cell<u64>,
    consumed: Cell<u64>,
    waiting: Links<SchedContext>,
}

static_assertions::const_assert_eq!(size_of::<SchedContext>(), 128);

impl KernelObject for SchedContext {
    const TYPE: ObjectType = ObjectType::SchedContext;
}

/// The exhausted ones, by the time of their refill.
pub struct Exhausted;
impl Adapter for Exhausted {
    type Node = SchedContext;
    fn links(node: &SchedContext) -> &Links<SchedContext> {
        &node.waiting
    }
}

impl SchedContext {
    /// Its priority.
    pub fn priority(&self) -> u8 {
        self.priority.get()
    }

    /// Whether its budget is used up.
    pub fn exhausted(&self) -> bool {
        self.exhausted.get()
    }

    /// Ticks per period; 0: unlimited.
    pub fn budget(&self) -> u64 {
        self.budget.get()
    }

    /// Ticks used since it was made.
    pub fn consumed(&self) -> u64 {
        self.consumed.get()
    }

    /// Sets priority, policy and budget. A fresh period begins.
    pub fn configure(
        &self,
        k: &Kernel,
        priority: u8,
        policy: u64,
        quantum: u64,
        budget: u64,
        period: u64,
    ) -> Result<(), Error> {
        let round_robin = match policy {
            0 => false,
            1 if quantum > 0 => true,
            _ => return Err(Error::InvalidArgument),
        };
        if budget > period && budget != 0 {
            return Err(Error::InvalidArgument);
        }
        sched::charge(k);
        if self.exhausted.replace(false) {
            k.cpu.exhausted.remove(Ref::from(self));
        }
        self.priority.set(priority);
        self.round_robin.set(round_robin);
        self.metered.set(round_robin || budget != 0);
        self.quantum.set(quantum);
        self.quantum_left.set(quantum);
        self.budget.set(budget);
        self.budget_left.set(budget);
        self.period.set(period);
        self.refill_at.set(k.cpu.now().saturating_add(period));
        self.holders_changed(k);
        Ok(())
    }

    /// The threads that run on it have to be looked at anew.
    pub fn holders_changed(&self, k: &Kernel) {
        for thread in [self.owner.get(), self.user.get()].into_iter().flatten() {
            sched::requeue(k, thread);
        }
    }

    /// Whether its use has an end: there is a budget, or a quantum.
    #[inline(always)]
    pub fn metered(&self) -> bool {
        self.metered.get()
    }

    /// Accounts for time used. Returns whether the quantum of round robin is over.
    #[inline(always)]
    pub fn charge(&self, k: &Kernel, now: u64, ticks: u64) -> bool {
        self.consumed.set(self.consumed.get().wrapping_add(ticks));
        self.metered.get() && self.meter(k, now, ticks)
    }

    #[inline(never)]
    fn meter(&self, k: &Kernel, now: u64, ticks: u64) -> bool {
        if self.budget.get() != 0 {
            // One that is exhausted is sorted by its refill, which only the timer makes.
            if now >= self.refill_at.get() && !self.exhausted.get() {
                self.refill(now);
            }
            self.budget_left.set(self.budget_left.get().saturating_sub(ticks));
            if self.budget_left.get() == 0 && !self.exhausted.replace(true) {
                k.cpu.reschedule();
                k.cpu.exhausted.insert(Ref::from(self), self.refill_at.get());
            }
        }
        if !self.round_robin.get() {
            return false;
        }
        self.quantum_left.set(self.quantum_left.get().saturating_sub(ticks));
        if self.quantum_left.get() == 0 {
            self.quantum_left.set(self.quantum.get());
            return true;
        }
        false
    }

    /// Fills the budget for the period that `now` is in.
    pub fn refill(&self, now: u64) {
        let late = now.saturating_sub(self.refill_at.get());
        let periods = late / self.period.get().max(1) + 1;
        self.refill_at.set(self.refill_at.get().saturating_add(periods.saturating_mul(self.period.get())));
        self.budget_left.set(self.budget.get());
    }

    /// The period of an exhausted one is over; it has been taken out of the list.
    pub fn revive(&self, k: &Kernel, now: u64) {
        self.exhausted.set(false);
        self.refill(now);
        self.holders_changed(k);
    }

    /// When the scheduler has to look at it again if it runs from `now` on without a break.
    pub fn next_event(&self, now: u64) -> u64 {
        let mut at = u64::MAX;
        if self.budget.get() != 0 {
            at = now.saturating_add(self.budget_left.get());
        }
        if self.round_robin.get() {
            at = at.min(now.saturating_add(self.quantum_left.get()));
        }
        at
    }

    /// Makes it a thread's own time.
    pub fn bind(&self, k: &Kernel, thread: Ref<Thread>) -> Result<(), Error> {
        if self.owner.get().is_some() || thread.own_time.get().is_some() {
            return Err(Error::Busy);
        }
        self.owner.set(Some(thread));
        thread.own_time.set(Some(Ref::from(self)));
        sched::requeue(k, thread);
        Ok(())
    }

    /// Takes it away from its thread, and from whoever it is lent to.
    pub fn unbind(&self, k: &Kernel) {
        sched::charge(k);
        k.cpu.reschedule();
        if let Some(thread) = self.user.take() {
            thread.lent_time.set(None);
            sched::requeue(k, thread);
        }
        if let Some(thread) = self.owner.take() {
            thread.own_time.set(None);
            sched::requeue(k, thread);
        }
    }

    /// The last capability to it is gone.
    pub fn end(&self, k: &Kernel) -> Progress {
        self.unbind(k);
        if self.exhausted.replace(false) {
            k.cpu.exhausted.remove(Ref::from(self));
        }
        Progress::Done
    }
}
