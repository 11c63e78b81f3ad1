//! Processor time.

use super::{Cap, Result, SchedContext, Thread};
use ipc::Call;

/// Scheduling policy.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u64)]
pub enum Policy {
    /// Runs until it waits or somebody more urgent comes.
    Fifo = 0,
    /// Goes to the tail of its priority after each quantum.
    RoundRobin = 1,
}

impl Cap<SchedContext> {
    /// Sets priority, policy (with its quantum) and budget; times in TSC ticks, budget 0: unlimited.
    pub fn configure(self, priority: u8, policy: Policy, quantum: u64, budget: u64, period: u64) -> Result {
        self.invoke(Call::SchedConfigure, [priority.into(), policy as u64, quantum, budget, period]).map(drop)
    }

    /// Gives the thread this time as its own.
    pub fn bind(self, thread: Cap<Thread>) -> Result {
        self.invoke(Call::SchedBind, [thread.slot.into()]).map(drop)
    }

    /// Takes the time from its thread.
    pub fn unbind(self) -> Result {
        self.invoke(Call::SchedUnbind, []).map(drop)
    }

    /// Time used since it was made.
    pub fn consumed(self) -> Result<u64> {
        self.invoke(Call::SchedConsumed, []).map(|[ticks, ..]| ticks)
    }
}
