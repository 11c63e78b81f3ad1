//! A slot: one capability and its place in the derivation tree. 64 bytes; zeroed memory is an empty slot.
#![allow(unsafe_code)] // Turns the address kept in a slot back into a reference to the object that it was made of.

use super::derivation::Link;
use crate::memory::{Page, Ref};
use core::cell::Cell;
use ipc::{ObjectType, Rights};

/// Objects that live in memory of their own.
pub trait KernelObject {
    /// The type whose capabilities name such objects.
    const TYPE: ObjectType;
}

/// Where a slot is: what has to happen when the capability in it goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Home {
    /// In a CapTable.
    Table = 0,
    /// The address space of a thread.
    ThreadSpace = 1,
    /// The capability table of a thread.
    ThreadTable = 2,
    /// The fault endpoint of a thread.
    ThreadFault = 3,
    /// The message buffer of a thread.
    ThreadBuffer = 4,
    /// A route of an address space.
    Route = 5,
    /// Further page-table memory of an address space.
    Extension = 6,
    /// The notification of an interrupt.
    IrqNotification = 7,
}

/// Kinds of memory, as in [`ipc::image::range_kind`] less one (0 normal, 1 shared, 2 device). Kept in the low bits of the base.
pub mod memory_kind {
    /// RAM of this realm alone.
    pub const NORMAL: u64 = 0;
    /// RAM that the other realm sees too.
    pub const SHARED: u64 = 1;
    /// Device registers.
    pub const DEVICE: u64 = 2;
}

/// The value of a capability.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cap {
    /// What it names.
    pub kind: ObjectType,
    /// What its holder may do.
    pub rights: Rights,
    /// Address of the object; Untyped, Frame: physical base | [`memory_kind`]; IoPort: first port.
    pub object: u64,
    /// Untyped, Frame: bytes; IoPort: number of ports.
    pub extra: u64,
    /// Badge; Untyped: bytes used.
    pub badge: u64,
    /// Untyped: pages from its start that have been zeroed since it was last free.
    pub zeroed: u32,
    /// SchedContext: the highest priority that it can be given; Untyped: that SchedContexts made of it can be given.
    pub ceiling: u8,
}

impl Cap {
    /// A capability with all rights, the highest ceiling, and without badge.
    pub const fn new(kind: ObjectType, object: u64, extra: u64) -> Cap {
        Cap { kind, rights: Rights::all(), object, extra, badge: 0, zeroed: 0, ceiling: u8::MAX }
    }
}

/// A slot.
#[repr(C, align(64))]
pub struct Slot {
    object: Cell<u64>,
    extra: Cell<u64>,
    badge: Cell<u64>,
    kind: Cell<u8>,
    rights: Cell<u8>,
    home: Cell<u8>,
    ceiling: Cell<u8>,
    zeroed: Cell<u32>,
    pub(super) previous: Cell<Link>,
    pub(super) next: Cell<Link>,
    pub(super) first_child: Cell<Option<Ref<Slot>>>,
    pub(super) last_child: Cell<Option<Ref<Slot>>>,
}

static_assertions::const_assert_eq!(size_of::<Slot>(), 64);

impl Slot {
    /// Offset of the type of its capability.
    pub const KIND: usize = core::mem::offset_of!(Slot, kind);

    /// An empty slot.
    pub const fn new() -> Slot {
        Slot {
            object: Cell::new(0),
            extra: Cell::new(0),
            badge: Cell::new(0),
            kind: Cell::new(0),
            rights: Cell::new(0),
            home: Cell::new(0),
            ceiling: Cell::new(0),
            zeroed: Cell::new(0),
            previous: Cell::new(Link::NONE),
            next: Cell::new(Link::NONE),
            first_child: Cell::new(None),
            last_child: Cell::new(None),
        }
    }

    /// Whether there is no capability in it.
    pub fn is_empty(&self) -> bool {
        self.kind.get() == 0
    }

    /// The type of its capability.
    pub fn kind(&self) -> Option<ObjectType> {
        ObjectType::from_raw(u64::from(self.kind.get()))
    }

    /// Whether its capability is of this type.
    pub fn is(&self, kind: ObjectType) -> bool {
        self.kind.get() == kind as u8
    }

    /// Its rights.
    pub fn rights(&self) -> Rights {
        Rights::from_bits_truncate(self.rights.get())
    }

    /// Takes all rights away: the capability is about to go, and nothing new may come of it.
    pub fn disarm(&self) {
        self.rights.set(0);
    }

    /// Its badge.
    pub fn badge(&self) -> u64 {
        self.badge.get()
    }

    /// See [`Cap::ceiling`].
    pub fn ceiling(&self) -> u8 {
        self.ceiling.get()
    }

    /// See [`Cap::object`].
    pub fn object_word(&self) -> u64 {
        self.object.get()
    }

    /// See [`Cap::extra`].
    pub fn extra(&self) -> u64 {
        self.extra.get()
    }

    /// Where it is.
    pub fn home(&self) -> Home {
        match self.home.get() {
            1 => Home::ThreadSpace,
            2 => Home::ThreadTable,
            3 => Home::ThreadFault,
            4 => Home::ThreadBuffer,
            5 => Home::Route,
            6 => Home::Extension,
            7 => Home::IrqNotification,
            _ => Home::Table,
        }
    }

    /// Says where it is. Slots that are part of an object are told once, when the object is made.
    pub fn set_home(&self, home: Home) {
        self.home.set(home as u8);
    }

    /// The capability in it.
    pub fn cap(&self) -> Option<Cap> {
        Some(Cap {
            kind: self.kind()?,
            rights: self.rights(),
            object: self.object.get(),
            extra: self.extra.get(),
            badge: self.badge.get(),
            zeroed: self.zeroed.get(),
            ceiling: self.ceiling.get(),
        })
    }

    /// Puts a capability in; the caller links it into the derivation tree.
    pub fn fill(&self, cap: &Cap) {
        self.object.set(cap.object);
        self.extra.set(cap.extra);
        self.badge.set(cap.badge);
        self.rights.set(cap.rights.bits());
        self.zeroed.set(cap.zeroed);
        self.ceiling.set(cap.ceiling);
        self.kind.set(cap.kind as u8);
    }

    /// Empties it; the caller has unlinked it.
    pub fn clear(&self) {
        self.kind.set(0);
        self.object.set(0);
        self.rights.set(0);
    }

    /// The object that it names, if it is of that type. (The initial Irq capability names none.)
    #[inline(always)]
    pub fn object<T: KernelObject>(&self) -> Option<Ref<T>> {
        if !self.is(T::TYPE) {
            return None;
        }
        // SAFETY: a slot of that type is only ever filled with the address of a live object of that type, made by retype or at
        // boot; the last capability to an object is deleted before its memory is used for something else.
        unsafe {
            if T::TYPE as u8 == ObjectType::Irq as u8 {
                Ref::at(self.object.get())
            } else {
                Some(Ref::at_nonzero(self.object.get()))
            }
        }
    }

    /// The same, if its holder has these rights.
    #[inline(always)]
    pub fn object_with<T: KernelObject>(&self, rights: Rights) -> Option<Ref<T>> {
        self.object().filter(|_| self.rights.get() & rights.bits() == rights.bits())
    }

    /// Whether two slots hold capabilities to the same object.
    pub fn same_object(&self, other: &Slot) -> bool {
        self.kind.get() == other.kind.get() && self.object.get() == other.object.get()
    }

    /// Physical base of an Untyped or Frame.
    pub fn memory_base(&self) -> u64 {
        self.object.get() & !0xfff
    }

    /// [`memory_kind`] of an Untyped or Frame.
    pub fn memory_kind(&self) -> u64 {
        self.object.get() & 0xfff
    }

    /// Bytes of an Untyped that are used.
    pub fn untyped_used(&self) -> u64 {
        self.badge.get()
    }

    /// Sets the bytes of an Untyped that are used.
    pub fn set_untyped_used(&self, used: u64) {
        self.badge.set(used);
    }

    /// Pages of an Untyped that are known to be zero or were given out.
    pub fn untyped_zeroed(&self) -> u64 {
        u64::from(self.zeroed.get())
    }

    /// Sets the number of those pages.
    pub fn set_untyped_zeroed(&self, pages: u64) {
        self.zeroed.set(pages as u32);
    }

    /// A page of the Frame that it names, if that is RAM.
    pub fn frame_page(&self, index: u64) -> Option<Page> {
        if !self.is(ObjectType::Frame) || self.memory_kind() == memory_kind::DEVICE || index >= self.extra() / 4096 {
            return None;
        }
        // SAFETY: frames of RAM lie inside the ranges of the direct map and hold no kernel objects: retype took care of both.
        Some(unsafe { Page::at(self.memory_base() + index * 4096) })
    }
}

impl Default for Slot {
    fn default() -> Self {
        Self::new()
    }
}
