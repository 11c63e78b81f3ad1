//! Processes: from the START of a proxy to its GONE.

use crate::errno::{Errno, Result};
use crate::executor::{Owner, Shell};
use crate::memory::vma::{Area, area, prot};
use crate::memory::{PAGE, Space, file, page_up};
use crate::sched::Scheduling;
use crate::server::{Ghost, Server};
use crate::signal::SharedSignals;
use crate::thread::{Thread, Wait};
use crate::timers::ProcessTimers;
use alloc::boxed::Box;
use alloc::rc::Rc;
use alloc::vec;
use alloc::vec::Vec;
use core::sync::atomic::Ordering;
use ipc::protocol::start::{Block, StartHeader};
use ipc::shadow::{MAX_SLOTS, mirror, request_kind, special, thread_state};

/// Where scratch memory of the loader lies: mapped for Linux, and gone when the program starts.
pub const SCRATCH: u64 = 0x3f00_0000_0000;
/// Bytes of scratch memory besides the argument block.
pub const SCRATCH_SIZE: u64 = 4 * PAGE;

/// Largest argument block of a program.
const MAX_ARGUMENTS: u64 = 256 << 10;
/// Largest sum of the argument blocks of all programs that are being loaded: they are on this server's heap meanwhile.
const ARGUMENT_BUDGET: u64 = 1 << 20;

/// A process.
pub struct Process {
    /// Slot of its leader, which stands for the process.
    pub leader: u32,
    /// Generation of that slot.
    pub generation: u32,
    /// Id of the proxy.
    pub pid: u32,
    /// Id of the proxy's parent.
    pub ppid: u32,
    /// Real user id of the proxy at the start.
    pub uid: u32,
    /// Its memory.
    pub space: Space,
    /// Slots of its threads.
    pub threads: Vec<u32>,
    /// Signal actions and signals for the process.
    pub signals: SharedSignals,
    /// Files that shared mappings are written back to.
    pub files: Vec<Option<file::Backing>>,
    /// Timers.
    pub timers: ProcessTimers,
    /// Limit of the stack, soft and hard.
    pub stack_limit: [u64; 2],
    /// Status with which a leader ended before its threads.
    pub exit_status: Option<u32>,
    /// Ends: nothing of it runs any more.
    pub ending: bool,
}

/// What a START says.
#[derive(Clone, Copy, Debug)]
pub struct StartRequest {
    /// Slot of the leader.
    pub slot: u32,
    /// Its generation.
    pub generation: u32,
    /// Id of the proxy.
    pub pid: u32,
    /// Scheduling policy.
    pub policy: u16,
    /// Real-time priority.
    pub priority: u16,
    /// Bytes of the argument block.
    pub bytes: u64,
}

/// Work that a synchronous handler leaves to a task.
#[derive(Clone, Copy, Debug)]
pub enum Job {
    /// End a process with this wait status.
    Terminate {
        /// The process.
        leader: u32,
        /// Wait status.
        status: u32,
    },
    /// Make the system call in the worker of the slot and answer the thread with the result.
    Forward {
        /// The thread.
        slot: u32,
    },
    /// Tell Linux that a thread is scheduled otherwise.
    Schedule {
        /// The thread.
        slot: u32,
    },
}

/// Starts a job as a task.
pub fn start_job(shell: &Rc<Shell>, job: Job) {
    match job {
        Job::Terminate { leader, status } => terminate(shell, leader, status),
        Job::Forward { slot } => {
            let Some((owner, call)) = shell.with(|server| {
                let thread = server.thread_mut(slot).ok()?;
                thread.wait = Wait::Task;
                let (leader, call) = (thread.leader, thread.call);
                Some((server.process(leader).ok()?.owner(), call))
            }) else {
                return;
            };
            let inner = shell.clone();
            shell.spawn(owner, async move {
                let result = inner.remote(slot, call.number as u32, &call.arguments).await;
                inner.with(|server| server.finish(slot, result));
            });
        }
        Job::Schedule { slot } => {
            let Some((owner, scheduling)) = shell.with(|server| {
                let thread = server.thread(slot).ok()?;
                Some((server.process(thread.leader).ok()?.owner(), thread.scheduling))
            }) else {
                return;
            };
            let inner = shell.clone();
            shell.spawn(owner, async move {
                let arguments = [scheduling.policy.into(), scheduling.priority.into(), 0, 0, 0, 0];
                // The worker follows as well as Linux lets it.
                let _ = inner.request(slot, request_kind::CALL, special::SCHEDULE, arguments).await;
            });
        }
    }
}

impl Process {
    /// Who owns its tasks.
    pub fn owner(&self) -> Owner {
        (self.leader, self.generation)
    }
}

/// A proxy attached: make a process and load its program.
pub fn start(shell: &Rc<Shell>, request: StartRequest) {
    // A former process of this slot whose end Linux has not confirmed (it was restarted): gone now.
    let stale = shell.with(|server| {
        let process = server.processes.get(request.slot as usize)?.as_deref()?;
        (process.generation != request.generation).then(|| process.owner())
    });
    if let Some(owner) = stale {
        shell.cancel(owner);
        shell.with(|server| server.tear_down(owner.0));
    }
    match shell.with(|server| server.create_process(&request)) {
        Ok(()) => {
            let inner = shell.clone();
            shell.spawn((request.slot, request.generation), async move {
                if let Err(error) = launch(&inner, &request).await {
                    let code = if error == Errno::ENOENT || error == Errno::ENOTDIR { 127 } else { 126 };
                    inner.with(|server| server.jobs.push(Job::Terminate { leader: request.slot, status: code << 8 }));
                }
            });
        }
        Err(_) => shell.with(|server| {
            // No room: the program ends before it began.
            let identity = (request.slot, request.generation);
            let _ = server.submit_as(identity, request_kind::EXIT, 0, [126 << 8, 0, 0, 0, 0, 0], 0);
        }),
    }
}

/// A part of the argument budget, given back when it is dropped: also when the task that holds it is cancelled.
struct Share {
    shell: Rc<Shell>,
    size: u64,
}

impl Share {
    fn take(shell: &Rc<Shell>, size: u64) -> Result<Share> {
        let taken = shell.argument_bytes.get();
        if size > MAX_ARGUMENTS || taken + size > ARGUMENT_BUDGET {
            return Err(Errno::E2BIG);
        }
        shell.argument_bytes.set(taken + size);
        Ok(Share { shell: shell.clone(), size })
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        self.shell.argument_bytes.set(self.shell.argument_bytes.get() - self.size);
    }
}

/// Fetches the arguments and loads the program.
async fn launch(shell: &Rc<Shell>, request: &StartRequest) -> Result<()> {
    let slot = request.slot;
    let size = page_up(request.bytes).ok_or(Errno::E2BIG)?;
    let _share = Share::take(shell, size)?;
    let (block_at, block_end) = (SCRATCH + SCRATCH_SIZE, SCRATCH + SCRATCH_SIZE + size);
    shell.with(|server| {
        let (machine, memory, process) = server.memory_of(slot)?;
        memory.back(machine, &mut process.space, SCRATCH, block_end, prot::READ | prot::WRITE)?;
        let area = Area { flags: area::SYSTEM, ..Area::anonymous(SCRATCH, block_end, prot::READ | prot::WRITE) };
        process.space.areas.insert(area);
        Ok(())
    })?;
    let arguments = [block_at, size, 0, 0, 0, 0];
    let answer = shell.request(slot, request_kind::CALL, special::ARGUMENTS, arguments).await?;
    let bytes = Errno::check(answer.value)?.min(size) as usize;
    let block = shell.with(|server| {
        let mut block = vec![0; bytes];
        server.read_user(slot, block_at, &mut block)?;
        Ok(block)
    })?;
    let (header, program) = request_of(&block)?;
    drop(block);
    shell.with(|server| server.take_header(slot, &header))?;
    crate::exec::load(shell, slot, program, &header, (SCRATCH, block_end)).await?;
    shell.with(|server| {
        server.counters.processes_started.fetch_add(1, Ordering::Relaxed);
        server.start_thread(slot);
        server.publish_counters();
    });
    Ok(())
}

/// What a block says is to be run.
fn request_of(block: &[u8]) -> Result<(StartHeader, crate::exec::Request)> {
    let block = Block::parse(block).map_err(|_| Errno::EINVAL)?;
    let arguments = block.arguments().map(<[u8]>::to_vec).collect();
    let environment = block.environment().map(<[u8]>::to_vec).collect();
    let platform = if block.platform().is_empty() { b"x86_64".to_vec() } else { block.platform().to_vec() };
    Ok((block.header, crate::exec::Request { path: block.path().to_vec(), arguments, environment, platform }))
}

impl Server {
    fn create_process(&mut self, request: &StartRequest) -> Result<()> {
        let (slot, generation) = (request.slot, request.generation);
        if slot as usize >= MAX_SLOTS
            || self.threads[slot as usize].is_some()
            || self.processes[slot as usize].is_some()
        {
            return Err(Errno::EBUSY);
        }
        self.free_ghost(slot);
        self.memory.pages.sweep();
        let space = self.memory.create(self.machine.as_mut(), slot)?;
        let entry = &self.entries[slot as usize];
        entry.generation.store(generation, Ordering::Relaxed);
        entry.leader.store(slot, Ordering::Relaxed);
        entry.mirror_root.store(space.root, Ordering::Release);
        self.processes[slot as usize] = Some(Box::new(Process {
            leader: slot,
            generation,
            pid: request.pid,
            ppid: 0,
            uid: 0,
            space,
            threads: Vec::new(),
            signals: SharedSignals::default(),
            files: Vec::new(),
            timers: ProcessTimers::default(),
            stack_limit: [self.settings.stack; 2],
            exit_status: None,
            ending: false,
        }));
        let scheduling = Scheduling::new(request.policy, request.priority);
        let thread = Box::new(Thread::new(slot, generation, request.pid, slot, scheduling));
        if let Err(error) = self.admit(thread) {
            self.tear_down(slot);
            self.free_ghost(slot);
            return Err(error);
        }
        self.publish_counters();
        Ok(())
    }

    fn take_header(&mut self, slot: u32, header: &StartHeader) -> Result<()> {
        let settings = self.settings;
        let process = self.process_of(slot)?;
        (process.ppid, process.uid) = (header.ppid, header.uid);
        for (signal, action) in process.signals.actions.iter_mut().enumerate() {
            if header.ignored_signals & (1 << signal) != 0 {
                action.handler = crate::signal::IGNORE;
            }
        }
        // RLIMIT_STACK is 3. What a program is told is what it has: its stack does not grow.
        let hard = header.limits[3][1].min(settings.stack).max(16 * PAGE);
        process.stack_limit = [header.limits[3][0].min(hard).max(16 * PAGE), hard];
        self.thread_mut(slot)?.blocked = header.blocked_signals & !crate::signal::UNBLOCKABLE;
        Ok(())
    }

    /// A leader has ended before its threads: its kernel thread goes, its slot stays.
    pub fn retire_leader(&mut self, leader: u32) {
        self.machine.thread_suspend(leader);
        if let Ok(thread) = self.thread_mut(leader) {
            thread.wait = Wait::Suspended;
            thread.blocked = u64::MAX;
            if let Some(reply) = thread.reply.take() {
                self.machine.reply_abandon(reply);
            }
        }
        if let Ok(process) = self.process_mut(leader) {
            process.threads.retain(|slot| *slot != leader);
        }
    }

    /// Takes a process's threads away; its memory stays.
    fn stop_threads(&mut self, leader: u32) {
        let Ok(process) = self.process_mut(leader) else { return };
        process.ending = true;
        let generation = process.generation;
        for slot in process.threads.clone() {
            if slot != leader {
                let generation = self.thread(slot).map_or(generation, |thread| thread.generation);
                self.drop_thread(slot);
                self.dismiss(slot, generation);
            }
        }
        self.drop_thread(leader);
        self.stop_process_timers(leader);
    }

    /// Gives back all that a process has. Its slot and page map stay until the proxy is gone.
    pub fn tear_down(&mut self, leader: u32) {
        self.stop_threads(leader);
        let Some(process) = self.processes[leader as usize].take() else { return };
        let entry = &self.entries[leader as usize];
        entry.mirror_root.store(mirror::NONE, Ordering::SeqCst);
        entry.state.store(thread_state::ENDING, Ordering::Relaxed);
        entry.pages.store(0, Ordering::Relaxed);
        let process = *process;
        let mirror_root = self.memory.destroy(self.machine.as_mut(), process.space);
        self.ghosts[leader as usize] = Some(Ghost { generation: process.generation, mirror_root });
        self.publish_counters();
    }

    /// The proxy of an ended process is gone.
    pub fn free_ghost(&mut self, leader: u32) {
        if let Some(ghost) = self.ghosts[leader as usize].take() {
            self.memory.mirror.destroy(ghost.mirror_root);
        }
        self.memory.pages.sweep();
    }
}

/// Ends a process: its threads at once, then what is left to write, then all of it.
fn terminate(shell: &Rc<Shell>, leader: u32, status: u32) {
    let Some(owner) = shell.with(|server| {
        let process = server.process_mut(leader).ok()?;
        (!core::mem::replace(&mut process.ending, true)).then(|| process.owner())
    }) else {
        return;
    };
    shell.cancel(owner);
    shell.with(|server| server.stop_threads(leader));
    let inner = shell.clone();
    shell.spawn(owner, async move {
        file::write_back_all(&inner, leader).await;
        inner.with(|server| {
            server.tear_down(leader);
            // Not answered. If Linux is not there, neither is anyone to be told.
            let _ = server.submit_as(owner, request_kind::EXIT, 0, [status.into(), 0, 0, 0, 0, 0], 0);
        });
    });
}

/// A worker or a whole proxy is gone.
pub fn gone(shell: &Rc<Shell>, slot: u32, generation: u32) {
    if slot as usize >= MAX_SLOTS {
        return;
    }
    let known = shell.with(|server| server.entries[slot as usize].generation.load(Ordering::Relaxed) == generation);
    if !known {
        return;
    }
    let alive = shell.with(|server| {
        server.processes[slot as usize]
            .as_deref()
            .filter(|process| process.generation == generation)
            .map(Process::owner)
    });
    if let Some(owner) = alive {
        // The proxy died under its process (SIGKILL): the process ends with it.
        shell.cancel(owner);
        shell.with(|server| server.tear_down(slot));
    }
    shell.with(|server| {
        if server.threads[slot as usize].as_deref().is_some_and(|thread| thread.generation == generation) {
            // A single worker died; its thread has nobody to call any more.
            server.drop_thread(slot);
        }
        if server.ghosts[slot as usize].as_ref().is_some_and(|ghost| ghost.generation == generation) {
            server.free_ghost(slot);
        }
        server.entries[slot as usize].state.store(thread_state::FREE, Ordering::Relaxed);
        server.memory.pages.sweep();
        server.publish_counters();
    });
}

/// Linux was restarted or went away: every proxy is gone.
pub fn reset(shell: &Rc<Shell>) {
    for slot in 0..MAX_SLOTS as u32 {
        let generation = shell.with(|server| server.entries[slot as usize].generation.load(Ordering::Relaxed));
        gone(shell, slot, generation);
    }
}

/// `getpid`.
pub fn getpid(server: &mut Server, slot: u32, _: [u64; 6]) -> Result<crate::server::Outcome> {
    Ok(crate::server::Outcome::Value(server.process_of(slot)?.pid.into()))
}
