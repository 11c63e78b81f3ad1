//! The calls of the client (`linux`), from message words to the bookkeeping and back.

use crate::channel::Channel;
use crate::state::linux_errors::EINVAL;
use crate::state::{State, Wish};
use ipc::message::MAX_WORDS;
use ipc::protocol::vfs;
use ipc::shadow::identity_parts;

/// An answer in words.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Reply {
    /// Label.
    pub label: u64,
    words: [u64; MAX_WORDS],
    length: usize,
}

impl Reply {
    fn new(label: u64) -> Reply {
        Reply { label, words: [0; MAX_WORDS], length: 0 }
    }

    fn push(&mut self, words: &[u64]) {
        self.words[self.length..][..words.len()].copy_from_slice(words);
        self.length += words.len();
    }

    /// The words.
    pub fn words(&self) -> &[u64] {
        &self.words[..self.length]
    }
}

/// Serves one call: label, and the words by index (0 beyond the end).
pub fn serve(state: &mut State<'_>, label: u64, word: impl Fn(usize) -> u64, channel: &mut impl Channel) -> Reply {
    let mut reply = Reply::new(vfs::OK);
    let (slot, generation) = identity_parts(word(0));
    let result = match label {
        vfs::SUBMIT => submit(state, &word, channel).map(|id| reply.push(&[id])),
        vfs::COLLECT => {
            let number = |word: u64| (word & vfs::NUMBER != 0).then_some(word as u32);
            state.acknowledge(number(word(0)));
            state.events_after(number(word(1))).take(vfs::MAX_EVENTS).for_each(|words| reply.push(words));
            // There may be room now for what had to stay on the ring.
            state.look(channel);
            Ok(())
        }
        vfs::CANCEL => state.cancel(slot, generation, channel).map(|ended| reply.push(&[ended])),
        vfs::FORGET => state.forget(slot, generation, channel),
        vfs::ABANDON => {
            reply.push(&[state.abandon(channel)]);
            Ok(())
        }
        vfs::ADMIT => state.admit(slot, generation, word(1) as u32),
        _ => Err(EINVAL),
    };
    if let Err(error) = result {
        reply = Reply::new(vfs::ERROR);
        reply.push(&[error as u64]);
    }
    reply
}

fn submit(state: &mut State<'_>, word: &impl Fn(usize) -> u64, channel: &mut impl Channel) -> Result<u64, i64> {
    let (slot, generation) = identity_parts(word(1));
    let is_again = word(0) & vfs::SUBMIT_AGAIN != 0;
    let kind = (word(0) & !vfs::SUBMIT_AGAIN).try_into().map_err(|_| EINVAL)?;
    let args = core::array::from_fn(|index| word(4 + index));
    state.submit(
        &Wish { kind, slot, generation, scheduling: word(2) as u32, number: word(3), args, cookie: word(10) },
        is_again,
        channel,
    )
}
