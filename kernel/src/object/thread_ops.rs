//! What the holder of a Thread capability can do with it.

use super::thread::{Frame, State, Thread, entry};
use super::{AddressSpace, CapTable, Endpoint, Notification};
use crate::arch;
use crate::cap::{self, Slot};
use crate::kernel::Kernel;
use crate::memory::{PAGE_SIZE, Page, Ref};
use crate::sched;
use core::mem::offset_of;
use ipc::message::Registers;
use ipc::{Error, MessageBuffer, ObjectType, Rights};

const REGISTERS: usize = offset_of!(MessageBuffer, registers) / 8;

/// What a thread is to run in: slots of the configuring thread.
pub struct Configuration {
    /// AddressSpace.
    pub space: Ref<Slot>,
    /// CapTable; `None`: a foreign thread.
    pub table: Option<Ref<Slot>>,
    /// Fault Endpoint.
    pub fault_endpoint: Option<Ref<Slot>>,
    /// Frame and page of the message buffer.
    pub buffer: Option<(Ref<Slot>, u64)>,
    /// Identity.
    pub id: u64,
}

/// Configures a stopped thread. `false`: an interrupt came in first; the same call, made again, goes on.
pub fn configure(k: &Kernel, thread: Ref<Thread>, configuration: &Configuration) -> Result<bool, Error> {
    if thread.state.get() != State::Stopped {
        return Err(Error::Busy);
    }
    configuration.space.object::<AddressSpace>().ok_or(Error::WrongType)?;
    if let Some(slot) = configuration.table {
        slot.object::<CapTable>().ok_or(Error::WrongType)?;
    }
    if let Some(slot) = configuration.fault_endpoint {
        slot.object::<Endpoint>().ok_or(Error::WrongType)?;
        if !slot.rights().contains(Rights::WRITE) {
            return Err(Error::MissingRights);
        }
    }
    if let Some((slot, page)) = configuration.buffer {
        if !slot.is(ObjectType::Frame) {
            return Err(Error::WrongType);
        }
        if !slot.rights().contains(Rights::READ | Rights::WRITE) {
            return Err(Error::MissingRights);
        }
        if slot.frame_page(page).is_none() {
            return Err(Error::InvalidArgument);
        }
    }
    let inner = [&thread.space, &thread.table, &thread.fault_endpoint, &thread.buffer];
    if !cap::delete::empty(k, &inner) {
        return Ok(false);
    }
    let outer = [
        Some(configuration.space),
        configuration.table,
        configuration.fault_endpoint,
        configuration.buffer.map(|(slot, _)| slot),
    ];
    for (target, source) in inner.into_iter().zip(outer) {
        if let Some(source) = source {
            cap::copy(source, Ref::from(target), Rights::all(), 0)?;
        }
    }
    thread.place_changed();
    if let Some((_, page)) = configuration.buffer {
        thread.set_buffer_page(page);
    }
    thread.id.set(configuration.id);
    Ok(true)
}

/// Lets a stopped thread run.
pub fn resume(k: &Kernel, thread: Ref<Thread>) -> Result<(), Error> {
    if thread.space.is_empty() {
        return Err(Error::InvalidArgument);
    }
    if thread.state.get() == State::Stopped || (thread.state.get() == State::Faulted && thread.kept_by.get().is_none())
    {
        sched::make_ready(k, thread);
    }
    Ok(())
}

fn registers(frame: &Frame) -> [&core::cell::Cell<u64>; 18] {
    [
        &frame.rax,
        &frame.rbx,
        &frame.rcx,
        &frame.rdx,
        &frame.rsi,
        &frame.rdi,
        &frame.rbp,
        &frame.rsp,
        &frame.r8,
        &frame.r9,
        &frame.r10,
        &frame.r11,
        &frame.r12,
        &frame.r13,
        &frame.r14,
        &frame.r15,
        &frame.rip,
        &frame.rflags,
    ]
}

/// Index of `fs_base` in [`Registers`]; the general registers come before it.
const FS_BASE: usize = offset_of!(Registers, fs_base) / 8;
static_assertions::const_assert_eq!(FS_BASE, 18);

/// Copies the registers of a still thread to a message buffer.
pub fn read_registers(thread: &Thread, buffer: Page) -> Result<(), Error> {
    if !thread.is_still() {
        return Err(Error::Busy);
    }
    for (index, register) in registers(&thread.frame).into_iter().enumerate() {
        buffer.write(REGISTERS + index, register.get());
    }
    buffer.write(REGISTERS + FS_BASE, thread.fs_base.get());
    buffer.write(REGISTERS + FS_BASE + 1, thread.gs_base.get());
    Ok(())
}

/// Sets the registers of a still thread from a message buffer.
pub fn write_registers(k: &Kernel, thread: Ref<Thread>, buffer: Page) -> Result<(), Error> {
    if !thread.is_still() {
        return Err(Error::Busy);
    }
    let (fs, gs) = (buffer.read(REGISTERS + FS_BASE), buffer.read(REGISTERS + FS_BASE + 1));
    if !arch::is_user_base(fs) || !arch::is_user_base(gs) {
        return Err(Error::InvalidArgument);
    }
    for (index, register) in registers(&thread.frame).into_iter().enumerate() {
        register.set(buffer.read(REGISTERS + index));
    }
    let frame = &thread.frame;
    frame.rflags.set(frame.rflags.get() & arch::USER_FLAGS_SETTABLE | arch::USER_FLAGS);
    // An address outside the user half would fault inside the kernel's own `iretq`; this one faults in the user's name.
    if !arch::is_user_base(frame.rip.get()) {
        frame.rip.set(0);
    }
    frame.entry.set(entry::WRITTEN);
    thread.fs_base.set(fs);
    thread.gs_base.set(gs);
    thread.see_special(k.cpu.fpu_owner.get() == Some(thread));
    Ok(())
}

/// Sets the FS base of a still thread.
pub fn set_tls(k: &Kernel, thread: Ref<Thread>, base: u64) -> Result<(), Error> {
    if !thread.is_still() {
        return Err(Error::Busy);
    }
    if !arch::is_user_base(base) {
        return Err(Error::InvalidArgument);
    }
    thread.fs_base.set(base);
    thread.see_special(k.cpu.fpu_owner.get() == Some(thread));
    Ok(())
}

/// Binds a notification to a thread's receives.
pub fn bind_notification(thread: Ref<Thread>, notification: Option<Ref<Notification>>) -> Result<(), Error> {
    match notification {
        Some(notification) => {
            if thread.bound.get().is_some() || notification.bound.get().is_some() {
                return Err(Error::Busy);
            }
            thread.bound.set(Some(notification));
            notification.bound.set(Some(thread));
        }
        None => {
            if let Some(notification) = thread.bound.take() {
                notification.bound.set(None);
            }
        }
    }
    Ok(())
}

/// The FPU state of a still thread is in its area from here on.
fn settle_fpu(k: &Kernel, thread: Ref<Thread>) -> Result<(), Error> {
    if !thread.is_still() {
        return Err(Error::Busy);
    }
    if k.cpu.fpu_owner.get() == Some(thread) {
        arch::fpu_save(&thread.fpu);
        k.cpu.own_fpu(None);
    }
    Ok(())
}

/// Copies the FPU state of one still thread to another.
pub fn copy_fpu(k: &Kernel, thread: Ref<Thread>, source: Ref<Thread>) -> Result<(), Error> {
    settle_fpu(k, thread)?;
    settle_fpu(k, source)?;
    if thread != source {
        thread.fpu.with(|target| source.fpu.with(|from| target.copy_from_slice(from)));
        thread.uses_fpu.set(source.uses_fpu.get());
    }
    Ok(())
}

/// Copies the FPU state of a still thread to (or from) memory. A state that the processor would refuse is mended.
pub fn access_fpu(
    k: &Kernel,
    thread: Ref<Thread>,
    own: &AddressSpace,
    address: u64,
    bytes: u64,
    write: bool,
) -> Result<u64, Error> {
    settle_fpu(k, thread)?;
    let bytes = bytes.min(arch::fpu_bytes() as u64) as usize;
    let mut done = 0;
    while done < bytes {
        let Some(at) = address.checked_add(done as u64) else { break };
        let page = if write { own.readable(at) } else { own.writable(at) };
        let Some(page) = page else { break };
        let offset = at % PAGE_SIZE;
        let step = (bytes - done).min((PAGE_SIZE - offset) as usize);
        thread.fpu.with(|area| {
            let part = &mut area[done..done + step];
            if write { page.copy_out(offset, part) } else { page.copy_in(offset, part) }
        });
        done += step;
    }
    if write {
        arch::fpu_mend(&thread.fpu);
        thread.uses_fpu.set(true);
    }
    Ok(done as u64)
}
