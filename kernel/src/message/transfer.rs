//! What a message carries from one thread to the other: words in registers, words in the buffers, capabilities.

use crate::cap;
use crate::memory::{Page, Ref};
use crate::object::Thread;
use crate::object::thread::Sending;
use core::mem::offset_of;
use ipc::message::{LABEL_BUDGET, LABEL_FAULT, LABEL_FOREIGN, MAX_WORDS, REGISTER_WORDS, Request};
use ipc::{Error, MessageBuffer, Rights, Tag};

const WORDS: usize = offset_of!(MessageBuffer, words) / 8;
const SEND_CAPS: usize = offset_of!(MessageBuffer, send_caps) / 8;
const RECEIVE_SLOTS: usize = offset_of!(MessageBuffer, receive_slots) / 8;

/// The deadline of the kernel call that a thread makes, if it has one.
pub fn deadline(thread: &Thread) -> Result<Option<u64>, Error> {
    if !Request(thread.frame.rax.get()).has_deadline() {
        return Ok(None);
    }
    let buffer = thread.message_buffer().ok_or(Error::InvalidArgument)?;
    Ok(Some(buffer.read(offset_of!(MessageBuffer, deadline) / 8)))
}

/// Copies the message that `sender` sends into the registers and the buffer of `receiver`.
pub fn message(sender: Ref<Thread>, receiver: Ref<Thread>) {
    let (from, to) = (&sender.frame, &receiver.frame);
    match sender.sending.get() {
        Sending::Foreign => {
            let words = [&from.rax, &from.rdi, &from.rsi, &from.rdx, &from.r10, &from.r8, &from.r9, &from.rsp];
            for (index, word) in words.into_iter().enumerate() {
                to.word(index).set(word.get());
            }
            to.rdi.set(sender.id.get());
            to.rsi.set(Tag::new(LABEL_FOREIGN, 8).0);
        }
        Sending::Fault => {
            for (index, word) in sender.fault.iter().enumerate() {
                to.word(index).set(word.get());
            }
            to.rdi.set(sender.id.get());
            to.rsi.set(Tag::new(LABEL_FAULT, 6).0);
        }
        Sending::Budget => {
            to.word(0).set(sender.own_time.get().map_or(0, |time| time.budget()));
            to.rdi.set(sender.id.get());
            to.rsi.set(Tag::new(LABEL_BUDGET, 1).0);
        }
        _ => {
            let tag = Tag(from.rsi.get());
            let mut words = tag.words();
            for index in 0..words.min(REGISTER_WORDS) {
                to.word(index).set(from.word(index).get());
            }
            let mut caps = 0;
            if words > REGISTER_WORDS || tag.caps() > 0 {
                match (sender.message_buffer(), receiver.message_buffer()) {
                    (Some(source), Some(target)) => {
                        buffered(source, target, words);
                        if sender.may_grant.get() {
                            caps = capabilities(sender, source, receiver, target, tag.caps());
                        }
                    }
                    _ => words = words.min(REGISTER_WORDS),
                }
            }
            to.rdi.set(sender.badge.get());
            to.rsi.set(Tag::with_caps(tag.label(), words, caps).0);
        }
    }
}

/// Copies the words of a message of `count` words that lie in the buffers.
pub fn buffered(source: Page, target: Page, count: usize) {
    let offset = 8 * (WORDS + REGISTER_WORDS) as u64;
    let bytes = 8 * count.min(MAX_WORDS).saturating_sub(REGISTER_WORDS) as u64;
    Page::copy(source, offset, target, offset, bytes);
}

fn half(page: Page, word: usize, index: usize) -> u64 {
    let both = page.read(word + index / 2);
    if index.is_multiple_of(2) { both & 0xffff_ffff } else { both >> 32 }
}

/// Copies capabilities until one cannot be; says how many went.
fn capabilities(sender: Ref<Thread>, source: Page, receiver: Ref<Thread>, target: Page, count: usize) -> usize {
    for index in 0..count {
        let from = sender.capability(half(source, SEND_CAPS, index));
        let to = receiver.slot(half(target, RECEIVE_SLOTS, index));
        let (Ok(from), Ok(to)) = (from, to) else { return index };
        if cap::copy(from, to, Rights::all(), 0).is_err() {
            return index;
        }
    }
    count
}
