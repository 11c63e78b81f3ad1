//! The machine as it is: kernel calls and `vfs-proxy`.

use super::objects::{Objects, Space, Task};
use alloc::rc::Rc;
use alloc::vec::Vec;
use core::cell::RefCell;
use ipc::message::{Registers, reply_label};
use ipc::protocol::classes::Classes;
use ipc::protocol::vfs;
use ipc::shadow::MAX_SLOTS;
use linux::errno::{Errno, Result};
use linux::machine::{Activity, Machine, ReplyId};
use linux::table::{ROUTE_FORWARDED, ROUTE_LOCAL, routes};
use rt::calls::time::Policy;
use rt::{Answer, Caller, Cap, Endpoint, Error, Frame, Protection, Replies, Start, log};

/// Callers that are kept, shared by the event loop and the machine.
#[derive(Clone, Default)]
pub struct Shared {
    inner: Rc<RefCell<Callers>>,
}

#[derive(Default)]
struct Callers {
    kept: Vec<Option<Caller>>,
    /// The caller of the message being handled.
    current: Option<ReplyId>,
    /// Its answer: given together with the next receive.
    answer: Option<(u64, u64)>,
    /// Replies that keep nobody any more.
    done: Vec<Caller>,
}

impl Shared {
    /// Keeps the caller of a message that is to be handled.
    pub fn keep(&self, caller: Caller) -> ReplyId {
        let mut callers = self.inner.borrow_mut();
        let index = callers.kept.iter().position(Option::is_none).unwrap_or_else(|| {
            callers.kept.push(None);
            callers.kept.len() - 1
        });
        callers.kept[index] = Some(caller);
        let id = ReplyId(index as u32);
        callers.current = Some(id);
        id
    }

    /// Answers a message that is none of ours.
    pub fn refuse(&self, id: ReplyId) {
        self.answer(id, reply_label::VALUE, (-38i64) as u64);
    }

    fn answer(&self, id: ReplyId, label: u64, value: u64) {
        let mut callers = self.inner.borrow_mut();
        if callers.current == Some(id) && callers.answer.is_none() {
            callers.answer = Some((label, value));
            return;
        }
        callers.give(id, label, value);
    }

    /// Whoever is looked at or stopped must have its answer.
    fn flush(&self) {
        let mut callers = self.inner.borrow_mut();
        if let (Some(id), Some((label, value))) = (callers.current, callers.answer.take()) {
            callers.current = None;
            callers.give(id, label, value);
        }
    }

    fn abandon(&self, id: ReplyId) {
        let mut callers = self.inner.borrow_mut();
        if callers.current == Some(id) {
            (callers.current, callers.answer) = (None, None);
        }
        if let Some(caller) = callers.kept.get_mut(id.0 as usize).and_then(Option::take) {
            callers.done.push(caller);
        }
    }

    /// After a message: what is to be answered with the next receive. Replies that are free go back.
    pub fn settle(&self, replies: &mut Replies) -> Option<(Caller, Answer)> {
        let answered = {
            let mut callers = self.inner.borrow_mut();
            let current = callers.current.take();
            let answer = callers.answer.take();
            match (current, answer) {
                (Some(id), Some((label, value))) => {
                    let caller = callers.kept.get_mut(id.0 as usize).and_then(Option::take);
                    caller.map(|caller| (caller, Answer::new(label, &[value])))
                }
                _ => None,
            }
        };
        self.give_back(replies);
        answered
    }

    /// After a signal or a deadline.
    pub fn settle_all(&self, replies: &mut Replies) {
        self.flush();
        self.give_back(replies);
    }

    fn give_back(&self, replies: &mut Replies) {
        for caller in self.inner.borrow_mut().done.drain(..) {
            // Nobody is kept there any more: this only returns the Reply.
            replies.answer(caller, Answer::value(0));
        }
    }
}

impl Callers {
    fn give(&mut self, id: ReplyId, label: u64, value: u64) {
        if let Some(caller) = self.kept.get_mut(id.0 as usize).and_then(Option::take) {
            // An error means that the thread is no more: nobody is there to be told.
            let _ = caller.reply().reply(label, &[value]);
            self.done.push(caller);
        }
    }
}

/// Kernel and `vfs-proxy`.
pub struct Kernel {
    objects: Objects,
    pool: Cap<Frame>,
    vfs: Cap<Endpoint>,
    spaces: Vec<Option<Space>>,
    tasks: Vec<Option<Task>>,
    callers: Shared,
    seed: u64,
    /// What goes to Linux.
    forwarded: Classes,
    /// Number of the newest event of `vfs-proxy`.
    newest_event: Option<u32>,
}

impl Kernel {
    /// With what the manifest grants.
    pub fn new(start: Start, pool: Cap<Frame>, vfs: Cap<Endpoint>, callers: Shared, forwarded: Classes) -> Kernel {
        Kernel {
            objects: Objects::new(start.slots),
            pool,
            vfs,
            spaces: (0..MAX_SLOTS).map(|_| None).collect(),
            tasks: (0..MAX_SLOTS).map(|_| None).collect(),
            callers,
            seed: rt::time::now() | 1,
            forwarded,
            newest_event: None,
        }
    }

    fn task(&mut self, thread: u32) -> Result<&Task> {
        self.callers.flush();
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

/// What must not fail, because this server keeps the books: if it does, the log says so.
fn expect(what: &str, result: rt::Result) {
    if let Err(error) = result {
        log!("{what}: {error}");
    }
}

impl Machine for Kernel {
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
        loop {
            let target = self.space(space)?.space;
            match target.map(self.pool, page.into(), address, count, protection) {
                Ok(()) => return Ok(()),
                Err(Error::OutOfMemory) => {
                    // What was mapped before the page tables ran out is mapped again with the rest.
                    expect("unmapping after a failed mapping", target.unmap(address, count));
                    let Some(space) = self.spaces[space as usize].as_mut() else { return Err(Errno::ESRCH) };
                    self.objects.extend(space).map_err(errno)?;
                }
                Err(error) => return Err(errno(error)),
            }
        }
    }

    fn unmap(&mut self, space: u32, address: u64, count: u64) {
        if let Ok(space) = self.space(space) {
            expect("unmapping", space.space.unmap(address, count));
        }
    }

    fn protect(&mut self, space: u32, address: u64, count: u64, protection: Protection) -> Result<()> {
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
        self.callers.flush();
        if let Some(task) = self.tasks.get_mut(thread as usize).and_then(Option::take) {
            self.objects.end_task(task);
        }
    }

    fn thread_resume(&mut self, thread: u32) {
        if let Ok(task) = self.task(thread) {
            expect("resuming a thread", task.thread.resume());
        }
    }

    fn thread_suspend(&mut self, thread: u32) {
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
        self.task(thread)?.thread.write_registers(registers).map_err(errno)
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
        self.callers.answer(reply, label, value);
    }

    fn reply_abandon(&mut self, reply: ReplyId) {
        self.callers.abandon(reply);
    }

    fn vfs(&mut self, label: u64, words: &[u64]) -> Result<u64> {
        let answer = self.vfs.call(label, words).map_err(|_| Errno::EIO)?;
        match answer.label() {
            vfs::OK => Ok(answer.word(0)),
            _ => Err(Errno(answer.word(0).clamp(1, 4095) as u16)),
        }
    }

    fn collect(&mut self) -> Vec<[u64; vfs::EVENT_WORDS]> {
        let mut collected = Vec::new();
        loop {
            // An error: vfs-proxy is no more.
            let Ok(answer) = self.vfs.call(vfs::COLLECT, &[]) else { return collected };
            let events = if answer.label() == vfs::OK { answer.len() / vfs::EVENT_WORDS } else { 0 };
            let word = |event: usize, index| answer.word(event * vfs::EVENT_WORDS + index);
            for event in 0..events {
                let words: [u64; vfs::EVENT_WORDS] = core::array::from_fn(|index| word(event, index));
                // After a restart of vfs-proxy it may come again.
                let number = (words[5] >> 32) as u32;
                if self.newest_event.is_none_or(|newest| number.wrapping_sub(newest) as i32 > 0) {
                    self.newest_event = Some(number);
                    collected.push(words);
                }
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
