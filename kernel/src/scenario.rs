//! Tests of the kernel as a whole, on the host: calls go in by registers and come out by registers.

mod idle;
mod irqs;
mod memory;
mod messages;
mod own;
mod queues;
mod time;
mod waits;

use crate::arch;
use crate::cap::delete::{Progress, reap_step};
use crate::memory::Ref;
use crate::object::Thread;
use crate::object::thread::State;
use crate::rig::{MEMORY, Rig, SPACE, TABLE, THREAD, TIME};
use ipc::message::{LABEL_BUDGET, LABEL_FAULT, LABEL_FOREIGN, Request};
use ipc::{Call, Error, ObjectType, Rights, Tag};

const ENDPOINT: u32 = 20;
const REPLY: u32 = 21;
const NOTIFICATION: u32 = 22;
const SERVER: u32 = 30;

fn status(error: Error) -> u64 {
    error as u64
}

#[test]
fn every_call_refuses_nonsense() {
    let rig = Rig::new(64);
    let stride = if cfg!(miri) { 9 } else { 1 };
    for number in (0..=255_u8).step_by(stride) {
        // These succeed, or wait, or end the system.
        if matches!(Call::from_raw(number), Some(Call::Null | Call::Yield | Call::SystemInfo)) {
            continue;
        }
        for slot in [0, 5, 511, 512, u64::from(u32::MAX), u64::MAX] {
            let out = rig.raw(Request(u64::from(number)), slot, u64::MAX, [u64::MAX; 8]);
            let error = Error::from_raw(out.status);
            assert!(matches!(error, Some(Error::InvalidCall | Error::InvalidCapability)), "{number} {slot}: {error:?}");
        }
        for slot in [TABLE, SPACE, THREAD, TIME, MEMORY] {
            if matches!(
                Call::from_raw(number),
                Some(
                    Call::ThreadSuspend
                        | Call::SchedUnbind
                        | Call::UntypedInfo
                        | Call::ThreadResume
                        | Call::ThreadState
                        | Call::SchedConsumed
                        | Call::ThreadReadRegisters
                        | Call::ThreadWriteRegisters
                )
            ) {
                continue;
            }
            let out = rig.raw(Request(u64::from(number)), slot.into(), u64::MAX, [u64::MAX; 8]);
            assert!(Error::from_raw(out.status).is_some(), "{number} {slot}");
        }
    }
    assert!(rig.settle() == rig.current());
}

#[test]
fn retype_revoke_and_reuse() {
    let rig = Rig::new(64);
    for (index, kind) in [ObjectType::Endpoint, ObjectType::Notification, ObjectType::Reply].into_iter().enumerate() {
        rig.retype(kind, 0, 40 + index as u32);
    }
    assert_eq!(rig.ok(Call::UntypedInfo, MEMORY, &[]).words[0], 192);
    rig.retype(ObjectType::Frame, 8192, 50);
    assert_eq!(rig.ok(Call::FrameInfo, 50, &[]).rdi, rig.memory + 4096);
    assert_eq!(rig.call(Call::Retype, MEMORY, &[2, 64 * 4096, 51, 1]).status, status(Error::OutOfMemory));
    assert_eq!(rig.call(Call::Retype, MEMORY, &[7, 0, 50, 2]).status, status(Error::SlotOccupied));
    assert_eq!(rig.call(Call::Retype, MEMORY, &[7, 0, 511, 2]).status, status(Error::InvalidCapability));
    // Dirty it, take all back: the next frame there is clean.
    rig.ok(Call::Map, SPACE, &[50, 0, 0x40_0000, 2, 3]);
    let page = rig.current().space().unwrap().writable(0x40_1000).unwrap();
    page.write(7, 0xdead);
    rig.ok(Call::CapRevoke, TABLE, &[MEMORY.into()]);
    assert!(rig.current().space().unwrap().readable(0x40_1000).is_none());
    assert_eq!(rig.ok(Call::UntypedInfo, MEMORY, &[]).words[0], 0);
    rig.retype(ObjectType::Frame, 64 * 4096, 50);
    for index in 0..64 {
        let page = rig.slot(50).frame_page(index).unwrap();
        assert!((0..512).all(|word| page.read(word) == 0));
    }
}

#[test]
fn a_copy_of_untyped_takes_what_is_left() {
    let rig = Rig::new(16);
    rig.retype(ObjectType::Endpoint, 0, ENDPOINT);
    rig.ok(Call::CapCopy, TABLE, &[40, MEMORY.into(), 0xff, 0]);
    assert_eq!(rig.ok(Call::UntypedInfo, 40, &[]).rsi, 15 * 4096);
    assert_eq!(rig.call(Call::CapCopy, TABLE, &[41, MEMORY.into(), 0xff, 0]).status, status(Error::OutOfMemory));
    rig.ok(Call::Retype, 40, &[ObjectType::Frame as u64, 4096, 41, 1]);
    // The copy goes, what was made of it stays; only when that goes too is all free.
    rig.ok(Call::CapDelete, TABLE, &[40]);
    rig.ok(Call::CapDelete, TABLE, &[ENDPOINT.into()]);
    assert_eq!(rig.call(Call::Retype, MEMORY, &[7, 0, 42, 1]).status, status(Error::OutOfMemory));
    rig.ok(Call::CapDelete, TABLE, &[41]);
    rig.retype(ObjectType::Frame, 16 * 4096, 42);
}

#[test]
fn rights_only_shrink_and_badges_stick() {
    let rig = Rig::new(16);
    rig.retype(ObjectType::Notification, 0, NOTIFICATION);
    let read_write = (Rights::READ | Rights::WRITE).bits();
    rig.ok(Call::CapCopy, TABLE, &[40, NOTIFICATION.into(), read_write.into(), 5]);
    rig.ok(Call::CapCopy, TABLE, &[41, 40, 0xff, 0]);
    let out = rig.ok(Call::CapIdentify, TABLE, &[41]);
    assert_eq!((out.rdi, out.rsi, out.words[0]), (ObjectType::Notification as u64, read_write.into(), 5));
    assert_eq!(rig.call(Call::CapCopy, TABLE, &[42, 40, 0xff, 6]).status, status(Error::InvalidArgument));
    rig.ok(Call::CapCopy, TABLE, &[42, 40, Rights::READ.bits().into(), 0]);
    assert_eq!(rig.call(Call::Signal, 42, &[]).status, status(Error::MissingRights));
    rig.ok(Call::Signal, 41, &[]);
    assert_eq!(rig.ok(Call::Poll, 42, &[]).rdi, 5);
    // Revoking the first copy takes its copies, and no others.
    rig.ok(Call::CapMove, TABLE, &[43, 41]);
    rig.ok(Call::CapRevoke, TABLE, &[40]);
    assert!(rig.slot(41).is_empty() && rig.slot(42).is_empty() && rig.slot(43).is_empty());
    assert!(!rig.slot(40).is_empty() && !rig.slot(NOTIFICATION).is_empty());
}

/// A server thread of higher priority that waits on the endpoint.
fn with_server() -> Rig {
    let rig = Rig::new(64);
    rig.retype(ObjectType::Endpoint, 0, ENDPOINT);
    rig.retype(ObjectType::Reply, 0, REPLY);
    rig.thread(SERVER, 150);
    assert!(rig.settle().id.get() == SERVER.into());
    rig.message(Call::Receive, ENDPOINT, REPLY, Tag(0), [0; 8]);
    rig.settle();
    rig
}

#[test]
fn call_and_reply() {
    let rig = with_server();
    let client = rig.current();
    let words = [1, 2, 3, 4, 5, 6, 7, 8];
    let buffer = rig.buffer(client);
    buffer.write(1 + 8, 99);
    rig.message(Call::Call, ENDPOINT, 0, Tag::new(7, 9), words);
    let server = rig.settle();
    assert_eq!(server.id.get(), u64::from(SERVER));
    let out = rig.result(server);
    assert_eq!((out.status, out.rdi, Tag(out.rsi), out.words), (0, 0, Tag::new(7, 9), words));
    assert_eq!(rig.buffer(server).read(1 + 8), 99);
    assert_eq!(client.state.get(), State::WaitingReply);
    assert!(server.time() == client.own_time.get());
    // Only two words come back; the other registers keep what they had.
    rig.message(Call::ReplyReceive, ENDPOINT, REPLY, Tag::new(1, 2), [10, 20, 0, 0, 0, 0, 0, 0]);
    assert!(rig.settle() == client);
    let out = rig.result(client);
    assert_eq!((out.status, out.rdi, out.rsi, out.words), (0, 0, Tag::new(1, 2).0, [10, 20, 3, 4, 5, 6, 7, 8]));
    assert!(client.time() == client.own_time.get() && server.lent_time.get().is_none());
}

#[test]
fn kernel_labels_cannot_be_forged() {
    let rig = with_server();
    let out = rig.message(Call::Call, ENDPOINT, 0, Tag::new(LABEL_FAULT, 0), [0; 8]);
    assert_eq!(out.status, status(Error::InvalidArgument));
}

#[test]
fn a_dead_server_is_noticed() {
    let rig = with_server();
    let client = rig.current();
    rig.message(Call::Call, ENDPOINT, 0, Tag(0), [0; 8]);
    rig.settle();
    // The server drops its Reply.
    rig.ok(Call::CapDelete, TABLE, &[REPLY.into()]);
    assert_eq!((client.state.get(), client.frame.rax.get()), (State::Ready, status(Error::PeerDead)));
    // The server itself goes; a queued request stays for the next one.
    rig.ok(Call::ThreadSuspend, SERVER, &[]);
    assert!(rig.settle() == client);
    rig.ok(Call::CapDelete, TABLE, &[SERVER.into()]);
    assert_eq!(reap_step(&rig.k), Progress::Done);
    let other = rig.thread(60, 120);
    rig.message(Call::Call, ENDPOINT, 0, Tag::new(3, 0), [0; 8]);
    assert!(rig.settle() == other);
    rig.retype(ObjectType::Reply, 0, REPLY);
    let out = rig.message(Call::Receive, ENDPOINT, REPLY, Tag(0), [0; 8]);
    assert_eq!((out.status, Tag(out.rsi).label()), (0, 3));
    // The endpoint goes while a client waits for an answer: that is between client and Reply.
    rig.ok(Call::CapDelete, TABLE, &[ENDPOINT.into()]);
    rig.message(Call::Reply, REPLY, 0, Tag(0), [0; 8]);
    assert_eq!(client.frame.rax.get(), 0);
    assert_eq!(rig.message(Call::Reply, REPLY, 0, Tag(0), [0; 8]).status, status(Error::NotFound));
}

#[test]
fn waiters_of_a_deleted_endpoint_are_cancelled() {
    let rig = with_server();
    let server = rig.slot(SERVER).object::<crate::object::Thread>().unwrap();
    rig.ok(Call::CapDelete, TABLE, &[ENDPOINT.into()]);
    assert!(rig.settle() == server);
    assert_eq!(rig.result(server).status, status(Error::Cancelled));
    // Its Reply is free for another receive.
    rig.retype(ObjectType::Endpoint, 0, ENDPOINT);
    assert_eq!(rig.message(Call::TryReceive, ENDPOINT, REPLY, Tag(0), [0; 8]).status, status(Error::WouldBlock));
}

#[test]
fn capabilities_travel() {
    let rig = with_server();
    let client = rig.current();
    let buffer = rig.buffer(client);
    let half = |page: crate::memory::Page, word: usize, low: u64, high: u64| page.write(word, low | high << 32);
    const SEND: usize = core::mem::offset_of!(ipc::MessageBuffer, send_caps) / 8;
    const TAKE: usize = core::mem::offset_of!(ipc::MessageBuffer, receive_slots) / 8;
    let server = rig.slot(SERVER).object::<crate::object::Thread>().unwrap();
    half(buffer, SEND, ENDPOINT.into(), MEMORY.into());
    half(rig.buffer(server), TAKE, 100, 0);
    rig.message(Call::Call, ENDPOINT, 0, Tag::with_caps(1, 0, 2), [0; 8]);
    assert!(rig.settle() == server);
    // The second one is refused by slot 0.
    assert_eq!(Tag(rig.result(server).rsi).caps(), 1);
    assert!(rig.slot(100).is(ObjectType::Endpoint));
    assert!(!rig.slot(MEMORY).is_empty());
}

#[test]
fn deadlines() {
    let rig = Rig::new(64);
    rig.retype(ObjectType::Notification, 0, NOTIFICATION);
    let waiter = rig.thread(SERVER, 150);
    assert!(rig.settle() == waiter);
    rig.buffer(waiter).write(0, 5000);
    rig.raw(Request::new(Call::Wait, 0, Request::DEADLINE), NOTIFICATION.into(), 0, [0; 8]);
    assert!(rig.settle() != waiter);
    assert_eq!(rig.k.cpu.armed.get(), 5000);
    arch::set_now(4999);
    crate::sched::interrupt(&rig.k, arch::TIMER_VECTOR);
    assert_eq!(waiter.state.get(), State::WaitingSignal);
    arch::set_now(5000);
    crate::sched::interrupt(&rig.k, arch::TIMER_VECTOR);
    assert!(rig.settle() == waiter);
    assert_eq!(rig.result(waiter).status, status(Error::TimedOut));
    // A signal in time ends the deadline.
    rig.buffer(waiter).write(0, 9000);
    rig.raw(Request::new(Call::Wait, 0, Request::DEADLINE), NOTIFICATION.into(), 0, [0; 8]);
    rig.settle();
    rig.ok(Call::CapCopy, TABLE, &[40, NOTIFICATION.into(), 0xff, 8]);
    rig.ok(Call::Signal, 40, &[]);
    assert!(rig.settle() == waiter);
    assert_eq!((rig.result(waiter).status, rig.result(waiter).rdi), (0, 8));
    assert!(rig.k.cpu.timeouts.is_empty());
}

#[test]
fn a_bound_notification_ends_a_receive() {
    let rig = with_server();
    rig.retype(ObjectType::Notification, 0, NOTIFICATION);
    rig.ok(Call::ThreadBindNotification, SERVER, &[NOTIFICATION.into()]);
    rig.ok(Call::CapCopy, TABLE, &[40, NOTIFICATION.into(), 0xff, 6]);
    rig.ok(Call::Signal, 40, &[]);
    let server = rig.settle();
    let out = rig.result(server);
    assert_eq!((out.status, out.rdi, out.rsi), (0, 6 | 1 << 63, 0));
    // Signalled before the receive: at once.
    rig.ok(Call::Signal, 40, &[]);
    assert_eq!(rig.message(Call::Receive, ENDPOINT, REPLY, Tag(0), [0; 8]).rdi, 6 | 1 << 63);
}

#[test]
fn foreign_calls_and_faults() {
    let rig = with_server();
    rig.retype(ObjectType::Thread, 0, 60);
    rig.retype(ObjectType::SchedContext, 0, 61);
    rig.ok(Call::BindRoute, SPACE, &[2, ENDPOINT.into()]);
    rig.ok(Call::SetRoute, SPACE, &[10, 20, 2]);
    assert_eq!(rig.call(Call::SetRoute, SPACE, &[10, 512, 2]).status, status(Error::InvalidArgument));
    rig.ok(Call::ThreadConfigure, 60, &[SPACE.into(), 0, ENDPOINT.into(), 0, 0, 0x77]);
    rig.ok(Call::SchedConfigure, 61, &[120, 0, 0, 0, 0]);
    rig.ok(Call::SchedBind, 61, &[60]);
    rig.ok(Call::ThreadResume, 60, &[]);
    let thread = rig.settle();
    assert!(thread.is_foreign());
    for (number, answer) in [(9, -38_i64), (512, -38), (u64::MAX, -38)] {
        thread.frame.rax.set(number);
        crate::fault::foreign_call(&rig.k, thread);
        assert_eq!(thread.frame.rax.get() as i64, answer);
    }
    thread.frame.rax.set(15);
    thread.frame.rsi.set(22);
    crate::fault::foreign_call(&rig.k, thread);
    let server = rig.settle();
    let out = rig.result(server);
    assert_eq!((out.rdi, Tag(out.rsi).label(), out.words[0], out.words[2]), (0x77, LABEL_FOREIGN, 15, 22));
    assert_eq!(rig.call(Call::ThreadSetTls, 60, &[1 << 47]).status, status(Error::InvalidArgument));
    rig.ok(Call::ThreadSetTls, 60, &[0x1234_0000]);
    rig.message(Call::ReplyReceive, ENDPOINT, REPLY, Tag::new(0, 1), [5, 0, 0, 0, 0, 0, 0, 0]);
    assert!(rig.settle() == thread);
    assert_eq!(thread.frame.rax.get(), 5);
    // A fault; the server leaves it; then the thread is stopped, and resumed.
    crate::fault::fault(&rig.k, thread, 14, 4, 0xbad);
    let server = rig.settle();
    assert_eq!(rig.result(server).words[..3], [14, 4, 0xbad]);
    assert_eq!(thread.state.get(), State::Faulted);
    rig.ok(Call::ThreadSuspend, 60, &[]);
    assert_eq!(rig.message(Call::Reply, REPLY, 0, Tag(0), [0; 8]).status, status(Error::NotFound));
    // Suspended in a foreign call: interrupted.
    rig.ok(Call::ThreadResume, 60, &[]);
    rig.message(Call::Receive, ENDPOINT, REPLY, Tag(0), [0; 8]);
    assert!(rig.settle() == thread);
    thread.frame.rax.set(15);
    crate::fault::foreign_call(&rig.k, thread);
    rig.settle();
    rig.ok(Call::ThreadSuspend, 60, &[]);
    assert_eq!(thread.frame.rax.get() as i64, -4);
}

#[test]
fn mapping_protection_and_tables_come_back() {
    let rig = Rig::new(64);
    rig.retype(ObjectType::AddressSpace, 5 * 4096, 40);
    rig.retype(ObjectType::Frame, 4 * 4096, 41);
    rig.ok(Call::CapCopy, TABLE, &[42, 41, u64::from((Rights::READ | Rights::CONTROL).bits()), 0]);
    // Root and three levels are needed, one page is left over for one more last-level table.
    rig.ok(Call::Map, 40, &[41, 0, 0x40_0000, 1, 3]);
    rig.ok(Call::Map, 40, &[42, 1, 0x60_0000, 1, 1]);
    assert_eq!(rig.call(Call::Map, 40, &[41, 2, 0x80_0000, 1, 3]).status, status(Error::OutOfMemory));
    assert_eq!(rig.call(Call::Protect, 40, &[0x60_0000, 1, 3]).status, status(Error::MissingRights));
    rig.ok(Call::Protect, 40, &[0x40_0000, 1, 5]);
    assert_eq!(rig.call(Call::Protect, 40, &[0x40_0000, 1, 7]).status, status(Error::InvalidArgument));
    rig.ok(Call::Unmap, 40, &[0x40_0000, 1024]);
    rig.ok(Call::Map, 40, &[41, 2, 0x80_0000, 2, 3]);
    for (address, pages) in
        [(0x7fff_ffff_f000, 1), (0x7fff_ffff_e000, 2), (1 << 47, 1), (0x1001, 1), (0x1000, u64::MAX), (0x1000, 0)]
    {
        assert_eq!(
            rig.call(Call::Map, 40, &[41, 0, address, pages, 3]).status,
            status(Error::InvalidArgument),
            "{address:#x}"
        );
        assert_eq!(rig.call(Call::Unmap, 40, &[address, pages]).status, status(Error::InvalidArgument));
    }
    // The frame goes while mapped, by revoke of a copy nothing happens, by the last capability everything.
    rig.ok(Call::CapDelete, TABLE, &[42]);
    let space = rig.slot(40).object::<crate::object::AddressSpace>().unwrap();
    assert!(space.writable(0x80_1000).is_some());
    rig.ok(Call::CapDelete, TABLE, &[41]);
    assert!(space.readable(0x80_1000).is_none() && space.readable(0x80_0000).is_none());
}

#[test]
fn extended_tables_go_with_their_memory() {
    let rig = Rig::new(64);
    rig.retype(ObjectType::AddressSpace, 4096, 40);
    rig.retype(ObjectType::Frame, 4096, 41);
    rig.retype(ObjectType::Untyped, 8 * 4096, 43);
    assert_eq!(rig.call(Call::Map, 40, &[41, 0, 0x40_0000, 1, 3]).status, status(Error::OutOfMemory));
    rig.ok(Call::Extend, 40, &[43]);
    rig.ok(Call::Map, 40, &[41, 0, 0x40_0000, 1, 3]);
    assert_eq!(rig.call(Call::Retype, 43, &[7, 0, 44, 1]).status, status(Error::OutOfMemory));
    rig.ok(Call::CapRevoke, TABLE, &[43]);
    let space = rig.slot(40).object::<crate::object::AddressSpace>().unwrap();
    assert!(space.readable(0x40_0000).is_none());
    rig.ok(Call::Retype, 43, &[2, 8 * 4096, 44, 1]);
}

#[test]
fn leases_end_with_the_answer() {
    let rig = with_server();
    rig.retype(ObjectType::Frame, 2 * 4096, 41);
    rig.ok(Call::Map, SPACE, &[41, 0, 0x40_0000, 1, 3]);
    rig.ok(Call::Map, SPACE, &[41, 1, 0x50_0000, 1, 1]);
    let client = rig.current();
    client.space().unwrap().writable(0x40_0000).unwrap().write(1, 0x5a5a);
    rig.message(Call::Call, ENDPOINT, 0, Tag(0), [0; 8]);
    rig.settle();
    assert_eq!(rig.ok(Call::LeaseRead, REPLY, &[0x40_0008, 0x40_0ff8, 64]).rdi, 8);
    assert_eq!(client.space().unwrap().readable(0x40_0000).unwrap().read(511), 0x5a5a);
    assert_eq!(rig.ok(Call::LeaseWrite, REPLY, &[0x50_0000, 0x40_0000, 8]).rdi, 0);
    assert_eq!(rig.call(Call::LeaseRead, REPLY, &[0x40_0000, 0x40_0000, 4097]).status, status(Error::InvalidArgument));
    assert_eq!(rig.ok(Call::LeaseRead, REPLY, &[u64::MAX - 3, 0x40_0000, 8]).rdi, 0);
    rig.message(Call::Reply, REPLY, 0, Tag(0), [0; 8]);
    assert_eq!(rig.call(Call::LeaseRead, REPLY, &[0x40_0000, 0x40_0ff8, 8]).status, status(Error::NotFound));
}

#[test]
fn budgets_throttle_and_round_robin_rotates() {
    let rig = Rig::new(64);
    let greedy = rig.thread(SERVER, 150);
    rig.ok(Call::SchedConfigure, SERVER + 1, &[150, 0, 0, 100, 1000]);
    assert!(rig.settle() == greedy);
    assert_eq!(rig.k.cpu.armed.get(), 1100);
    arch::set_now(1100);
    crate::sched::interrupt(&rig.k, arch::TIMER_VECTOR);
    let other = rig.settle();
    assert!(other != greedy);
    assert_eq!(rig.k.cpu.armed.get(), 2000);
    arch::set_now(2000);
    crate::sched::interrupt(&rig.k, arch::TIMER_VECTOR);
    assert!(rig.settle() == greedy);
    rig.ok(Call::ThreadSuspend, SERVER, &[]);
    // Two of the same priority take turns.
    let first = rig.settle();
    let twin = rig.thread(60, 100);
    rig.ok(Call::SchedConfigure, TIME, &[100, 1, 50, 0, 0]);
    rig.ok(Call::SchedConfigure, 61, &[100, 1, 50, 0, 0]);
    assert!(rig.settle() == first);
    arch::set_now(2050);
    crate::sched::interrupt(&rig.k, arch::TIMER_VECTOR);
    assert!(rig.settle() == twin);
    rig.ok(Call::Yield, 0, &[]);
    assert!(rig.settle() == first);
    assert_eq!(rig.ok(Call::SchedConsumed, TIME, &[]).rdi, 50 + 900);
}

#[test]
fn a_used_up_budget_is_reported() {
    let rig = with_server();
    rig.thread(60, 120);
    rig.ok(Call::ThreadSuspend, 60, &[]);
    rig.ok(Call::ThreadConfigure, 60, &[SPACE.into(), TABLE.into(), ENDPOINT.into(), 0, 0, 0x99]);
    rig.ok(Call::SchedConfigure, 61, &[120, 0, 0, 300, 1000]);
    rig.ok(Call::ThreadResume, 60, &[]);
    let spinner = rig.settle();
    spinner.frame.rax.set(0xabc);
    arch::set_now(1300);
    crate::sched::interrupt(&rig.k, arch::TIMER_VECTOR);
    let server = rig.settle();
    let out = rig.result(server);
    assert_eq!((out.rdi, Tag(out.rsi).label(), out.words[0]), (0x99, LABEL_BUDGET, 300));
    assert!(server.time() == server.own_time.get());
    rig.message(Call::ReplyReceive, ENDPOINT, REPLY, Tag(0), [0; 8]);
    assert!(rig.settle() != spinner);
    assert_eq!(spinner.state.get(), State::Ready);
    arch::set_now(2000);
    crate::sched::interrupt(&rig.k, arch::TIMER_VECTOR);
    assert!(rig.settle() == spinner);
    assert_eq!(spinner.frame.rax.get(), 0xabc);
}

#[test]
fn a_thread_can_take_itself_apart() {
    let rig = Rig::new(64);
    let victim = rig.thread(SERVER, 150);
    assert!(rig.settle() == victim);
    rig.ok(Call::CapDelete, TABLE, &[SERVER.into()]);
    assert!(rig.k.cpu.current.get().is_none());
    let survivor = rig.settle();
    assert!(survivor != victim);
    while reap_step(&rig.k) == Progress::More {}
    assert!(rig.slot(SERVER + 1).object::<crate::object::SchedContext>().unwrap().owner.get().is_none());
}

#[test]
fn the_fast_path_does_what_the_ordinary_one_does() {
    use crate::message::fastpath::{self, Fast};
    let fast = |rig: &crate::rig::Rig, thread: Ref<Thread>| match fastpath::any(&rig.k, thread) {
        Some(Fast::Switch(next)) => Some(next),
        _ => None,
    };
    let rig = with_server();
    let client = rig.current();
    let frame = &client.frame;
    frame.rax.set(Call::Call as u64);
    frame.rdi.set(ENDPOINT.into());
    frame.rsi.set(Tag::new(7, 3).0);
    for index in 0..8 {
        frame.word(index).set(index as u64 + 1);
    }
    let server = fast(&rig, client).unwrap();
    assert!(server == rig.settle() && server.id.get() == SERVER.into());
    let out = rig.result(server);
    assert_eq!((out.status, out.rdi, Tag(out.rsi), &out.words[..4]), (0, 0, Tag::new(7, 3), &[1, 2, 3, 0][..]));
    assert!(server.time() == client.own_time.get() && client.state.get() == State::WaitingReply);
    let frame = &server.frame;
    frame.rax.set(Request::new(Call::ReplyReceive, REPLY, 0).0);
    frame.rdi.set(ENDPOINT.into());
    frame.rsi.set(Tag::new(1, 1).0);
    frame.rdx.set(99);
    assert!(fast(&rig, server) == Some(client));
    assert!(rig.settle() == client);
    let out = rig.result(client);
    assert_eq!((out.status, out.rdi, Tag(out.rsi), out.words[0], out.words[1]), (0, 0, Tag::new(1, 1), 99, 2));
    assert!(server.state.get() == State::Receiving && server.lent_time.get().is_none());
    // Again, through the ordinary path: the state is the same.
    rig.message(Call::Call, ENDPOINT, 0, Tag::new(7, 1), [5; 8]);
    assert!(rig.settle() == server);
    assert_eq!(rig.result(server).words[0], 5);
}
