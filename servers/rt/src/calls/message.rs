//! Messages and signals.

use super::{Cap, Endpoint, Notification, Reply, Result, check};
use crate::buffer;
use crate::trap::{Registers, trap};
use ipc::message::{REGISTER_WORDS, Request, reply_label};
use ipc::{Call, Error, Tag};

/// A message received. Words from the ninth on lie in the message buffer until the next message is sent or received.
#[derive(Clone, Copy, Debug)]
pub struct Message {
    /// Badge of the capability that the sender used; for kernel messages the thread's id word.
    pub badge: u64,
    /// Length and label.
    pub tag: Tag,
    registers: [u64; REGISTER_WORDS],
}

impl Message {
    /// The label.
    pub fn label(&self) -> u64 {
        self.tag.label()
    }

    /// Words in it.
    pub fn len(&self) -> usize {
        self.tag.words()
    }

    /// Whether it has no words.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Word `index`; 0 beyond its length.
    pub fn word(&self, index: usize) -> u64 {
        if index >= self.len() {
            0
        } else if index < REGISTER_WORDS {
            self.registers[index]
        } else {
            buffer::word(index)
        }
    }

    /// The bits, if this is a signal of the bound notification rather than a message.
    pub fn signal(&self) -> Option<u64> {
        const SIGNAL: u64 = 1 << 63;
        (self.tag == Tag(0) && self.badge & SIGNAL != 0).then_some(self.badge & !SIGNAL)
    }
}

/// Message words on their way out: those for the registers; the rest is put in the message buffer.
pub(crate) fn outgoing(words: &[u64]) -> [u64; REGISTER_WORDS] {
    let mut registers = [0; REGISTER_WORDS];
    let (short, long) = words.split_at(words.len().min(REGISTER_WORDS));
    registers[..short.len()].copy_from_slice(short);
    for (index, word) in long.iter().enumerate() {
        buffer::set_word(REGISTER_WORDS + index, *word);
    }
    registers
}

fn exchange<T>(
    call: Call,
    cap: Cap<T>,
    second: u32,
    deadline: Option<u64>,
    tag: Tag,
    words: [u64; REGISTER_WORDS],
) -> Result<Message> {
    let flags = deadline.map_or(0, |tsc| {
        buffer::set_deadline(tsc);
        Request::DEADLINE
    });
    let mut registers = Registers { first: cap.slot.into(), second: tag.0, words };
    check(trap(Request::new(call, second, flags), &mut registers))?;
    Ok(Message { badge: registers.first, tag: Tag(registers.second), registers: registers.words })
}

impl Cap<Endpoint> {
    /// Sends and waits until a receiver has taken the message.
    pub fn send(self, label: u64, words: &[u64], deadline: Option<u64>) -> Result {
        exchange(Call::Send, self, 0, deadline, Tag::new(label, words.len()), outgoing(words)).map(drop)
    }

    /// Sends if a receiver waits.
    pub fn try_send(self, label: u64, words: &[u64]) -> Result {
        exchange(Call::TrySend, self, 0, None, Tag::new(label, words.len()), outgoing(words)).map(drop)
    }

    /// Sends, lends the caller's time, and waits for the answer. If the server was restarted meanwhile and asks for it
    /// ([`reply_label::RETRY`]), the call is made again; if the server cannot tell what became of it ([`reply_label::LOST`]), that is
    /// `PeerDead`.
    pub fn call(self, label: u64, words: &[u64]) -> Result<Message> {
        self.call_until(label, words, None)
    }

    /// The same with a deadline.
    pub fn call_until(self, label: u64, words: &[u64], deadline: Option<u64>) -> Result<Message> {
        loop {
            let answer = exchange(Call::Call, self, 0, deadline, Tag::new(label, words.len()), outgoing(words))?;
            match answer.label() {
                reply_label::RETRY => {}
                reply_label::LOST => return Err(Error::PeerDead),
                _ => return Ok(answer),
            }
        }
    }

    /// A call that sends capabilities along.
    pub fn call_with_caps(self, label: u64, words: &[u64], caps: &[u32]) -> Result<Message> {
        buffer::set_send_caps(caps);
        exchange(Call::Call, self, 0, None, Tag::with_caps(label, words.len(), caps.len()), outgoing(words))
    }

    /// Waits for a message or a signal. Who `call`s is kept in the Reply.
    pub fn receive(self, reply: Option<Cap<Reply>>, deadline: Option<u64>) -> Result<Message> {
        exchange(Call::Receive, self, reply.map_or(0, Cap::slot), deadline, Tag(0), [0; REGISTER_WORDS])
    }

    /// Receives if something is there.
    pub fn try_receive(self, reply: Option<Cap<Reply>>) -> Result<Message> {
        exchange(Call::TryReceive, self, reply.map_or(0, Cap::slot), None, Tag(0), [0; REGISTER_WORDS])
    }

    /// Answers the caller kept in the Reply, then receives into it.
    pub(crate) fn reply_receive(
        self,
        reply: Cap<Reply>,
        deadline: Option<u64>,
        tag: Tag,
        words: [u64; REGISTER_WORDS],
    ) -> Result<Message> {
        exchange(Call::ReplyReceive, self, reply.slot, deadline, tag, words)
    }
}

impl Cap<Reply> {
    /// Answers the caller kept here.
    pub fn reply(self, label: u64, words: &[u64]) -> Result {
        self.reply_raw(Tag::new(label, words.len()), outgoing(words))
    }

    pub(crate) fn reply_raw(self, tag: Tag, words: [u64; REGISTER_WORDS]) -> Result {
        exchange(Call::Reply, self, 0, None, tag, words).map(drop)
    }

    /// Copies from the caller's memory, at most 4096 bytes a call; gives the bytes copied.
    pub fn lease_read(self, address: u64, destination: &mut [u8]) -> Result<usize> {
        let bytes = destination.len().min(4096);
        let [copied, ..] =
            self.invoke(Call::LeaseRead, [address, destination.as_mut_ptr().expose_provenance() as u64, bytes as u64])?;
        Ok((copied as usize).min(bytes))
    }

    /// Copies to the caller's memory, at most 4096 bytes a call; gives the bytes copied.
    pub fn lease_write(self, address: u64, source: &[u8]) -> Result<usize> {
        let bytes = source.len().min(4096);
        let [copied, ..] =
            self.invoke(Call::LeaseWrite, [address, source.as_ptr().expose_provenance() as u64, bytes as u64])?;
        Ok((copied as usize).min(bytes))
    }
}

impl Cap<Notification> {
    /// Ors the capability's badge into the word.
    pub fn signal(self) -> Result {
        self.invoke(Call::Signal, []).map(drop)
    }

    /// Waits until the word is not 0 and takes it.
    pub fn wait(self, deadline: Option<u64>) -> Result<u64> {
        exchange(Call::Wait, self, 0, deadline, Tag(0), [0; REGISTER_WORDS]).map(|message| message.badge)
    }

    /// Takes the word if it is not 0.
    pub fn poll(self) -> Result<u64> {
        self.invoke(Call::Poll, []).map(|[bits, ..]| bits)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(badge: u64, tag: Tag) -> Message {
        Message { badge, tag, registers: [7; REGISTER_WORDS] }
    }

    #[test]
    fn words_beyond_the_length_are_not_the_senders() {
        let message = message(0, Tag::new(1, 3));
        assert_eq!((message.word(2), message.word(3), message.word(70)), (7, 0, 0));
    }

    #[test]
    fn a_signal_is_told_from_a_message() {
        assert_eq!(message(1 << 63 | 5, Tag(0)).signal(), Some(5));
        assert_eq!(message(5, Tag(0)).signal(), None);
        // A foreign thread's generation may reach the same bit, but its messages have a label.
        assert_eq!(message(1 << 63 | 5, Tag::new(ipc::message::LABEL_FOREIGN, 8)).signal(), None);
    }
}
