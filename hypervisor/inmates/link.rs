//! What the inmates with a shared memory device share: its registers, its memory, and its interrupts, counted.
#![allow(dead_code)] // None of them uses all.

use core::sync::atomic::AtomicU32;
use core::sync::atomic::Ordering::Relaxed;

use crate::inmate::*;

/// State change; the next one: doorbell.
const VECTOR: u8 = 0x50;
const REGISTERS: u32 = 0xf000_0000;
const MSIX_TABLE: u32 = 0xf000_1000;
pub const ID: u32 = REGISTERS;
pub const MAX_PEERS: u32 = REGISTERS + 0x04;
pub const CONTROL: u32 = REGISTERS + 0x08;
const DOORBELL: u32 = REGISTERS + 0x0c;
pub const STATE: u32 = REGISTERS + 0x10;

/// State changes of others that this processor was told.
pub static CHANGES: AtomicU32 = AtomicU32::new(0);
/// How often it was rung.
pub static BELLS: AtomicU32 = AtomicU32::new(0);

entry!(changed_entry, changed);
extern "C" fn changed() {
    CHANGES.fetch_add(1, Relaxed);
    write(APIC_EOI, 0);
}

entry!(rung_entry, rung);
extern "C" fn rung() {
    BELLS.fetch_add(1, Relaxed);
    write(APIC_EOI, 0);
}

/// Rings a peer.
pub fn ring(peer: u32) {
    write(DOORBELL, peer << 16 | 1);
}

/// The first shared memory device of the cell.
pub struct Device {
    function: u32,
    vendor: u32,
    msix: u32,
}

impl Device {
    pub fn find() -> Option<Self> {
        let function = (0..256).find(|function| pci_read(*function, 0) == 0x4106_110a)?;
        Some(Self { function, vendor: pci_capability(function, 0x09)?, msix: pci_capability(function, 0x11)? })
    }

    /// Maps its registers, and has its two interrupts sent to this processor; they come once [`CONTROL`] allows them.
    pub fn open(&self) {
        gate(VECTOR, changed_entry);
        gate(VECTOR + 1, rung_entry);
        write(APIC_SPURIOUS, 0x1ff);
        pci_write(self.function, 0x10, REGISTERS);
        pci_write(self.function, 0x14, MSIX_TABLE);
        pci_write(self.function, 4, 6);
        for n in 0..2 {
            let entry = MSIX_TABLE + 16 * n;
            write(entry, message_address());
            write(entry + 4, 0);
            write(entry + 8, u32::from(VECTOR) + n);
            write(entry + 12, 0);
        }
        pci_write(self.function, self.msix, pci_read(self.function, self.msix) | 1 << 31);
        interrupts_on();
    }

    /// Has it take back the permission to interrupt with each interrupt.
    pub fn set_one_shot(&self) {
        pci_write(self.function, self.vendor, pci_read(self.function, self.vendor) | 1 << 24);
    }

    /// BAR 2, where the memory is; `None` if the capability has the address.
    pub fn memory_bar(&self) -> Option<Bar64> {
        let length = pci_read(self.function, self.vendor) >> 16 & 0xff;
        (length == 0x18).then_some(Bar64 { function: self.function, register: 0x18 })
    }

    /// Address of the memory: the state table is first.
    pub fn memory(&self) -> u32 {
        self.memory_bar().map_or_else(|| pci_read(self.function, self.vendor + 0x18), |bar| bar.get() as u32)
    }

    /// Address of the first peer's output section: behind the state table and the section that all write, which may be missing.
    pub fn outputs(&self) -> u32 {
        self.memory() + pci_read(self.function, self.vendor + 4) + pci_read(self.function, self.vendor + 8)
    }
}
