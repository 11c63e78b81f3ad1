//! A signal arrives: who gets it, and what that thread is doing just now.

use super::{DEFAULT, DefaultAction, Info, UNBLOCKABLE, bit, default_action};
use crate::errno::{Errno, Result};
use crate::process::Job;
use crate::server::Server;
use crate::thread::Wait;
use ipc::protocol::vfs;
use linux_raw_sys::general as linux;

impl Server {
    /// A signal for a process: any thread that does not block it takes it.
    pub fn signal_process(&mut self, leader: u32, info: Info) {
        let Ok(process) = self.process(leader) else { return };
        if process.ending {
            return;
        }
        let takes = |slot: &&u32| {
            self.thread(**slot).is_ok_and(|thread| {
                let awaited = matches!(thread.wait, Wait::Signal { set, .. } if set & bit(info.signal) != 0);
                awaited || thread.blocked & bit(info.signal) == 0
            })
        };
        let target = process.threads.iter().find(takes).copied();
        let ignored = process.signals.ignores(info.signal);
        match target {
            Some(slot) => self.signal_thread_as(slot, info, true),
            // Everybody blocks it: it waits, unless it is ignored anyway.
            None if !ignored => {
                if let Ok(process) = self.process_mut(leader) {
                    process.signals.pending.add(info);
                }
            }
            None => {}
        }
    }

    /// A signal for a thread.
    pub fn signal_thread(&mut self, slot: u32, info: Info) {
        self.signal_thread_as(slot, info, false);
    }

    fn signal_thread_as(&mut self, slot: u32, info: Info, for_process: bool) {
        let Ok(thread) = self.thread(slot) else { return };
        let (leader, wait, blocked) = (thread.leader, thread.wait, thread.blocked);
        let Ok(process) = self.process(leader) else { return };
        let (ignored, action) = (process.signals.ignores(info.signal), process.signals.action(info.signal));
        if let Wait::Signal { set, info: address } = wait
            && set & bit(info.signal) != 0
        {
            return self.take_awaited(slot, info, address);
        }
        let is_blocked = blocked & bit(info.signal) & !UNBLOCKABLE != 0;
        if ignored && !is_blocked {
            return;
        }
        if !is_blocked && action.handler == DEFAULT && default_action(info.signal) == DefaultAction::Terminate
            || info.signal == linux::SIGKILL as u8
        {
            self.jobs.push(Job::Terminate { leader, status: info.signal.into() });
            return;
        }
        let added = if for_process {
            self.process_mut(leader).is_ok_and(|process| process.signals.pending.add(info))
        } else {
            self.thread_mut(slot).is_ok_and(|thread| thread.pending.add(info))
        };
        if added && !is_blocked {
            self.interrupt(slot);
        }
    }

    /// Ends an `rt_sigtimedwait`.
    pub fn take_awaited(&mut self, slot: u32, info: Info, address: u64) {
        if address != 0 && self.write_user(slot, address, &info.bytes).is_err() {
            return self.finish(slot, Err(Errno::EFAULT));
        }
        self.finish(slot, Ok(info.signal.into()));
    }

    /// Makes a thread notice that a signal waits for it.
    pub fn interrupt(&mut self, slot: u32) {
        let Ok(thread) = self.thread(slot) else { return };
        match thread.wait {
            // It will be noticed at the end of what is being done, or before the first instruction.
            Wait::Starting | Wait::Handling | Wait::Task => {}
            Wait::Sleep { until, remaining } => {
                self.write_remaining(slot, until, remaining);
                self.finish(slot, Err(Errno::EINTR));
            }
            Wait::Futex => {
                self.futex_timed_out(slot);
                self.finish(slot, Err(Errno::EINTR));
            }
            Wait::Signal { .. } | Wait::Suspended => self.finish(slot, Err(Errno::EINTR)),
            Wait::Nothing => {
                let identity = thread.identity();
                if thread.interrupting {
                    return;
                }
                let generation = thread.generation;
                match self.machine.vfs(vfs::CANCEL, &[identity]) {
                    Ok(ended) => {
                        // In a forwarded call: its end is announced, unless it was over at once.
                        if let Ok(thread) = self.thread_mut(slot) {
                            thread.interrupting = true;
                        }
                        if let Some(number) = ended.checked_sub(1) {
                            self.remote_call_interrupted(slot, generation, number);
                        }
                    }
                    Err(_) => {
                        self.machine.thread_suspend(slot);
                        self.deliver_in_place(slot);
                        self.machine.thread_resume(slot);
                    }
                }
            }
        }
    }

    /// The forwarded call of a thread that was to be interrupted is over; the thread has not run since.
    pub fn remote_call_interrupted(&mut self, slot: u32, generation: u32, number: u64) {
        let Ok(thread) = self.thread_mut(slot) else { return };
        if thread.generation != generation || !core::mem::replace(&mut thread.interrupting, false) {
            return;
        }
        self.machine.thread_suspend(slot);
        if self.is_late {
            // While there was no instance of this server it has run on.
            self.deliver_in_place(slot);
        } else {
            self.deliver_after_remote(slot, number);
        }
        self.machine.thread_resume(slot);
    }

    /// Linux says that a signal arrived at the proxy.
    pub fn signal_from_linux(&mut self, (slot, generation): (u32, u32), signal: u64, sender: u32, code: i32) {
        let Ok(process) = self.process(slot) else { return };
        let Some(signal) = u8::try_from(signal).ok().filter(|signal| (1..=64).contains(signal)) else { return };
        if process.generation == generation {
            self.signal_process(slot, Info::sent(signal, code, sender, 0));
        }
    }

    /// Whether something waits that the thread does not block.
    pub fn signal_is_due(&self, slot: u32) -> bool {
        let Ok(thread) = self.thread(slot) else { return false };
        let shared = self.process(thread.leader).map_or(0, |process| process.signals.pending.set());
        (thread.pending.set() | shared) & !thread.blocked != 0
    }

    /// Takes a signal that is due.
    pub(super) fn take_due(&mut self, slot: u32) -> Option<Info> {
        let thread = self.threads.get_mut(slot as usize)?.as_deref_mut()?;
        let wanted = !thread.blocked;
        if let Some(info) = thread.pending.take(wanted) {
            return Some(info);
        }
        self.processes.get_mut(thread.leader as usize)?.as_deref_mut()?.signals.pending.take(wanted)
    }

    /// Takes a pending signal of a set, blocked or not (`rt_sigtimedwait`).
    pub(super) fn take_of(&mut self, slot: u32, set: u64) -> Result<Option<Info>> {
        let thread = self.thread_mut(slot)?;
        let leader = thread.leader;
        if let Some(info) = thread.pending.take(set) {
            return Ok(Some(info));
        }
        Ok(self.process_mut(leader)?.signals.pending.take(set))
    }
}
