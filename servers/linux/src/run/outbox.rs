//! Callers that are kept, and what is done at the end of the turn: shared by the event loop and the machine.
//!
//! It lies on the kept heap. Everything in it can be done a second time: an answer that was given finds nobody, an object that was ended is not there, a
//! request is recognised by its cookie.

use alloc::rc::Rc;
use alloc::vec::Vec;
use core::cell::RefCell;
use ipc::message::reply_label;
use ipc::protocol::vfs;
use linux::machine::ReplyId;
use rt::{Caller, Cap, Endpoint, Replies, Reply, Start, Thread};

/// Words of a request.
const WORDS: usize = 11;
/// Linux error: no answer can be had.
pub const EIO: i64 = 5;

/// Something that others will see.
#[derive(Clone, Copy)]
enum Output {
    /// The answer of the caller in a Reply, that is the thread in this slot.
    Answer { reply: Cap<Reply>, slot: u32, label: u64, value: u64 },
    /// The thread in this slot goes on.
    Resume { thread: Cap<Thread>, slot: u32 },
    /// A request that is not answered at once.
    Request { label: u64, words: [u64; WORDS], count: usize },
    /// What was made of this Untyped ends.
    End { memory: u32 },
}

/// The outbox.
#[derive(Clone, Default)]
pub struct Outbox {
    inner: Rc<RefCell<Inner>>,
}

#[derive(Default)]
struct Inner {
    /// By id: the Reply, and the slot of the thread.
    kept: Vec<Option<(Caller, u32)>>,
    outputs: Vec<Output>,
    /// Replies that keep nobody any more, or nobody when the outputs are given.
    done: Vec<Caller>,
}

impl Outbox {
    /// Keeps the caller of a message that is to be handled.
    pub fn keep(&self, caller: Caller, slot: u32) -> ReplyId {
        let mut inner = self.inner.borrow_mut();
        let index = inner.kept.iter().position(Option::is_none).unwrap_or_else(|| {
            inner.kept.push(None);
            inner.kept.len() - 1
        });
        inner.kept[index] = Some((caller, slot));
        ReplyId(index as u32)
    }

    /// Answers a message that is none of ours.
    pub fn refuse(&self, id: ReplyId) {
        self.answer(id, reply_label::VALUE, (-38i64) as u64);
    }

    /// Answers a caller.
    pub fn answer(&self, id: ReplyId, label: u64, value: u64) {
        let mut inner = self.inner.borrow_mut();
        if let Some((caller, slot)) = inner.kept.get_mut(id.0 as usize).and_then(Option::take) {
            inner.outputs.push(Output::Answer { reply: caller.reply(), slot, label, value });
            inner.done.push(caller);
        }
    }

    /// The caller is no more, or will be when what was asked for before is done.
    pub fn abandon(&self, id: ReplyId) {
        // If somebody is there all the same, it is nobody that is known: an answer sets it free.
        self.answer(id, reply_label::VALUE, 0);
    }

    /// Whether somebody waits there.
    pub fn is_waiting(&self, id: ReplyId) -> bool {
        let inner = self.inner.borrow();
        let kept = inner.kept.get(id.0 as usize).and_then(Option::as_ref);
        // The lease of nobody cannot be used, not even for nothing.
        kept.is_some_and(|(caller, _)| caller.reply().lease_read(0, &mut []).is_ok())
    }

    /// A thread is looked at: it must have its answer.
    pub fn flush(&self, slot: u32) {
        self.inner.borrow_mut().outputs.retain(|output| match *output {
            Output::Answer { reply, slot: of, label, value } if of == slot => {
                give_answer(reply, label, value);
                false
            }
            _ => true,
        });
    }

    /// A thread is to be stopped, whatever was asked for before.
    pub fn forget_resume(&self, slot: u32) {
        let resumes = |output: &Output| matches!(output, Output::Resume { slot: of, .. } if *of == slot);
        self.inner.borrow_mut().outputs.retain(|output| !resumes(output));
    }

    /// The thread goes on.
    pub fn resume(&self, thread: Cap<Thread>, slot: u32) {
        self.inner.borrow_mut().outputs.push(Output::Resume { thread, slot });
    }

    /// What was made of this Untyped ends.
    pub fn end(&self, memory: u32) {
        self.inner.borrow_mut().outputs.push(Output::End { memory });
    }

    /// A request to `vfs-proxy`.
    pub fn request(&self, label: u64, words: &[u64]) {
        let mut all = [0; WORDS];
        all[..words.len()].copy_from_slice(words);
        self.inner.borrow_mut().outputs.push(Output::Request { label, words: all, count: words.len() });
    }

    /// The turn has come to its end: its Replies can be used again once everything is given.
    pub fn close(&self, replies: &mut Replies) {
        for caller in self.inner.borrow_mut().done.drain(..) {
            replies.give_back(caller);
        }
    }

    /// Does it all, in order. `again`: an instance before this one may have begun to. Gives the cookies of the requests that could not be made.
    pub fn give(&self, vfs: Cap<Endpoint>, again: bool) -> Vec<(u64, i64)> {
        let mut failed = Vec::new();
        let inner = self.inner.borrow();
        for output in &inner.outputs {
            match *output {
                Output::Answer { reply, label, value, .. } => give_answer(reply, label, value),
                Output::Resume { thread, .. } => expect("resuming a thread", thread.resume()),
                Output::End { memory } => expect("taking memory back", Start::CAP_TABLE.revoke(memory)),
                Output::Request { label, mut words, count } => {
                    if again && label == vfs::SUBMIT {
                        words[0] |= vfs::SUBMIT_AGAIN;
                    }
                    let error = match vfs.call(label, &words[..count]) {
                        Ok(answer) if answer.label() == vfs::OK => continue,
                        Ok(answer) => -(answer.word(0).clamp(1, 4095) as i64),
                        Err(_) => -EIO,
                    };
                    if label == vfs::SUBMIT && words[10] != 0 {
                        failed.push((words[10], error));
                    }
                }
            }
        }
        failed
    }

    /// All of it is done.
    pub fn clear(&self) {
        self.inner.borrow_mut().outputs.clear();
    }
}

fn give_answer(reply: Cap<Reply>, label: u64, value: u64) {
    // An error means that the thread is no more, or has its answer: nobody is there to be told.
    let _ = reply.reply(label, &[value]);
}

/// What must not fail, because this server keeps the books: if it does, the log says so.
pub fn expect(what: &str, result: rt::Result) {
    if let Err(error) = result {
        rt::log!("{what}: {error}");
    }
}
