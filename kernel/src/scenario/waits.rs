//! How waits end otherwise than by what is waited for: by a deadline, by a stop, or not at all because nobody wanted to wait.

use super::{ENDPOINT, NOTIFICATION, REPLY, SERVER, status, with_server};
use crate::arch;
use crate::memory::Ref;
use crate::object::Thread;
use crate::object::thread::State;
use crate::rig::{Rig, TABLE};
use crate::sched;
use ipc::message::Request;
use ipc::{Call, Error, ObjectType, Tag};

const OTHER: u32 = 60;
const DEADLINE: u64 = 5000;

/// The current thread makes a call that waits until `DEADLINE` at most.
fn until(rig: &Rig, call: Call, slot: u32, second: u32) {
    rig.buffer(rig.current()).write(0, DEADLINE);
    rig.raw(Request::new(call, second, Request::DEADLINE), slot.into(), Tag::new(4, 0).0, [0; 8]);
}

/// Time goes by; the deadlines on the way are dealt with.
fn pass(rig: &Rig, now: u64) {
    arch::set_now(now);
    sched::interrupt(&rig.k, arch::TIMER_VECTOR);
}

/// A thread of priority 140 that makes a call and waits, in each of the ways that there are: state, call, and the slots that it is about.
const WAITS: [(State, Call, u32, u32); 5] = [
    (State::Sending, Call::Send, ENDPOINT, 0),
    (State::Sending, Call::Call, ENDPOINT, 0),
    (State::Receiving, Call::Receive, ENDPOINT, REPLY),
    (State::Receiving, Call::ReplyReceive, ENDPOINT, REPLY),
    (State::WaitingSignal, Call::Wait, NOTIFICATION, 0),
];

fn waiter(rig: &Rig) -> Ref<Thread> {
    for (kind, slot) in
        [(ObjectType::Endpoint, ENDPOINT), (ObjectType::Reply, REPLY), (ObjectType::Notification, NOTIFICATION)]
    {
        rig.retype(kind, 0, slot);
    }
    let thread = rig.thread(OTHER, 140);
    assert!(rig.settle() == thread);
    thread
}

#[test]
fn a_deadline_ends_every_wait() {
    for (state, call, slot, second) in WAITS {
        let rig = Rig::new(64);
        let thread = waiter(&rig);
        until(&rig, call, slot, second);
        assert!(rig.settle() != thread && thread.state.get() == state, "{call:?}");
        assert_eq!(rig.k.cpu.armed.get(), DEADLINE);
        pass(&rig, DEADLINE - 1);
        assert!(rig.settle() != thread && thread.state.get() == state, "{call:?}");
        pass(&rig, DEADLINE);
        assert!(rig.settle() == thread, "{call:?}");
        assert_eq!(rig.result(thread).status, status(Error::TimedOut), "{call:?}");
        // It waits for nothing any more, and may wait anew.
        assert!(
            rig.k.cpu.timeouts.is_empty() && thread.endpoint.get().is_none() && thread.receive_reply.get().is_none()
        );
        until(&rig, call, slot, second);
        assert!(thread.state.get() == state, "{call:?}");
    }
}

#[test]
fn a_deadline_that_is_over_does_not_wait_but_takes_what_is_there() {
    let rig = Rig::new(64);
    let thread = waiter(&rig);
    arch::set_now(DEADLINE + 7);
    until(&rig, Call::Wait, NOTIFICATION, 0);
    pass(&rig, DEADLINE + 7);
    assert!(rig.settle() == thread);
    assert_eq!(rig.result(thread).status, status(Error::TimedOut));
    rig.ok(Call::CapCopy, TABLE, &[40, NOTIFICATION.into(), 0xff, 9]);
    rig.ok(Call::Signal, 40, &[]);
    until(&rig, Call::Wait, NOTIFICATION, 0);
    assert_eq!((rig.result(thread).status, rig.result(thread).rdi), (0, 9));
    assert!(rig.k.cpu.timeouts.is_empty());
}

#[test]
fn a_client_gives_up_a_call_that_was_taken() {
    let rig = with_server();
    let client = rig.current();
    until(&rig, Call::Call, ENDPOINT, 0);
    let server = rig.settle();
    assert!(server != client && client.state.get() == State::WaitingReply);
    assert!(server.lent_time.get() == client.own_time.get());
    pass(&rig, DEADLINE);
    assert_eq!((client.state.get(), rig.result(client).status), (State::Ready, status(Error::TimedOut)));
    // It has its time back, and the server answers nobody; then it serves the next one.
    assert!(server.lent_time.get().is_none());
    assert_eq!(rig.message(Call::Reply, REPLY, 0, Tag(0), [0; 8]).status, status(Error::NotFound));
    rig.message(Call::Receive, ENDPOINT, REPLY, Tag(0), [0; 8]);
    assert!(rig.settle() == client);
    rig.message(Call::Call, ENDPOINT, 0, Tag::new(3, 0), [0; 8]);
    assert!(rig.settle() == server);
    assert_eq!(Tag(rig.result(server).rsi).label(), 3);
}

#[test]
fn who_is_stopped_in_a_wait_finds_it_cancelled() {
    for (state, call, slot, second) in WAITS {
        let rig = Rig::new(64);
        let thread = waiter(&rig);
        until(&rig, call, slot, second);
        rig.settle();
        assert!(thread.state.get() == state);
        rig.ok(Call::ThreadSuspend, OTHER, &[]);
        assert!(thread.state.get() == State::Stopped && rig.k.cpu.timeouts.is_empty(), "{call:?}");
        rig.ok(Call::ThreadResume, OTHER, &[]);
        assert!(rig.settle() == thread);
        assert_eq!(rig.result(thread).status, status(Error::Cancelled), "{call:?}");
        // Nothing of it is left at the endpoint, or in the Reply.
        assert_eq!(rig.message(Call::TryReceive, ENDPOINT, REPLY, Tag(0), [0; 8]).status, status(Error::WouldBlock));
        assert_eq!(rig.message(Call::TrySend, ENDPOINT, 0, Tag(0), [0; 8]).status, status(Error::WouldBlock));
    }
    // A call that was taken: the server has nobody to answer.
    let rig = with_server();
    let client = rig.current();
    rig.message(Call::Call, ENDPOINT, 0, Tag(0), [0; 8]);
    rig.settle();
    client.suspend(&rig.k);
    assert_eq!(client.frame.rax.get(), status(Error::Cancelled));
    assert_eq!(rig.message(Call::Reply, REPLY, 0, Tag(0), [0; 8]).status, status(Error::NotFound));
}

#[test]
fn what_may_not_wait_does_not() {
    let rig = Rig::new(64);
    let thread = waiter(&rig);
    let try_to = |call: Call| {
        rig.message(call, ENDPOINT, if call == Call::TryReceive { REPLY } else { 0 }, Tag::new(5, 1), [77; 8])
    };
    assert_eq!(try_to(Call::TryReceive).status, status(Error::WouldBlock));
    assert_eq!(try_to(Call::TrySend).status, status(Error::WouldBlock));
    assert_eq!(rig.call(Call::Poll, NOTIFICATION, &[]).status, status(Error::WouldBlock));
    assert!(thread.state.get() == State::Ready && rig.settle() == thread);
    // With a partner, they do what the others do.
    let server = rig.thread(SERVER, 150);
    assert!(rig.settle() == server);
    rig.message(Call::Receive, ENDPOINT, REPLY, Tag(0), [0; 8]);
    assert!(rig.settle() == thread);
    assert_eq!(try_to(Call::TrySend).status, 0);
    assert!(rig.settle() == server);
    assert_eq!((Tag(rig.result(server).rsi), rig.result(server).words[0]), (Tag::new(5, 1), 77));
    rig.ok(Call::ThreadSuspend, SERVER, &[]);
    assert!(rig.settle() == thread);
    rig.message(Call::Call, ENDPOINT, 0, Tag::new(6, 0), [0; 8]);
    assert!(rig.settle() != thread);
    assert_eq!(Tag(try_to(Call::TryReceive).rsi).label(), 6);
    assert_eq!(rig.message(Call::Reply, REPLY, 0, Tag(0), [0; 8]).status, 0);
    assert!(rig.settle() == thread && rig.result(thread).status == 0);
}
