//! A call as its handler sees it: its arguments, checked, and the handlers that need more than one step.

use super::{Answer, Handled, done, finished, results};
use crate::arch;
use crate::cap::{self, Slot, delete};
use crate::kernel::Kernel;
use crate::memory::{PAGE_SIZE, Ref};
use crate::message::{self, Outcome, Send, lease, transfer};
use crate::object::thread::{Sending, State};
use crate::object::{AddressSpace, CapTable, Endpoint, Irq, Notification, Reply, Thread, thread_ops, untyped};
use crate::sched::{self, timeouts};
use ipc::message::{KERNEL_LABELS, Request};
use ipc::{Error, ObjectType, Rights, Tag};

/// A call as its handler sees it.
pub(super) struct Context<'a> {
    pub k: &'a Kernel,
    pub thread: Ref<Thread>,
    pub request: Request,
    /// The slot in `rdi`; checked for type and rights if the call table asks for it.
    pub slot: Option<Ref<Slot>>,
}

impl Context<'_> {
    pub fn arg(&self, index: usize) -> u64 {
        self.thread.frame.argument(index)
    }

    pub fn slot(&self) -> Result<Ref<Slot>, Error> {
        self.slot.ok_or(Error::InvalidCapability)
    }

    pub fn object<T: cap::KernelObject>(&self) -> Result<Ref<T>, Error> {
        self.slot()?.object().ok_or(Error::WrongType)
    }

    pub fn cap(&self, index: u64) -> Result<Ref<Slot>, Error> {
        self.thread.capability(index)
    }

    pub fn typed(&self, index: u64, kind: ObjectType) -> Result<Ref<Slot>, Error> {
        let slot = self.cap(index)?;
        if slot.is(kind) { Ok(slot) } else { Err(Error::WrongType) }
    }

    pub fn with_right<T: cap::KernelObject>(&self, index: u64, right: Rights) -> Result<Ref<T>, Error> {
        let slot = self.cap(index)?;
        let object = slot.object().ok_or(Error::WrongType)?;
        if slot.rights().contains(right) { Ok(object) } else { Err(Error::MissingRights) }
    }

    pub fn slot_in_table(&self, index: u64) -> Result<Ref<Slot>, Error> {
        let index = u32::try_from(index).map_err(|_| Error::InvalidArgument)?;
        self.object::<CapTable>()?.slot(index).ok_or(Error::InvalidArgument)
    }

    pub fn buffer(&self) -> Result<crate::memory::Page, Error> {
        self.thread.message_buffer().ok_or(Error::InvalidArgument)
    }

    pub fn deadline(&self) -> Result<Option<u64>, Error> {
        transfer::deadline(&self.thread)
    }

    pub fn grants(&self) -> bool {
        self.slot.is_some_and(|slot| slot.rights().contains(Rights::GRANT))
    }

    /// The Reply in the second slot, and whether capabilities may go with its answer.
    pub fn second_reply(&self) -> Result<Option<(Ref<Reply>, bool)>, Error> {
        let index = self.request.second();
        if index == 0 {
            return Ok(None);
        }
        let slot = self.cap(u64::from(index))?;
        let reply = slot.object::<Reply>().ok_or(Error::WrongType)?;
        if !slot.rights().contains(Rights::WRITE) {
            return Err(Error::MissingRights);
        }
        Ok(Some((reply, slot.rights().contains(Rights::GRANT))))
    }

    pub fn send(&self, kind: Sending, may_wait: bool) -> Handled {
        let slot = self.slot()?;
        let endpoint = self.object::<Endpoint>()?;
        if Tag(self.arg(0)).label() >= KERNEL_LABELS {
            return Err(Error::InvalidArgument);
        }
        if !may_wait && endpoint.first_receiver().is_none() {
            return Err(Error::WouldBlock);
        }
        let send = Send { kind, badge: slot.badge(), may_grant: self.grants(), deadline: self.deadline()? };
        match message::send(self.k, self.thread, endpoint, send) {
            Outcome::Finished => Ok(Answer::Done),
            Outcome::Waiting => Ok(Answer::Set),
        }
    }

    pub fn receive(&self, reply: Option<(Ref<Reply>, bool)>, may_wait: bool) -> Handled {
        let endpoint = self.object::<Endpoint>()?;
        let deadline = self.deadline()?;
        message::receive(self.k, self.thread, endpoint, reply.map(|(reply, _)| reply), may_wait, deadline)?;
        Ok(Answer::Set)
    }

    pub fn wait(&self) -> Handled {
        let notification = self.object::<Notification>()?;
        let deadline = self.deadline()?;
        if let Some(bits) = notification.take() {
            return results([bits]);
        }
        sched::charge(self.k);
        self.thread.drop_lent_time();
        self.thread.state.set(State::WaitingSignal);
        self.thread.waiting_on.set(Some(notification));
        notification.waiters.push_back(self.thread);
        if let Some(deadline) = deadline {
            timeouts::start(self.k, self.thread, deadline);
        }
        Ok(Answer::Set)
    }

    pub fn lease(&self, write: bool) -> Handled {
        let (caller, own) = lease::spaces(self.object::<Reply>()?.caller.get(), &self.thread)?;
        let (theirs, ours, bytes) = (self.arg(0), self.arg(1), self.arg(2));
        results([if write {
            lease::copy(&own, ours, &caller, theirs, bytes)?
        } else {
            lease::copy(&caller, theirs, &own, ours, bytes)?
        }])
    }

    pub fn retype(&self) -> Handled {
        let slot = self.slot()?;
        let (kind, size, first, count) = (self.arg(0), self.arg(1), self.arg(2), self.arg(3));
        let target = |index: u64| self.thread.slot(first.checked_add(index).ok_or(Error::InvalidArgument)?);
        finished(untyped::retype(self.k, slot, kind, size, count, target)?)
    }

    /// Runs a deletion, then takes apart what died of it.
    pub fn long(&self, step: impl FnMut() -> delete::Progress) -> Handled {
        if delete::run(self.k, step) && delete::run(self.k, || delete::reap_step(self.k)) {
            Ok(Answer::Done)
        } else {
            Ok(Answer::Again)
        }
    }

    pub fn bind_route(&self) -> Handled {
        let space = self.object::<AddressSpace>()?;
        let target = usize::try_from(self.arg(0))
            .ok()
            .and_then(|route| space.routes.get(route))
            .ok_or(Error::InvalidArgument)?;
        self.with_right::<Endpoint>(self.arg(1), Rights::WRITE)?;
        let source = self.cap(self.arg(1))?;
        if !delete::empty(self.k, &[target]) {
            return Ok(Answer::Again);
        }
        cap::copy(source, Ref::from(target), Rights::all(), 0).map(done)
    }

    pub fn extend(&self) -> Handled {
        let space = self.object::<AddressSpace>()?;
        let source = self.typed(self.arg(0), ObjectType::Untyped)?;
        if source.memory_kind() != cap::slot::memory_kind::NORMAL {
            return Err(Error::InvalidArgument);
        }
        if !source.rights().contains(Rights::CONTROL) {
            return Err(Error::MissingRights);
        }
        let target = space.extensions.iter().find(|slot| slot.is_empty()).ok_or(Error::OutOfMemory)?;
        // The memory may be that of objects that are still being taken apart.
        if !delete::run(self.k, || delete::reap_step(self.k)) {
            return Ok(Answer::Again);
        }
        cap::copy(source, Ref::from(target), Rights::all(), 0)?;
        target.set_untyped_used(target.extra());
        space.extend(target, target.memory_base(), target.extra() / PAGE_SIZE);
        Ok(Answer::Done)
    }

    pub fn configure(&self) -> Handled {
        let optional = |index: u64| if index == 0 { Ok(None) } else { self.cap(index).map(Some) };
        let configuration = thread_ops::Configuration {
            space: self.cap(self.arg(0))?,
            table: optional(self.arg(1))?,
            fault_endpoint: optional(self.arg(2))?,
            buffer: optional(self.arg(3))?.map(|slot| (slot, self.arg(4))),
            id: self.arg(5),
        };
        finished(thread_ops::configure(self.k, self.object()?, &configuration)?)
    }

    pub fn single_irq(&self) -> Result<Ref<Irq>, Error> {
        self.slot()?.object().ok_or(Error::InvalidArgument)
    }

    pub fn console(&self) -> Handled {
        // With interrupts off, at the pace of a UART.
        const STEP: u64 = 8;
        let count = self.arg(0);
        if count > 56 {
            return Err(Error::InvalidArgument);
        }
        let mut bytes = [0; 56];
        for (index, chunk) in bytes.chunks_exact_mut(8).enumerate() {
            chunk.copy_from_slice(&self.arg(index + 1).to_le_bytes());
        }
        let step = count.min(STEP);
        arch::console_write(&bytes[..step as usize]);
        Ok(if step == count { Answer::Results(1, [step, 0, 0, 0]) } else { Answer::Stopped(step, Error::Partial) })
    }
}
