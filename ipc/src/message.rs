//! Messages: the tag, the words in registers, and the per-thread buffer for what does not fit in them.
//!
//! A kernel call is the `syscall` instruction of a native thread with
//!
//! | register | in | out |
//! |---|---|---|
//! | `rax` | [`Request`]: call number, flags, second slot | status: 0 or an [`crate::Error`] |
//! | `rdi` | slot of the capability that the call is about | badge of the sender, or first result |
//! | `rsi` | [`Tag`], or first argument | tag of the message received, or second result |
//! | `rdx r10 r8 r9 r12 r13 r14 r15` | words 0–7, or further arguments | words 0–7, or further results |
//! | `rcx r11` | – | destroyed by the instruction |
//!
//! Registers beyond the tag's length are not transferred (they keep the receiver's old contents: nothing of the sender leaks).

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// Message words that travel in registers.
pub const REGISTER_WORDS: usize = 8;
/// Most words that a message can have.
pub const MAX_WORDS: usize = 64;
/// Most capabilities that a message can carry.
pub const MAX_CAPS: usize = 3;

/// Length, number of capabilities and label of a message.
///
/// Bits 0–7 length in words (0–64), bits 8–9 number of capabilities (0–3), bits 16–63 label.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(transparent)]
pub struct Tag(pub u64);

impl Tag {
    /// A tag without capabilities.
    pub const fn new(label: u64, words: usize) -> Tag {
        Tag::with_caps(label, words, 0)
    }

    /// A tag; length and number of capabilities are masked to their fields.
    pub const fn with_caps(label: u64, words: usize, caps: usize) -> Tag {
        Tag((words as u64 & 0xff) | ((caps as u64 & 3) << 8) | (label << 16))
    }

    /// Words in the message, at most [`MAX_WORDS`] whatever the raw field says.
    pub const fn words(self) -> usize {
        let words = (self.0 & 0xff) as usize;
        if words > MAX_WORDS { MAX_WORDS } else { words }
    }

    /// Capabilities in the message.
    pub const fn caps(self) -> usize {
        ((self.0 >> 8) & 3) as usize
    }

    /// The label: what kind of message it is, as the two sides agreed.
    pub const fn label(self) -> u64 {
        self.0 >> 16
    }
}

/// Labels at and above this one are the kernel's; a thread that sends one gets `InvalidArgument`.
pub const KERNEL_LABELS: u64 = 0xffff_ffff_0000;

/// Label of a foreign system call. Words: 0 number, 1–6 arguments, 7 user stack pointer. Badge: the thread's id word.
/// Answer with a [`reply_label`].
pub const LABEL_FOREIGN: u64 = KERNEL_LABELS;
/// Label of a fault. Words: 0 vector, 1 error code, 2 address (CR2 for a page fault, else 0), 3 `rip`, 4 `rsp`, 5 `rflags`. Badge: the id word.
/// Answer with label 0 to resume; the thread stays stopped if the `Reply` is dropped.
pub const LABEL_FAULT: u64 = KERNEL_LABELS + 1;
/// Label of a used-up budget. Words: 0 ticks consumed in this period. Badge: the id word. Answer with label 0 to let it go on in the next period.
pub const LABEL_BUDGET: u64 = KERNEL_LABELS + 2;

/// Labels with which a foreign system call or a fault is answered; bits may be combined.
pub mod reply_label {
    /// Word 0 is the value that the call returns in `rax` (foreign call), or just go on (fault).
    pub const VALUE: u64 = 0;
    /// Leave every register as it is (it was written with `thread_write_registers`).
    pub const REGISTERS: u64 = 1;
    /// Let the thread go to the tail of its priority's queue.
    pub const YIELD: u64 = 2;
    /// The call was taken by an instance of the server that is no more, and had no effect that making it again would double:
    /// make it again. A foreign thread does so by itself; who `call`s sees the label, with no words.
    pub const RETRY: u64 = 4;
    /// The call was taken by an instance of the server that is no more, and nobody knows what became of it. Word 0 is `-EIO`, for foreign
    /// threads; who `call`s sees the label.
    pub const LOST: u64 = 8;
}

/// The first argument register of a kernel call.
///
/// Bits 0–7 call number, bits 8–15 flags, bits 16–47 second slot (the `Reply` of receive, reply-receive).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(transparent)]
pub struct Request(pub u64);

impl Request {
    /// The deadline in the message buffer counts.
    pub const DEADLINE: u64 = 1 << 8;

    /// Call number, second slot and flags.
    pub const fn new(call: crate::Call, second: u32, flags: u64) -> Request {
        Request(call as u64 | (flags & 0xff00) | ((second as u64) << 16))
    }

    /// The call number.
    pub const fn number(self) -> u8 {
        self.0 as u8
    }

    /// The second slot.
    pub const fn second(self) -> u32 {
        (self.0 >> 16) as u32
    }

    /// Whether the deadline in the message buffer counts.
    pub const fn has_deadline(self) -> bool {
        self.0 & Self::DEADLINE != 0
    }
}

/// The page that a thread shares with the kernel for what does not fit in registers. All of it is the thread's: the kernel
/// believes nothing in it, and writes only what a call of that thread asked for.
#[derive(Clone, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct MessageBuffer {
    /// Absolute deadline in TSC ticks of a call made with [`Request::DEADLINE`].
    pub deadline: u64,
    /// Message words by index; 0–7 are in registers, and their places here are not used.
    pub words: [u64; MAX_WORDS],
    /// Slots of the capabilities to send.
    pub send_caps: [u32; 4],
    /// Empty slots that received capabilities go to; 0 refuses one.
    pub receive_slots: [u32; 4],
    /// Registers of a thread, for `thread_read_registers` and `thread_write_registers`.
    pub registers: Registers,
    /// Kept by the server's event loop for the supervisor, who believes nothing in it either.
    pub trace: Trace,
    /// TSC ticks by which deadlines of this thread may be late while less urgent threads keep a processor busy that otherwise polls.
    pub slack: u64,
    /// Rest of the page.
    pub reserved: [u8; 4096 - 16 - 8 * MAX_WORDS - 32 - size_of::<Registers>() - size_of::<Trace>()],
}

/// What an event loop notes of itself: how far it has come, and what it took last.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Trace {
    /// Messages, signals and deadlines taken. The newest is in entry `turns - 1` modulo their number.
    pub turns: u64,
    /// What they were.
    pub taken: [crate::board::Taken; crate::board::MESSAGES],
    /// The words of a panic, zero padded.
    pub panic: [[u64; 8]; 3],
}

/// A thread's user registers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
#[allow(missing_docs)]
pub struct Registers {
    pub rax: u64,
    pub rbx: u64,
    pub rcx: u64,
    pub rdx: u64,
    pub rsi: u64,
    pub rdi: u64,
    pub rbp: u64,
    pub rsp: u64,
    pub r8: u64,
    pub r9: u64,
    pub r10: u64,
    pub r11: u64,
    pub r12: u64,
    pub r13: u64,
    pub r14: u64,
    pub r15: u64,
    pub rip: u64,
    pub rflags: u64,
    pub fs_base: u64,
    pub gs_base: u64,
}

static_assertions::const_assert_eq!(size_of::<MessageBuffer>(), 4096);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tag_fields_do_not_touch_each_other() {
        let tag = Tag::with_caps(0xabcd_1234, 64, 3);
        assert_eq!((tag.words(), tag.caps(), tag.label()), (64, 3, 0xabcd_1234));
        assert_eq!(Tag(0xff).words(), MAX_WORDS);
        assert_eq!(Tag::new(LABEL_BUDGET, 1).label(), LABEL_BUDGET);
    }

    #[test]
    fn request_fields_do_not_touch_each_other() {
        let request = Request::new(crate::Call::ReplyReceive, u32::MAX, Request::DEADLINE);
        assert_eq!(request.number(), crate::Call::ReplyReceive as u8);
        assert_eq!(request.second(), u32::MAX);
        assert!(request.has_deadline());
    }
}
