//! The objects, one file each: what they are made of, what can be done to them, how they end.

pub mod address_space;
pub mod attachments;
pub mod cap_table;
pub mod endpoint;
pub mod frame;
pub mod io_port;
pub mod irq;
pub mod notification;
pub mod page_entry;
pub mod reply;
pub mod sched_context;
pub mod thread;
pub mod thread_ops;
pub mod untyped;

pub use address_space::AddressSpace;
pub use cap_table::CapTable;
pub use endpoint::Endpoint;
pub use irq::Irq;
pub use notification::Notification;
pub use reply::Reply;
pub use sched_context::SchedContext;
pub use thread::Thread;

use crate::cap::{Home, Slot};
use crate::kernel::Kernel;
use crate::memory::Ref;

/// A slot that is part of an object has lost its capability.
pub fn slot_emptied(k: &Kernel, slot: Ref<Slot>, home: Home) {
    match home {
        Home::ThreadSpace | Home::ThreadTable => {
            let thread = thread::of_slot(slot, home);
            thread.slot_lost(k, home);
        }
        Home::ThreadBuffer => thread::of_slot(slot, home).slot_lost(k, home),
        Home::Extension => address_space::extension_lost(k, address_space::of_extension(slot)),
        Home::Table | Home::ThreadFault | Home::Route | Home::IrqNotification => {}
    }
}
