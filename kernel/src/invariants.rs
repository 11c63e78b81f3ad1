//! What has to hold between two calls, checked over everything that can be reached: the derivation tree, and each object's ties to
//! the others. Takes as long as there are objects: for tests, and for kernels that are built to check themselves at the end.

use crate::cap::{Slot, derivation, slot::memory_kind};
use crate::kernel::Kernel;
use crate::memory::{PAGE_SIZE, Ref, to_physical};
use crate::object::thread::{Sending, State};
use crate::object::{AddressSpace, CapTable, Endpoint, Notification, Reply, SchedContext, Thread};
use ipc::ObjectType;

/// Checks everything; says how many capabilities there are. `table` is where the capabilities are that all others come from.
pub fn check(k: &Kernel, table: Ref<CapTable>) -> usize {
    let mut count = 0;
    let mut waiting = 0;
    let mut exhausted = 0;
    for slot in (1..table.len()).filter_map(|index| table.slot(index)) {
        if slot.is_empty() || !derivation::is_root(slot) {
            continue;
        }
        let root = slot;
        // In order of the tree, without a stack: it can be as deep as users like.
        let mut next = Some(root);
        while let Some(slot) = next {
            count += 1;
            derivation::check_children(slot, &mut |child| below(slot, child));
            let (deadline, used_up) = object(slot);
            // An object is counted with the first of its capabilities.
            if derivation::is_first(slot) {
                waiting += usize::from(deadline);
                exhausted += usize::from(used_up);
            }
            next = derivation::next_below(root, slot);
        }
    }
    k.cpu
        .ready
        .check(&mut |thread| assert!(thread.state.get() == State::Ready, "a thread that waits is in a ready queue"));
    if let Some(current) = k.cpu.current.get() {
        assert!(!current.queued.get(), "the current thread is in a ready queue");
    }
    let mut found = 0;
    k.cpu.timeouts.check(&mut |thread| {
        found += 1;
        assert!(thread.has_deadline.get(), "a thread without deadline waits for one");
    });
    assert!(found == waiting, "{waiting} threads have deadlines, {found} are in the queue");
    let mut found = 0;
    k.cpu.exhausted.check(&mut |time| {
        found += 1;
        assert!(time.exhausted(), "time that is not used up waits for its refill");
    });
    assert!(found == exhausted, "{exhausted} are used up, {found} wait for their refill");
    let mut space = k.spaces.first();
    while let Some(this) = space {
        this.check();
        space = k.spaces.after(this);
    }
    count
}

/// What is derived lies inside of what it is derived from, and has no right more.
fn below(parent: Ref<Slot>, child: Ref<Slot>) {
    if parent.same_object(&child) && !parent.is(ObjectType::Untyped) {
        assert!(parent.rights().contains(child.rights()), "a copy has more rights than its source");
    }
    if [parent, child].iter().all(|slot| slot.is(ObjectType::Untyped) || slot.is(ObjectType::SchedContext)) {
        assert!(parent.ceiling() >= child.ceiling(), "a ceiling has been raised");
    }
    if !parent.is(ObjectType::Untyped) || child.is(ObjectType::Irq) {
        return;
    }
    let (base, end) = (parent.memory_base(), parent.memory_base() + parent.untyped_used());
    assert!(parent.untyped_used() <= parent.extra(), "more is used than there is");
    let (start, bytes) = match child.kind() {
        Some(ObjectType::Untyped | ObjectType::Frame) => (child.memory_base(), child.extra()),
        Some(_) => (to_physical(child.object_word()), 64),
        None => return,
    };
    assert!(start >= base && start + bytes <= end, "an object is outside of the memory that it is made of");
    assert!(
        child.is(ObjectType::Untyped) || child.is(ObjectType::Frame) || parent.memory_kind() == memory_kind::NORMAL
    );
}

/// The object that a capability names knows of the others what they know of it. Whether it has a deadline, or is used up.
fn object(slot: Ref<Slot>) -> (bool, bool) {
    match slot.kind() {
        Some(ObjectType::Thread) => slot.object::<Thread>().map_or((false, false), |o| (thread(o), false)),
        Some(ObjectType::SchedContext) => slot.object::<SchedContext>().map_or((false, false), |o| (false, time(o))),
        Some(ObjectType::Endpoint) => {
            if let Some(endpoint) = slot.object::<Endpoint>() {
                endpoint.check();
            }
            (false, false)
        }
        Some(ObjectType::Reply) => {
            if let Some(reply) = slot.object::<Reply>() {
                let kept = reply.caller.get().is_none_or(|caller| caller.kept_by.get() == Some(reply));
                let waits = reply.receiver.get().is_none_or(|thread| thread.receive_reply.get() == Some(reply));
                assert!(kept && waits, "a reply keeps a thread that does not know");
            }
            (false, false)
        }
        Some(ObjectType::Notification) => {
            if let Some(notification) = slot.object::<Notification>() {
                let mut waiter = notification.waiters.first();
                while let Some(thread) = waiter {
                    let right =
                        thread.waiting_on.get() == Some(notification) && thread.state.get() == State::WaitingSignal;
                    assert!(right, "a thread is in a queue of waiters, and does not know");
                    waiter = notification.waiters.after(thread);
                }
                let bound = notification.bound.get().is_none_or(|thread| thread.bound.get() == Some(notification));
                assert!(bound, "a notification is bound to a thread that does not know");
            }
            (false, false)
        }
        Some(ObjectType::AddressSpace) => {
            assert!(slot.object::<AddressSpace>().is_some());
            (false, false)
        }
        _ => (false, false),
    }
}

fn thread(thread: Ref<Thread>) -> bool {
    let state = thread.state.get();
    assert!(thread.address().is_multiple_of(PAGE_SIZE));
    assert!(!thread.queued.get() || state == State::Ready, "a thread in state {state:?} is in a ready queue");
    let queued = matches!(state, State::Sending | State::Receiving)
        || (state == State::Faulted && thread.endpoint.get().is_some());
    assert!(thread.endpoint.get().is_some() == queued, "state {state:?} and the endpoint's queue disagree");
    assert!(
        thread.waiting_on.get().is_some() == (state == State::WaitingSignal),
        "state {state:?}, and waiters disagree"
    );
    if let Some(reply) = thread.kept_by.get() {
        assert!(reply.caller.get() == Some(thread), "a thread is kept by a reply that does not know");
        assert!(matches!(state, State::WaitingReply | State::Faulted), "state {state:?}, and kept by a reply");
        assert!(thread.sending.get() != Sending::Nothing, "a thread waits for the answer to nothing");
    }
    assert!(state != State::WaitingReply || thread.kept_by.get().is_some(), "nobody will answer");
    let waits = thread.receive_reply.get().is_none_or(|reply| reply.receiver.get() == Some(thread));
    assert!(
        waits && (thread.receive_reply.get().is_none() || state == State::Receiving),
        "state {state:?}, and its reply"
    );
    let own = thread.own_time.get().is_none_or(|time| time.owner.get() == Some(thread));
    let lent = thread.lent_time.get().is_none_or(|time| time.user.get() == Some(thread));
    assert!(own && lent, "time does not know whose it is");
    assert!(thread.bound.get().is_none_or(|notification| notification.bound.get() == Some(thread)));
    assert!(
        !thread.has_deadline.get() || !matches!(state, State::Stopped | State::Ready),
        "state {state:?} with a deadline"
    );
    thread.has_deadline.get()
}

fn time(time: Ref<SchedContext>) -> bool {
    let owner = time.owner.get().is_none_or(|thread| thread.own_time.get() == Some(time));
    let user = time.user.get().is_none_or(|thread| thread.lent_time.get() == Some(time));
    assert!(owner && user, "time has an owner or user that does not know");
    time.exhausted()
}
