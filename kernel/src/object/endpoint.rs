//! Endpoint: where senders and receivers of synchronous messages meet. Only one of the two kinds ever waits there; both queues are
//! ordered by priority, first come first served among equals.

use super::thread::{InQueue, State, Thread};
use crate::cap::KernelObject;
use crate::cap::delete::Progress;
use crate::kernel::Kernel;
use crate::list::List;
use crate::memory::Ref;
use ipc::{Error, ObjectType};

/// An endpoint.
#[repr(C, align(64))]
pub struct Endpoint {
    senders: List<InQueue>,
    receivers: List<InQueue>,
}

static_assertions::const_assert_eq!(size_of::<Endpoint>(), 64);

impl KernelObject for Endpoint {
    const TYPE: ObjectType = ObjectType::Endpoint;
}

impl Endpoint {
    /// The sender whose turn it is.
    pub fn first_sender(&self) -> Option<Ref<Thread>> {
        self.senders.first()
    }

    /// The receiver whose turn it is.
    pub fn first_receiver(&self) -> Option<Ref<Thread>> {
        self.receivers.first()
    }

    /// Queues a thread as `Sending` or `Receiving`.
    pub fn queue(&self, thread: Ref<Thread>, state: State) {
        let priority = thread.priority();
        thread.queued_priority.set(priority);
        thread.endpoint.set(Some(Ref::from(self)));
        thread.state.set(state);
        let list = if state == State::Sending { &self.senders } else { &self.receivers };
        list.insert_sorted(thread, |other| other.queued_priority.get() < priority);
    }

    /// Whether nobody waits.
    pub fn is_empty(&self) -> bool {
        self.senders.is_empty() && self.receivers.is_empty()
    }

    /// Takes out the first receiver, which is known.
    #[inline(always)]
    pub fn take_first_receiver(&self, thread: Ref<Thread>) {
        thread.endpoint.set(None);
        self.receivers.remove_first(thread);
    }

    /// Queues a receiver where nobody waits.
    #[inline(always)]
    pub fn queue_only_receiver(&self, thread: Ref<Thread>) {
        thread.queued_priority.set(thread.own_time.get().map_or(0, |time| time.priority()));
        thread.endpoint.set(Some(Ref::from(self)));
        thread.state.set(State::Receiving);
        self.receivers.push_only(thread);
    }

    /// Takes a thread out of the queue it is in.
    pub fn unqueue(&self, thread: Ref<Thread>) {
        thread.endpoint.set(None);
        let list = if thread.state.get() == State::Receiving { &self.receivers } else { &self.senders };
        list.remove(thread);
    }

    /// Cancels one waiter.
    pub fn drain_step(&self, k: &Kernel) -> Progress {
        match self.senders.first().or(self.receivers.first()) {
            Some(thread) => {
                thread.abort(k, Error::Cancelled);
                Progress::More
            }
            None => Progress::Done,
        }
    }
}
