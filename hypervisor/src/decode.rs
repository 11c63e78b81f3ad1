//! Decoder for guest instructions that touch emulated memory.
//!
//! A pure function of instruction bytes and code size: [`decode`] tells the length of the instruction and what
//! it does with its memory operand ([`Access`]); the address is not computed, the nested page fault reports it.
//! Whoever emulates the access moves values in and out of guest registers with [`Register::read`],
//! [`Register::load`] and, for arithmetic, [`Alu::apply`].
//!
//! Known are the moves between memory and a register or an immediate, with and without extension, string
//! stores, exchanges, and the arithmetic that compilers fold into memory operands. Everything else is
//! [`DecodeError::Unsupported`]. Guest memory is hostile: any bytes give a result, never a panic.

mod alu;
mod register;
#[cfg(test)]
mod tests;

pub use alu::Alu;
pub use register::{Extend, Register, sign_extend, truncate};

/// Longest instruction.
pub const MAX_LENGTH: usize = 15;

/// Default operand and address size of the code segment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CodeSize {
    /// Real mode, virtual 8086 mode, 16-bit segments.
    Bits16,
    /// 32-bit segments.
    Bits32,
    /// Long mode, 64-bit segments.
    Bits64,
}

/// Why bytes could not be decoded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DecodeError {
    /// More bytes are needed.
    Truncated,
    /// Not an instruction that we emulate; with the opcode (0x0f00 + second byte for two-byte opcodes).
    Unsupported(u16),
    /// An instruction that we know, but without a memory operand.
    NoMemory,
}

/// Where a stored or combined value comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Source {
    /// A register, of the size of the access.
    Register(Register),
    /// A constant, already cut to the size of the access.
    Immediate(u64),
}

/// What an instruction does with its memory operand.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// Memory to register; the register may be wider than the access.
    Load {
        /// Destination.
        to: Register,
        /// How it is filled.
        extend: Extend,
    },
    /// Register or constant to memory.
    Store(Source),
    /// STOS: the accumulator to memory at RDI, which then moves by the size of the access, down if the
    /// direction flag is set. With `repeat`, RCX counts: do one, then stay on the instruction until RCX is 0.
    StoreString {
        /// The accumulator.
        from: Register,
        /// With a repeat prefix.
        repeat: bool,
        /// Bytes of RDI and RCX that take part.
        address_size: u8,
    },
    /// Swap memory and register.
    Exchange(Register),
    /// Read, combine, write back; sets flags. [`Alu::Compare`] and [`Alu::Test`] do not write.
    Modify {
        /// Operation; memory is its first operand.
        op: Alu,
        /// Second operand.
        operand: Source,
    },
    /// Register := register `op` memory; sets flags. [`Alu::Compare`] leaves the register.
    Combine {
        /// Operation; the register is its first operand.
        op: Alu,
        /// First operand and destination.
        to: Register,
    },
}

/// A decoded instruction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Instruction {
    /// Bytes of the instruction.
    pub length: u8,
    /// Bytes of the memory access: 1, 2, 4 or 8.
    pub size: u8,
    /// What it does.
    pub access: Access,
}

impl Instruction {
    /// Whether memory is read.
    #[must_use]
    pub const fn reads(&self) -> bool {
        !matches!(self.access, Access::Store(_) | Access::StoreString { .. })
    }

    /// Whether memory is written.
    #[must_use]
    pub const fn writes(&self) -> bool {
        match self.access {
            Access::Load { .. } | Access::Combine { .. } => false,
            Access::Modify { op, .. } => op.has_result(),
            Access::Store(_) | Access::StoreString { .. } | Access::Exchange(_) => true,
        }
    }
}

/// Reads bytes one after the other, 15 at most.
struct Bytes<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl Bytes<'_> {
    fn next(&mut self) -> Result<u8, DecodeError> {
        let byte = *self.bytes.get(self.at).ok_or(DecodeError::Truncated)?;
        self.at += 1;
        Ok(byte)
    }

    /// A little-endian value of `size` bytes.
    fn value(&mut self, size: u8) -> Result<u64, DecodeError> {
        let mut value = 0;
        for n in 0..size {
            value |= u64::from(self.next()?) << (8 * u32::from(n));
        }
        Ok(value)
    }
}

#[derive(Clone, Copy, Default)]
struct Prefixes {
    operand_size: bool,
    address_size: bool,
    repeat: bool,
    lock: bool,
    rex: Option<u8>,
}

/// A ModRM byte with its memory operand skipped.
struct ModRm {
    /// The register field with REX.R; in a group, the low three bits choose the operation.
    reg: u8,
}

struct Decoder<'a> {
    bytes: Bytes<'a>,
    code: CodeSize,
    prefixes: Prefixes,
}

/// Decodes the instruction at the start of `bytes`; more than 15 bytes are not looked at.
pub fn decode(bytes: &[u8], code: CodeSize) -> Result<Instruction, DecodeError> {
    let bytes = Bytes { bytes: &bytes[..bytes.len().min(MAX_LENGTH)], at: 0 };
    let mut decoder = Decoder { bytes, code, prefixes: Prefixes::default() };
    let opcode = decoder.prefixes()?;
    let (size, access) = decoder.instruction(opcode)?;
    // LOCK is an undefined opcode on everything that does not read and write.
    let locked_badly = decoder.prefixes.lock
        && !matches!(access, Access::Exchange(_))
        && !matches!(access, Access::Modify { op, .. } if op.has_result());
    if locked_badly {
        return Err(DecodeError::Unsupported(opcode.into()));
    }
    // Cannot be cut: at most 15 bytes were given.
    Ok(Instruction { length: decoder.bytes.at as u8, size, access })
}

impl Decoder<'_> {
    /// Skips the prefixes and gives the first opcode byte.
    fn prefixes(&mut self) -> Result<u8, DecodeError> {
        loop {
            let byte = self.bytes.next()?;
            match byte {
                0x26 | 0x2e | 0x36 | 0x3e | 0x64 | 0x65 => {}
                0x66 => self.prefixes.operand_size = true,
                0x67 => self.prefixes.address_size = true,
                0xf0 => self.prefixes.lock = true,
                0xf2 | 0xf3 => self.prefixes.repeat = true,
                0x40..=0x4f if self.code == CodeSize::Bits64 => {
                    self.prefixes.rex = Some(byte);
                    continue;
                }
                _ => return Ok(byte),
            }
            // REX counts only right before the opcode.
            self.prefixes.rex = None;
        }
    }

    fn rex(&self, bit: u8) -> u8 {
        self.prefixes.rex.map_or(0, |rex| rex >> bit & 1)
    }

    /// Operand size of instructions that are not about bytes.
    fn operand_size(&self) -> u8 {
        match (self.code, self.prefixes.operand_size) {
            (CodeSize::Bits64, _) if self.rex(3) == 1 => 8,
            (CodeSize::Bits16, false) | (CodeSize::Bits32 | CodeSize::Bits64, true) => 2,
            _ => 4,
        }
    }

    fn address_size(&self) -> u8 {
        match (self.code, self.prefixes.address_size) {
            (CodeSize::Bits64, false) => 8,
            (CodeSize::Bits64, true) | (CodeSize::Bits32, false) | (CodeSize::Bits16, true) => 4,
            (CodeSize::Bits32, true) | (CodeSize::Bits16, false) => 2,
        }
    }

    /// Register `index` as an operand of `size` bytes.
    fn register(&self, index: u8, size: u8) -> Register {
        let high = size == 1 && self.prefixes.rex.is_none() && (4..8).contains(&index);
        Register { index: if high { index - 4 } else { index }, size, high }
    }

    /// Reads ModRM and skips SIB and displacement.
    fn modrm(&mut self) -> Result<ModRm, DecodeError> {
        let byte = self.bytes.next()?;
        let (mode, rm) = (byte >> 6, byte & 7);
        if mode == 3 {
            return Err(DecodeError::NoMemory);
        }
        let displacement = if self.address_size() == 2 {
            match (mode, rm) {
                (0, 6) | (2, _) => 2,
                (1, _) => 1,
                _ => 0,
            }
        } else {
            let base = if rm == 4 { self.bytes.next()? & 7 } else { rm };
            match (mode, base) {
                (0, 5) | (2, _) => 4,
                (1, _) => 1,
                _ => 0,
            }
        };
        self.bytes.value(displacement)?;
        Ok(ModRm { reg: (byte >> 3 & 7) | self.rex(2) << 3 })
    }

    /// An immediate for an operand of `size` bytes: four bytes at most, extended with the sign.
    fn immediate(&mut self, size: u8) -> Result<Source, DecodeError> {
        let encoded = size.min(4);
        let value = self.bytes.value(encoded)?;
        Ok(Source::Immediate(truncate(sign_extend(value, encoded), size)))
    }

    fn instruction(&mut self, opcode: u8) -> Result<(u8, Access), DecodeError> {
        let unsupported = DecodeError::Unsupported(opcode.into());
        // In most groups the lowest opcode bit tells bytes from the operand size.
        let size = if opcode & 1 == 0 { 1 } else { self.operand_size() };
        Ok(match opcode {
            0x0f => return self.two_byte(),
            0x88 | 0x89 => {
                let reg = self.modrm()?.reg;
                (size, Access::Store(Source::Register(self.register(reg, size))))
            }
            0x8a | 0x8b => {
                let reg = self.modrm()?.reg;
                (size, Access::Load { to: self.register(reg, size), extend: Extend::Zero })
            }
            0xc6 | 0xc7 => {
                if self.modrm()?.reg & 7 != 0 {
                    return Err(unsupported);
                }
                (size, Access::Store(self.immediate(size)?))
            }
            // Accumulator and absolute address.
            0xa0..=0xa3 => {
                self.bytes.value(self.address_size())?;
                let accumulator = self.register(0, size);
                let load = Access::Load { to: accumulator, extend: Extend::Zero };
                (size, if opcode < 0xa2 { load } else { Access::Store(Source::Register(accumulator)) })
            }
            0xaa | 0xab => {
                let address_size = self.address_size();
                let from = self.register(0, size);
                (size, Access::StoreString { from, repeat: self.prefixes.repeat, address_size })
            }
            // MOVSXD; without REX.W or with 0x66 it is a plain load of the operand size.
            0x63 if self.code == CodeSize::Bits64 => {
                let reg = self.modrm()?.reg;
                let to = self.operand_size();
                (to.min(4), Access::Load { to: self.register(reg, to), extend: Extend::Sign })
            }
            0x86 | 0x87 => {
                let reg = self.modrm()?.reg;
                (size, Access::Exchange(self.register(reg, size)))
            }
            // ADD, OR, ADC, SBB, AND, SUB, XOR, CMP between register and memory.
            0x00..=0x3f if opcode & 7 < 4 => {
                let op = Alu::from_group(opcode >> 3);
                let reg = self.modrm()?.reg;
                let register = self.register(reg, size);
                let to_register = opcode & 2 != 0;
                (
                    size,
                    match to_register {
                        true => Access::Combine { op, to: register },
                        false => Access::Modify { op, operand: Source::Register(register) },
                    },
                )
            }
            // The same with an immediate; 0x83 extends a byte.
            0x80 | 0x81 | 0x83 => {
                let op = Alu::from_group(self.modrm()?.reg & 7);
                let operand = if opcode == 0x83 {
                    Source::Immediate(truncate(sign_extend(self.bytes.value(1)?, 1), size))
                } else {
                    self.immediate(size)?
                };
                (size, Access::Modify { op, operand })
            }
            0x84 | 0x85 => {
                let reg = self.modrm()?.reg;
                let operand = Source::Register(self.register(reg, size));
                (size, Access::Modify { op: Alu::Test, operand })
            }
            0xf6 | 0xf7 => {
                if self.modrm()?.reg & 7 != 0 {
                    return Err(unsupported);
                }
                (size, Access::Modify { op: Alu::Test, operand: self.immediate(size)? })
            }
            _ => return Err(unsupported),
        })
    }

    fn two_byte(&mut self) -> Result<(u8, Access), DecodeError> {
        let opcode = self.bytes.next()?;
        let unsupported = DecodeError::Unsupported(0x0f00 | u16::from(opcode));
        let operand_size = self.operand_size();
        match opcode {
            // MOVZX, MOVSX.
            0xb6 | 0xb7 | 0xbe | 0xbf => {
                let size = if opcode & 1 == 0 { 1 } else { 2 };
                let extend = if opcode < 0xb8 { Extend::Zero } else { Extend::Sign };
                let reg = self.modrm()?.reg;
                Ok((size, Access::Load { to: self.register(reg, operand_size), extend }))
            }
            // MOVNTI.
            0xc3 if operand_size != 2 && !self.prefixes.repeat => {
                let reg = self.modrm()?.reg;
                Ok((operand_size, Access::Store(Source::Register(self.register(reg, operand_size)))))
            }
            // BT with an immediate bit number: a test of one bit.
            0xba => {
                let reg = self.modrm()?.reg & 7;
                let bit = self.bytes.value(1)? & (u64::from(operand_size) * 8 - 1);
                let op = Alu::from_bit_group(reg).ok_or(unsupported)?;
                Ok((operand_size, Access::Modify { op, operand: Source::Immediate(bit) }))
            }
            _ => Err(unsupported),
        }
    }
}
