//! The state of the personality, and the way of a system call through it.

use crate::clock::Clock;
use crate::errno::{Errno, Result, raw};
use crate::executor::{Return, Shell};
use crate::futex::Futexes;
use crate::machine::{Machine, ReplyId};
use crate::memory::{Memory, Space};
use crate::process::{Job, Process};
use crate::table::{Handler, handler};
use crate::thread::{CallRecord, Thread, Wait};
use crate::timers::Timers;
use crate::vdso::Vdso;
use alloc::boxed::Box;
use alloc::rc::Rc;
use alloc::vec::Vec;
use core::sync::atomic::Ordering;
use ipc::message::reply_label;
use ipc::protocol::vfs;
use ipc::shadow::{Counters, LinuxHeader, MAX_SLOTS, ThreadEntry, identity_parts, thread_state};
use zerocopy::{FromBytes, FromZeros, Immutable, IntoBytes};

/// What a handler leaves behind.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// The call gives this.
    Value(u64),
    /// The thread waits; somebody answers later.
    Wait,
    /// The call gives 0 and the thread goes to the tail of its priority's queue.
    Yield,
    /// The registers were set as they shall be.
    Registers,
    /// The thread will not go on (its process ends); its answer is never given.
    Stay,
    /// The thread is no more.
    Gone,
}

/// A process that has ended, until its proxy has gone too.
pub struct Ghost {
    /// Generation of the leader's slot.
    pub generation: u32,
    /// Its page map: empty, but the driver may still walk it.
    pub mirror_root: u32,
}

/// Settings from the manifest.
#[derive(Clone, Copy, Debug)]
pub struct Settings {
    /// Bytes of a program's first stack.
    pub stack: u64,
}

/// The personality.
pub struct Server {
    /// Kernel and `vfs-proxy`.
    pub machine: Box<dyn Machine>,
    /// Application memory.
    pub memory: Memory,
    /// By slot of the leader.
    pub processes: Vec<Option<Box<Process>>>,
    /// By slot.
    pub threads: Vec<Option<Box<Thread>>>,
    /// Ended processes by slot of the leader.
    pub ghosts: Vec<Option<Ghost>>,
    /// Time.
    pub clock: Clock,
    /// Deadlines.
    pub timers: Timers,
    /// Who waits for which futex.
    pub futexes: Futexes,
    /// The image that every process has mapped.
    pub vdso: Vdso,
    /// Work to be started as tasks.
    pub jobs: Vec<Job>,
    /// Settings.
    pub settings: Settings,
    /// What is being heard of happened while there was no instance of this server.
    pub is_late: bool,
    /// What Linux publishes.
    pub linux: &'static LinuxHeader,
    /// What this side publishes of itself.
    pub counters: &'static Counters,
    /// What this side publishes of its threads.
    pub entries: &'static [ThreadEntry; MAX_SLOTS],
}

impl Server {
    /// A server without processes.
    pub fn new(
        machine: Box<dyn Machine>,
        mut memory: Memory,
        tsc_khz: u64,
        settings: Settings,
        (linux, counters, entries): (&'static LinuxHeader, &'static Counters, &'static [ThreadEntry; MAX_SLOTS]),
    ) -> Server {
        let mut clock = Clock::new(tsc_khz, machine.now());
        clock.synchronise(linux);
        let vdso = Vdso::new(&mut memory, &clock);
        for entry in entries {
            entry.state.store(thread_state::FREE, Ordering::Relaxed);
            entry.mirror_root.store(ipc::shadow::mirror::NONE, Ordering::Relaxed);
        }
        let mut server = Server {
            machine,
            memory,
            processes: (0..MAX_SLOTS).map(|_| None).collect(),
            threads: (0..MAX_SLOTS).map(|_| None).collect(),
            ghosts: (0..MAX_SLOTS).map(|_| None).collect(),
            clock,
            timers: Timers::default(),
            futexes: Futexes::default(),
            vdso,
            jobs: Vec::new(),
            settings,
            is_late: false,
            linux,
            counters,
            entries,
        };
        server.schedule_housekeeping();
        server.publish_counters();
        server
    }

    /// A thread by slot.
    pub fn thread(&self, slot: u32) -> Result<&Thread> {
        self.threads.get(slot as usize).and_then(Option::as_deref).ok_or(Errno::ESRCH)
    }

    /// A thread by slot.
    pub fn thread_mut(&mut self, slot: u32) -> Result<&mut Thread> {
        self.threads.get_mut(slot as usize).and_then(Option::as_deref_mut).ok_or(Errno::ESRCH)
    }

    /// A process by its leader's slot.
    pub fn process(&self, leader: u32) -> Result<&Process> {
        self.processes.get(leader as usize).and_then(Option::as_deref).ok_or(Errno::ESRCH)
    }

    /// A process by its leader's slot.
    pub fn process_mut(&mut self, leader: u32) -> Result<&mut Process> {
        self.processes.get_mut(leader as usize).and_then(Option::as_deref_mut).ok_or(Errno::ESRCH)
    }

    /// The process of a thread.
    pub fn process_of(&mut self, slot: u32) -> Result<&mut Process> {
        let leader = self.thread(slot)?.leader;
        self.process_mut(leader)
    }

    /// The address space of a thread's process.
    pub fn space_of(&self, slot: u32) -> Result<&Space> {
        let leader = self.thread(slot)?.leader;
        Ok(&self.process(leader)?.space)
    }

    /// What memory operations on a process need, all at once.
    pub fn memory_of(&mut self, slot: u32) -> Result<(&mut dyn Machine, &mut Memory, &mut Process)> {
        let leader = self.thread(slot)?.leader;
        let process = self.processes.get_mut(leader as usize).and_then(Option::as_deref_mut).ok_or(Errno::ESRCH)?;
        Ok((self.machine.as_mut(), &mut self.memory, process))
    }

    /// Reads memory of a thread's process.
    pub fn read_user(&self, slot: u32, address: u64, out: &mut [u8]) -> Result<()> {
        self.memory.read(self.space_of(slot)?, address, out)
    }

    /// Writes memory of a thread's process.
    pub fn write_user(&self, slot: u32, address: u64, bytes: &[u8]) -> Result<()> {
        self.memory.write(self.space_of(slot)?, address, bytes)
    }

    /// Reads a value from memory of a thread's process.
    pub fn get_user<T: FromBytes + IntoBytes + FromZeros>(&self, slot: u32, address: u64) -> Result<T> {
        self.memory.get(self.space_of(slot)?, address)
    }

    /// Writes a value to memory of a thread's process.
    pub fn put_user<T: IntoBytes + Immutable>(&self, slot: u32, address: u64, value: &T) -> Result<()> {
        self.memory.put(self.space_of(slot)?, address, value)
    }

    /// The thread of the same process with this tid (0: the thread itself).
    pub fn sibling(&self, slot: u32, tid: u32) -> Result<u32> {
        if tid == 0 {
            return Ok(slot);
        }
        let process = self.process(self.thread(slot)?.leader)?;
        let found = process.threads.iter().find(|other| self.thread(**other).is_ok_and(|thread| thread.tid == tid));
        found.copied().ok_or(Errno::ESRCH)
    }

    /// Nanoseconds of CLOCK_MONOTONIC now.
    pub fn monotonic(&self) -> u64 {
        self.clock.monotonic(self.machine.now())
    }

    /// Puts a request on the ring in the name of the thread in `slot`.
    pub fn submit(&mut self, slot: u32, kind: u32, number: u64, arguments: [u64; 6], cookie: u64) -> Result<()> {
        let generation = self.entries.get(slot as usize).ok_or(Errno::ESRCH)?.generation.load(Ordering::Relaxed);
        self.submit_as((slot, generation), kind, number, arguments, cookie)
    }

    /// The same for a given generation.
    pub fn submit_as(
        &mut self,
        (slot, generation): (u32, u32),
        kind: u32,
        number: u64,
        arguments: [u64; 6],
        cookie: u64,
    ) -> Result<()> {
        let scheduling = self.thread(slot).map_or(0, |thread| thread.scheduling.packed());
        let mut words = [0; 11];
        words[..4].copy_from_slice(&[
            u64::from(kind),
            u64::from(slot) | u64::from(generation) << 32,
            scheduling,
            number,
        ]);
        words[4..10].copy_from_slice(&arguments);
        words[10] = cookie;
        self.machine.vfs(vfs::SUBMIT, &words).map(drop)
    }

    /// Publishes what `crtos ps` shows of a thread.
    pub fn publish_thread(&self, thread: &Thread, state: u32) {
        let entry = &self.entries[thread.slot as usize];
        entry.generation.store(thread.generation, Ordering::Relaxed);
        entry.leader.store(thread.leader, Ordering::Relaxed);
        entry.tid.store(thread.tid, Ordering::Relaxed);
        entry.scheduling.store(thread.scheduling.published(), Ordering::Relaxed);
        if let Some(process) = &self.processes[thread.leader as usize] {
            entry.pid.store(process.pid, Ordering::Relaxed);
        }
        for (word, bytes) in entry.name.iter().zip(thread.name.chunks_exact(8)) {
            word.store(u64::from_le_bytes(bytes.try_into().unwrap_or_default()), Ordering::Relaxed);
        }
        for counter in [&entry.consumed, &entry.local_calls, &entry.pages] {
            counter.store(0, Ordering::Relaxed);
        }
        entry.state.store(state, Ordering::Release);
    }

    /// Publishes the counters of the whole.
    pub fn publish_counters(&self) {
        let store = |word: &core::sync::atomic::AtomicU64, value: usize| word.store(value as u64, Ordering::Relaxed);
        store(&self.counters.pool_pages, self.memory.pages.total() as usize);
        store(&self.counters.pool_free, self.memory.pages.free() as usize);
        store(&self.counters.pool_quarantine, self.memory.pages.quarantined() as usize);
        store(&self.counters.mirror_nodes, self.memory.mirror.nodes_used());
        store(&self.counters.free_capabilities, self.machine.free_capabilities());
        store(&self.counters.processes, self.processes.iter().flatten().count());
        for process in self.processes.iter().flatten() {
            store(&self.entries[process.leader as usize].pages, process.space.pages as usize);
        }
    }

    /// Answers a thread's call, or first makes it run the handler of a signal that waits.
    pub fn finish(&mut self, slot: u32, result: Result<u64>) {
        let Ok(thread) = self.thread_mut(slot) else { return };
        thread.wait = Wait::Nothing;
        if let Some(key) = thread.deadline.take() {
            self.timers.cancel(key);
        }
        if self.signal_is_due(slot) && self.deliver_on_return(slot, raw(result)) {
            return;
        }
        self.answer(slot, reply_label::VALUE, raw(result));
    }

    /// Answers a thread's call without more ado.
    pub fn answer(&mut self, slot: u32, label: u64, value: u64) {
        let Ok(thread) = self.thread_mut(slot) else { return };
        thread.wait = Wait::Nothing;
        if let Some(reply) = thread.reply.take() {
            self.entries[slot as usize].state.store(thread_state::RUNNING, Ordering::Relaxed);
            self.machine.reply(reply, label, value);
        }
    }

    /// Notes the caller of a call. An identity that is not (or no longer) known gets no answer.
    fn enter(&mut self, identity: u64, call: CallRecord, reply: ReplyId) -> Option<u32> {
        let (slot, generation) = identity_parts(identity);
        match self.thread_mut(slot) {
            Ok(thread) if thread.generation == generation && thread.reply.is_none() => {
                thread.reply = Some(reply);
                thread.call = call;
                thread.wait = Wait::Handling;
                self.entries[slot as usize].local_calls.fetch_add(1, Ordering::Relaxed);
                Some(slot)
            }
            _ => {
                self.machine.reply_abandon(reply);
                None
            }
        }
    }

    fn leave(&mut self, slot: u32, outcome: Result<Outcome>) {
        match outcome {
            Err(error) => self.finish(slot, Err(error)),
            Ok(Outcome::Value(value)) => self.finish(slot, Ok(value)),
            Ok(Outcome::Yield) => {
                if self.signal_is_due(slot) {
                    self.finish(slot, Ok(0));
                } else {
                    self.answer(slot, reply_label::YIELD, 0);
                }
            }
            Ok(Outcome::Registers) => {
                if !(self.signal_is_due(slot) && self.deliver_in_place(slot)) {
                    self.answer(slot, reply_label::REGISTERS, 0);
                }
            }
            Ok(Outcome::Wait) => self.entries[slot as usize].state.store(thread_state::WAITING, Ordering::Relaxed),
            Ok(Outcome::Stay | Outcome::Gone) => {}
        }
    }
}

/// A foreign system call came: number, six arguments, user stack pointer.
pub fn foreign(shell: &Rc<Shell>, identity: u64, words: [u64; 8], reply: ReplyId) {
    let [number, a, b, c, d, e, f, stack] = words;
    let arguments = [a, b, c, d, e, f];
    let call = CallRecord { number, arguments, stack };
    let Some(slot) = shell.with(|server| server.enter(identity, call, reply)) else { return };
    match handler(number) {
        Handler::Local(handle) => shell.with(|server| {
            let outcome = handle(server, slot, arguments);
            server.leave(slot, outcome);
        }),
        Handler::Task(make) => {
            let owner = shell.with(|server| {
                let thread = server.thread_mut(slot).ok()?;
                thread.wait = Wait::Task;
                let leader = thread.leader;
                Some((leader, server.process(leader).ok()?.generation))
            });
            if let Some(owner) = owner {
                let work = make(shell.clone(), slot, arguments);
                let after = shell.clone();
                shell.spawn(owner, async move {
                    let result = work.await;
                    after.with(|server| server.finish(slot, result));
                });
            }
        }
        // The routes keep these away from here; a program cannot choose them, so somebody has configured something wrong.
        Handler::Forwarded | Handler::Refused => shell.with(|server| server.finish(slot, Err(Errno::ENOSYS))),
    }
    shell.run();
}

/// `vfs-proxy` has news.
pub fn news(shell: &Rc<Shell>) {
    loop {
        let events = shell.with(|server| server.machine.collect());
        for event in &events {
            happened(shell, event);
            shell.run();
        }
        if events.len() < vfs::MAX_EVENTS {
            return;
        }
    }
}

/// News that came while this instance was not ready.
pub fn happened_before(shell: &Rc<Shell>, events: &[[u64; vfs::EVENT_WORDS]]) {
    for event in events {
        happened(shell, event);
        shell.run();
    }
}

fn happened(shell: &Rc<Shell>, event: &[u64; vfs::EVENT_WORDS]) {
    let [kind, identity, value, cookie, sender, scheduling, new, _] = *event;
    let (slot, generation) = ((identity & 0xffff_ffff) as u32, (identity >> 32) as u32);
    match kind {
        vfs::EVENT_RETURN => {
            let answer = Return { value: value as i64, new_slot: new as u32, new_generation: (new >> 32) as u32 };
            shell.complete(cookie, answer);
        }
        vfs::EVENT_START => {
            let request = crate::process::StartRequest {
                slot,
                generation,
                pid: sender as u32,
                policy: scheduling as u16,
                priority: (scheduling >> 16) as u16,
                bytes: value,
            };
            crate::process::start(shell, request);
        }
        vfs::EVENT_SIGNAL => shell.with(|server| {
            server.signal_from_linux((slot, generation), value, sender as u32, (sender >> 32) as i32);
        }),
        vfs::EVENT_INTERRUPTED => shell.with(|server| server.remote_call_interrupted(slot, generation, cookie)),
        vfs::EVENT_GONE => crate::process::gone(shell, slot, generation),
        vfs::EVENT_RESET => {
            shell.complete_all(Return { value: -5, ..Return::default() });
            shell.run();
            crate::process::reset(shell);
        }
        _ => {}
    }
}

/// Deadlines have passed.
pub fn time_passed(shell: &Rc<Shell>) {
    shell.with(|server| server.run_timers());
    shell.run();
}
