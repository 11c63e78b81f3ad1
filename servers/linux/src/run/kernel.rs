//! The machine as it is: kernel calls and `vfs-proxy`.

use super::objects::{Objects, Space, Task};
use super::outbox::{Outbox, expect};
use alloc::vec::Vec;
use ipc::message::Registers;
use ipc::protocol::classes::Classes;
use ipc::protocol::vfs;
use ipc::shadow::MAX_SLOTS;
use linux::errno::{Errno, Result};
use linux::machine::{Activity, Machine, ReplyId};
use linux::recovery::Changed;
use linux::table::{ROUTE_FORWARDED, ROUTE_LOCAL, routes};
use rt::calls::time::Policy;
use rt::{Cap, Endpoint, Error, Frame, Protection, Start, Thread};
use zerocopy::{FromBytes, IntoBytes};

/// Kinds of the journal's entries.
mod entry {
    use rt::journal::FIRST_KIND;

    /// Mappings change: leader's slot, address, pages.
    pub const MAPPINGS: u64 = FIRST_KIND;
    /// Registers of a thread change: slot of its capability, the registers.
    pub const REGISTERS: u64 = FIRST_KIND + 1;
    /// An address space has more memory for page tables: leader's slot, slot of the Untyped, slot that goes with it. Not to be undone.
    pub const EXTENDED: u64 = FIRST_KIND + 2;
}

/// Kernel and `vfs-proxy`.
pub struct Kernel {
    objects: Objects,
    pool: Cap<Frame>,
    vfs: Cap<Endpoint>,
    spaces: Vec<Option<Space>>,
    tasks: Vec<Option<Task>>,
    outbox: Outbox,
    seed: u64,
    /// What goes to Linux.
    forwarded: Classes,
    /// Number of the newest event of `vfs-proxy`.
    newest_event: Option<u32>,
    /// The same when the turn began: those up to it are never asked for again.
    acknowledged: Option<u32>,
}

impl Kernel {
    /// With what the manifest grants.
    pub fn new(start: Start, pool: Cap<Frame>, vfs: Cap<Endpoint>, outbox: Outbox, forwarded: Classes) -> Kernel {
        Kernel {
            objects: Objects::new(start.slots, outbox.clone()),
            pool,
            vfs,
            spaces: (0..MAX_SLOTS).map(|_| None).collect(),
            tasks: (0..MAX_SLOTS).map(|_| None).collect(),
            outbox,
            seed: rt::time::now() | 1,
            forwarded,
            newest_event: None,
            acknowledged: None,
        }
    }

    fn task(&mut self, thread: u32) -> Result<&Task> {
        self.outbox.flush(thread);
        self.tasks.get(thread as usize).and_then(Option::as_ref).ok_or(Errno::ESRCH)
    }

    fn space(&self, space: u32) -> Result<&Space> {
        self.spaces.get(space as usize).and_then(Option::as_ref).ok_or(Errno::ESRCH)
    }
}

fn errno(error: Error) -> Errno {
    match error {
        Error::OutOfMemory | Error::SlotOccupied => Errno::ENOMEM,
        Error::Busy => Errno::EBUSY,
        Error::PeerDead | Error::Cancelled => Errno::EIO,
        _ => Errno::EINVAL,
    }
}

/// Pages of a space are about to be mapped otherwise.
fn note_mappings(space: u32, address: u64, count: u64) {
    rt::journal::note(&[entry::MAPPINGS, space.into(), address, count]);
}

impl Machine for Kernel {
    fn begin_turn(&mut self) {
        self.acknowledged = self.newest_event;
        self.objects.begin_turn();
    }

    fn free_capabilities(&self) -> usize {
        self.objects.free_slots()
    }

    fn now(&self) -> u64 {
        rt::time::now()
    }

    fn random(&mut self) -> u64 {
        // xorshift over the counter: the fallback where the processor gives no random numbers.
        self.seed ^= rt::time::now().rotate_left(17);
        self.seed ^= self.seed << 13;
        self.seed ^= self.seed >> 7;
        self.seed ^= self.seed << 17;
        self.seed ^ hardware_random().unwrap_or(0)
    }

    fn undo(&mut self) -> Vec<Changed> {
        let mut changed = Vec::new();
        rt::journal::undo(|noted| match *noted {
            [entry::MAPPINGS, space, address, pages] => changed.push((space as u32, address, pages)),
            [entry::REGISTERS, slot, ref words @ ..] => {
                let registers = Registers::read_from_bytes(words.as_bytes());
                // If it is no more, or runs, there is nothing to be put right.
                let _ = registers.map(|registers| Cap::<Thread>::new(slot as u32).write_registers(&registers));
            }
            [entry::EXTENDED, space, memory, slot] => {
                if let Some(space) = self.spaces.get_mut(space as usize).and_then(Option::as_mut) {
                    self.objects.adopt_extension(space, memory as u32, slot as u32);
                }
            }
            _ => {}
        });
        self.objects.reclaim();
        changed
    }

    fn space_create(&mut self, space: u32) -> Result<()> {
        let made = self.objects.space().map_err(errno)?;
        let configure = || {
            for (first, last, route) in routes(self.forwarded) {
                made.space.set_route(first, last, route)?;
            }
            made.space.bind_route(ROUTE_LOCAL, Start::ENDPOINT)?;
            made.space.bind_route(ROUTE_FORWARDED, self.vfs)
        };
        let configured = configure();
        if let Err(error) = configured {
            self.objects.end_space(made);
            return Err(errno(error));
        }
        self.spaces[space as usize] = Some(made);
        Ok(())
    }

    fn space_destroy(&mut self, space: u32) {
        if let Some(space) = self.spaces.get_mut(space as usize).and_then(Option::take) {
            self.objects.end_space(space);
        }
    }

    fn map(&mut self, space: u32, page: u32, address: u64, count: u64, protection: Protection) -> Result<()> {
        note_mappings(space, address, count);
        loop {
            let target = self.space(space)?.space;
            match target.map(self.pool, page.into(), address, count, protection) {
                Ok(()) => return Ok(()),
                Err(Error::OutOfMemory) => {
                    // What was mapped before the page tables ran out is mapped again with the rest.
                    expect("unmapping after a failed mapping", target.unmap(address, count));
                    let Some(target) = self.spaces[space as usize].as_mut() else { return Err(Errno::ESRCH) };
                    let note = |memory: u32, slot: u32| {
                        rt::journal::note(&[entry::EXTENDED, space.into(), memory.into(), slot.into()]);
                    };
                    self.objects.extend(target, note).map_err(errno)?;
                }
                Err(error) => return Err(errno(error)),
            }
        }
    }

    fn unmap(&mut self, space: u32, address: u64, count: u64) {
        if let Ok(target) = self.space(space) {
            note_mappings(space, address, count);
            expect("unmapping", target.space.unmap(address, count));
        }
    }

    fn protect(&mut self, space: u32, address: u64, count: u64, protection: Protection) -> Result<()> {
        note_mappings(space, address, count);
        self.space(space)?.space.protect(address, count, protection).map_err(errno)
    }

    fn thread_create(&mut self, thread: u32, space: u32, identity: u64) -> Result<()> {
        let target = self.space(space)?.space;
        let task = self.objects.task().map_err(errno)?;
        let configured = task.thread.configure(target, None, Some(Start::ENDPOINT), None, identity);
        if let Err(error) = configured.and_then(|()| task.time.bind(task.thread)) {
            self.objects.end_task(task);
            return Err(errno(error));
        }
        self.tasks[thread as usize] = Some(task);
        Ok(())
    }

    fn thread_destroy(&mut self, thread: u32) {
        if let Some(task) = self.tasks.get_mut(thread as usize).and_then(Option::take) {
            self.objects.end_task(task);
        }
    }

    fn thread_resume(&mut self, thread: u32) {
        if let Some(task) = self.tasks.get(thread as usize).and_then(Option::as_ref) {
            self.outbox.resume(task.thread, thread);
        }
    }

    fn thread_suspend(&mut self, thread: u32) {
        self.outbox.forget_resume(thread);
        if let Ok(task) = self.task(thread) {
            expect("stopping a thread", task.thread.suspend());
        }
    }

    fn thread_activity(&mut self, thread: u32) -> Activity {
        match self.task(thread).map(|task| task.thread.state()) {
            Ok(Ok(state)) => match state.state {
                2 => Activity::Calling,
                4 | 6 => Activity::Waiting,
                _ => Activity::User,
            },
            _ => Activity::User,
        }
    }

    fn registers(&mut self, thread: u32) -> Result<Registers> {
        self.task(thread)?.thread.read_registers().map_err(errno)
    }

    fn set_registers(&mut self, thread: u32, registers: &Registers) -> Result<()> {
        let thread = self.task(thread)?.thread;
        if let Ok(before) = thread.read_registers() {
            let mut noted = [entry::REGISTERS; 2 + size_of::<Registers>() / 8];
            noted[1] = thread.slot().into();
            noted[2..].as_mut_bytes().copy_from_slice(before.as_bytes());
            rt::journal::note(&noted);
        }
        thread.write_registers(registers).map_err(errno)
    }

    fn fpu_read(&mut self, thread: u32, out: &mut [u8]) -> Result<usize> {
        self.task(thread)?.thread.read_fpu(out).map_err(errno)
    }

    fn fpu_write(&mut self, thread: u32, image: &[u8]) -> Result<()> {
        self.task(thread)?.thread.write_fpu(image).map(drop).map_err(errno)
    }

    fn thread_schedule(&mut self, thread: u32, priority: u8, quantum: Option<u64>) {
        let Some(task) = self.tasks.get(thread as usize).and_then(Option::as_ref) else { return };
        let policy = if quantum.is_some() { Policy::RoundRobin } else { Policy::Fifo };
        expect("scheduling a thread", task.time.configure(priority, policy, quantum.unwrap_or(0), 0, 0));
    }

    fn thread_consumed(&mut self, thread: u32) -> u64 {
        let task = self.tasks.get(thread as usize).and_then(Option::as_ref);
        task.and_then(|task| task.thread.state().ok()).map_or(0, |state| state.consumed)
    }

    fn reply(&mut self, reply: ReplyId, label: u64, value: u64) {
        self.outbox.answer(reply, label, value);
    }

    fn reply_abandon(&mut self, reply: ReplyId) {
        self.outbox.abandon(reply);
    }

    fn is_waiting(&self, reply: ReplyId) -> bool {
        self.outbox.is_waiting(reply)
    }

    fn vfs(&mut self, label: u64, words: &[u64]) -> Result<u64> {
        if matches!(label, vfs::SUBMIT | vfs::FORGET) {
            self.outbox.request(label, words);
            return Ok(0);
        }
        let answer = self.vfs.call(label, words).map_err(|_| Errno::EIO)?;
        match answer.label() {
            vfs::OK => Ok(answer.word(0)),
            _ => Err(Errno(answer.word(0).clamp(1, 4095) as u16)),
        }
    }

    fn collect(&mut self) -> Vec<[u64; vfs::EVENT_WORDS]> {
        let number = |event: Option<u32>| event.map_or(0, |number| vfs::NUMBER | u64::from(number));
        let mut collected = Vec::new();
        loop {
            let seen = [number(self.acknowledged), number(self.newest_event)];
            // An error: vfs-proxy is no more.
            let Ok(answer) = self.vfs.call(vfs::COLLECT, &seen) else { return collected };
            let events = if answer.label() == vfs::OK { answer.len() / vfs::EVENT_WORDS } else { 0 };
            for event in 0..events {
                let words: [u64; vfs::EVENT_WORDS] =
                    core::array::from_fn(|index| answer.word(event * vfs::EVENT_WORDS + index));
                self.newest_event = Some((words[5] >> 32) as u32);
                collected.push(words);
            }
            if events < vfs::MAX_EVENTS {
                return collected;
            }
        }
    }
}

/// A number from the processor's generator, if it has one.
fn hardware_random() -> Option<u64> {
    // CPUID leaf 1, ECX bit 30: RDRAND.
    if core::arch::x86_64::__cpuid(1).ecx & 1 << 30 == 0 {
        return None;
    }
    for _ in 0..10 {
        let (value, valid): (u64, u8);
        // SAFETY: the processor has the instruction (checked above); it changes a register and the flags only.
        #[allow(unsafe_code)]
        unsafe {
            core::arch::asm!("rdrand {value}", "setc {valid}", value = out(reg) value, valid = out(reg_byte) valid, options(nomem, nostack));
        }
        if valid != 0 {
            return Some(value);
        }
    }
    None
}
