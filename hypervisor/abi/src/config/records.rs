//! The records of a cell configuration, as they lie in memory.

use bitflags::bitflags;
use zerocopy::little_endian::{U16, U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use super::NAME_LEN;

bitflags! {
    /// What a memory region allows, and what it is for.
    #[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
    pub struct MemoryFlags: u64 {
        /// The cell may read.
        const READ = 0x1;
        /// The cell may write.
        const WRITE = 0x2;
        /// The cell may execute.
        const EXECUTE = 0x4;
        /// The cell's devices may access it.
        const DMA = 0x8;
        /// Device registers: no caching.
        const IO = 0x10;
        /// The communication region; `phys_start` is ignored.
        const COMM_REGION = 0x20;
        /// The root cell may write it to load an image, before the cell is started.
        const LOADABLE = 0x40;
        /// Stays with the root cell too.
        const ROOTSHARED = 0x80;
        /// Mapped with small pages only.
        const NO_HUGEPAGES = 0x100;
        /// Sub-page region: accesses may be unaligned.
        const IO_UNALIGNED = 0x8000;
        /// Sub-page region: 8-bit accesses.
        const IO_8 = 0x1_0000;
        /// Sub-page region: 16-bit accesses.
        const IO_16 = 0x2_0000;
        /// Sub-page region: 32-bit accesses.
        const IO_32 = 0x4_0000;
        /// Sub-page region: 64-bit accesses.
        const IO_64 = 0x8_0000;
    }

    /// Properties of a cell.
    #[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
    pub struct CellFlags: u32 {
        /// The cell does not take part in messages through the communication region.
        const PASSIVE_COMMREG = 0x1;
        /// The cell has a test device: [`super::CellConfig::test_register`].
        const TEST_DEVICE = 0x2;
        /// 32-bit start on ARM; no meaning here.
        const AARCH32 = 0x4;
        /// The cell may use the console hypercall.
        const VIRTUAL_CONSOLE_PERMITTED = 0x4000_0000;
        /// The console hypercall is the cell's console.
        const VIRTUAL_CONSOLE_ACTIVE = 0x8000_0000;
    }

    /// Properties of a console.
    #[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
    pub struct ConsoleFlags: u16 {
        /// Memory-mapped; else I/O ports.
        const MMIO = 0x1;
        /// Registers are 4 bytes apart; else 1.
        const REGDIST_4 = 0x2;
        /// Framebuffer of 1920x1080.
        const FB_1920X1080 = 0x4;
        /// The clock gate is inverted.
        const INVERTED_GATE = 0x1000;
        /// The UART needs its mode register set.
        const MDR_QUIRK = 0x2000;
    }
}

/// Kind of console.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u16)]
pub enum ConsoleKind {
    /// None.
    None = 0,
    /// EFI framebuffer.
    Framebuffer = 1,
    /// 8250 and its family.
    Uart8250 = 2,
}

/// A console, 32 bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct Console {
    /// Address or port.
    pub address: U64,
    /// Size of its registers.
    pub size: U32,
    /// [`ConsoleKind`]; kinds of other architectures have higher numbers.
    pub kind: U16,
    /// [`ConsoleFlags`].
    pub flags: U16,
    /// Baud rate divider; 0 leaves the UART as it is.
    pub divider: U32,
    /// Clock gate number.
    pub gate_nr: U32,
    /// Clock register.
    pub clock_reg: U64,
}

impl Console {
    /// An 8250 at an I/O port.
    #[must_use]
    pub fn uart_pio(port: u16, divider: u32) -> Self {
        Self {
            address: U64::new(u64::from(port)),
            kind: U16::new(ConsoleKind::Uart8250 as u16),
            divider: U32::new(divider),
            ..Self::default()
        }
    }

    /// The I/O port of an 8250, if it is one.
    #[must_use]
    pub fn pio_port(&self) -> Option<u16> {
        let flags = ConsoleFlags::from_bits(self.flags.get())?;
        let is_uart = self.kind.get() == ConsoleKind::Uart8250 as u16;
        if is_uart && !flags.contains(ConsoleFlags::MMIO) { u16::try_from(self.address.get()).ok() } else { None }
    }
}

/// Head of a cell configuration, 132 bytes.
#[derive(Clone, Copy, Debug, Default, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct CellDescriptor {
    /// [`super::CELL_SIGNATURE`]; not looked at inside a system configuration.
    pub signature: [u8; 5],
    /// [`super::ARCH_X86`]; not looked at inside a system configuration.
    pub architecture: u8,
    /// [`super::REVISION`]; not looked at inside a system configuration.
    pub revision: U16,
    /// Name, ended by NUL.
    pub name: [u8; NAME_LEN],
    /// Id; 0 is the root cell, and asks for a free one in other cells.
    pub id: U32,
    /// [`CellFlags`].
    pub flags: U32,
    /// Bytes of the CPU bitmap.
    pub cpu_set_size: U32,
    /// Number of [`Memory`] records.
    pub num_memory_regions: U32,
    /// Number of [`Cache`] records.
    pub num_cache_regions: U32,
    /// Number of [`IrqChip`] records.
    pub num_irqchips: U32,
    /// Number of [`PortRange`] records.
    pub num_pio_regions: U32,
    /// Number of [`super::PciDevice`] records.
    pub num_pci_devices: U32,
    /// Number of [`super::PciCapability`] records.
    pub num_pci_caps: U32,
    /// Number of stream ids (u32).
    pub num_stream_ids: U32,
    /// First interrupt of virtual PCI devices (not on x86).
    pub vpci_irq_base: U32,
    /// Where the cell's CPUs start.
    pub cpu_reset_address: U64,
    /// Spins to wait for an answer of the cell; 0 waits for ever.
    pub msg_reply_timeout: U64,
    /// Console that is told to the cell.
    pub console: Console,
}

/// A memory region, 32 bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct Memory {
    phys_start: U64,
    virt_start: U64,
    size: U64,
    flags: U64,
}

impl Memory {
    /// A region of `size` bytes at machine address `phys_start`, which the cell sees at `virt_start`.
    #[must_use]
    pub const fn new(phys_start: u64, virt_start: u64, size: u64, flags: MemoryFlags) -> Self {
        Self {
            phys_start: U64::new(phys_start),
            virt_start: U64::new(virt_start),
            size: U64::new(size),
            flags: U64::new(flags.bits()),
        }
    }

    /// Machine address.
    #[must_use]
    pub const fn phys_start(&self) -> u64 {
        self.phys_start.get()
    }

    /// Guest-physical address.
    #[must_use]
    pub const fn virt_start(&self) -> u64 {
        self.virt_start.get()
    }

    /// Bytes.
    #[must_use]
    pub const fn size(&self) -> u64 {
        self.size.get()
    }

    /// Flags. In a parsed configuration all bits are defined ones.
    #[must_use]
    pub const fn flags(&self) -> MemoryFlags {
        MemoryFlags::from_bits_truncate(self.flags.get())
    }

    pub(super) const fn unknown_flags(&self) -> u64 {
        self.flags.get() & !MemoryFlags::all().bits()
    }

    /// Whether the region is not made of whole pages: then every access is checked by the hypervisor.
    #[must_use]
    pub const fn is_subpage(&self) -> bool {
        (self.virt_start.get() | self.size.get()) & (crate::PAGE_SIZE - 1) != 0
    }

    /// Whether `address` of the cell lies in the region.
    #[must_use]
    pub const fn contains_virt(&self, address: u64) -> bool {
        address >= self.virt_start.get() && address - self.virt_start.get() < self.size.get()
    }

    /// Whether machine address `address` lies in the region.
    #[must_use]
    pub const fn contains_phys(&self, address: u64) -> bool {
        address >= self.phys_start.get() && address - self.phys_start.get() < self.size.get()
    }
}

/// What a cache region holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum CacheKind {
    /// Code.
    L3Code = 1,
    /// Data.
    L3Data = 2,
    /// Both.
    L3 = 3,
}

/// A part of the cache, 12 bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct Cache {
    /// First part.
    pub start: U32,
    /// Number of parts.
    pub size: U32,
    /// [`CacheKind`].
    pub kind: u8,
    /// Zero.
    pub padding: u8,
    /// Bit 0: shared with the root cell.
    pub flags: U16,
}

/// Pins of an interrupt controller, 32 bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct IrqChip {
    /// Address of its registers.
    pub address: U64,
    /// Requester id on machines that remap interrupts: unit in bits 16.., bdf below.
    pub id: U32,
    /// Pin of bit 0 of the bitmap.
    pub pin_base: U32,
    /// Pins that the cell owns.
    pub pin_bitmap: [U32; 4],
}

impl IrqChip {
    /// Pins `pins` (bit 0 is pin 0) of the controller at `address`.
    #[must_use]
    pub fn new(address: u64, id: u32, pins: u128) -> Self {
        let word = |n: u32| U32::new((pins >> (32 * n)) as u32);
        Self {
            address: U64::new(address),
            id: U32::new(id),
            pin_base: U32::new(0),
            pin_bitmap: [word(0), word(1), word(2), word(3)],
        }
    }

    /// Whether the cell owns `pin`.
    #[must_use]
    pub fn owns_pin(&self, pin: u32) -> bool {
        let Some(bit) = pin.checked_sub(self.pin_base.get()) else {
            return false;
        };
        match self.pin_bitmap.get(bit as usize / 32) {
            Some(word) => word.get() & (1 << (bit % 32)) != 0,
            None => false,
        }
    }
}

/// A range of I/O ports, 4 bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct PortRange {
    base: U16,
    length: U16,
}

impl PortRange {
    /// `length` ports from `base` on.
    #[must_use]
    pub const fn new(base: u16, length: u16) -> Self {
        Self { base: U16::new(base), length: U16::new(length) }
    }

    /// First port.
    #[must_use]
    pub const fn base(&self) -> u16 {
        self.base.get()
    }

    /// Number of ports.
    #[must_use]
    pub const fn length(&self) -> u16 {
        self.length.get()
    }

    /// First port behind the range; may be 0x10000 or, in a wrong configuration, more.
    #[must_use]
    pub const fn end(&self) -> u32 {
        self.base.get() as u32 + self.length.get() as u32
    }
}

const _: () = {
    use core::mem::offset_of;
    assert!(size_of::<Console>() == 32);
    assert!(size_of::<CellDescriptor>() == 132);
    assert!(offset_of!(CellDescriptor, id) == 0x28 && offset_of!(CellDescriptor, num_irqchips) == 0x3c);
    assert!(offset_of!(CellDescriptor, cpu_reset_address) == 0x54 && offset_of!(CellDescriptor, console) == 0x64);
    assert!(size_of::<Memory>() == 32);
    assert!(size_of::<Cache>() == 12);
    assert!(size_of::<IrqChip>() == 32);
    assert!(size_of::<PortRange>() == 4);
};
