//! Many waiters: their order, and what happens when all of them are sent away at once.

use super::status;
use crate::arch;
use crate::memory::Ref;
use crate::object::Thread;
use crate::object::thread::State;
use crate::rig::{Rig, TABLE};
use ipc::message::Request;
use ipc::{Call, Error, ObjectType, Tag};

const ENDPOINT: u32 = 20;
const THREADS: u32 = 100;

/// Threads of these priorities, each of which makes a call in turn and waits.
fn waiting(rig: &Rig, priorities: &[u64], call: impl Fn(&Rig, u64)) -> Vec<Ref<Thread>> {
    priorities
        .iter()
        .zip(0..)
        .map(|(&priority, index)| {
            let thread = rig.thread(THREADS + 3 * index, 200);
            assert!(rig.settle() == thread);
            rig.ok(Call::SchedConfigure, THREADS + 3 * index + 1, &[priority, 0, 0, 0, 0]);
            call(rig, index.into());
            rig.settle();
            thread
        })
        .collect()
}

#[test]
fn senders_come_by_priority_and_then_by_arrival() {
    let rig = Rig::new(200);
    rig.retype(ObjectType::Endpoint, 0, ENDPOINT);
    let priorities: Vec<u64> = (0..40).map(|index| index * 7 % 5 + 1).collect();
    let send = |rig: &Rig, index: u64| {
        rig.message(Call::Send, ENDPOINT, 0, Tag::new(index, 0), [0; 8]);
    };
    waiting(&rig, &priorities, send);
    let mut expected: Vec<u64> = (0..40).collect();
    expected.sort_by_key(|index| core::cmp::Reverse(priorities[*index as usize]));
    let mut seen = Vec::new();
    for _ in 0..40 {
        let out = rig.message(Call::TryReceive, ENDPOINT, 0, Tag(0), [0; 8]);
        assert_eq!(out.status, 0);
        seen.push(Tag(out.rsi).label());
    }
    assert_eq!(seen, expected);
    assert_eq!(rig.message(Call::TryReceive, ENDPOINT, 0, Tag(0), [0; 8]).status, status(Error::WouldBlock));
}

#[test]
fn deadlines_come_in_their_order() {
    let rig = Rig::new(200);
    rig.retype(ObjectType::Endpoint, 0, ENDPOINT);
    let deadline = |index: u64| 5000 + index * 37 % 40 / 2 * 100;
    let waiters = waiting(&rig, &[150; 40], |rig, index| {
        rig.buffer(rig.current()).write(0, deadline(index));
        rig.raw(Request::new(Call::Receive, 0, Request::DEADLINE), ENDPOINT.into(), 0, [0; 8]);
    });
    let main = rig.settle();
    // Two at each point in time; one that is sent a message is not waited for any more.
    rig.ok(Call::ThreadSuspend, THREADS, &[]);
    for point in 0..20 {
        let now = 5000 + point * 100;
        assert_eq!(rig.k.cpu.armed.get(), now);
        arch::set_now(now);
        crate::sched::interrupt(&rig.k, arch::TIMER_VECTOR);
        for (thread, index) in waiters.iter().zip(0..) {
            let over = index == 0 || deadline(index) <= now;
            assert_eq!(thread.state.get() != State::Receiving, over, "{index} at {now}");
        }
        while rig.settle() != main {
            let thread = rig.current();
            assert_eq!(rig.result(thread).status, status(Error::TimedOut));
            thread.suspend(&rig.k);
        }
    }
    assert!(rig.k.cpu.timeouts.is_empty());
    // The endpoint has forgotten them.
    assert_eq!(rig.message(Call::TrySend, ENDPOINT, 0, Tag(0), [0; 8]).status, status(Error::WouldBlock));
}

#[test]
fn all_waiters_learn_that_their_endpoint_goes() {
    let rig = Rig::new(200);
    rig.retype(ObjectType::Endpoint, 0, ENDPOINT);
    let waiters = waiting(&rig, &[50; 40], |rig, _| {
        rig.message(Call::Call, ENDPOINT, 0, Tag(0), [0; 8]);
    });
    rig.ok(Call::CapDelete, TABLE, &[ENDPOINT.into()]);
    for thread in waiters {
        assert_eq!((thread.state.get(), thread.frame.rax.get()), (State::Ready, status(Error::Cancelled)));
    }
}
