//! Kernel calls: number → handler, one table. The checks that all calls share (slot, type, rights) are made here, from the call table
//! that the users' stubs come from too.

mod context;

use self::context::Context;
use crate::arch;
use crate::cap::{self, delete};
use crate::kernel::Kernel;
use crate::memory::Ref;
use crate::message;
use crate::object::thread::Sending;
use crate::object::{AddressSpace, Irq, Notification, Reply, SchedContext, Thread, io_port, thread_ops, untyped};
use crate::sched;
use ipc::calls::CALLS;
use ipc::message::Request;
use ipc::{Call, Error, ObjectType, Rights};

/// What a handler says.
enum Answer {
    /// Success without results.
    Done,
    /// Success with this many results.
    Results(usize, [u64; 4]),
    /// Not all is done; the first result says how much.
    Stopped(u64, Error),
    /// The registers are set, or will be when the thread's wait ends.
    Set,
    /// The thread makes the call again, after the interrupts that came.
    Again,
}

type Handled = Result<Answer, Error>;

fn results<const N: usize>(values: [u64; N]) -> Handled {
    let mut all = [0; 4];
    for (to, from) in all.iter_mut().zip(values) {
        *to = from;
    }
    Ok(Answer::Results(N.min(4), all))
}

fn done(_: ()) -> Answer {
    Answer::Done
}

/// What can be interrupted is made again if it was.
fn finished(finished: bool) -> Handled {
    Ok(if finished { Answer::Done } else { Answer::Again })
}

fn counted((count, result): (u64, Result<(), Error>)) -> Handled {
    match result {
        Ok(()) => results([count]),
        Err(error) => Ok(Answer::Stopped(count, error)),
    }
}

/// For each call number, the object type (0: none) and rights that the call table asks for.
static REQUIRED: [(u8, u8); 256] = {
    let mut table = [(0, 0); 256];
    let mut index = 0;
    while index < CALLS.len() {
        let info = &CALLS[index];
        if let Some(object) = info.object {
            table[info.call as usize] = (object as u8, info.rights.bits());
        }
        index += 1;
    }
    table
};

/// A native thread has made a kernel call.
pub fn kernel_call(k: &Kernel, thread: Ref<Thread>) {
    let request = Request(thread.frame.rax.get());
    let handled = dispatch(k, thread, request);
    let frame = &thread.frame;
    match handled {
        Ok(Answer::Done) => frame.rax.set(0),
        Ok(Answer::Results(count, values)) => {
            frame.rax.set(0);
            for (index, value) in values.into_iter().take(count).enumerate() {
                frame.set_result(index, value);
            }
        }
        Ok(Answer::Stopped(count, error)) => {
            frame.rax.set(error as u64);
            frame.rdi.set(count);
        }
        Ok(Answer::Set) => {}
        Ok(Answer::Again) => frame.rip.set(frame.rip.get().wrapping_sub(arch::SYSCALL_LENGTH)),
        Err(error) => frame.rax.set(error as u64),
    }
}

fn dispatch(k: &Kernel, thread: Ref<Thread>, request: Request) -> Handled {
    let call = Call::from_raw(request.number()).ok_or(Error::InvalidCall)?;
    let (object, rights) = REQUIRED[usize::from(request.number())];
    let slot = if object == 0 {
        None
    } else {
        let slot = thread.capability(thread.frame.rdi.get())?;
        if slot.kind().is_none_or(|kind| kind as u8 != object) {
            return Err(Error::WrongType);
        }
        if slot.rights().bits() & rights != rights {
            return Err(Error::MissingRights);
        }
        Some(slot)
    };
    handle(&Context { k, thread, request, slot }, call)
}

fn handle(c: &Context, call: Call) -> Handled {
    match call {
        Call::Null => Ok(Answer::Done),
        Call::Yield => {
            sched::charge(c.k);
            sched::rotate(c.k);
            Ok(Answer::Done)
        }
        Call::SystemInfo => {
            let machine = c.k.machine.get();
            results([machine.tsc_khz, u64::from(machine.in_cell), machine.image_header, 0])
        }

        Call::Send => c.send(Sending::Send, true),
        Call::TrySend => c.send(Sending::Send, false),
        Call::Call => c.send(Sending::Call, true),
        Call::Receive => c.receive(c.second_reply()?, true),
        Call::TryReceive => c.receive(c.second_reply()?, false),
        Call::Reply => {
            let reply = c.object::<Reply>()?;
            if !message::answer(c.k, c.thread, reply, c.grants()) {
                return Err(Error::NotFound);
            }
            Ok(Answer::Done)
        }
        Call::ReplyReceive => {
            let (reply, may_grant) = match c.second_reply()? {
                None => return Err(Error::InvalidCapability),
                Some((reply, may_grant)) => (reply, may_grant),
            };
            if reply.receiver.get().is_some() {
                return Err(Error::Busy);
            }
            message::answer(c.k, c.thread, reply, may_grant);
            c.receive(Some((reply, may_grant)), true)
        }
        Call::Signal => {
            let slot = c.slot()?;
            c.object::<Notification>()?.signal(c.k, slot.badge());
            Ok(Answer::Done)
        }
        Call::Wait => c.wait(),
        Call::Poll => match c.object::<Notification>()?.take() {
            Some(bits) => results([bits]),
            None => Err(Error::WouldBlock),
        },
        Call::LeaseRead => c.lease(false),
        Call::LeaseWrite => c.lease(true),

        Call::Retype => c.retype(),
        Call::UntypedInfo => {
            let slot = c.slot()?;
            untyped::settle(slot);
            results([slot.memory_base(), slot.extra(), slot.untyped_used(), slot.memory_kind()])
        }
        Call::CapCopy => {
            let (target, source) = (c.slot_in_table(c.arg(0))?, c.cap(c.arg(1))?);
            let mask = u8::try_from(c.arg(2)).ok().map_or(Rights::all(), Rights::from_bits_truncate);
            cap::copy(source, target, mask, c.arg(3)).map(done)
        }
        Call::CapMove => cap::transfer(c.cap(c.arg(1))?, c.slot_in_table(c.arg(0))?).map(done),
        Call::CapDelete => {
            let slot = c.slot_in_table(c.arg(0))?;
            match c.long(|| delete::delete_step(c.k, slot)) {
                // It deleted the very capability that it was called by: it cannot be made again, and need not be.
                Ok(Answer::Again) if c.slot()?.is_empty() => Ok(Answer::Done),
                answer => answer,
            }
        }
        Call::CapRevoke => {
            let (slot, by) = (c.slot_in_table(c.arg(0))?, c.slot()?);
            match c.long(|| delete::revoke_step(c.k, slot, |other| other == by || c.thread.lives_by(other))) {
                Ok(Answer::Again) if by.is_empty() => Ok(Answer::Done),
                answer => answer,
            }
        }
        Call::CapIdentify => {
            let cap = c.slot_in_table(c.arg(0))?.cap();
            results(cap.map_or([0, 0, 0], |cap| {
                let badge = match cap.kind {
                    ObjectType::Endpoint | ObjectType::Notification => cap.badge,
                    ObjectType::Untyped | ObjectType::SchedContext => cap.ceiling.into(),
                    _ => 0,
                };
                [cap.kind as u64, u64::from(cap.rights.bits()), badge]
            }))
        }

        Call::Map => {
            let frame = c.typed(c.arg(0), ObjectType::Frame)?;
            counted(c.object::<AddressSpace>()?.map(c.k, &frame, c.arg(1), c.arg(2), c.arg(3), c.arg(4)))
        }
        Call::Unmap => counted(c.object::<AddressSpace>()?.unmap(c.k, c.arg(0), c.arg(1))),
        Call::Protect => counted(c.object::<AddressSpace>()?.protect(c.k, c.arg(0), c.arg(1), c.arg(2))),
        Call::TakeDirty => {
            let mut dirty = [0; 8];
            let taken = c.object::<AddressSpace>()?.take_dirty(c.k, c.arg(0), c.arg(1), &mut dirty);
            for (index, word) in dirty.into_iter().enumerate() {
                c.thread.frame.word(index).set(word);
            }
            counted(taken)
        }
        Call::SetRoute => c.object::<AddressSpace>()?.set_route(c.arg(0), c.arg(1), c.arg(2)).map(done),
        Call::BindRoute => c.bind_route(),
        Call::Extend => c.extend(),
        Call::FrameInfo => {
            let slot = c.slot()?;
            results([slot.memory_base(), slot.extra(), slot.memory_kind()])
        }

        Call::ThreadConfigure => c.configure(),
        Call::ThreadResume => thread_ops::resume(c.k, c.object()?).map(done),
        Call::ThreadSuspend => {
            c.object::<Thread>()?.suspend(c.k);
            // A thread that stops itself finds success when it is resumed.
            Ok(Answer::Done)
        }
        Call::ThreadReadRegisters => thread_ops::read_registers(&*c.object::<Thread>()?, c.buffer()?).map(done),
        Call::ThreadWriteRegisters => thread_ops::write_registers(c.k, c.object()?, c.buffer()?).map(done),
        Call::ThreadBindNotification => {
            let notification = match c.arg(0) {
                0 => None,
                index => Some(c.with_right::<Notification>(index, Rights::READ)?),
            };
            thread_ops::bind_notification(c.object()?, notification).map(done)
        }
        Call::ThreadSetTls => thread_ops::set_tls(c.k, c.object()?, c.arg(0)).map(done),
        Call::ThreadState => {
            let thread = c.object::<Thread>()?;
            sched::charge(c.k);
            let consumed = thread.own_time.get().map_or(0, |time| time.consumed());
            results([thread.state.get() as u64, consumed, thread.frame.rip.get()])
        }
        Call::ThreadCopyFpu => {
            let source = c.with_right::<Thread>(c.arg(0), Rights::READ)?;
            thread_ops::copy_fpu(c.k, c.object()?, source).map(done)
        }
        Call::ThreadFpu => {
            let own = c.thread.space().ok_or(Error::InvalidArgument)?;
            let write = match c.arg(2) {
                0 => false,
                1 => true,
                _ => return Err(Error::InvalidArgument),
            };
            results([thread_ops::access_fpu(c.k, c.object()?, &own, c.arg(0), c.arg(1), write)?])
        }

        Call::SchedConfigure => {
            let time = c.object::<SchedContext>()?;
            let priority = u8::try_from(c.arg(0)).map_err(|_| Error::InvalidArgument)?;
            if priority > c.slot()?.ceiling() {
                return Err(Error::MissingRights);
            }
            time.configure(c.k, priority, c.arg(1), c.arg(2), c.arg(3), c.arg(4)).map(done)
        }
        Call::SchedBind => c.object::<SchedContext>()?.bind(c.k, c.with_right(c.arg(0), Rights::CONTROL)?).map(done),
        Call::SchedUnbind => {
            c.object::<SchedContext>()?.unbind(c.k);
            Ok(Answer::Done)
        }
        Call::SchedConsumed => {
            sched::charge(c.k);
            results([c.object::<SchedContext>()?.consumed()])
        }

        Call::IrqDerive => {
            let pin = match c.arg(0) {
                0 => None,
                1 => {
                    let pin = u8::try_from(c.arg(1)).map_err(|_| Error::InvalidArgument)?;
                    Some((pin, c.arg(2) & 1 != 0, c.arg(2) & 2 != 0))
                }
                _ => return Err(Error::InvalidArgument),
            };
            results([u64::from(Irq::derive(c.k, c.slot()?, pin, c.thread.slot(c.arg(3))?)?)])
        }
        Call::IrqBind => {
            let notification = match c.arg(0) {
                0 => None,
                index => {
                    c.with_right::<Notification>(index, Rights::WRITE)?;
                    Some(c.cap(index)?)
                }
            };
            finished(c.single_irq()?.bind(c.k, notification)?)
        }
        Call::IrqAck => {
            c.single_irq()?.acknowledge();
            Ok(Answer::Done)
        }
        Call::IrqMessage => {
            let (address, data) = arch::interrupt_message(c.single_irq()?.vector());
            results([address, data])
        }
        Call::PortDerive => io_port::derive(c.slot()?, c.arg(0), c.arg(1), c.thread.slot(c.arg(2))?).map(done),
        Call::PortIn => results([io_port::read(&*c.slot()?, c.arg(0), c.arg(1))?]),
        Call::PortOut => io_port::write(&*c.slot()?, c.arg(0), c.arg(1), c.arg(2)).map(done),

        Call::ConsoleWrite => c.console(),
        Call::SystemHalt => {
            #[cfg(feature = "invariants")]
            if c.arg(0) == 0
                && c.arg(1) == 1
                && let Some(table) = c.thread.table()
            {
                crate::invariants::check(c.k, table);
                arch::console_write(b"kernel: all invariants hold\n");
            }
            arch::halt(c.arg(0) != 0)
        }
    }
}
