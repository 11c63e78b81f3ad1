//! Budgets: full when they are fresh, spent by whoever runs on them, and reported when they are used up.

use super::status;
use crate::arch;
use crate::object::thread::State;
use crate::rig::{MEMORY, Rig, SPACE, TABLE};
use crate::sched;
use ipc::message::LABEL_BUDGET;
use ipc::{Call, Error, ObjectType, Tag};

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

#[test]
fn no_priority_is_above_the_ceiling_of_the_memory() {
    let rig = Rig::new(64);
    let ceiling = |slot: u32| rig.ok(Call::CapIdentify, TABLE, &[slot.into()]).words[0];
    let configured = |slot: u32, priority: u64| rig.call(Call::SchedConfigure, slot, &[priority, 0, 0, 0, 0]).status;
    let refused = status(Error::MissingRights);
    assert_eq!((ceiling(MEMORY), ceiling(TABLE)), (255, 0));
    // It goes from Untyped to Untyped and to what is made of them, by copy and by retype.
    rig.retype(ObjectType::Untyped, 16 * 4096, 40);
    rig.ok(Call::CapCopy, TABLE, &[41, 40, 0xff, 120 + 1]);
    rig.ok(Call::Retype, 41, &[ObjectType::Untyped as u64, 4 * 4096, 42, 1]);
    rig.ok(Call::Retype, 42, &[ObjectType::SchedContext as u64, 0, 43, 1]);
    assert_eq!([40, 41, 42, 43].map(ceiling), [255, 120, 120, 120]);
    assert_eq!((configured(43, 120), configured(43, 121), configured(43, 255)), (0, refused, refused));
    assert_eq!(configured(43, 256), status(Error::InvalidArgument));
    // Never up, neither in one step nor in two.
    rig.ok(Call::CapCopy, TABLE, &[44, 43, 0xff, 255 + 1]);
    rig.ok(Call::CapCopy, TABLE, &[45, 44, 0xff, 1]);
    rig.ok(Call::CapCopy, TABLE, &[46, 45, 0xff, 0]);
    rig.ok(Call::CapMove, TABLE, &[47, 46]);
    assert_eq!([44, 45, 47].map(ceiling), [120, 0, 0]);
    assert_eq!((configured(44, 120), configured(47, 1), configured(47, 0)), (0, refused, 0));
    assert_eq!(rig.call(Call::CapCopy, TABLE, &[48, 43, 0xff, 258]).status, status(Error::InvalidArgument));
    assert_eq!(rig.call(Call::CapCopy, TABLE, &[48, TABLE.into(), 0xff, 9]).status, status(Error::InvalidArgument));
    // A low ceiling takes no time away that somebody else has given.
    let thread = rig.thread(60, 150);
    rig.ok(Call::CapCopy, TABLE, &[70, 61, 0xff, 10 + 1]);
    assert_eq!(configured(70, 11), refused);
    assert!(rig.settle() == thread && thread.priority() == 150);
}
