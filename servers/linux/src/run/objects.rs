//! Kernel objects of programs, made of memory that can be taken back at once: each address space and each thread is made of
//! Untypeds of its own, that are revoked when it ends and used again.

use alloc::vec::Vec;
use ipc::ObjectType;
use rt::{AddressSpace, Cap, Error, Result, SchedContext, Slots, Start, Thread, Untyped};

/// Page-table memory that an address space starts with, and by which it grows.
const SPACE_CHUNK: u64 = 128 << 10;
/// A thread and its time.
const THREAD_CHUNK: u64 = 8 << 10;

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

/// Makes objects and takes them back.
pub struct Objects {
    slots: Slots,
    free_chunks: Vec<Chunk>,
    free_tasks: Vec<Task>,
}

impl Objects {
    /// With these free slots.
    pub fn new(slots: Slots) -> Objects {
        Objects { slots, free_chunks: Vec::new(), free_tasks: Vec::new() }
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

    /// More page-table memory.
    pub fn extend(&mut self, space: &mut Space) -> Result {
        let chunk = self.chunk()?;
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
        for chunk in space.chunks {
            match Start::CAP_TABLE.revoke(chunk.memory.slot()) {
                Ok(()) => self.free_chunks.push(chunk),
                Err(error) => rt::log!("memory of an address space is lost: {error}"),
            }
        }
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
        match Start::CAP_TABLE.revoke(task.memory.slot()) {
            Ok(()) => self.free_tasks.push(task),
            Err(error) => rt::log!("memory of a thread is lost: {error}"),
        }
    }
}
