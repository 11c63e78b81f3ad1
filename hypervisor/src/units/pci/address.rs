//! From ports and memory addresses to configuration space addresses.

/// Port of the address register.
pub const ADDRESS_PORT: u16 = 0xcf8;
/// First of the four data ports.
pub const DATA_PORT: u16 = 0xcfc;

const ENABLE: u32 = 1 << 31;
const RESERVED: u32 = 0x7f00_0000;

/// A place in configuration space: 1, 2 or 4 bytes inside a dword.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ConfigAddress {
    /// Bus, device, function.
    pub bdf: u16,
    /// Offset, below 0x1000.
    pub offset: u16,
    /// Bytes.
    pub size: u8,
}

impl ConfigAddress {
    /// A place, if it lies inside one dword of the function's 4 KiB.
    #[must_use]
    pub const fn new(bdf: u16, offset: u16, size: u8) -> Option<Self> {
        let fits = matches!(size, 1 | 2 | 4) && (offset & 3) + size as u16 <= 4 && offset < 0x1000;
        if fits { Some(Self { bdf, offset, size }) } else { None }
    }

    /// A whole dword.
    #[must_use]
    pub const fn dword(bdf: u16, offset: u16) -> Self {
        Self { bdf, offset: offset & 0xffc, size: 4 }
    }

    /// All-ones of the size of the access: what nobody answers.
    #[must_use]
    pub const fn ones(self) -> u32 {
        u32::MAX >> (32 - 8 * self.size as u32)
    }

    /// Bits to shift between the dword and the access.
    #[must_use]
    pub const fn shift(self) -> u32 {
        8 * (self.offset & 3) as u32
    }

    /// The dword's offset.
    #[must_use]
    pub const fn dword_offset(self) -> u16 {
        self.offset & !3
    }

    /// Value for port 0xcf8 that selects the dword; only the first 256 bytes can be reached so.
    #[must_use]
    pub const fn port_value(self) -> u32 {
        ENABLE | (self.bdf as u32) << 8 | (self.dword_offset() as u32 & 0xfc)
    }
}

/// What an access to one of the eight ports means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PortAccess {
    /// The address register was written.
    Latched,
    /// The address register reads as this.
    Address(u32),
    /// An access to configuration space.
    Config(ConfigAddress),
    /// The data ports, but no function is selected: reads all-ones, writes nothing.
    Nowhere,
    /// Not configuration space: an ordinary port (0xcf9 resets the machine), subject to the cell's port ranges.
    OtherPort,
}

/// A cell's address register. The machine's own is used only during an access that is passed through.
#[derive(Clone, Copy, Debug, Default)]
pub struct AddressPort {
    latch: u32,
}

impl AddressPort {
    /// As after a reset.
    #[must_use]
    pub const fn new() -> Self {
        Self { latch: 0 }
    }

    /// Decodes an access of `size` bytes to `port`; `write` is the value written, `None` for a read.
    pub const fn access(&mut self, port: u16, size: u8, write: Option<u32>) -> PortAccess {
        match (port, size, write) {
            (ADDRESS_PORT, 4, Some(value)) => {
                self.latch = value;
                PortAccess::Latched
            }
            (ADDRESS_PORT, 4, None) => PortAccess::Address(self.latch),
            (DATA_PORT..=0xcff, ..) => {
                let offset = (self.latch & 0xfc) as u16 | (port & 3);
                let bdf = (self.latch >> 8 & 0xffff) as u16;
                let selected = self.latch & (ENABLE | RESERVED) == ENABLE;
                match ConfigAddress::new(bdf, offset, size) {
                    Some(address) if selected => PortAccess::Config(address),
                    _ => PortAccess::Nowhere,
                }
            }
            _ => PortAccess::OtherPort,
        }
    }
}

/// The memory-mapped window.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Mmconfig {
    base: u64,
    size: u64,
}

impl Mmconfig {
    /// A window at `base` for buses 0 to `end_bus`.
    #[must_use]
    pub const fn new(base: u64, end_bus: u8) -> Self {
        Self { base, size: (end_bus as u64 + 1) << 20 }
    }

    /// Its address.
    #[must_use]
    pub const fn base(&self) -> u64 {
        self.base
    }

    /// Its size.
    #[must_use]
    pub const fn size(&self) -> u64 {
        self.size
    }

    /// Whether `address` lies in the window.
    #[must_use]
    pub const fn contains(&self, address: u64) -> bool {
        address >= self.base && address - self.base < self.size
    }

    /// The place that an access means; `None` outside of the window, and for accesses across a dword (reads
    /// all-ones, writes nothing).
    #[must_use]
    pub const fn decode(&self, address: u64, size: u8) -> Option<ConfigAddress> {
        if !self.contains(address) {
            return None;
        }
        let offset = address - self.base;
        ConfigAddress::new((offset >> 12) as u16, (offset & 0xfff) as u16, size)
    }

    /// Machine address of a place.
    #[must_use]
    pub const fn address_of(&self, at: ConfigAddress) -> u64 {
        self.base + ((at.bdf as u64) << 12) + at.offset as u64
    }
}
