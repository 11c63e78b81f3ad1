//! Reply: keeps the caller whose request a server has taken. The right to answer it once, and until then the lease on its memory.

use super::thread::Thread;
use crate::cap::KernelObject;
use crate::cap::delete::Progress;
use crate::kernel::Kernel;
use crate::memory::Ref;
use core::cell::Cell;
use ipc::{Error, ObjectType};

/// A reply object.
#[repr(C, align(64))]
pub struct Reply {
    /// The thread that waits for the answer.
    pub caller: Cell<Option<Ref<Thread>>>,
    /// The thread whose receive would put a caller here.
    pub receiver: Cell<Option<Ref<Thread>>>,
}

impl KernelObject for Reply {
    const TYPE: ObjectType = ObjectType::Reply;
}

impl Reply {
    /// The last capability to it is gone: the caller learns at once that nobody will answer.
    pub fn end(&self, k: &Kernel) -> Progress {
        if let Some(caller) = self.caller.get() {
            caller.abort(k, Error::PeerDead);
        }
        if let Some(receiver) = self.receiver.take() {
            receiver.receive_reply.set(None);
        }
        Progress::Done
    }
}
