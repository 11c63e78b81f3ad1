//! The fast path: a call that finds its server waiting, the answer that finds its caller, a signal that wakes somebody more urgent, a
//! yield to nobody; with nothing unusual about any of them.
//!
//! Everything is checked before anything is changed; whatever does not fit goes the ordinary way, which does the same and more. With a
//! message the caller's time goes on being used by the server, so time need not be accounted for, nor the timer set.
//!
//! Every instruction counts here (`./x bench kernel`): the most frequent ones have a `SIMPLE` version that calls nothing, so that the
//! compiler need not keep anything over a call. One look at each thing, and nothing that is known from the way here. The thread
//! is current, so it has an address space and time that is not used up, and nobody of a higher priority is ready.

use super::transfer;
use crate::kernel::Kernel;
use crate::memory::Ref;
use crate::object::thread::{Sending, State};
use crate::object::{CapTable, Endpoint, Notification, Reply, SchedContext, Thread};
use crate::sched::{self, timeouts};
use ipc::message::{KERNEL_LABELS, LABEL_FOREIGN, MAX_WORDS, REGISTER_WORDS, Request};
use ipc::{Call, Rights, Tag};

const NULL: u64 = Call::Null as u64;
const YIELD: u64 = Call::Yield as u64;
const CALL: u64 = Call::Call as u64;
const REPLY_RECEIVE: u64 = Call::ReplyReceive as u64;
const REPLY_RECEIVE_UNTIL: u64 = REPLY_RECEIVE | Request::DEADLINE;
const SIGNAL: u64 = Call::Signal as u64;
/// Number of words of a tag.
const WORDS: u64 = 0x7f;
/// What no tag on the fast path has: capabilities, and the highest bit of the label (half of all labels, the kernel's among them).
const UNUSUAL: u64 = 0x380 | 1 << 63;

const _: () = assert!((KERNEL_LABELS << 16) as i64 <= 0);

/// What the fast path did. It gives `None` where it did nothing, and the call has to go another way.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Fast {
    /// The call is done, and this thread, which is current now, goes on.
    Switch(Ref<Thread>),
    /// The call is done, and the same thread goes on.
    Stay,
}

/// Tries a `syscall` of `thread`, which is current, in all ways that there are here.
#[cfg(test)]
pub fn any(k: &Kernel, thread: Ref<Thread>) -> Option<Fast> {
    let (slot, tag) = (thread.frame.rdi.get(), thread.frame.rsi.get());
    let Some(table) = thread.table() else { return foreign_call(k, thread) };
    let fast = match thread.frame.rax.get() {
        CALL => call::<true>(k, thread, table, slot, tag),
        request if request & 0xffff == REPLY_RECEIVE => reply_receive::<true>(k, thread, table, slot, tag),
        _ => plain(k, thread),
    };
    fast.or_else(|| less_simple(k, thread))
}

/// Tries a kernel call that the simple ways have not taken.
#[inline(always)]
pub fn less_simple(k: &Kernel, thread: Ref<Thread>) -> Option<Fast> {
    let frame = &thread.frame;
    let (request, slot, tag, table) = (frame.rax.get(), frame.rdi.get(), frame.rsi.get(), thread.table()?);
    match request & 0xffff {
        SIGNAL => signal(k, thread, table, slot),
        CALL if request == CALL => call::<false>(k, thread, table, slot, tag),
        REPLY_RECEIVE | REPLY_RECEIVE_UNTIL => {
            let deadline = transfer::deadline(&thread).ok()?;
            let fast = reply_receive::<false>(k, thread, table, slot, tag)?;
            if let Some(deadline) = deadline {
                sched::wait_until(k, thread, deadline);
            }
            Some(fast)
        }
        _ => None,
    }
}

/// Tries the calls that have to do with nobody else.
#[inline(always)]
pub fn plain(k: &Kernel, thread: Ref<Thread>) -> Option<Fast> {
    match thread.frame.rax.get() {
        NULL => Some(Fast::Stay),
        YIELD if !k.cpu.ready.reaches(thread.priority()) => {
            thread.frame.rax.set(0);
            Some(Fast::Stay)
        }
        _ => None,
    }
}

/// Whether a tag is one for this version: the words can be copied, and there is nothing unusual in it. Simple are up to 7 words: that
/// takes one look.
#[inline(always)]
fn fits<const SIMPLE: bool>(tag: u64, from: Ref<Thread>, to: Ref<Thread>) -> bool {
    if SIMPLE {
        return tag & (UNUSUAL | WORDS & !7) == 0;
    }
    let count = tag & WORDS;
    tag & UNUSUAL == 0 && (count <= REGISTER_WORDS as u64 || buffers(from, to, count))
}

/// Copies the words of a message that travel in registers.
#[inline(always)]
fn words(from: Ref<Thread>, to: Ref<Thread>, count: u64) {
    let (source, target) = (&from.frame, &to.frame);
    if count >= 4 {
        target.rdx.set(source.rdx.get());
        target.r10.set(source.r10.get());
        target.r8.set(source.r8.get());
        target.r9.set(source.r9.get());
        if count > 4 {
            target.r12.set(source.r12.get());
            if count > 5 {
                target.r13.set(source.r13.get());
            }
            if count > 6 {
                target.r14.set(source.r14.get());
            }
            if count > 7 {
                target.r15.set(source.r15.get());
            }
        }
    } else if count > 0 {
        target.rdx.set(source.rdx.get());
        if count > 1 {
            target.r10.set(source.r10.get());
        }
        if count > 2 {
            target.r8.set(source.r8.get());
        }
    }
}

/// Copies the words that lie in the threads' buffers.
#[inline(never)]
fn buffers(from: Ref<Thread>, to: Ref<Thread>, count: u64) -> bool {
    match (from.message_buffer(), to.message_buffer()) {
        (Some(source), Some(target)) if count <= MAX_WORDS as u64 => {
            transfer::buffered(source, target, count as usize);
            true
        }
        _ => false,
    }
}

/// Tries a `call` on a slot, with a tag.
#[inline(always)]
pub fn call<const SIMPLE: bool>(
    k: &Kernel,
    thread: Ref<Thread>,
    table: Ref<CapTable>,
    slot: u64,
    tag: u64,
) -> Option<Fast> {
    let slot = table.capability_at(slot)?;
    let endpoint = slot.object_with::<Endpoint>(Rights::WRITE)?;
    let (server, reply) = waiting_server::<SIMPLE>(&endpoint)?;
    let (time, priority) = lendable::<SIMPLE>(&thread)?;
    if !fits::<SIMPLE>(tag, thread, server) {
        return None;
    }
    server.frame.rdi.set(slot.badge());
    server.frame.rsi.set(tag);
    words(thread, server, tag & WORDS);
    take::<SIMPLE>(k, thread, Sending::Call, &endpoint, server, reply, time, priority);
    Some(Fast::Switch(server))
}

/// Tries a foreign thread's `syscall`.
#[inline(always)]
pub fn foreign_call(k: &Kernel, thread: Ref<Thread>) -> Option<Fast> {
    let from = &thread.frame;
    let space = thread.space()?;
    let slot = space.route_slot(from.rax.get())?;
    let endpoint = slot.object::<Endpoint>()?;
    let (server, reply) = waiting_server::<true>(&endpoint)?;
    let (time, priority) = lendable::<true>(&thread)?;
    let to = &server.frame;
    to.rdi.set(thread.id.get());
    to.rsi.set(Tag::new(LABEL_FOREIGN, 8).0);
    to.rdx.set(from.rax.get());
    to.r10.set(from.rdi.get());
    to.r8.set(from.rsi.get());
    to.r9.set(from.rdx.get());
    to.r12.set(from.r10.get());
    to.r13.set(from.r8.get());
    to.r14.set(from.r9.get());
    to.r15.set(from.rsp.get());
    take::<true>(k, thread, Sending::Foreign, &endpoint, server, reply, time, priority);
    Some(Fast::Switch(server))
}

/// The server whose turn it is on an endpoint, with the Reply that it brought.
#[inline(always)]
fn waiting_server<const SIMPLE: bool>(endpoint: &Endpoint) -> Option<(Ref<Thread>, Ref<Reply>)> {
    let server = if SIMPLE { endpoint.only_receiver()? } else { endpoint.first_receiver()? };
    if SIMPLE && server.has_deadline.get() {
        return None;
    }
    Some((server, server.receive_reply.get()?))
}

/// The time that the current thread can lend, and the priority that goes with it: what it was lent itself, or its own, unless somebody
/// else uses that.
#[inline(always)]
fn lendable<const SIMPLE: bool>(thread: &Thread) -> Option<(Ref<SchedContext>, u8)> {
    match thread.lent_time.get() {
        None => {
            let own = thread.own_time.get()?;
            if own.user.get().is_none() { Some((own, own.priority())) } else { None }
        }
        Some(lent) if SIMPLE || lent.exhausted() => None,
        Some(lent) => Some((lent, thread.priority())),
    }
}

/// Hands the processor and the caller's time to the server. As the caller had the highest priority, the server, which has at least
/// that now, has it too.
#[inline(always)]
#[allow(clippy::too_many_arguments)] // What the callers have looked up already.
fn take<const SIMPLE: bool>(
    k: &Kernel,
    thread: Ref<Thread>,
    kind: Sending,
    endpoint: &Endpoint,
    server: Ref<Thread>,
    reply: Ref<Reply>,
    time: Ref<SchedContext>,
    priority: u8,
) {
    endpoint.take_first_receiver::<SIMPLE>(server);
    if !SIMPLE {
        timeouts::cancel(k, server);
    }
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

/// Tries a `reply_receive` on a slot, with a tag.
#[inline(always)]
pub fn reply_receive<const SIMPLE: bool>(
    k: &Kernel,
    thread: Ref<Thread>,
    table: Ref<CapTable>,
    slot: u64,
    tag: u64,
) -> Option<Fast> {
    let second = Request(thread.frame.rax.get()).second();
    let endpoint = table.capability_at(slot)?.object_with::<Endpoint>(Rights::READ)?;
    let reply = table.capability_at(second.into())?.object_with::<Reply>(Rights::WRITE)?;
    let caller = reply.caller.get()?;
    if !endpoint.is_empty() || (SIMPLE && caller.has_deadline.get()) {
        return None;
    }
    // The caller may be less urgent than somebody whose deadline did not concern this thread.
    if k.cpu.attention.get() {
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
    let own = caller.own_time.get() == Some(time);
    let priority = if own {
        time.priority()
    } else {
        let own = caller.own_time.get().map_or(0, |own| own.priority());
        own.max(time.priority()).max(caller.donated_priority.get())
    };
    // The caller must be the highest again once it has its time back.
    if k.cpu.ready.reaches(priority) {
        return None;
    }
    match caller.sending.get() {
        Sending::Call => {
            if !fits::<SIMPLE>(tag, thread, caller) {
                return None;
            }
            words(thread, caller, tag & WORDS);
            caller.frame.rax.set(0);
            caller.frame.rdi.set(0);
            caller.frame.rsi.set(tag);
        }
        Sending::Foreign if tag >> 16 == 0 && tag & WORDS > 0 => caller.frame.rax.set(thread.frame.rdx.get()),
        _ => return None,
    }
    caller.sending.set(Sending::Nothing);
    caller.kept_by.set(None);
    caller.lent_out.set(0);
    caller.state.set(State::Ready);
    if !SIMPLE {
        timeouts::cancel(k, caller);
    }
    thread.lent_time.set(None);
    if own {
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
    Some(Fast::Switch(caller))
}

/// A signal for which somebody waits who is more urgent than the current thread.
#[inline(always)]
fn signal(k: &Kernel, thread: Ref<Thread>, table: Ref<CapTable>, slot: u64) -> Option<Fast> {
    let slot = table.capability_at(slot)?;
    let notification = slot.object_with::<Notification>(Rights::WRITE)?;
    let waiter = notification.waiters.first()?;
    let time = waiter.own_time.get()?;
    let bits = slot.badge();
    if bits == 0 || waiter.has_deadline.get() || time.exhausted() || time.priority() <= thread.priority() {
        return None;
    }
    if !sched::preempt(k, thread, waiter, time) {
        return None;
    }
    thread.frame.rax.set(0);
    notification.take_out(waiter);
    waiter.frame.rax.set(0);
    waiter.frame.rdi.set(bits);
    Some(Fast::Switch(waiter))
}
