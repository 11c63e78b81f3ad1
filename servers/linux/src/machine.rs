//! What this server needs of the world: the kernel and `vfs-proxy`, behind one narrow trait, so that all the rest runs on a
//! host as well. Objects are named by what they belong to: an address space by the slot of its process's leader, a thread
//! by its slot.

use crate::errno::Result;
use crate::recovery::Changed;
use alloc::vec::Vec;
use ipc::Protection;
use ipc::message::Registers;

/// A caller that waits for its answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ReplyId(pub u32);

/// What a thread is doing, as far as signal delivery cares.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Activity {
    /// In user mode, or ready to be.
    User,
    /// Has begun a system call that nobody has taken yet.
    Calling,
    /// Waits for an answer.
    Waiting,
}

/// The kernel and `vfs-proxy`.
///
/// What others see and cannot take back (answers, requests, the end of objects, a thread that goes on) is done at the end of the turn, in the order in which
/// it was asked for. All else is done at once, and noted in the journal.
pub trait Machine {
    /// A turn begins.
    fn begin_turn(&mut self) {}
    /// After a turn that has not come to its end: undoes what the journal says of kernel objects. Gives the mappings that may not be what the books say.
    fn undo(&mut self) -> Vec<Changed> {
        Vec::new()
    }

    /// Time-stamp counter.
    fn now(&self) -> u64;
    /// A random number.
    fn random(&mut self) -> u64;

    /// Slots of the own capability table that are free.
    fn free_capabilities(&self) -> usize;

    /// Makes an empty address space with its routes.
    fn space_create(&mut self, space: u32) -> Result<()>;
    /// Ends an address space; no thread of it is left.
    fn space_destroy(&mut self, space: u32);
    /// Maps `count` pages of the pool, from `page` on, where nothing is mapped.
    fn map(&mut self, space: u32, page: u32, address: u64, count: u64, protection: Protection) -> Result<()>;
    /// Unmaps what is mapped there.
    fn unmap(&mut self, space: u32, address: u64, count: u64);
    /// Changes the protection of what is mapped there.
    fn protect(&mut self, space: u32, address: u64, count: u64, protection: Protection) -> Result<()>;

    /// Makes a stopped thread.
    fn thread_create(&mut self, thread: u32, space: u32, identity: u64) -> Result<()>;
    /// Ends a thread, wherever it is. A reply that was owed to it is owed no longer.
    fn thread_destroy(&mut self, thread: u32);
    /// Lets a stopped thread run.
    fn thread_resume(&mut self, thread: u32);
    /// Stops a thread. A call in progress is cut off.
    fn thread_suspend(&mut self, thread: u32);
    /// What it is doing.
    fn thread_activity(&mut self, thread: u32) -> Activity;
    /// Registers of a thread that is stopped or waits for an answer.
    fn registers(&mut self, thread: u32) -> Result<Registers>;
    /// Sets them.
    fn set_registers(&mut self, thread: u32, registers: &Registers) -> Result<()>;
    /// Reads the XSAVE image of such a thread. Gives its size.
    fn fpu_read(&mut self, thread: u32, out: &mut [u8]) -> Result<usize>;
    /// Writes it.
    fn fpu_write(&mut self, thread: u32, image: &[u8]) -> Result<()>;
    /// Sets kernel priority, and the quantum in ticks if the policy is round robin.
    fn thread_schedule(&mut self, thread: u32, priority: u8, quantum: Option<u64>);
    /// Processor time used, in ticks.
    fn thread_consumed(&mut self, thread: u32) -> u64;

    /// Answers a caller. [`ipc::message::reply_label`]
    fn reply(&mut self, reply: ReplyId, label: u64, value: u64);
    /// The caller is no more, or is not to be answered: the place is free again.
    fn reply_abandon(&mut self, reply: ReplyId);

    /// Whether somebody still waits for this answer.
    fn is_waiting(&self, reply: ReplyId) -> bool;

    /// A call to `vfs-proxy` ([`ipc::protocol::vfs`]). Gives word 0 of the answer; 0 for what is done at the end of the turn (SUBMIT, FORGET): if SUBMIT
    /// fails, its cookie is completed with the error.
    fn vfs(&mut self, label: u64, words: &[u64]) -> Result<u64>;
    /// Events of `vfs-proxy`: at most [`ipc::protocol::vfs::MAX_EVENTS`]; fewer: no more for now.
    fn collect(&mut self) -> Vec<[u64; ipc::protocol::vfs::EVENT_WORDS]>;
}
