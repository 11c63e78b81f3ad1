//! What happens when a user thread faults, or makes a foreign system call.

use crate::arch;
use crate::kernel::Kernel;
use crate::memory::Ref;
use crate::message::{self, Send};
use crate::object::thread::{Sending, State};
use crate::object::{Endpoint, Thread};
use ipc::Rights;

/// A thread has faulted: tells its fault endpoint. Without one it stays where it is.
pub fn fault(k: &Kernel, thread: Ref<Thread>, vector: u64, error: u64, address: u64) {
    let frame = &thread.frame;
    let words = [vector, error, address, frame.rip.get(), frame.rsp.get(), frame.rflags.get()];
    for (cell, word) in thread.fault.iter().zip(words) {
        cell.set(word);
    }
    let slot = &thread.fault_endpoint;
    match slot.object::<Endpoint>() {
        Some(endpoint) if slot.rights().contains(Rights::WRITE) => {
            let send = Send { kind: Sending::Fault, badge: slot.badge(), may_grant: false, deadline: None };
            message::send(k, thread, endpoint, send);
        }
        _ => {
            thread.state.set(State::Faulted);
            arch::log_fault(thread.id.get(), &words);
            if k.first.get() == Some(thread) {
                arch::first_process_died();
            }
        }
    }
}

/// The timer has found a running thread's own budget used up: tells its fault endpoint. Until the answer, and until the budget is
/// filled up, it does not run. Without an endpoint it just waits for its next period.
pub fn budget(k: &Kernel, thread: Ref<Thread>) {
    let exhausted = thread.own_time.get().is_some_and(|time| time.exhausted());
    if !exhausted || thread.lent_time.get().is_some() || thread.state.get() != State::Ready {
        return;
    }
    let slot = &thread.fault_endpoint;
    if let Some(endpoint) = slot.object::<Endpoint>()
        && slot.rights().contains(Rights::WRITE)
    {
        let send = Send { kind: Sending::Budget, badge: slot.badge(), may_grant: false, deadline: None };
        message::send(k, thread, endpoint, send);
    }
}

/// A foreign thread has made a system call: it goes where its address space routes that number.
pub fn foreign_call(k: &Kernel, thread: Ref<Thread>) {
    let Some(space) = thread.space() else { return };
    let number = thread.frame.rax.get();
    match space.route(number) {
        Ok(slot) => {
            if let Some(endpoint) = slot.object::<Endpoint>() {
                let send = Send { kind: Sending::Foreign, badge: slot.badge(), may_grant: false, deadline: None };
                message::send(k, thread, endpoint, send);
            }
        }
        Err(errno) => thread.frame.rax.set(errno.wrapping_neg()),
    }
}
