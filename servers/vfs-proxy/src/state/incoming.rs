//! What comes from Linux: believed only where it fits something under way.

use super::linux_errors::EIO;
use super::{State, event_index, source};
use crate::book::{EVENTS, Event, Place, place};
use crate::channel::Channel;
use ipc::protocol::vfs::{EVENT_GONE, EVENT_INTERRUPTED, EVENT_RESET, EVENT_RETURN, EVENT_SIGNAL, EVENT_START};
use ipc::shadow::{MAX_SLOTS, RESPONSES, Response, request_kind, response_kind, special};

impl State<'_> {
    /// Looks at everything that Linux may have changed.
    pub fn look(&mut self, channel: &mut impl Channel) {
        self.check_peer(channel);
        let before = self.book.event_tail;
        self.drain(channel);
        self.pump(None, channel);
        if self.book.event_tail != before {
            channel.signal();
        }
    }

    /// Takes responses while there is room for what they may bring.
    pub fn drain(&mut self, channel: &mut impl Channel) {
        if !self.attached() {
            return;
        }
        let head = channel.response_head();
        let tail = channel.response_tail();
        let count = tail.wrapping_sub(head);
        if count as usize > RESPONSES {
            // The other side has lost its mind: nothing on the ring can be told from anything else.
            channel.dropped();
            channel.set_response_head(tail);
            self.reset(channel);
            return;
        }
        for offset in 0..count {
            // One place stays free for a reset.
            if self.events() + 1 >= EVENTS {
                break;
            }
            let index = head.wrapping_add(offset);
            let response = channel.response(index);
            if !self.respond(&response, index, channel) {
                channel.dropped();
            }
            channel.set_response_head(index.wrapping_add(1));
        }
    }

    /// One response; `false`: not valid.
    fn respond(&mut self, response: &Response, index: u32, channel: &mut impl Channel) -> bool {
        let slot = response.slot as usize;
        if slot >= MAX_SLOTS {
            return false;
        }
        let generation = response.generation;
        let thread = &mut self.book.threads[slot];
        let is_known = thread.known != 0 && thread.generation == generation;
        match response.kind {
            response_kind::RETURN => self.returned(response, index, channel),
            response_kind::START => {
                if thread.known != 0 || response.id != 0 {
                    return false;
                }
                (thread.known, thread.generation, thread.admitted) = (1, generation, 0);
                self.event(EVENT_START, response, 0, index);
                true
            }
            response_kind::SIGNAL if is_known => {
                self.event(EVENT_SIGNAL, response, 0, index);
                true
            }
            response_kind::GONE if is_known => {
                thread.known = 0;
                self.expel(slot, channel);
                self.drop_submissions(response.slot, generation);
                self.event(EVENT_GONE, response, 0, index);
                true
            }
            _ => false,
        }
    }

    fn returned(&mut self, response: &Response, index: u32, channel: &mut impl Channel) -> bool {
        let (id, slot) = (response.id, response.slot as usize);
        if id == 0 || id > self.newest {
            return false;
        }
        match place(id) {
            Place::Thread(of) => {
                let thread = &mut self.book.threads[slot];
                if of != slot || thread.id != id || thread.generation != response.generation {
                    return false;
                }
                // First the answer, then the book: after a crash in between it is answered again, to nobody.
                channel.answer(thread.reply, response.value);
                if thread.interrupted != 0 {
                    let number = thread.number;
                    self.event(EVENT_INTERRUPTED, response, number, index);
                }
                self.book.threads[slot].id = 0;
            }
            Place::Submission(of) => {
                let entry = self.book.submissions[of];
                if entry.id != id || entry.slot != response.slot || entry.generation != response.generation {
                    return false;
                }
                let mut response = *response;
                if entry.kind == request_kind::CALL
                    && entry.number == special::CLONE
                    && response.value > 0
                    && !self.introduce(&response)
                {
                    response.value = -EIO;
                }
                if entry.forgotten == 0 {
                    self.event(EVENT_RETURN, &response, entry.cookie, index);
                }
                self.book.submissions[of].id = 0;
            }
        }
        true
    }

    /// The slot that Linux gave a new thread; `false`: it gave one that is taken, or none.
    fn introduce(&mut self, response: &Response) -> bool {
        match self.book.threads.get_mut(response.new_slot as usize) {
            Some(thread) if thread.known == 0 => {
                (thread.known, thread.generation, thread.admitted) = (1, response.new_generation, 0);
                true
            }
            _ => false,
        }
    }

    /// Takes what was answered out of the book.
    pub(super) fn end(&mut self, id: u64) {
        let entry = match place(id) {
            Place::Thread(slot) => &mut self.book.threads[slot].id,
            Place::Submission(index) => &mut self.book.submissions[index].id,
        };
        if *entry == id {
            *entry = 0;
        }
    }

    /// The other side of a slot is gone: nothing about it will be answered any more.
    fn drop_submissions(&mut self, slot: u32, generation: u32) {
        for entry in &mut self.book.submissions {
            if entry.id != 0 && entry.slot == slot && entry.generation == generation {
                self.queued -= usize::from(entry.id > self.newest);
                entry.id = 0;
            }
        }
    }

    pub(super) fn event(&mut self, kind: u64, response: &Response, cookie: u64, index: u32) {
        let words = [
            kind,
            u64::from(response.slot) | u64::from(response.generation) << 32,
            response.value as u64,
            cookie,
            u64::from(response.pid) | u64::from(response.code as u32) << 32,
            u64::from(response.policy) | u64::from(response.priority) << 16,
            u64::from(response.new_slot) | u64::from(response.new_generation) << 32,
            response.id,
        ];
        self.put_event(Event { words, source: source(index) });
    }

    fn put_event(&mut self, mut event: Event) {
        debug_assert!(self.events() < EVENTS);
        event.words[5] |= u64::from(self.book.event_tail) << 32;
        self.book.events[event_index(self.book.event_tail)] = event;
        self.book.event_tail = self.book.event_tail.wrapping_add(1);
    }

    /// Notices that Linux came, went, or is another one.
    fn check_peer(&mut self, channel: &mut impl Channel) {
        match (self.attached(), channel.peer()) {
            (true, Some(epoch)) if epoch == self.book.epoch => {}
            (true, other) => {
                self.book.attached = 0;
                self.reset(channel);
                if let Some(epoch) = other {
                    self.attach(epoch);
                }
            }
            (false, Some(epoch)) => self.attach(epoch),
            (false, None) => {}
        }
    }

    fn attach(&mut self, epoch: u32) {
        self.book.epoch = epoch;
        self.book.attached = 1;
    }

    /// Ends all that is under way with EIO, forgets every slot, and says so. Events of before are still delivered.
    fn reset(&mut self, channel: &mut impl Channel) {
        for slot in 0..MAX_SLOTS {
            self.book.threads[slot].known = 0;
            self.expel(slot, channel);
        }
        for entry in &mut self.book.submissions {
            entry.id = 0;
        }
        self.queued = 0;
        // A second reset that finds the first one undelivered says nothing new.
        let last = self.book.events[event_index(self.book.event_tail.wrapping_sub(1))].words[0];
        if self.events() == 0 || last != EVENT_RESET {
            self.put_event(Event { words: [EVENT_RESET, 0, 0, 0, 0, 0, 0, 0], source: 0 });
        }
    }
}
