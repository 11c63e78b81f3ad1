//! Parts of general registers, and values of a size.

/// A part of a general register.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Register {
    /// Register number as encoded: 0 is RAX, 4 is RSP, 15 is R15.
    pub index: u8,
    /// Bytes: 1, 2, 4 or 8.
    pub size: u8,
    /// One byte, but bits 8..16 (AH, CH, DH, BH).
    pub high: bool,
}

/// How a loaded value fills a wider register.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Extend {
    /// With zeros.
    Zero,
    /// With the sign bit.
    Sign,
}

/// The low `size` bytes of a value.
#[must_use]
pub const fn truncate(value: u64, size: u8) -> u64 {
    match size {
        1 => value & 0xff,
        2 => value & 0xffff,
        4 => value & 0xffff_ffff,
        _ => value,
    }
}

/// The low `size` bytes of a value, with the sign bit copied upwards.
#[must_use]
pub const fn sign_extend(value: u64, size: u8) -> u64 {
    match size {
        1 => value as i8 as u64,
        2 => value as i16 as u64,
        4 => value as i32 as u64,
        _ => value,
    }
}

impl Register {
    /// The part's value, given the whole register.
    #[must_use]
    pub const fn read(self, whole: u64) -> u64 {
        if self.high { whole >> 8 & 0xff } else { truncate(whole, self.size) }
    }

    /// The whole register after `value` was written to the part: bytes and words leave the rest alone, 32 bits
    /// clear the upper half.
    #[must_use]
    pub const fn write(self, whole: u64, value: u64) -> u64 {
        match (self.size, self.high) {
            (1, true) => whole & !0xff00 | (value & 0xff) << 8,
            (1, false) => whole & !0xff | value & 0xff,
            (2, _) => whole & !0xffff | value & 0xffff,
            (4, _) => value & 0xffff_ffff,
            _ => value,
        }
    }

    /// The whole register after an [`super::Access::Load`] of `size` bytes.
    #[must_use]
    pub const fn load(self, whole: u64, value: u64, size: u8, extend: Extend) -> u64 {
        let value = match extend {
            Extend::Zero => truncate(value, size),
            Extend::Sign => sign_extend(value, size),
        };
        self.write(whole, value)
    }
}
