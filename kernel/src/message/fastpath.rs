//! The fast path: a call that finds its server waiting, and the answer that finds its caller, with nothing unusual about either.
//!
//! Everything is checked before anything is changed; whatever does not fit goes the ordinary way, which does the same and more. The
//! caller's time goes on being used by the server, so time need not be accounted for, nor the timer set.

use crate::kernel::Kernel;
use crate::memory::Ref;
use crate::object::thread::{Frame, Sending, State};
use crate::object::{Endpoint, Reply, SchedContext, Thread};
use ipc::message::{KERNEL_LABELS, LABEL_FOREIGN};

const _: () = assert!((KERNEL_LABELS << 16) as i64 <= 0);
use ipc::{Call, Rights, Tag};

const NULL: u64 = Call::Null as u64;
const CALL: u64 = Call::Call as u64;
const REPLY_RECEIVE: u64 = Call::ReplyReceive as u64;
/// Length and number of capabilities of a tag.
const SIZES: u64 = 0x3ff;
/// Call number and flags of a request.
const NUMBER_AND_FLAGS: u64 = 0xffff;

/// Tries a kernel call of `thread`, which is current. The thread to run, if it was taken.
#[inline(always)]
pub fn kernel_call(k: &Kernel, thread: Ref<Thread>) -> Option<Ref<Thread>> {
    let request = thread.frame.rax.get();
    if request == CALL {
        call(k, thread)
    } else if request & NUMBER_AND_FLAGS == REPLY_RECEIVE {
        reply_receive(k, thread, (request >> 16) as u32)
    } else if request == NULL {
        Some(thread)
    } else {
        None
    }
}

/// No capabilities, no words beyond the registers, and a label that is not the kernel's. (Half of all labels take the ordinary way.)
#[inline(always)]
fn fits(tag: u64) -> bool {
    tag & SIZES <= 8 && (tag as i64) >= 0
}

/// Copies the first words.
#[inline(always)]
fn words(from: &Frame, to: &Frame, count: u64) {
    for index in 0..8 {
        if count <= index {
            break;
        }
        to.word(index as usize).set(from.word(index as usize).get());
    }
}

#[inline(always)]
fn call(k: &Kernel, thread: Ref<Thread>) -> Option<Ref<Thread>> {
    let frame = &thread.frame;
    let tag = frame.rsi.get();
    let slot = thread.table()?.slot_at(frame.rdi.get())?;
    let endpoint = slot.object::<Endpoint>()?;
    if !fits(tag) || !slot.rights().contains(Rights::WRITE) {
        return None;
    }
    let (server, reply) = waiting_server(&endpoint)?;
    let time = lendable(&thread)?;
    words(frame, &server.frame, tag & SIZES);
    take(k, thread, Sending::Call, &endpoint, server, reply, time);
    server.frame.rdi.set(slot.badge());
    server.frame.rsi.set(tag);
    Some(server)
}

/// Tries a foreign call of `thread`, which is current. The thread to run, if it was taken.
#[inline(always)]
pub fn foreign_call(k: &Kernel, thread: Ref<Thread>) -> Option<Ref<Thread>> {
    let slot = thread.space()?.route(thread.frame.rax.get()).ok().map(Ref::from)?;
    let endpoint = slot.object::<Endpoint>()?;
    let (server, reply) = waiting_server(&endpoint)?;
    let time = lendable(&thread)?;
    let (from, to) = (&thread.frame, &server.frame);
    to.rdx.set(from.rax.get());
    to.r10.set(from.rdi.get());
    to.r8.set(from.rsi.get());
    to.r9.set(from.rdx.get());
    to.r12.set(from.r10.get());
    to.r13.set(from.r8.get());
    to.r14.set(from.r9.get());
    to.r15.set(from.rsp.get());
    take(k, thread, Sending::Foreign, &endpoint, server, reply, time);
    to.rdi.set(thread.id.get());
    to.rsi.set(Tag::new(LABEL_FOREIGN, 8).0);
    Some(server)
}

/// The server whose turn it is on an endpoint, with the Reply that it brought.
#[inline(always)]
fn waiting_server(endpoint: &Endpoint) -> Option<(Ref<Thread>, Ref<Reply>)> {
    let server = endpoint.first_receiver()?;
    let reply = server.receive_reply.get()?;
    if server.has_deadline.get() { None } else { Some((server, reply)) }
}

/// The time that a thread can lend: what it was lent itself, or its own, unless somebody else uses that.
#[inline(always)]
fn lendable(thread: &Thread) -> Option<Ref<SchedContext>> {
    let time = match thread.lent_time.get() {
        Some(lent) => lent,
        None => {
            let own = thread.own_time.get()?;
            if own.user.get().is_some() {
                return None;
            }
            own
        }
    };
    if time.exhausted() { None } else { Some(time) }
}

/// Hands the processor and the caller's time to the server. As the caller had the highest priority, the server, which has at least
/// that now, has it too.
#[inline(always)]
fn take(
    k: &Kernel,
    thread: Ref<Thread>,
    kind: Sending,
    endpoint: &Endpoint,
    server: Ref<Thread>,
    reply: Ref<Reply>,
    time: Ref<SchedContext>,
) {
    let priority = thread.priority();
    endpoint.take_first_receiver(server);
    server.receive_reply.set(None);
    reply.receiver.set(None);
    reply.caller.set(Some(thread));
    thread.kept_by.set(Some(reply));
    thread.state.set(State::WaitingReply);
    thread.sending.set(kind);
    thread.lent_time.set(None);
    thread.lent_out.set(time.address());
    server.lent_time.set(Some(time));
    server.donated_priority.set(priority);
    time.user.set(Some(server));
    server.state.set(State::Ready);
    server.frame.rax.set(0);
    k.cpu.current.set(Some(server));
}

#[inline(always)]
fn reply_receive(k: &Kernel, thread: Ref<Thread>, second: u32) -> Option<Ref<Thread>> {
    let frame = &thread.frame;
    let tag = frame.rsi.get();
    let table = thread.table()?;
    let slot = table.slot_at(frame.rdi.get())?;
    let endpoint = slot.object::<Endpoint>()?;
    let reply_slot = table.slot(second)?;
    let reply = reply_slot.object::<Reply>()?;
    let caller = reply.caller.get()?;
    let rights = slot.rights().contains(Rights::READ) && reply_slot.rights().contains(Rights::WRITE);
    if !rights || tag & SIZES > 8 || !endpoint.is_empty() || caller.has_deadline.get() {
        return None;
    }
    if thread.bound.get().is_some_and(|notification| notification.is_signalled()) {
        return None;
    }
    // The time that the caller lent with this call is still here, and goes back.
    let time = thread.lent_time.get()?;
    if time.address() != caller.lent_out.get() || time.exhausted() {
        return None;
    }
    let own = caller.own_time.get();
    let priority = match own {
        Some(own) if own == time => time.priority(),
        Some(own) => own.priority().max(time.priority()).max(caller.donated_priority.get()),
        None => time.priority().max(caller.donated_priority.get()),
    };
    // The caller must be the highest again once it has its time back.
    if k.cpu.ready.reaches(priority) || k.cpu.rotate.get() {
        return None;
    }
    match caller.sending.get() {
        Sending::Call => {
            words(frame, &caller.frame, tag & SIZES);
            caller.frame.rax.set(0);
            caller.frame.rdi.set(0);
            caller.frame.rsi.set(tag);
        }
        Sending::Foreign if tag >> 16 == 0 && tag & SIZES > 0 => caller.frame.rax.set(frame.rdx.get()),
        _ => return None,
    }
    caller.sending.set(Sending::Nothing);
    caller.kept_by.set(None);
    caller.lent_out.set(0);
    caller.state.set(State::Ready);
    thread.lent_time.set(None);
    if own == Some(time) {
        time.user.set(None);
    } else {
        caller.lent_time.set(Some(time));
        time.user.set(Some(caller));
    }
    reply.caller.set(None);
    reply.receiver.set(Some(thread));
    thread.receive_reply.set(Some(reply));
    endpoint.queue_only_receiver(thread);
    k.cpu.current.set(Some(caller));
    Some(caller)
}
