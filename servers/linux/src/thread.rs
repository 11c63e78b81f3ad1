//! Threads: their state here, their life from `clone` to `exit`.

use crate::errno::{Errno, Result};
use crate::executor::Shell;
use crate::machine::ReplyId;
use crate::process::Job;
use crate::sched::Scheduling;
use crate::server::{Outcome, Server};
use crate::signal::{AltStack, Pending};
use alloc::boxed::Box;
use alloc::rc::Rc;
use core::sync::atomic::Ordering;
use ipc::shadow::{request_kind, special, thread_identity, thread_state};
use linux_raw_sys::general as linux;

/// What a thread waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wait {
    /// Nothing that this server knows of: in user mode, or in a forwarded call.
    Nothing,
    /// Being made; has not run yet.
    Starting,
    /// A handler is at work on its call right now.
    Handling,
    /// A task of its own.
    Task,
    /// A futex.
    Futex,
    /// A time (nanoseconds of CLOCK_MONOTONIC), and where the rest of the time is to be written (0: nowhere).
    Sleep {
        /// When it ends.
        until: u64,
        /// `struct timespec` for what remains if interrupted.
        remaining: u64,
    },
    /// One of the signals of the set, that is then taken (`rt_sigtimedwait`).
    Signal {
        /// Bit n−1 for signal n.
        set: u64,
        /// Where the `siginfo` goes, or 0.
        info: u64,
    },
    /// Any signal with a handler (`pause`, `rt_sigsuspend`).
    Suspended,
}

/// A system call that is being answered.
#[derive(Clone, Copy, Debug, Default)]
pub struct CallRecord {
    /// Number.
    pub number: u64,
    /// Arguments.
    pub arguments: [u64; 6],
    /// User stack pointer.
    pub stack: u64,
}

/// A thread.
pub struct Thread {
    /// Its slot.
    pub slot: u32,
    /// Generation of the slot.
    pub generation: u32,
    /// Linux id of its worker.
    pub tid: u32,
    /// Slot of the process's leader.
    pub leader: u32,
    /// Who waits for the answer.
    pub reply: Option<ReplyId>,
    /// The call being answered.
    pub call: CallRecord,
    /// What it waits for.
    pub wait: Wait,
    /// Key of its deadline, if one is set.
    pub deadline: Option<crate::timers::Key>,
    /// Blocked signals.
    pub blocked: u64,
    /// Mask to restore when the handler of a `rt_sigsuspend` returns.
    pub saved_mask: Option<u64>,
    /// Signals for this thread alone.
    pub pending: Pending,
    /// Alternate signal stack.
    pub alt_stack: AltStack,
    /// Cleared and woken when the thread ends.
    pub clear_child_tid: u64,
    /// Head of the robust list.
    pub robust_list: u64,
    /// Policy and priority as asked for.
    pub scheduling: Scheduling,
    /// Priority inherited from those who wait for its PI futexes (0: none).
    pub inherited: u8,
    /// Waits for the end of a forwarded call that was told to stop, to deliver a signal.
    pub interrupting: bool,
    /// Stack pointer and so on are set: has been resumed once.
    pub name: [u8; 16],
}

impl Thread {
    /// Its identity in messages.
    pub fn identity(&self) -> u64 {
        thread_identity(self.slot, self.generation)
    }

    /// A thread that has not run.
    pub fn new(slot: u32, generation: u32, tid: u32, leader: u32, scheduling: Scheduling) -> Thread {
        Thread {
            slot,
            generation,
            tid,
            leader,
            reply: None,
            call: CallRecord::default(),
            wait: Wait::Starting,
            deadline: None,
            blocked: 0,
            saved_mask: None,
            pending: Pending::default(),
            alt_stack: AltStack::default(),
            clear_child_tid: 0,
            robust_list: 0,
            scheduling,
            inherited: 0,
            interrupting: false,
            name: [0; 16],
        }
    }
}

/// What `pthread_create` asks for, and the least that makes a thread.
const THREAD_FLAGS: u64 = (linux::CLONE_VM | linux::CLONE_SIGHAND | linux::CLONE_THREAD) as u64;

/// `clone`: a thread of the same process. (A new process: not here yet.)
pub async fn clone(shell: Rc<Shell>, slot: u32, arguments: [u64; 6]) -> Result {
    let [flags, stack, parent_tid, child_tid, tls, _] = arguments;
    let has = |flag: u32| flags & u64::from(flag) != 0;
    if flags & THREAD_FLAGS != THREAD_FLAGS {
        return Err(Errno::ENOSYS);
    }
    if stack == 0 || stack >= ipc::shadow::WINDOW_END || (has(linux::CLONE_SETTLS) && tls >= ipc::shadow::WINDOW_END) {
        return Err(Errno::EINVAL);
    }
    let answer = shell.request(slot, request_kind::CALL, special::CLONE, [0; 6]).await?;
    let tid = Errno::check(answer.value)? as u32;
    let (child, generation) = (answer.new_slot, answer.new_generation);
    let made = shell.with(|server| {
        let parent = server.thread(slot)?;
        let (leader, blocked, scheduling, name) = (parent.leader, parent.blocked, parent.scheduling, parent.name);
        let mut thread = Box::new(Thread::new(child, generation, tid, leader, scheduling));
        (thread.blocked, thread.name) = (blocked, name);
        if has(linux::CLONE_CHILD_CLEARTID) {
            thread.clear_child_tid = child_tid;
        }
        let mut registers = server.machine.registers(slot)?;
        registers.rax = 0;
        registers.rsp = stack;
        if has(linux::CLONE_SETTLS) {
            registers.fs_base = tls;
        }
        server.admit(thread)?;
        if let Err(error) = server.machine.set_registers(child, &registers) {
            server.drop_thread(child);
            return Err(error);
        }
        // The new thread starts with the FPU state of its parent, as with fork; a failure leaves the initial state.
        let mut image = alloc::vec![0; 4096];
        if let Ok(size) = server.machine.fpu_read(slot, &mut image) {
            let _ = server.machine.fpu_write(child, &image[..size]);
        }
        let bytes = tid.to_le_bytes();
        if has(linux::CLONE_PARENT_SETTID) {
            let _ = server.write_user(slot, parent_tid, &bytes);
        }
        if has(linux::CLONE_CHILD_SETTID) {
            let _ = server.write_user(slot, child_tid, &bytes);
        }
        server.start_thread(child);
        Ok(u64::from(tid))
    });
    if made.is_err() {
        // The worker exists: it must go again.
        shell.with(|server| server.dismiss(child, generation));
    }
    made
}

impl Server {
    /// Makes a thread known: kernel thread, published entry, `vfs-proxy`.
    pub fn admit(&mut self, thread: Box<Thread>) -> Result<()> {
        let (slot, leader) = (thread.slot, thread.leader);
        let place = self.threads.get(slot as usize).ok_or(Errno::EINVAL)?;
        if place.is_some() || self.processes[leader as usize].is_none() {
            return Err(Errno::EBUSY);
        }
        let (identity, scheduling) = (thread.identity(), thread.scheduling);
        self.machine.thread_create(slot, leader, identity)?;
        let words = [identity, scheduling.packed()];
        if let Err(error) = self.machine.vfs(ipc::protocol::vfs::ADMIT, &words) {
            self.machine.thread_destroy(slot);
            return Err(error);
        }
        self.publish_thread(&thread, thread_state::STARTING);
        self.threads[slot as usize] = Some(thread);
        if let Some(process) = self.processes[leader as usize].as_mut() {
            process.threads.push(slot);
        }
        self.apply_scheduling(slot);
        Ok(())
    }

    /// Lets a new thread run for the first time.
    pub fn start_thread(&mut self, slot: u32) {
        if let Some(thread) = self.threads[slot as usize].as_mut() {
            thread.wait = Wait::Nothing;
            self.entries[slot as usize].state.store(thread_state::RUNNING, Ordering::Relaxed);
            self.machine.thread_resume(slot);
        }
    }

    /// Forgets a thread: everything but its worker.
    pub fn drop_thread(&mut self, slot: u32) {
        let Some(thread) = self.threads[slot as usize].take() else { return };
        self.machine.thread_destroy(slot);
        self.futexes.forget(slot);
        if let Some(reply) = thread.reply {
            self.machine.reply_abandon(reply);
        }
        if let Some(key) = thread.deadline {
            self.timers.cancel(key);
        }
        // Nothing of it is in flight then: vfs-proxy may be gone, which is the same.
        let _ = self.machine.vfs(ipc::protocol::vfs::FORGET, &[thread.identity()]);
        self.entries[slot as usize].state.store(thread_state::ENDING, Ordering::Relaxed);
        if let Some(process) = self.processes[thread.leader as usize].as_mut() {
            process.threads.retain(|other| *other != slot);
        }
    }

    /// Tells the driver that the thread of a slot is no more.
    pub fn dismiss(&mut self, slot: u32, generation: u32) {
        // Not answered; if Linux is gone, so is the worker.
        let _ = self.submit_as((slot, generation), request_kind::THREAD_EXIT, 0, [0; 6], 0);
    }

    /// What every ending thread does in its process's memory: robust list, `clear_child_tid`.
    pub fn release_user_state(&mut self, slot: u32) {
        let Some((robust, clear)) = self.thread(slot).ok().map(|thread| (thread.robust_list, thread.clear_child_tid))
        else {
            return;
        };
        if robust != 0 {
            self.release_robust_list(slot, robust);
        }
        if clear != 0 && self.write_user(slot, clear, &[0; 4]).is_ok() {
            let _ = self.futex_wake(slot, clear, 1, u32::MAX, false);
        }
    }
}

/// `exit`: ends the calling thread; the process too if it was the last one.
pub fn exit(server: &mut Server, slot: u32, arguments: [u64; 6]) -> Result<Outcome> {
    let status = ((arguments[0] & 0xff) << 8) as u32;
    let thread = server.thread(slot)?;
    let (leader, generation) = (thread.leader, thread.generation);
    let process = server.process(leader)?;
    if process.threads.len() <= 1 {
        let status = process.exit_status.unwrap_or(status);
        server.jobs.push(Job::Terminate { leader, status });
        return Ok(Outcome::Stay);
    }
    server.release_user_state(slot);
    if slot == leader {
        // The leader's slot stands for the process, so it stays; nothing of it runs any more.
        server.process_mut(leader)?.exit_status = Some(status);
        server.retire_leader(leader);
        return Ok(Outcome::Stay);
    }
    server.drop_thread(slot);
    server.dismiss(slot, generation);
    Ok(Outcome::Gone)
}

/// `exit_group`: ends the process.
pub fn exit_group(server: &mut Server, slot: u32, arguments: [u64; 6]) -> Result<Outcome> {
    let leader = server.thread(slot)?.leader;
    server.jobs.push(Job::Terminate { leader, status: ((arguments[0] & 0xff) << 8) as u32 });
    Ok(Outcome::Stay)
}

/// `gettid`.
pub fn gettid(server: &mut Server, slot: u32, _: [u64; 6]) -> Result<Outcome> {
    Ok(Outcome::Value(server.thread(slot)?.tid.into()))
}

/// `set_tid_address`.
pub fn set_tid_address(server: &mut Server, slot: u32, arguments: [u64; 6]) -> Result<Outcome> {
    let thread = server.thread_mut(slot)?;
    thread.clear_child_tid = arguments[0];
    Ok(Outcome::Value(thread.tid.into()))
}

/// `set_robust_list`.
pub fn set_robust_list(server: &mut Server, slot: u32, arguments: [u64; 6]) -> Result<Outcome> {
    if arguments[1] != 24 {
        return Err(Errno::EINVAL);
    }
    server.thread_mut(slot)?.robust_list = arguments[0];
    Ok(Outcome::Value(0))
}

/// `get_robust_list`.
pub fn get_robust_list(server: &mut Server, slot: u32, arguments: [u64; 6]) -> Result<Outcome> {
    let [tid, head, length, ..] = arguments;
    let target = server.sibling(slot, tid as u32)?;
    let list = server.thread(target)?.robust_list;
    server.write_user(slot, head, &list.to_le_bytes())?;
    server.write_user(slot, length, &24u64.to_le_bytes())?;
    Ok(Outcome::Value(0))
}
