//! Endpoint: where senders and receivers of synchronous messages meet. Only one of the two kinds ever waits there; both queues are
//! ordered by priority, first come first served among equals, and a thread comes in or goes in bounded time ([`crate::heap`]).

use super::thread::{AtEndpoint, State, Thread};
use crate::cap::KernelObject;
use crate::cap::delete::Progress;
use crate::heap::Heap;
use crate::kernel::Kernel;
use crate::memory::Ref;
use core::cell::Cell;
use ipc::{Error, ObjectType};

/// An endpoint.
#[repr(C, align(64))]
pub struct Endpoint {
    senders: Heap<AtEndpoint>,
    receivers: Heap<AtEndpoint>,
    arrivals: Cell<u64>,
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

    /// What a thread that comes now is sorted by: the higher priority first, then the earlier arrival.
    #[inline(always)]
    fn turn(&self, priority: u8) -> u64 {
        let arrival = self.arrivals.get() + 1;
        self.arrivals.set(arrival);
        u64::from(!priority) << 56 | arrival & (u64::MAX >> 8)
    }

    /// Queues a thread as `Sending` or `Receiving`.
    pub fn queue(&self, thread: Ref<Thread>, state: State) {
        thread.endpoint.set(Some(Ref::from(self)));
        thread.state.set(state);
        let queue = if state == State::Sending { &self.senders } else { &self.receivers };
        queue.insert(thread, self.turn(thread.priority()));
    }

    /// Whether nobody waits.
    pub fn is_empty(&self) -> bool {
        self.senders.is_empty() && self.receivers.is_empty()
    }

    /// The receiver, if there is just one.
    #[inline(always)]
    pub fn only_receiver(&self) -> Option<Ref<Thread>> {
        self.receivers.only()
    }

    /// Takes out the first receiver, which is known; if `ONLY`, it is the only one.
    #[inline(always)]
    pub fn take_first_receiver<const ONLY: bool>(&self, thread: Ref<Thread>) {
        thread.endpoint.set(None);
        if ONLY { self.receivers.remove_only() } else { self.receivers.remove(thread) }
    }

    /// Queues a receiver where nobody waits. Whoever comes after it comes after arrival 0.
    #[inline(always)]
    pub fn queue_only_receiver(&self, thread: Ref<Thread>) {
        let priority = thread.own_time.get().map_or(0, |time| time.priority());
        thread.endpoint.set(Some(Ref::from(self)));
        thread.state.set(State::Receiving);
        self.receivers.insert_only(thread, u64::from(!priority) << 56);
    }

    /// Takes a thread out of the queue it is in.
    pub fn unqueue(&self, thread: Ref<Thread>) {
        thread.endpoint.set(None);
        let queue = if thread.state.get() == State::Receiving { &self.receivers } else { &self.senders };
        queue.remove(thread);
    }

    /// Whoever waits here knows.
    #[cfg(any(test, feature = "invariants"))]
    pub fn check(&self) {
        for (queue, receives) in [(&self.senders, false), (&self.receivers, true)] {
            queue.check(&mut |thread| {
                let state = thread.state.get();
                assert!(thread.endpoint.get() == Some(Ref::from(self)), "a thread waits at another endpoint");
                assert!((state == State::Receiving) == receives, "a thread in state {state:?} is in the wrong queue");
            });
        }
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
