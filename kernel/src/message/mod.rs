//! Messages: sending, receiving, answering.
//!
//! A sender that has to wait keeps its message in its own registers and buffer; it is read when a receiver takes it.

pub mod fastpath;
pub mod lease;
pub mod transfer;

use crate::arch;
use crate::kernel::Kernel;
use crate::memory::Ref;
use crate::object::thread::{Sending, State};
use crate::object::{Endpoint, Reply, Thread};
use crate::sched::{self, timeouts};
use ipc::message::reply_label;
use ipc::{Error, Tag};

/// Whether a call is over or its thread waits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// Over, with results in the registers.
    Finished,
    /// The thread waits; its registers will be set when that ends.
    Waiting,
}

/// What is known of a send before the endpoint is looked at.
#[derive(Clone, Copy)]
pub struct Send {
    /// Its kind.
    pub kind: Sending,
    /// The badge that the receiver sees.
    pub badge: u64,
    /// Whether capabilities may go along.
    pub may_grant: bool,
    /// Until when to wait, if not forever.
    pub deadline: Option<u64>,
}

/// Sends the message of `thread`, which is current, to an endpoint. For what waits for an answer, this waits in any case.
pub fn send(k: &Kernel, thread: Ref<Thread>, endpoint: Ref<Endpoint>, send: Send) -> Outcome {
    thread.sending.set(send.kind);
    thread.badge.set(send.badge);
    thread.may_grant.set(send.may_grant);
    match endpoint.first_receiver() {
        Some(receiver) => {
            let reply = receiver.receive_reply.get();
            receiver.unlink(k);
            hand_over(k, thread, receiver, reply, send.deadline);
            sched::make_ready(k, receiver);
            if send.kind == Sending::Send { Outcome::Finished } else { Outcome::Waiting }
        }
        None => {
            endpoint.queue(thread, State::Sending);
            if let Some(deadline) = send.deadline {
                timeouts::start(k, thread, deadline);
            }
            Outcome::Waiting
        }
    }
}

/// Gives the message of `sender` to `receiver`; both are in no queue. The sender is left waiting for the answer, if it wants one.
fn hand_over(k: &Kernel, sender: Ref<Thread>, receiver: Ref<Thread>, reply: Option<Ref<Reply>>, deadline: Option<u64>) {
    transfer::message(sender, receiver);
    receiver.frame.set_status(Ok(()));
    let kind = sender.sending.get();
    if kind == Sending::Send {
        sender.sending.set(Sending::Nothing);
        return;
    }
    match reply {
        Some(reply) => {
            reply.caller.set(Some(sender));
            sender.kept_by.set(Some(reply));
            sender.state.set(if kind == Sending::Fault { State::Faulted } else { State::WaitingReply });
            sender.lend_time(receiver);
            if let Some(deadline) = deadline {
                timeouts::start(k, sender, deadline);
            }
        }
        // Nobody will be able to answer.
        None => {
            sender.state.set(State::WaitingReply);
            sender.abort(k, Error::PeerDead);
        }
    }
}

/// Receives on an endpoint into `thread`, which is current.
pub fn receive(
    k: &Kernel,
    thread: Ref<Thread>,
    endpoint: Ref<Endpoint>,
    reply: Option<Ref<Reply>>,
    may_wait: bool,
    deadline: Option<u64>,
) -> Result<Outcome, Error> {
    if let Some(reply) = reply
        && (reply.caller.get().is_some() || reply.receiver.get().is_some())
    {
        return Err(Error::Busy);
    }
    sched::charge(k);
    thread.drop_lent_time();
    k.cpu.reschedule();
    if let Some(bits) = thread.bound.get().and_then(|notification| notification.take()) {
        deliver_signal(thread, bits);
        return Ok(Outcome::Finished);
    }
    if let Some(sender) = endpoint.first_sender() {
        let deadline = sender.has_deadline.get().then(|| sender.deadline.get());
        sender.unlink(k);
        hand_over(k, sender, thread, reply, deadline);
        if sender.sending.get() == Sending::Nothing && sender.state.get() == State::Sending {
            sender.frame.set_status(Ok(()));
            sched::make_ready(k, sender);
        }
        return Ok(Outcome::Finished);
    }
    if !may_wait {
        return Err(Error::WouldBlock);
    }
    if let Some(reply) = reply {
        reply.receiver.set(Some(thread));
        thread.receive_reply.set(Some(reply));
    }
    endpoint.queue(thread, State::Receiving);
    if let Some(deadline) = deadline {
        timeouts::start(k, thread, deadline);
    }
    Ok(Outcome::Waiting)
}

/// Ends a receive with the bits of the bound notification.
pub fn deliver_signal(thread: Ref<Thread>, bits: u64) {
    thread.frame.set_status(Ok(()));
    thread.frame.set_result(0, bits | 1 << 63);
    thread.frame.set_result(1, 0);
}

/// Answers the caller that a Reply keeps with the message of `thread`, which is current. Whether there was a caller.
pub fn answer(k: &Kernel, thread: Ref<Thread>, reply: Ref<Reply>, may_grant: bool) -> bool {
    let Some(caller) = reply.caller.take() else { return false };
    caller.kept_by.set(None);
    timeouts::cancel(k, caller);
    sched::charge(k);
    caller.regain_time(&thread);
    let tag = Tag(thread.frame.rsi.get());
    let kind = caller.sending.replace(Sending::Nothing);
    if matches!(kind, Sending::Foreign | Sending::Fault | Sending::Budget) {
        if kind == Sending::Foreign && tag.label() & reply_label::RETRY != 0 {
            caller.frame.rip.set(caller.frame.rip.get().wrapping_sub(arch::SYSCALL_LENGTH));
        } else if kind == Sending::Foreign && tag.label() & reply_label::REGISTERS == 0 {
            caller.frame.rax.set(if tag.words() > 0 { thread.frame.word(0).get() } else { 0 });
        }
        caller.state.set(State::Ready);
    } else {
        thread.badge.set(0);
        thread.may_grant.set(may_grant);
        thread.sending.set(Sending::Send);
        transfer::message(thread, caller);
        thread.sending.set(Sending::Nothing);
        caller.frame.set_status(Ok(()));
    }
    sched::make_ready(k, caller);
    true
}
