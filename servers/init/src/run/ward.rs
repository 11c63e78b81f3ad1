//! What warden and builder share: words that either may find the other in the middle of, since the warden interrupts the builder anywhere.
//!
//! Whose turn it is, a server's state says: only the warden takes it from alive to condemned, only the builder from there on.

use super::board::Board;
use alloc::vec::Vec;
use core::sync::atomic::{AtomicBool, AtomicU8, AtomicU32, AtomicU64, Ordering};
use ipc::blob::Server;
use rt::calls::time::Policy;
use rt::{Cap, Notification, SchedContext, Start, Thread};

/// States of a [`Ward`].
pub mod state {
    /// There is no instance, and none is being made.
    pub const DEAD: u32 = 0;
    /// Its instance runs.
    pub const ALIVE: u32 = 1;
    /// Its instance is stopped: the builder sees to the rest.
    pub const CONDEMNED: u32 = 2;
}

/// Why a server is condemned.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum Charge {
    /// It faulted: vector, code, address, instruction.
    Fault,
    /// Its loop turns no more: ticks used, instruction.
    Spin,
    /// It was ordered: its policy decides what follows.
    Kill,
    /// A new instance was ordered. It may have been dead before.
    Replace,
}

/// A server in the warden's care.
pub struct Ward {
    /// The thread of whichever instance there is.
    pub thread: Cap<Thread>,
    /// Priority of the server, and at which it is rebuilt.
    pub priority: u8,
    /// See `priority`.
    pub rebuild: u8,
    /// [`state`].
    pub state: AtomicU32,
    /// What its instance's faults are reported under.
    pub id: AtomicU64,
    /// When it was condemned.
    pub died: AtomicU64,
    charge: AtomicU32,
    words: [AtomicU64; 4],
    /// Sequence number of the order that is over when the builder has done its part; above 32 bits: there is none.
    order: AtomicU64,
}

const NO_ORDER: u64 = u64::MAX;

impl Ward {
    /// Of a server that is being made.
    pub fn new(server: &Server, thread: Cap<Thread>) -> Ward {
        Ward {
            thread,
            priority: server.priority,
            rebuild: server.rebuild_priority.min(server.priority),
            state: AtomicU32::new(state::DEAD),
            id: AtomicU64::new(0),
            died: AtomicU64::new(0),
            charge: AtomicU32::new(0),
            words: Default::default(),
            order: AtomicU64::new(NO_ORDER),
        }
    }

    /// Whether its state is this one.
    pub fn is(&self, state: u32) -> bool {
        self.state.load(Ordering::Acquire) == state
    }

    /// Writes the charge; the builder sees it from now on.
    pub fn condemn(&self, charge: Charge, words: [u64; 4], order: Option<u32>) {
        self.charge.store(charge as u32, Ordering::Relaxed);
        for (place, word) in self.words.iter().zip(words) {
            place.store(word, Ordering::Relaxed);
        }
        self.order.store(order.map_or(NO_ORDER, u64::from), Ordering::Relaxed);
        self.died.store(rt::time::now(), Ordering::Relaxed);
        self.state.store(state::CONDEMNED, Ordering::Release);
    }

    /// The charge and its words.
    pub fn charge(&self) -> (Charge, [u64; 4]) {
        const CHARGES: [Charge; 4] = [Charge::Fault, Charge::Spin, Charge::Kill, Charge::Replace];
        let charge = CHARGES[self.charge.load(Ordering::Relaxed) as usize % CHARGES.len()];
        (charge, core::array::from_fn(|index| self.words[index].load(Ordering::Relaxed)))
    }

    /// The order that waits for it.
    pub fn order(&self) -> Option<u32> {
        u32::try_from(self.order.load(Ordering::Relaxed)).ok()
    }
}

/// All of it.
pub struct Shared {
    /// The servers.
    pub wards: Vec<Ward>,
    /// What Linux sees.
    pub board: Option<Board>,
    /// Wakes the builder.
    pub bell: Cap<Notification>,
    /// The builder has work, and looks for more before it waits.
    pub busy: AtomicBool,
    /// Pieces of work that it has done.
    pub done: AtomicU64,
    /// The priority that it was given last.
    pub pace: AtomicU8,
    /// 1 + the way in which init itself shall crash; 0: it shall not.
    pub crash: AtomicU32,
    /// Time-stamp counter ticks per millisecond.
    pub tsc_khz: u64,
}

impl Shared {
    /// The time that the builder runs on.
    const BUILDER: Cap<SchedContext> = Start::SCHED_CONTEXT;

    /// The priority at which the builder has to work for those that are condemned.
    pub fn wanted(&self) -> u8 {
        self.wards.iter().filter(|ward| ward.is(state::CONDEMNED)).map(|ward| ward.rebuild).max().unwrap_or(0)
    }

    /// The priority at which the builder waits for work: then the warden has to raise it for few only.
    pub fn idle_pace(&self) -> u8 {
        self.wards.iter().map(|ward| ward.rebuild).min().unwrap_or(0)
    }

    /// Gives the builder a priority.
    pub fn set_pace(&self, priority: u8) {
        if self.pace.swap(priority, Ordering::Relaxed) != priority {
            // It has been configured before, with the same values but for the priority: nothing can be wrong with them.
            let _ = Self::BUILDER.configure(priority, Policy::Fifo, 0, 0, 0);
        }
    }
}
