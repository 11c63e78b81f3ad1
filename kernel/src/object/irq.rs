//! Irq: one interrupt vector. They come out of a fixed set in the kernel, by derivation from the initial Irq capability.

use super::Notification;
use crate::arch;
use crate::cap::delete::{Progress, delete_step, empty};
use crate::cap::{self, Cap, Home, KernelObject, Slot};
use crate::kernel::Kernel;
use crate::memory::Ref;
use core::cell::Cell;
use ipc::{Error, ObjectType, Rights};

/// Interrupts that can be in use at once.
pub const COUNT: usize = 96;
/// Vector of the first one.
pub const FIRST_VECTOR: u8 = 0x30;

/// An interrupt.
#[repr(C, align(64))]
pub struct Irq {
    notification: Slot,
    used: Cell<bool>,
    pin: Cell<Option<u8>>,
    level: Cell<bool>,
    index: Cell<u8>,
}

impl KernelObject for Irq {
    const TYPE: ObjectType = ObjectType::Irq;
}

impl Irq {
    /// Not in use.
    pub const fn new() -> Irq {
        Irq {
            notification: Slot::new(),
            used: Cell::new(false),
            pin: Cell::new(None),
            level: Cell::new(false),
            index: Cell::new(0),
        }
    }

    /// Where its notification is kept.
    #[cfg(test)]
    pub fn bound_slot(&self) -> &Slot {
        &self.notification
    }

    /// Its vector.
    pub fn vector(&self) -> u8 {
        FIRST_VECTOR + self.index.get()
    }

    /// Gives one out: a message-signalled one, or that of an IOAPIC pin.
    pub fn derive(
        k: &Kernel,
        source: Ref<Slot>,
        pin: Option<(u8, bool, bool)>,
        target: Ref<Slot>,
    ) -> Result<u8, Error> {
        if source.object_word() != 0 {
            return Err(Error::InvalidArgument);
        }
        if !target.is_empty() {
            return Err(Error::SlotOccupied);
        }
        if let Some((pin, _, _)) = pin {
            if pin >= arch::ioapic_pins() {
                return Err(Error::InvalidArgument);
            }
            if k.irqs.iter().any(|irq| irq.used.get() && irq.pin.get() == Some(pin)) {
                return Err(Error::Busy);
            }
        }
        let (index, irq) = k.irqs.iter().enumerate().find(|(_, irq)| !irq.used.get()).ok_or(Error::OutOfMemory)?;
        irq.used.set(true);
        irq.index.set(index as u8);
        irq.notification.set_home(Home::IrqNotification);
        irq.pin.set(pin.map(|(pin, _, _)| pin));
        irq.level.set(pin.is_some_and(|(_, level, _)| level));
        if let Some((pin, level, low)) = pin {
            arch::ioapic_route(pin, irq.vector(), level, low);
        }
        target.fill(&Cap::new(ObjectType::Irq, Ref::from(irq).address(), 0));
        cap::derivation::insert_child(source, target);
        Ok(irq.vector())
    }

    /// Chooses the notification that it signals. `false`: an interrupt came in first; the same call, made again, goes on.
    pub fn bind(&self, k: &Kernel, notification: Option<Ref<Slot>>) -> Result<bool, Error> {
        if let Some(source) = notification {
            if !self.notification.is_empty() {
                return Err(Error::Busy);
            }
            cap::copy(source, Ref::from(&self.notification), Rights::all(), 0)?;
            if let Some(pin) = self.pin.get() {
                arch::ioapic_mask(pin, false);
            }
        } else if !self.notification.is_empty() {
            if let Some(pin) = self.pin.get() {
                arch::ioapic_mask(pin, true);
            }
            return Ok(empty(k, &[&self.notification]));
        }
        Ok(true)
    }

    /// The notification that it signals, and with which bits.
    #[inline(always)]
    pub fn signals(&self) -> Option<(Ref<Notification>, u64)> {
        Some((self.notification.object()?, self.notification.badge()))
    }

    /// It has come, and is dealt with.
    pub fn fire(&self, k: &Kernel) {
        if let Some((notification, bits)) = self.signals() {
            notification.signal(k, bits);
        }
    }

    /// Its holder has dealt with it.
    pub fn acknowledge(&self) {
        if let (true, Some(pin)) = (self.level.get(), self.pin.get())
            && !self.notification.is_empty()
        {
            arch::ioapic_mask(pin, false);
        }
    }

    /// The last capability to it is gone.
    pub fn end_step(&self, k: &Kernel) -> Progress {
        if let Some(pin) = self.pin.get() {
            arch::ioapic_mask(pin, true);
        }
        if !self.notification.is_empty() {
            delete_step(k, Ref::from(&self.notification));
            return Progress::More;
        }
        self.used.set(false);
        self.pin.set(None);
        Progress::Done
    }
}

/// The interrupt of this vector, if it is one of a device.
#[inline(always)]
pub fn of_vector(k: &Kernel, vector: u8) -> Option<&Irq> {
    k.irqs.get(usize::from(vector.checked_sub(FIRST_VECTOR)?))
}

/// An interrupt has come, and its end is not told to the controllers yet: a level-triggered pin is masked until its holder acknowledges
/// it. Were that done later, it would come again as long as its line is high, and the kernel get nowhere with interrupts on.
#[inline(always)]
pub fn hold(k: &Kernel, vector: u8) {
    if let Some(irq) = of_vector(k, vector)
        && let (true, Some(pin)) = (irq.level.get(), irq.pin.get())
    {
        arch::ioapic_mask(pin, true);
    }
}

impl Default for Irq {
    fn default() -> Self {
        Self::new()
    }
}
