//! A physical function that needs attention: any of a non-root cell, and those of the root cell that can send
//! message-signalled interrupts.

use arrayvec::ArrayVec;
use hypervisor_abi::config::{PciCapability, PciDevice, PciKind};

use super::address::ConfigAddress;
use super::{Quiesce, ROOT_CELL, Read, Write};

/// Most capabilities of one function of a non-root cell.
pub const MAX_CAPS: usize = 24;

const COMMAND: u16 = 0x04;
const BIST: u16 = 0x0c;
const BARS: u16 = 0x10;
const WINDOWS: u16 = 0x1c;
const ROM: u16 = 0x30;
const INTERRUPT: u16 = 0x3c;
const HEADER_END: u16 = 0x40;
const COMMAND_INTX_OFF: u32 = 0x400;

const CAP_MSI: u16 = 0x05;
const CAP_MSIX: u16 = 0x11;
/// Message control of MSI: enable.
const MSI_ENABLE: u32 = 1 << 16;
/// Message control of MSI: 64-bit address.
const MSI_64: u32 = 1 << 23;
/// Message control of MSI: number of vectors in use, as a power of two.
const MSI_COUNT_SHIFT: u32 = 20;
/// Message control of MSI-X: enable.
const MSIX_ENABLE: u32 = 1 << 31;
/// Message control of MSI-X: enable and mask all, the bits that can be written.
const MSIX_CONTROL: u32 = 0xc000_0000;

/// An interrupt message that a function is told to send.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Message {
    /// Address.
    pub address: u64,
    /// Data; the low bits stand for the vector's number if there are several.
    pub data: u32,
    /// Number of consecutive vectors.
    pub vectors: u8,
}

/// A physical function.
#[derive(Clone, Debug)]
pub(super) struct Function {
    owner: u32,
    device: PciDevice,
    /// All capabilities; of the root cell's functions only those of interrupts.
    caps: ArrayVec<PciCapability, MAX_CAPS>,
    /// BARs as the cell sees them; not used for the root cell, which sees the machine's.
    bars: [u32; 6],
    /// The MSI capability as the cell wrote it: control, address, address or data, data.
    msi: [u32; 4],
}

/// Whether a capability is about message-signalled interrupts.
pub(super) fn is_interrupt_cap(cap: &PciCapability) -> bool {
    matches!(cap.id.get(), CAP_MSI | CAP_MSIX)
}

impl Function {
    /// A function with its capabilities; `None` if they are too many.
    pub(super) fn new(
        owner: u32,
        device: &PciDevice,
        caps: &[PciCapability],
        read: &mut impl FnMut(ConfigAddress) -> u32,
    ) -> Option<Self> {
        let mut kept = ArrayVec::new();
        for cap in caps.iter().filter(|cap| owner != ROOT_CELL || is_interrupt_cap(cap)) {
            kept.try_push(*cap).ok()?;
        }
        let mut function = Self { owner, device: *device, caps: kept, bars: [0; 6], msi: [0; 4] };
        function.reset(read);
        Some(function)
    }

    pub(super) fn owner(&self) -> u32 {
        self.owner
    }

    pub(super) fn bdf(&self) -> u16 {
        self.device.bdf()
    }

    fn bar_count(&self) -> u16 {
        if self.device.kind() == Some(PciKind::Bridge) { 2 } else { 6 }
    }

    fn bar(&self, dword: u16) -> Option<usize> {
        let bars = BARS..BARS + 4 * self.bar_count();
        bars.contains(&dword).then(|| usize::from((dword - BARS) / 4))
    }

    fn cap(&self, id: u16) -> Option<&PciCapability> {
        self.caps.iter().find(|cap| cap.id.get() == id)
    }

    /// Takes over what the machine says of BARs and MSI.
    pub(super) fn reset(&mut self, read: &mut impl FnMut(ConfigAddress) -> u32) {
        let bdf = self.bdf();
        for n in 0..self.bar_count() {
            self.bars[usize::from(n)] = read(ConfigAddress::dword(bdf, BARS + 4 * n));
        }
        if let Some(start) = self.cap(CAP_MSI).map(|cap| cap.start.get()) {
            for n in 0..4 {
                self.msi[usize::from(n)] = read(ConfigAddress::dword(bdf, start.wrapping_add(4 * n)));
            }
        }
    }

    /// Silences the function: no interrupts of any kind, no message left to send, no bus mastering, no decoding.
    pub(super) fn quiesce(&mut self, write: &mut impl FnMut(Quiesce)) {
        let bdf = self.bdf();
        let mut put = |offset, mask, value| {
            write(Quiesce { address: ConfigAddress::dword(bdf, offset), mask, value });
        };
        put(COMMAND, 0xffff, COMMAND_INTX_OFF);
        if let Some(start) = self.cap(CAP_MSI).map(|cap| cap.start.get()) {
            put(start, MSI_ENABLE, 0);
            put(start + 4, u32::MAX, 0);
            if self.msi[0] & MSI_64 != 0 {
                put(start + 8, u32::MAX, 0);
                put(start + 12, 0xffff, 0);
            } else {
                put(start + 8, 0xffff, 0);
            }
            self.forget_message();
        }
        if let Some(start) = self.cap(CAP_MSIX).map(|cap| cap.start.get()) {
            put(start, MSIX_ENABLE, 0);
        }
    }

    /// The machine's MSI registers were cleared.
    pub(super) fn forget_message(&mut self) {
        self.msi = [self.msi[0] & !MSI_ENABLE, 0, 0, 0];
    }

    /// The MSI-X table, if accesses to `address` are to be moderated: its vectors, and the offset in it.
    pub(super) fn msix_table(&self, address: u64) -> Option<(u16, u64)> {
        let vectors = self.device.num_msix_vectors.get();
        let offset = address.checked_sub(self.device.msix_address.get())?;
        let inside = offset < self.device.msix_region_size.get().into();
        (vectors > 0 && inside).then_some((vectors, offset))
    }

    pub(super) fn read(&self, at: ConfigAddress) -> Read {
        match self.bar(at.dword_offset()) {
            Some(bar) if self.owner != ROOT_CELL => Read::Value(self.bars[bar] >> at.shift() & at.ones()),
            _ => Read::PassThrough,
        }
    }

    pub(super) fn write(&mut self, at: ConfigAddress, value: u32) -> Write {
        if self.owner == ROOT_CELL {
            let msi = self.caps.iter().find(|cap| cap.id.get() == CAP_MSI && cap.contains(at.offset)).copied();
            return msi.map_or(Write::PassThrough, |cap| self.write_msi(&cap, at, value, at.ones()));
        }
        let dword = at.dword_offset();
        if dword < HEADER_END {
            return self.write_header(at, value);
        }
        let Some(cap) = self.caps.iter().find(|cap| cap.contains(at.offset)).copied() else {
            return Write::Deny;
        };
        // What lies behind the capability stays as it is: drivers write its last word as a double word.
        let inside = u32::from(cap.start.get()) + u32::from(cap.len.get()) - u32::from(at.offset);
        let mask = at.ones() & u32::MAX >> (32 - 8 * inside.min(4));
        match cap.id.get() {
            CAP_MSI => self.write_msi(&cap, at, value, mask),
            // Only the control word; the table is in memory, and checked there.
            CAP_MSIX if cap.start.get() == dword => allow(MSIX_CONTROL, at),
            CAP_MSIX => Write::Deny,
            _ if cap.writable() => bits(mask, at),
            _ => Write::Deny,
        }
    }

    fn write_header(&mut self, at: ConfigAddress, value: u32) -> Write {
        let dword = at.dword_offset();
        if let Some(bar) = self.bar(dword) {
            let mask = self.device.bar_mask[bar].get() & at.ones() << at.shift();
            self.bars[bar] = self.bars[bar] & !mask | value << at.shift() & mask;
            return Write::Done;
        }
        let bridge = self.device.kind() == Some(PciKind::Bridge);
        match dword {
            COMMAND => Write::PassThrough,
            // Self-test, latency timer, cache line; not the kind of header.
            BIST => allow(0xff00_ffff, at),
            // Systems ask for the size of a ROM, and set the windows of bridges anew: nothing changes.
            ROM => Write::Done,
            // (The first of these shares its word with the second status.)
            WINDOWS if bridge && at.offset < WINDOWS + 2 => Write::Done,
            0x20..ROM if bridge => Write::Done,
            INTERRUPT if bridge => allow(0xffff_00ff, at),
            INTERRUPT => allow(0x0000_00ff, at),
            _ => Write::Deny,
        }
    }

    /// MSI: the registers are followed, so that whenever MSI is on the message in force is one that was checked.
    /// Only the bits in `mask` are written.
    fn write_msi(&mut self, cap: &PciCapability, at: ConfigAddress, value: u32, mask: u32) -> Write {
        let Some(shadow) = self.msi.get_mut(usize::from((at.dword_offset() - cap.start.get()) / 4)) else {
            // Mask and pending bits.
            return bits(mask, at);
        };
        let new = mask << at.shift();
        let before = *shadow;
        *shadow = *shadow & !new | value << at.shift() & new;
        // The layout is the device's, not the cell's: only enable and count can be written in the first dword.
        self.msi[0] = self.msi_layout(cap, before, at);
        if self.msi[0] & MSI_ENABLE == 0 {
            return bits(mask, at);
        }
        Write::Checked { message: self.message(), mask }
    }

    fn msi_layout(&self, cap: &PciCapability, before: u32, at: ConfigAddress) -> u32 {
        let writable = MSI_ENABLE | 7 << MSI_COUNT_SHIFT;
        match at.dword_offset() == cap.start.get() {
            true => before & !writable | self.msi[0] & writable,
            false => self.msi[0],
        }
    }

    fn message(&self) -> Message {
        let [control, low, high, _] = self.msi;
        let wide = control & MSI_64 != 0;
        let data = if wide { self.msi[3] } else { high } & 0xffff;
        let high = if wide { high } else { 0 };
        let count = (control >> MSI_COUNT_SHIFT & 7).min(5);
        Message { address: u64::from(high) << 32 | u64::from(low), data, vectors: 1 << count }
    }
}

/// Lets a write through to the bits in `mask` of the dword.
fn allow(mask: u32, at: ConfigAddress) -> Write {
    match mask >> at.shift() & at.ones() {
        0 => Write::Deny,
        mask => bits(mask, at),
    }
}

/// Lets a write through to the bits in `mask`, counted from the address of the access.
fn bits(mask: u32, at: ConfigAddress) -> Write {
    if mask == at.ones() { Write::PassThrough } else { Write::Masked { mask } }
}
