//! The books: everything that a new instance must know to go on where a dead one stopped. Plain data, kept in the vault.

use ipc::protocol::vfs::EVENT_WORDS;
use ipc::shadow::MAX_SLOTS;
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// Version of the layout.
pub const VERSION: u64 = 4;
/// Requests of the client that can be under way at once.
pub const SUBMISSIONS: usize = 256;
/// Events that can wait for the client. When they are all taken, responses stay on the ring.
pub const EVENTS: usize = 128;

/// What is known of a thread slot, and its forwarded call.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Thread {
    /// 1: Linux has given out this slot, with `generation`.
    pub known: u32,
    /// Generation of the slot.
    pub generation: u32,
    /// 1: the client has admitted it; it may make calls.
    pub admitted: u32,
    /// Policy | priority << 16.
    pub scheduling: u32,
    /// Id of the call that waits for Linux; 0: none.
    pub id: u64,
    /// The Reply that keeps the caller.
    pub reply: u32,
    /// 1: the client asked to interrupt the call, and wants to know of its end.
    pub interrupted: u32,
    /// Number of the call.
    pub number: u64,
    /// Its arguments.
    pub args: [u64; 6],
}

/// A request of the client.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Submission {
    /// Its id; 0: the entry is free.
    pub id: u64,
    /// Kind of request.
    pub kind: u32,
    /// 1: the client wants no more to hear of it.
    pub forgotten: u32,
    /// Slot that it is about.
    pub slot: u32,
    /// Generation of the slot.
    pub generation: u32,
    /// Policy | priority << 16.
    pub scheduling: u32,
    /// 0.
    pub reserved: u32,
    /// Number of the call.
    pub number: u64,
    /// Its arguments.
    pub args: [u64; 6],
    /// What the client recognises the answer by.
    pub cookie: u64,
}

/// An event for the client.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Event {
    /// As the client gets it.
    pub words: [u64; EVENT_WORDS],
    /// Index of the response that it came from, | 1 << 32; 0: from no response.
    pub source: u64,
}

/// The books.
#[derive(Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Book {
    /// Sequence number of the last request; ids are made of it.
    pub sequence: u64,
    /// 1: Linux was there.
    pub attached: u32,
    /// Its epoch then.
    pub epoch: u32,
    /// Events that the client has acknowledged, running freely.
    pub event_head: u32,
    /// Events put, running freely. Each event carries the value that this had then.
    pub event_tail: u32,
    /// By slot.
    pub threads: [Thread; MAX_SLOTS],
    /// The client's requests.
    pub submissions: [Submission; SUBMISSIONS],
    /// Ring of events.
    pub events: [Event; EVENTS],
}

// It must fit in the vault that the shipped manifests give (64 KiB, with the vault's head).
static_assertions::const_assert!(size_of::<Book>() <= 0xff00);

/// Bits of an id that say where its entry is: slot of a thread, or [`MAX_SLOTS`] + index of a submission.
const PLACE_BITS: u32 = 9;
static_assertions::const_assert!(MAX_SLOTS + SUBMISSIONS <= 1 << PLACE_BITS);

/// Where an entry is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// The call of the thread in this slot.
    Thread(usize),
    /// The client's request with this index.
    Submission(usize),
}

/// Ids grow with each request, so requests go on the ring in the order of their ids.
pub const fn id(sequence: u64, place: Place) -> u64 {
    let place = match place {
        Place::Thread(slot) => slot,
        Place::Submission(index) => MAX_SLOTS + index,
    };
    sequence << PLACE_BITS | place as u64
}

/// Where the entry of an id would be.
pub const fn place(id: u64) -> Place {
    let place = (id & ((1 << PLACE_BITS) - 1)) as usize;
    if place < MAX_SLOTS { Place::Thread(place) } else { Place::Submission(place - MAX_SLOTS) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_lead_back_to_their_entries() {
        for entry in [Place::Thread(0), Place::Thread(255), Place::Submission(0), Place::Submission(255)] {
            assert_eq!(place(id(77, entry)), entry);
        }
        assert!(id(2, Place::Thread(0)) > id(1, Place::Submission(255)));
    }
}
