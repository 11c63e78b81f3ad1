//! One end of a link: its configuration space, its MSI-X table, its registers.

use hypervisor_abi::ivshmem::{BASE_CLASS, DEVICE_ID, MAX_VECTORS, VENDOR_ID, cfg, msix, reg, vendor_cap};

use super::setup::PeerSetup;

/// A register window of the function.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Bar {
    /// BAR 0.
    Registers = 0,
    /// BAR 1.
    Msix = 1,
}

/// Both windows.
pub(super) const BARS: [Bar; 2] = [Bar::Registers, Bar::Msix];

/// An MSI-X table entry.
#[derive(Clone, Copy, Debug)]
struct Entry {
    address_low: u32,
    address_high: u32,
    data: u32,
    masked: bool,
}

const RESET_ENTRY: Entry = Entry { address_low: 0, address_high: 0, data: 0, masked: true };

/// One cell's end of a link.
#[derive(Clone, Debug)]
pub struct Peer {
    pub(super) setup: PeerSetup,
    command: u16,
    bars: [u32; 2],
    /// BAR 2, if there is one. The memory is where it is preset to, whatever is written.
    memory: u64,
    one_shot: bool,
    msix_control: u16,
    table: [Entry; MAX_VECTORS],
    interrupts: bool,
    pub(super) state: u32,
}

impl Peer {
    pub(super) fn new(setup: &PeerSetup) -> Self {
        Self {
            setup: *setup,
            command: 0,
            bars: [0; 2],
            memory: if setup.memory_mask == 0 { 0 } else { setup.base },
            one_shot: false,
            msix_control: 0,
            table: [RESET_ENTRY; MAX_VECTORS],
            interrupts: false,
            state: 0,
        }
    }

    /// Back to power-on, but for the state, which the link takes back.
    pub(super) fn reset(&mut self) {
        let state = self.state;
        *self = Self::new(&self.setup);
        self.state = state;
    }

    /// Guest-physical address and size of a window that answers at the moment.
    pub(super) fn window(&self, bar: Bar) -> Option<(u64, u64)> {
        let (mask, value) = (self.setup.bar_mask[bar as usize], self.bars[bar as usize]);
        // 0 is an unprogrammed BAR, and all-ones is what sizing leaves in it for a moment.
        let programmed = value != 0 && value != mask;
        let decodes = self.command & cfg::COMMAND_MEMORY != 0;
        (mask != 0 && programmed && decodes).then(|| (value.into(), u64::from(!mask) + 1))
    }

    /// Takes the interrupt for `vector`: its message, if one is to be sent.
    pub(super) fn interrupt(&mut self, vector: u16) -> Option<(u64, u32)> {
        let wanted = msix::CONTROL_ENABLE;
        let open = self.msix_control & (msix::CONTROL_ENABLE | msix::CONTROL_MASK_ALL) == wanted;
        if !self.interrupts || !open || self.command & cfg::COMMAND_MASTER == 0 {
            return None;
        }
        let entry = self.table[..self.setup.vectors.into()].get(usize::from(vector))?;
        if entry.masked {
            return None;
        }
        if self.one_shot {
            self.interrupts = false;
        }
        Some((u64::from(entry.address_high) << 32 | u64::from(entry.address_low), entry.data))
    }

    fn vendor_length(&self) -> u8 {
        if self.setup.memory_mask == 0 { vendor_cap::LEN } else { vendor_cap::SHORT_LEN }
    }

    fn config_dword(&self, offset: u16) -> u32 {
        let setup = &self.setup;
        let cap = |at| offset.wrapping_sub(at);
        match offset {
            cfg::ID | cfg::SUBSYSTEM => u32::from(DEVICE_ID) << 16 | u32::from(VENDOR_ID),
            cfg::COMMAND => u32::from(cfg::STATUS_VALUE) << 16 | u32::from(self.command),
            cfg::CLASS => u32::from(BASE_CLASS) << 24 | u32::from(setup.protocol) << 8,
            cfg::BAR0 => self.bars[0],
            cfg::BAR1 => self.bars[1],
            cfg::BAR2 if setup.memory_mask != 0 => self.memory as u32 | cfg::BAR2_KIND,
            cfg::BAR3 => (self.memory >> 32) as u32,
            cfg::CAP_POINTER => cfg::VENDOR_CAP.into(),
            cfg::INTERRUPT if setup.vectors == 0 => u32::from((setup.bdf >> 3 & 3) + 1) << 8,
            cfg::VENDOR_CAP => {
                let next = if setup.vectors > 0 { cfg::MSIX_CAP as u8 } else { 0 };
                u32::from_le_bytes([vendor_cap::ID, next, self.vendor_length(), self.one_shot.into()])
            }
            cfg::MSIX_CAP if setup.vectors > 0 => {
                let control = (setup.vectors - 1) | self.msix_control;
                u32::from(control) << 16 | u32::from(msix::ID)
            }
            _ if cap(cfg::VENDOR_CAP) < u16::from(self.vendor_length()) => match cap(cfg::VENDOR_CAP) {
                vendor_cap::STATE_TABLE_SIZE => setup.table_size,
                vendor_cap::RW_SECTION_SIZE => setup.rw_size as u32,
                0x0c => (setup.rw_size >> 32) as u32,
                vendor_cap::OUTPUT_SECTION_SIZE => setup.output_size as u32,
                0x14 => (setup.output_size >> 32) as u32,
                vendor_cap::BASE_ADDRESS => setup.base as u32,
                _ => (setup.base >> 32) as u32,
            },
            _ if setup.vectors > 0 && cap(cfg::MSIX_CAP) == msix::TABLE => msix::TABLE_OFFSET | msix::BAR,
            _ if setup.vectors > 0 && cap(cfg::MSIX_CAP) == msix::PBA => msix::PBA_OFFSET | msix::BAR,
            _ => 0,
        }
    }

    /// Reads configuration space. Accesses across a dword and behind the end read all-ones.
    #[must_use]
    pub fn config_read(&self, offset: u16, size: u8) -> u32 {
        let ones = u32::MAX >> (32 - 8 * u32::from(size.clamp(1, 4)));
        match lane(offset, size) {
            Some((dword, shift)) if offset < cfg::SIZE => self.config_dword(dword) >> shift & ones,
            _ => ones,
        }
    }

    pub(super) fn config_write(&mut self, offset: u16, size: u8, value: u32) {
        let Some((dword, shift)) = lane(offset, size) else {
            return;
        };
        let bytes = (u32::MAX >> (32 - 8 * u32::from(size))) << shift;
        let value = value << shift;
        // New content of a register of which only the bits in `writable` change.
        let merge = |old: u32, writable: u32| old & !(writable & bytes) | value & writable & bytes;
        match dword {
            cfg::COMMAND => self.command = merge(self.command.into(), cfg::COMMAND_WRITABLE.into()) as u16,
            cfg::BAR0 => self.bars[0] = merge(self.bars[0], self.setup.bar_mask[0]),
            cfg::BAR1 => self.bars[1] = merge(self.bars[1], self.setup.bar_mask[1]),
            cfg::BAR2 => {
                let low = merge(self.memory as u32, self.setup.memory_mask as u32);
                self.memory = self.memory & !0xffff_ffff | u64::from(low);
            }
            cfg::BAR3 => {
                let high = merge((self.memory >> 32) as u32, (self.setup.memory_mask >> 32) as u32);
                self.memory = self.memory & 0xffff_ffff | u64::from(high) << 32;
            }
            cfg::VENDOR_CAP => {
                let bit = u32::from(vendor_cap::CONTROL_ONE_SHOT) << 24;
                self.one_shot = merge(if self.one_shot { bit } else { 0 }, bit) != 0;
            }
            cfg::MSIX_CAP if self.setup.vectors > 0 => {
                let writable = msix::CONTROL_ENABLE | msix::CONTROL_MASK_ALL;
                let control = merge(u32::from(self.msix_control) << 16, u32::from(writable) << 16);
                self.msix_control = (control >> 16) as u16;
            }
            _ => {}
        }
    }

    fn register(&self, offset: u32) -> u32 {
        match offset {
            reg::ID => self.setup.id.into(),
            reg::MAX_PEERS => self.setup.peers.into(),
            reg::INT_CONTROL => self.interrupts.into(),
            reg::STATE => self.state,
            _ => 0,
        }
    }

    fn table_word(&self, offset: u32) -> u32 {
        let entry = (offset / msix::ENTRY_SIZE) as usize;
        let Some(entry) = self.table[..self.setup.vectors.into()].get(entry) else {
            return 0;
        };
        match offset % msix::ENTRY_SIZE {
            msix::ENTRY_ADDRESS_LOW => entry.address_low,
            msix::ENTRY_ADDRESS_HIGH => entry.address_high,
            msix::ENTRY_DATA => entry.data,
            _ => entry.masked.into(),
        }
    }

    /// Reads a register: aligned 32-bit accesses, in the MSI-X window 64-bit ones too; others read 0.
    pub(super) fn read(&self, bar: Bar, offset: u32, size: u8) -> u64 {
        match (bar, size) {
            (Bar::Registers, 4) if offset.is_multiple_of(4) => self.register(offset).into(),
            (Bar::Msix, 4) if offset.is_multiple_of(4) => self.table_word(offset).into(),
            (Bar::Msix, 8) if offset.is_multiple_of(8) => {
                u64::from(self.table_word(offset + 4)) << 32 | u64::from(self.table_word(offset))
            }
            _ => 0,
        }
    }

    pub(super) fn write_interrupt_control(&mut self, value: u32) {
        self.interrupts = value & reg::INT_ENABLE != 0;
    }

    pub(super) fn write_table(&mut self, offset: u32, size: u8, value: u64) {
        match size {
            4 if offset.is_multiple_of(4) => self.write_table_word(offset, value as u32),
            8 if offset.is_multiple_of(8) => {
                self.write_table_word(offset, value as u32);
                self.write_table_word(offset + 4, (value >> 32) as u32);
            }
            _ => {}
        }
    }

    fn write_table_word(&mut self, offset: u32, value: u32) {
        let entry = (offset / msix::ENTRY_SIZE) as usize;
        let Some(entry) = self.table[..self.setup.vectors.into()].get_mut(entry) else {
            return;
        };
        match offset % msix::ENTRY_SIZE {
            // A message address is dword-aligned.
            msix::ENTRY_ADDRESS_LOW => entry.address_low = value & !3,
            msix::ENTRY_ADDRESS_HIGH => entry.address_high = value,
            msix::ENTRY_DATA => entry.data = value,
            _ => entry.masked = value & msix::ENTRY_MASKED != 0,
        }
    }
}

/// Dword and shift of a configuration space access of 1, 2 or 4 bytes inside one dword.
fn lane(offset: u16, size: u8) -> Option<(u16, u32)> {
    let byte = offset & 3;
    let fits = matches!(size, 1 | 2 | 4) && byte + u16::from(size) <= 4;
    fits.then(|| (offset & !3, 8 * u32::from(byte)))
}
