//! The event loop: messages, signals and deadlines, one at a time, in one thread.
//!
//! A caller is kept in a Reply until it is answered. A handler answers at once (the usual case, one kernel call together with
//! the next receive), or keeps the caller and answers later, while others are served. When no Reply is left, the loop takes
//! signals and deadlines only: callers queue at the endpoint until an answer frees one.

use crate::buffer::note_turn;
use crate::calls::message::outgoing;
use crate::calls::{Cap, Endpoint, Message, Reply, Result};
use crate::slots::Slots;
use crate::start::Start;
use alloc::vec::Vec;
use ipc::board::Taken;
use ipc::message::{REGISTER_WORDS, reply_label};
use ipc::{Error, ObjectType, Tag};

/// A server's handlers.
pub trait Server {
    /// A message came. Gives the caller back with the answer, or keeps it ([`Replies::answer`] it later) and gives `None`.
    /// (Who only sent waits for no answer; answering it does no harm.)
    fn message(&mut self, message: &Message, caller: Caller, replies: &mut Replies) -> Option<(Caller, Answer)>;

    /// The bound notification was signalled.
    fn signal(&mut self, _bits: u64, _replies: &mut Replies) {}

    /// The deadline passed.
    fn timeout(&mut self, _replies: &mut Replies) {}

    /// A turn has come to its end; asked before each wait. Here a server that keeps its heap ([`crate::checkpoint`]) makes it last, and gives its answers.
    fn settle(&mut self, _replies: &mut Replies) {}

    /// When `timeout` is due, in TSC ticks; asked before each wait.
    fn deadline(&self) -> Option<u64> {
        None
    }
}

/// Who waits for an answer: the Reply that keeps it. Dropping it leaves the caller waiting and the Reply lost.
#[derive(Debug)]
#[must_use = "the caller waits until it is answered"]
pub struct Caller {
    reply: Cap<Reply>,
}

impl Caller {
    /// The Reply, for lease reads and writes.
    pub fn reply(&self) -> Cap<Reply> {
        self.reply
    }

    /// The caller kept in this Reply: for a new instance of the server that finds the slot in its vault.
    pub fn found(reply: Cap<Reply>) -> Caller {
        Caller { reply }
    }
}

/// An answer. Words from the ninth on are in the message buffer as soon as it is made: make it last.
#[derive(Clone, Copy, Debug)]
pub struct Answer {
    tag: Tag,
    words: [u64; REGISTER_WORDS],
}

impl Answer {
    /// Label and words (at most [`ipc::message::MAX_WORDS`]).
    pub fn new(label: u64, words: &[u64]) -> Answer {
        Answer { tag: Tag::new(label, words.len()), words: outgoing(words) }
    }

    /// The result of a foreign system call.
    pub fn value(value: i64) -> Answer {
        Answer::new(ipc::message::reply_label::VALUE, &[value as u64])
    }
}

/// The Replies that a server has, and how it makes more.
#[derive(Debug)]
pub struct Replies {
    free: Vec<Cap<Reply>>,
    made: usize,
    limit: usize,
}

impl Replies {
    /// At most `limit` callers will be kept at once, besides the one being served.
    pub fn new(limit: usize) -> Replies {
        Replies { free: Vec::with_capacity(limit + 1), made: 0, limit: limit + 1 }
    }

    /// Adds a Reply that keeps nobody.
    pub fn adopt(&mut self, reply: Cap<Reply>) {
        self.made += 1;
        self.free.push(reply);
    }

    /// Makes Replies until `limit` is reached, of the server's own Untyped. A caller whose request an instance before this one took
    /// is told that it is lost: its call ends with `PeerDead`, a system call with EIO.
    pub fn fill(&mut self, slots: &mut Slots) -> Result {
        const EIO: i64 = 5;
        self.make(slots, |_| false, |reply| reply.reply(reply_label::LOST, &[-EIO as u64]))
    }

    /// The same for a new instance of a server that has a book of its requests in its vault: slots for which `is_kept` holds are
    /// Replies of a former instance whose callers are still to be answered ([`Caller::found`]). A caller in any other Reply is one
    /// whose request is in no book, and is told to make it again: the server must see to it that this doubles nothing.
    pub fn fill_except(&mut self, slots: &mut Slots, is_kept: impl Fn(u32) -> bool) -> Result {
        self.make(slots, is_kept, |reply| reply.reply(reply_label::RETRY, &[]))
    }

    fn make(
        &mut self,
        slots: &mut Slots,
        is_kept: impl Fn(u32) -> bool,
        let_go: impl Fn(Cap<Reply>) -> Result,
    ) -> Result {
        while self.made < self.limit {
            let slot = slots.take().ok_or(Error::OutOfMemory)?;
            self.made += 1;
            if is_kept(slot) {
                continue;
            }
            let reply = Cap::<Reply>::new(slot);
            match Start::CAP_TABLE.identify(slot)? {
                // NotFound, mostly: it keeps nobody.
                Some(held) if held.object == ObjectType::Reply => _ = let_go(reply),
                Some(_) => return Err(Error::SlotOccupied),
                None => Start::UNTYPED.retype(ObjectType::Reply, 0, slot, 1)?,
            }
            self.free.push(reply);
        }
        Ok(())
    }

    /// Answers a caller that was kept. A caller that is no more is no error.
    pub fn answer(&mut self, caller: Caller, answer: Answer) {
        // NotFound: the caller was killed or cancelled meanwhile; nobody is there to be told.
        let _ = caller.reply.reply_raw(answer.tag, answer.words);
        self.free.push(caller.reply);
    }

    /// Takes back a Reply whose caller was answered otherwise, or is no more.
    pub fn give_back(&mut self, caller: Caller) {
        self.free.push(caller.reply);
    }

    /// The Reply that the next receive will use.
    pub fn next(&self) -> Option<Cap<Reply>> {
        self.free.last().copied()
    }

    /// Replies that keep nobody.
    pub fn free(&self) -> usize {
        self.free.len()
    }
}

/// What a receive brought.
enum Event {
    Message(Message),
    Signal(u64),
    Timeout,
    Nothing,
}

fn event(received: Result<Message>) -> Event {
    match received {
        Ok(message) => match message.signal() {
            Some(bits) => Event::Signal(bits),
            None => Event::Message(message),
        },
        Err(Error::TimedOut) => Event::Timeout,
        // Cancelled: init has stopped and resumed us. Anything else would repeat for ever: it is a fault of ours.
        Err(Error::Cancelled) => Event::Nothing,
        Err(error) => panic!("receive: {error}"),
    }
}

/// What the supervisor will see of it, should the server crash over it.
fn taken(event: &Event) -> Taken {
    match event {
        Event::Message(message) => Taken { badge: message.badge, tag: message.tag.0, word: message.word(0) },
        Event::Signal(bits) => Taken { badge: *bits, ..Taken::default() },
        Event::Timeout | Event::Nothing => Taken::default(),
    }
}

/// Serves the endpoint for ever.
pub fn serve(server: &mut impl Server, endpoint: Cap<Endpoint>, replies: &mut Replies) -> ! {
    let mut answer: Option<(Caller, Answer)> = None;
    loop {
        server.settle(replies);
        let deadline = server.deadline();
        let (reply, received) = match answer.take() {
            Some((caller, answer)) => {
                let received = endpoint.reply_receive(caller.reply, deadline, answer.tag, answer.words);
                (Some(caller.reply), event(received))
            }
            None => match replies.free.pop() {
                Some(reply) => (Some(reply), event(endpoint.receive(Some(reply), deadline))),
                None => (
                    None,
                    match Start::NOTIFICATION.wait(deadline) {
                        Ok(bits) => Event::Signal(bits),
                        Err(error) => event(Err(error)),
                    },
                ),
            },
        };
        note_turn(taken(&received));
        match (received, reply) {
            (Event::Message(message), Some(reply)) => {
                answer = server.message(&message, Caller { reply }, replies);
            }
            (other, reply) => {
                replies.free.extend(reply);
                match other {
                    Event::Signal(bits) => server.signal(bits, replies),
                    Event::Timeout => server.timeout(replies),
                    Event::Message(_) | Event::Nothing => {}
                }
            }
        }
    }
}
