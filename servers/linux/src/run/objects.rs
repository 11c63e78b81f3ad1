//! Kernel objects of programs, made of memory that can be taken back at once: each address space and each thread is made of
//! Untypeds of its own, that are revoked when it ends and used again.

use super::outbox::{Outbox, expect};
use alloc::vec::Vec;
use ipc::ObjectType;
use rt::{AddressSpace, Cap, Error, Result, SchedContext, Slots, Start, Thread, Untyped};

/// Page-table memory that an address space starts with, and by which it grows.
const SPACE_CHUNK: u64 = 128 << 10;
/// Slots that a turn may take, at most, as far as they are looked for after a crash.
const MADE_IN_A_TURN: u32 = 32;
/// A thread and its time.
const THREAD_CHUNK: u64 = 8 << 10;
/// Slots of a [`Chunk`].
const CHUNK_SLOTS: usize = 2;
/// Slots of a [`Task`].
const TASK_SLOTS: usize = 3;

/// An address space and the memory of its page tables.
pub struct Space {
    /// The address space.
    pub space: Cap<AddressSpace>,
    chunks: Vec<Chunk>,
}

/// A thread and its time.
pub struct Task {
    /// The thread.
    pub thread: Cap<Thread>,
    /// Its time.
    pub time: Cap<SchedContext>,
    memory: Cap<Untyped>,
}

/// Memory for an address space, and the slot of the address space made of it.
struct Chunk {
    memory: Cap<Untyped>,
    slot: u32,
}

/// Makes objects and takes them back: what ends is revoked at the end of the turn, and used again from the next turn on.
pub struct Objects {
    slots: Slots,
    outbox: Outbox,
    free_chunks: Vec<Chunk>,
    free_tasks: Vec<Task>,
    ended_chunks: Vec<Chunk>,
    ended_tasks: Vec<Task>,
}

impl Objects {
    /// With these free slots.
    pub fn new(slots: Slots, outbox: Outbox) -> Objects {
        let (free_chunks, free_tasks, ended_chunks, ended_tasks) = Default::default();
        Objects { slots, outbox, free_chunks, free_tasks, ended_chunks, ended_tasks }
    }

    /// Slots that are free, or hold what waits to be used again.
    pub fn free_slots(&self) -> usize {
        let chunks = self.free_chunks.len() + self.ended_chunks.len();
        let tasks = self.free_tasks.len() + self.ended_tasks.len();
        self.slots.free() + CHUNK_SLOTS * chunks + TASK_SLOTS * tasks
    }

    /// What ended in the turn before is free now.
    pub fn begin_turn(&mut self) {
        self.free_chunks.append(&mut self.ended_chunks);
        self.free_tasks.append(&mut self.ended_tasks);
    }

    /// Takes back what a turn has made that is not in the books.
    pub fn reclaim(&mut self) {
        let chunks = self.free_chunks.iter().chain(&self.ended_chunks).map(|chunk| chunk.memory);
        let tasks = self.free_tasks.iter().chain(&self.ended_tasks).map(|task| task.memory);
        chunks.chain(tasks).for_each(|memory| expect("taking memory back", Start::CAP_TABLE.revoke(memory.slot())));
        for slot in self.slots.candidates(MADE_IN_A_TURN) {
            let Ok(Some(held)) = Start::CAP_TABLE.identify(slot) else { continue };
            let memory = Cap::<Untyped>::new(slot);
            let bytes = memory.info().map_or(0, |info| info.bytes);
            // With the memory goes what was made of it, so the other slots of a chunk or a task are empty after this.
            expect("taking memory back", Start::CAP_TABLE.revoke(slot));
            match (held.object, bytes) {
                (ObjectType::Untyped, SPACE_CHUNK) => {
                    self.slots.claim(slot);
                    if let Some(slot) = self.slots.take() {
                        self.free_chunks.push(Chunk { memory, slot });
                    }
                }
                (ObjectType::Untyped, THREAD_CHUNK) => {
                    self.slots.claim(slot);
                    if let (Some(thread), Some(time)) = (self.slots.take(), self.slots.take()) {
                        self.free_tasks.push(Task { memory, thread: Cap::new(thread), time: Cap::new(time) });
                    }
                }
                _ => expect("emptying a slot", Start::CAP_TABLE.delete(slot)),
            }
        }
    }

    /// An address space was extended by this memory in a turn that has not come to its end.
    pub fn adopt_extension(&mut self, space: &mut Space, memory: u32, slot: u32) {
        [memory, slot].into_iter().for_each(|slot| self.slots.claim(slot));
        self.free_chunks.retain(|chunk| chunk.memory.slot() != memory);
        space.chunks.push(Chunk { memory: Cap::new(memory), slot });
    }

    fn chunk(&mut self) -> Result<Chunk> {
        if let Some(chunk) = self.free_chunks.pop() {
            return Ok(chunk);
        }
        let memory = self.slots.take().ok_or(Error::OutOfMemory)?;
        let slot = self.slots.take().ok_or(Error::OutOfMemory)?;
        match Start::UNTYPED.retype(ObjectType::Untyped, SPACE_CHUNK, memory, 1) {
            Ok(()) => Ok(Chunk { memory: Cap::new(memory), slot }),
            Err(error) => {
                self.slots.give(memory);
                self.slots.give(slot);
                Err(error)
            }
        }
    }

    /// A new address space.
    pub fn space(&mut self) -> Result<Space> {
        let chunk = self.chunk()?;
        // The object itself takes a page besides its page tables.
        match chunk.memory.make::<AddressSpace>(SPACE_CHUNK - 4096, chunk.slot) {
            Ok(space) => Ok(Space { space, chunks: alloc::vec![chunk] }),
            Err(error) => {
                self.free_chunks.push(chunk);
                Err(error)
            }
        }
    }

    /// More page-table memory; `note` is told of it before.
    pub fn extend(&mut self, space: &mut Space, note: impl Fn(u32, u32)) -> Result {
        let chunk = self.chunk()?;
        note(chunk.memory.slot(), chunk.slot);
        let result = space.space.extend(chunk.memory);
        match result {
            Ok(()) => space.chunks.push(chunk),
            Err(_) => self.free_chunks.push(chunk),
        }
        result
    }

    /// Ends an address space.
    pub fn end_space(&mut self, space: Space) {
        // The first chunk holds the object: it goes first, and with it the use of the others.
        space.chunks.iter().for_each(|chunk| self.outbox.end(chunk.memory.slot()));
        self.ended_chunks.extend(space.chunks);
    }

    /// A new thread with its time.
    pub fn task(&mut self) -> Result<Task> {
        let task = match self.free_tasks.pop() {
            Some(task) => task,
            None => {
                let [memory, thread, time] = [self.slots.take(), self.slots.take(), self.slots.take()];
                let (Some(memory), Some(thread), Some(time)) = (memory, thread, time) else {
                    return Err(Error::OutOfMemory);
                };
                if let Err(error) = Start::UNTYPED.retype(ObjectType::Untyped, THREAD_CHUNK, memory, 1) {
                    [memory, thread, time].into_iter().for_each(|slot| self.slots.give(slot));
                    return Err(error);
                }
                Task { memory: Cap::new(memory), thread: Cap::new(thread), time: Cap::new(time) }
            }
        };
        let made = task.memory.make::<Thread>(0, task.thread.slot());
        let made = made.and_then(|_| task.memory.make::<SchedContext>(0, task.time.slot()));
        match made {
            Ok(_) => Ok(task),
            Err(error) => {
                self.end_task(task);
                Err(error)
            }
        }
    }

    /// Ends a thread.
    pub fn end_task(&mut self, task: Task) {
        self.outbox.end(task.memory.slot());
        self.ended_tasks.push(task);
    }
}
