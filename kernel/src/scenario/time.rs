//! Budgets: full when they are fresh, spent by whoever runs on them, and reported when they are used up.

use crate::arch;
use crate::object::thread::State;
use crate::rig::{Rig, SPACE, TABLE};
use crate::sched;
use ipc::message::LABEL_BUDGET;
use ipc::{Call, ObjectType, Tag};

const SUPERVISOR: u32 = 30;
const WORKER: u32 = 60;
const ENDPOINT: u32 = 20;
const REPLY: u32 = 21;

/// A thread of priority 120 with that budget, that reports to a supervisor of priority 150.
fn budgeted(budget: u64, period: u64) -> Rig {
    let rig = Rig::new(64);
    rig.retype(ObjectType::Endpoint, 0, ENDPOINT);
    rig.retype(ObjectType::Reply, 0, REPLY);
    rig.thread(SUPERVISOR, 150);
    rig.settle();
    rig.message(Call::Receive, ENDPOINT, REPLY, Tag(0), [0; 8]);
    rig.settle();
    rig.thread(WORKER, 120);
    rig.ok(Call::ThreadSuspend, WORKER, &[]);
    rig.ok(Call::ThreadConfigure, WORKER, &[SPACE.into(), TABLE.into(), ENDPOINT.into(), (WORKER + 2).into(), 0, 7]);
    rig.ok(Call::SchedConfigure, WORKER + 1, &[120, 0, 0, budget, period]);
    rig
}

#[test]
fn a_fresh_budget_is_full() {
    let rig = budgeted(300, 1000);
    // Long after it was configured, at a time that is no multiple of anything.
    arch::set_now(77_777);
    rig.ok(Call::ThreadResume, WORKER, &[]);
    assert_eq!(rig.settle().id.get(), 7);
    assert_eq!(rig.k.cpu.armed.get(), 77_777 + 300);
    arch::set_now(77_777 + 299);
    rig.k.cpu.note_interrupt(arch::TIMER_VECTOR);
    assert_eq!(rig.settle().id.get(), 7);
    assert_eq!(rig.k.cpu.armed.get(), 77_777 + 300);
}

#[test]
fn a_budget_that_ends_in_a_kernel_call_is_reported_too() {
    let rig = budgeted(300, 1000);
    rig.ok(Call::ThreadResume, WORKER, &[]);
    let worker = rig.settle();
    arch::set_now(arch::now() + 301);
    rig.ok(Call::Yield, 0, &[]);
    let supervisor = rig.settle();
    let out = rig.result(supervisor);
    assert_eq!((supervisor.id.get(), out.rdi, Tag(out.rsi).label()), (SUPERVISOR.into(), 7, LABEL_BUDGET));
    assert_eq!(worker.state.get(), State::WaitingReply);
    // It finds what its call came to, in the next period.
    rig.message(Call::ReplyReceive, ENDPOINT, REPLY, Tag(0), [0; 8]);
    assert!(rig.settle() != worker);
    arch::set_now(2000);
    sched::interrupt(&rig.k, arch::TIMER_VECTOR);
    assert!(rig.settle() == worker && worker.frame.rax.get() == 0);
}

#[test]
fn a_server_without_time_spends_its_clients() {
    let rig = Rig::new(64);
    rig.retype(ObjectType::Endpoint, 0, ENDPOINT);
    rig.retype(ObjectType::Reply, 0, REPLY);
    let server = rig.thread(SUPERVISOR, 150);
    rig.settle();
    rig.message(Call::Receive, ENDPOINT, REPLY, Tag(0), [0; 8]);
    rig.settle();
    rig.ok(Call::SchedUnbind, SUPERVISOR + 1, &[]);
    let client = rig.thread(WORKER, 120);
    rig.ok(Call::SchedConfigure, WORKER + 1, &[120, 0, 0, 300, 1000]);
    assert!(rig.settle() == client);
    rig.message(Call::Call, ENDPOINT, 0, Tag(0), [0; 8]);
    assert!(rig.settle() == server && server.priority() == 120);
    // The server uses it up, waits with its client for the next period, and answers then.
    arch::set_now(1301);
    sched::interrupt(&rig.k, arch::TIMER_VECTOR);
    let other = rig.settle();
    assert!(other != server && other != client);
    assert_eq!(rig.k.cpu.armed.get(), 2000);
    arch::set_now(2000);
    sched::interrupt(&rig.k, arch::TIMER_VECTOR);
    assert!(rig.settle() == server);
    rig.message(Call::ReplyReceive, ENDPOINT, REPLY, Tag(0), [0; 8]);
    assert!(rig.settle() == client && client.time() == client.own_time.get());
    assert!(server.time().is_none() && server.state.get() == State::Receiving);
}
