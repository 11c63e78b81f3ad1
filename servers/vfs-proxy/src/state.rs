//! The bookkeeping.
//!
//! Rules:
//! * A request is in the book before it is on the ring, and requests go on the ring in the order of their ids. So what the ring's
//!   newest id and the book say together is enough to go on after a crash: nothing is lost, nothing is put on the ring twice.
//! * What Linux sends is believed only if slot, generation and id are those of something under way. The rest is dropped and counted.
//! * Nothing waits: a full ring leaves requests in the book, a full event queue leaves responses on the ring.

use crate::book::{Book, EVENTS, Place, SUBMISSIONS, Submission, Thread, id, place};
use crate::channel::Channel;
use ipc::protocol::vfs::{EVENT_RETURN, EVENT_WORDS};
use ipc::shadow::{self, MAX_SLOTS, REQUESTS, Request, request_kind};
use linux_errors::*;

mod incoming;

/// Linux error numbers that the forwarder gives by itself.
pub mod linux_errors {
    /// No such process: the slot or its generation is not known.
    pub const ESRCH: i64 = 3;
    /// Interrupted.
    pub const EINTR: i64 = 4;
    /// Linux is not there, or went away.
    pub const EIO: i64 = 5;
    /// No room just now.
    pub const EAGAIN: i64 = 11;
    /// Malformed.
    pub const EINVAL: i64 = 22;
    /// Not a call that can be forwarded.
    pub const ENOSYS: i64 = 38;
}

/// Highest number of a system call that a program can make; above are those that only the client may make.
const LAST_FOREIGN_NUMBER: u64 = 511;

/// Wait status of a process that a SIGKILL ended.
const SIGKILL: u64 = 9;

/// A request of the client, checked for form only.
#[derive(Clone, Copy, Debug)]
pub struct Wish {
    /// Kind of request.
    pub kind: u32,
    /// Slot.
    pub slot: u32,
    /// Generation.
    pub generation: u32,
    /// Policy | priority << 16.
    pub scheduling: u32,
    /// Number of the call.
    pub number: u64,
    /// Arguments.
    pub args: [u64; 6],
    /// What the client recognises the answer by.
    pub cookie: u64,
}

/// The bookkeeping of one instance.
#[derive(Debug)]
pub struct State<'a> {
    book: &'a mut Book,
    /// Id of the newest request on the ring.
    newest: u64,
    /// Entries of the book that are not on the ring yet.
    queued: usize,
    /// The client may make a call again that the former instance has dealt with.
    recovered: bool,
}

impl<'a> State<'a> {
    /// Starts with empty books. `sequence` must be beyond every one used before on this channel.
    pub fn fresh(book: &'a mut Book, sequence: u64, channel: &mut impl Channel) -> State<'a> {
        book.sequence = sequence;
        // Events are numbered on from what a client can have seen: less than 2²⁰ ticks apart they do not come.
        (book.event_head, book.event_tail) = ((sequence >> 20) as u32, (sequence >> 20) as u32);
        if channel.peer().is_some() {
            // Take over the other side's view of the rings; what is on them was not meant for us.
            let (tail, head) = (channel.request_head(), channel.response_tail());
            channel.set_request_tail(tail);
            channel.set_response_head(head);
        } else {
            channel.set_request_tail(0);
            channel.set_response_head(0);
        }
        State { book, newest: 0, queued: 0, recovered: false }
    }

    /// Goes on with the books of an instance that died anywhere.
    pub fn recover(book: &'a mut Book, channel: &mut impl Channel) -> State<'a> {
        let tail = channel.request_tail();
        // Our own section: nobody else writes it. An id there is older than the book's sequence, or it is not from this life.
        let newest = channel.request(tail.wrapping_sub(1)).id;
        let newest = if newest <= id(book.sequence, Place::Submission(SUBMISSIONS - 1)) { newest } else { 0 };
        let mut state = State { book, newest, queued: 0, recovered: true };
        // What needs no answer leaves the book when it is on the ring: the crash may have been in between.
        for index in 0..SUBMISSIONS {
            let entry = &mut state.book.submissions[index];
            if entry.id != 0 && entry.id <= newest && !is_answered(entry.kind) {
                entry.id = 0;
            }
        }
        state.queued = state.ids().filter(|id| *id > newest).count();
        // An event that was put although its response was not yet taken.
        let head = channel.response_head();
        let waiting = state.book.event_tail.wrapping_sub(state.book.event_head);
        if waiting != 0 && waiting as usize <= EVENTS {
            let last = state.book.events[event_index(state.book.event_tail.wrapping_sub(1))];
            if last.source == source(head) {
                state.end(last.words[7]);
                channel.set_response_head(head.wrapping_add(1));
            }
        } else if waiting != 0 {
            state.book.event_head = state.book.event_tail;
        }
        state
    }

    /// Ids under way.
    fn ids(&self) -> impl Iterator<Item = u64> {
        let calls = self.book.threads.iter().map(|thread| thread.id);
        calls.chain(self.book.submissions.iter().map(|entry| entry.id)).filter(|id| *id != 0)
    }

    /// Replies that keep a caller whose call waits for Linux.
    pub fn kept(&self) -> impl Iterator<Item = u32> {
        self.book.threads.iter().filter(|thread| thread.id != 0).map(|thread| thread.reply)
    }

    /// Events that wait for the client.
    pub fn events(&self) -> usize {
        self.book.event_tail.wrapping_sub(self.book.event_head) as usize
    }

    /// Whether Linux is there.
    pub fn attached(&self) -> bool {
        self.book.attached != 0
    }

    /// Whether a call is under way.
    pub fn waits(&self) -> bool {
        self.book.threads.iter().any(|thread| thread.id != 0)
    }

    /// Ends all calls of applications that are under way with EIO; how many. What Linux answers to them later is dropped, as what it answers
    /// to any call that is not under way.
    pub fn fail(&mut self, channel: &mut impl Channel) -> usize {
        let mut ended = 0;
        for thread in &mut self.book.threads {
            let (call, reply) = (core::mem::take(&mut thread.id), thread.reply);
            if call != 0 {
                self.queued -= usize::from(call > self.newest);
                channel.answer(reply, -EIO);
                ended += 1;
            }
        }
        ended
    }

    // ---- calls of applications

    /// A thread's system call. An error number is answered at once; `Ok`: the Reply is kept until the result comes.
    pub fn call(
        &mut self,
        identity: u64,
        number: u64,
        args: [u64; 6],
        reply: u32,
        channel: &mut impl Channel,
    ) -> Result<(), i64> {
        if number > LAST_FOREIGN_NUMBER {
            return Err(ENOSYS);
        }
        if !self.attached() {
            return Err(EIO);
        }
        let (slot, generation) = shadow::identity_parts(identity);
        let thread = self
            .book
            .threads
            .get_mut(slot as usize)
            .filter(|thread| thread.admitted != 0 && thread.generation == generation);
        let thread = thread.ok_or(EIO)?;
        if thread.id != 0 {
            // It cannot call while it waits: its former call was cancelled by the kernel. That one's answer will be dropped.
            let (stale, old) = (thread.id, thread.reply);
            thread.id = 0;
            self.queued -= usize::from(stale > self.newest);
            channel.answer(old, -EINTR);
        }
        self.book.sequence += 1;
        let thread = &mut self.book.threads[slot as usize];
        (thread.number, thread.args, thread.reply, thread.interrupted) = (number, args, reply, 0);
        thread.id = id(self.book.sequence, Place::Thread(slot as usize));
        let id = thread.id;
        self.queued += 1;
        self.pump(Some(id), channel);
        Ok(())
    }

    // ---- calls of the client

    /// A request of the client, who may have made it before if it `is_again`: its id.
    pub fn submit(&mut self, wish: &Wish, is_again: bool, channel: &mut impl Channel) -> Result<u64, i64> {
        if !matches!(
            wish.kind,
            request_kind::CALL | request_kind::EXIT | request_kind::THREAD_EXIT | request_kind::UNMAP
        ) {
            return Err(EINVAL);
        }
        if !self.attached() {
            return Err(EIO);
        }
        self.known(wish.slot, wish.generation)?;
        if (self.recovered || is_again)
            && let Some(id) = self.submitted_before(wish)
        {
            return Ok(id);
        }
        let id = self.enter(wish)?;
        self.pump(Some(id), channel);
        Ok(id)
    }

    /// Interrupts the call of a thread, if it is in one. 0: its end will be an event; else it is over, and this is one more
    /// than its number.
    pub fn cancel(&mut self, slot: u32, generation: u32, channel: &mut impl Channel) -> Result<u64, i64> {
        self.known(slot, generation)?;
        let thread = &mut self.book.threads[slot as usize];
        let (call, reply, scheduling, number) = (thread.id, thread.reply, thread.scheduling, thread.number);
        if call == 0 {
            return Err(ESRCH);
        }
        if call > self.newest {
            // Linux has not seen it.
            thread.id = 0;
            self.queued -= 1;
            channel.answer(reply, -EINTR);
            return Ok(number + 1);
        }
        thread.interrupted = 1;
        let args = [call, 0, 0, 0, 0, 0];
        let id =
            self.enter(&Wish { kind: request_kind::CANCEL, slot, generation, scheduling, number: 0, args, cookie: 0 })?;
        self.pump(Some(id), channel);
        Ok(0)
    }

    /// A thread may make calls, or its scheduling changed.
    pub fn admit(&mut self, slot: u32, generation: u32, scheduling: u32) -> Result<(), i64> {
        self.known(slot, generation)?;
        let thread = &mut self.book.threads[slot as usize];
        thread.scheduling = scheduling;
        thread.admitted = 1;
        Ok(())
    }

    /// A thread is no more: its call and the client's calls for it are dropped. What ends it on the other side is still sent.
    pub fn forget(&mut self, slot: u32, generation: u32, channel: &mut impl Channel) -> Result<(), i64> {
        self.known(slot, generation)?;
        self.expel(slot as usize, channel);
        for entry in &mut self.book.submissions {
            if entry.id != 0 && entry.slot == slot && entry.generation == generation {
                if entry.kind == request_kind::CALL && entry.id > self.newest {
                    entry.id = 0;
                    self.queued -= 1;
                } else {
                    entry.forgotten = 1;
                }
            }
        }
        Ok(())
    }

    /// The client is a new one: every slot ends, with what was under way for it. How many there are.
    pub fn abandon(&mut self, channel: &mut impl Channel) -> u64 {
        // What Linux has said by now is known afterwards, and not said again.
        self.look(channel);
        for slot in 0..MAX_SLOTS {
            self.expel(slot, channel);
        }
        for entry in &mut self.book.submissions {
            // A process that ended well before keeps its status.
            let is_sent_yet = entry.kind == request_kind::EXIT && entry.id > self.newest;
            if entry.id != 0 && !is_sent_yet {
                self.queued -= usize::from(entry.id > self.newest);
                entry.id = 0;
            }
        }
        self.book.event_head = self.book.event_tail;
        let mut known = 0;
        for slot in 0..MAX_SLOTS as u32 {
            let Thread { known: is_known, generation, scheduling, .. } = self.book.threads[slot as usize];
            if is_known == 0 {
                continue;
            }
            known += 1;
            let ends = |entry: &Submission| entry.id != 0 && (entry.slot, entry.generation) == (slot, generation);
            if !self.book.submissions.iter().any(ends) {
                // Of a thread that leads no process, Linux takes no notice of it. There is an entry for each slot.
                let args = [SIGKILL, 0, 0, 0, 0, 0];
                let kind = request_kind::EXIT;
                let entered = self.enter(&Wish { kind, slot, generation, scheduling, number: 0, args, cookie: 0 });
                debug_assert!(entered.is_ok());
            }
        }
        self.pump(None, channel);
        known
    }

    /// The id of the same request, if the former instance has entered it but the client did not hear of that.
    fn submitted_before(&self, wish: &Wish) -> Option<u64> {
        if wish.cookie == 0 {
            return None;
        }
        let same = |entry: &&Submission| {
            let about = (entry.kind, entry.slot, entry.generation, entry.cookie);
            entry.id != 0 && about == (wish.kind, wish.slot, wish.generation, wish.cookie)
        };
        let waiting = (0..self.events())
            .map(|offset| &self.book.events[event_index(self.book.event_head.wrapping_add(offset as u32))].words);
        let identity = shadow::thread_identity(wish.slot, wish.generation);
        let mut answered =
            waiting.filter(|words| words[0] == EVENT_RETURN && words[1] == identity && words[3] == wish.cookie);
        self.book.submissions.iter().find(same).map(|entry| entry.id).or_else(|| answered.next().map(|words| words[7]))
    }

    /// The client never asks again for the events up to this number.
    pub fn acknowledge(&mut self, newest: Option<u32>) {
        self.book.event_head = self.book.event_head.wrapping_add(self.events_up_to(newest) as u32);
    }

    /// The events after this number that are there.
    pub fn events_after(&self, seen: Option<u32>) -> impl Iterator<Item = &[u64; EVENT_WORDS]> {
        let head = self.book.event_head;
        let indices = self.events_up_to(seen)..self.events();
        indices.map(move |offset| &self.book.events[event_index(head.wrapping_add(offset as u32))].words)
    }

    /// How many of the events that are there have no higher number. A number of none that is there, or was, is of none.
    fn events_up_to(&self, number: Option<u32>) -> usize {
        let count = |number: u32| number.wrapping_sub(self.book.event_head).wrapping_add(1) as usize;
        number.map(count).filter(|count| *count <= self.events()).unwrap_or(0)
    }

    fn known(&self, slot: u32, generation: u32) -> Result<(), i64> {
        let thread = self.book.threads.get(slot as usize).ok_or(EINVAL)?;
        if thread.known != 0 && thread.generation == generation { Ok(()) } else { Err(ESRCH) }
    }

    fn enter(&mut self, wish: &Wish) -> Result<u64, i64> {
        let index = self.book.submissions.iter().position(|entry| entry.id == 0).ok_or(EAGAIN)?;
        self.book.sequence += 1;
        let id = id(self.book.sequence, Place::Submission(index));
        let Wish { kind, slot, generation, scheduling, number, args, cookie } = *wish;
        let entry = &mut self.book.submissions[index];
        *entry =
            Submission { id: 0, kind, forgotten: 0, slot, generation, scheduling, reserved: 0, number, args, cookie };
        entry.id = id;
        self.queued += 1;
        Ok(id)
    }

    /// Ends a thread's right to call, and the call that it is in.
    fn expel(&mut self, slot: usize, channel: &mut impl Channel) {
        let thread = &mut self.book.threads[slot];
        thread.admitted = 0;
        if thread.id != 0 {
            let (call, reply) = (thread.id, thread.reply);
            thread.id = 0;
            self.queued -= usize::from(call > self.newest);
            channel.answer(reply, -EIO);
        }
    }

    // ---- towards Linux

    /// Puts on the ring what fits, oldest first. `latest`: the id entered just now, that need not be searched if it is the only one.
    fn pump(&mut self, latest: Option<u64>, channel: &mut impl Channel) {
        let mut sent = false;
        while self.queued != 0 && self.attached() {
            let tail = channel.request_tail();
            // A head beyond the tail, or too far behind, is nonsense: as good as a full ring.
            if tail.wrapping_sub(channel.request_head()) as usize >= REQUESTS {
                break;
            }
            let newest = self.newest;
            let only = latest.filter(|_| self.queued == 1);
            let Some(next) = only.or_else(|| self.ids().filter(|id| *id > newest).min()) else {
                debug_assert!(false, "the count of queued requests is wrong");
                self.queued = 0;
                break;
            };
            channel.put_request(tail, &self.request(next));
            self.newest = next;
            self.queued -= 1;
            channel.set_request_tail(tail.wrapping_add(1));
            if let Place::Submission(index) = place(next)
                && !is_answered(self.book.submissions[index].kind)
            {
                self.book.submissions[index].id = 0;
            }
            sent = true;
        }
        if sent {
            channel.doorbell();
        }
    }

    fn request(&self, id: u64) -> Request {
        let (kind, slot, generation, scheduling, number, args) = match place(id) {
            Place::Thread(slot) => {
                let t = &self.book.threads[slot];
                (request_kind::CALL, slot as u32, t.generation, t.scheduling, t.number, t.args)
            }
            Place::Submission(index) => {
                let e = &self.book.submissions[index];
                (e.kind, e.slot, e.generation, e.scheduling, e.number, e.args)
            }
        };
        let (policy, priority) = (scheduling as u16, (scheduling >> 16) as u16);
        Request { id, kind, slot, generation, policy, priority, number, args, reserved: [0; 6] }
    }
}

/// Whether a request of this kind is answered by a return.
const fn is_answered(kind: u32) -> bool {
    matches!(kind, request_kind::CALL | request_kind::UNMAP)
}

const fn event_index(index: u32) -> usize {
    index as usize % EVENTS
}

const fn source(index: u32) -> u64 {
    index as u64 | 1 << 32
}

#[cfg(test)]
mod tests;
