//! After a crash in the middle of a turn: the state is that of the turn's beginning again, and the world is made to agree with it.

use crate::errno::Result;
use crate::executor::Return;
use crate::executor::Shell;
use crate::memory::PAGE;
use crate::process::Job;
use crate::server::Server;
use crate::thread::Wait;
use alloc::rc::Rc;
use alloc::vec::Vec;
use core::sync::atomic::Ordering;
use ipc::shadow::{mirror, thread_state};
use linux_raw_sys::general::SIGKILL;

/// Pages of a process whose mappings the turn has changed: leader's slot, address, pages.
pub type Changed = (u32, u64, u64);

impl Server {
    /// Brings kernel and published state in step with the books. `changed` comes from the journal.
    pub fn recover(&mut self, changed: &[Changed]) {
        for (leader, address, pages) in changed {
            if self.restore_mappings(*leader, *address, *pages).is_err() {
                // Its memory is not what it believes: it must not go on.
                self.kill(*leader);
            }
        }
        for slot in 0..self.threads.len() as u32 {
            self.recover_thread(slot);
        }
        for (slot, process) in self.processes.iter().enumerate() {
            let root = process.as_ref().map_or(mirror::NONE, |process| process.space.root);
            self.entries[slot].mirror_root.store(root, Ordering::SeqCst);
        }
        self.publish_counters();
    }

    fn restore_mappings(&mut self, leader: u32, address: u64, pages: u64) -> Result<()> {
        let Some(process) = self.processes.get(leader as usize).and_then(Option::as_deref) else { return Ok(()) };
        self.memory.restore(self.machine.as_mut(), &process.space, address, address + pages * PAGE)
    }

    fn recover_thread(&mut self, slot: u32) {
        let Ok(thread) = self.thread(slot) else {
            let state = if self.ghosts[slot as usize].is_some() { thread_state::ENDING } else { thread_state::FREE };
            self.entries[slot as usize].state.store(state, Ordering::Relaxed);
            return;
        };
        let (leader, reply, wait) = (thread.leader, thread.reply, thread.wait);
        if let Some(reply) = reply.filter(|reply| !self.machine.is_waiting(*reply)) {
            // It was answered in that turn already, because the turn then looked at it.
            self.machine.reply_abandon(reply);
            self.futexes.forget(slot);
            let deadline = self.thread_mut(slot).ok().and_then(|thread| {
                (thread.reply, thread.wait) = (None, Wait::Nothing);
                thread.deadline.take()
            });
            if let Some(key) = deadline {
                self.timers.cancel(key);
            }
        }
        let Ok(thread) = self.thread(slot) else { return };
        let state = match (thread.wait, thread.reply) {
            (Wait::Starting, _) => thread_state::STARTING,
            (_, Some(_)) => thread_state::WAITING,
            _ => thread_state::RUNNING,
        };
        self.entries[slot as usize].state.store(state, Ordering::Relaxed);
        self.apply_scheduling(slot);
        let is_running = self.process(leader).is_ok_and(|process| process.threads.contains(&slot) && !process.ending);
        if wait != Wait::Starting && is_running {
            // That turn may have stopped it.
            self.machine.thread_resume(slot);
        }
    }

    /// Ends a process as by SIGKILL, with the next tasks that run.
    pub fn kill(&mut self, leader: u32) {
        self.jobs.push(Job::Terminate { leader, status: SIGKILL });
    }
}

/// Requests that could not be made: their cookies, and the error.
pub fn failed(shell: &Rc<Shell>, requests: Vec<(u64, i64)>) {
    for (cookie, error) in requests {
        shell.complete(cookie, Return { value: error, ..Return::default() });
    }
    shell.run();
}
