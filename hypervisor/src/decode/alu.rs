//! Arithmetic of instructions that combine memory with a register or a constant.

use super::{sign_extend, truncate};

/// Carry flag.
const CF: u64 = 1 << 0;
/// Parity flag.
const PF: u64 = 1 << 2;
/// Auxiliary carry flag.
const AF: u64 = 1 << 4;
/// Zero flag.
const ZF: u64 = 1 << 6;
/// Sign flag.
const SF: u64 = 1 << 7;
/// Overflow flag.
const OF: u64 = 1 << 11;

/// An operation on two operands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Alu {
    /// a + b
    Add,
    /// a | b
    Or,
    /// a + b + carry
    AddCarry,
    /// a - b - carry
    SubBorrow,
    /// a & b
    And,
    /// a - b
    Sub,
    /// a ^ b
    Xor,
    /// Flags of a - b.
    Compare,
    /// Flags of a & b.
    Test,
    /// Carry := bit b of a.
    BitTest,
    /// The same, then set it.
    BitSet,
    /// The same, then clear it.
    BitReset,
    /// The same, then flip it.
    BitComplement,
}

impl Alu {
    /// The operation behind bits 3..6 of the opcode, or the register field of an immediate form.
    pub(super) const fn from_group(number: u8) -> Self {
        match number & 7 {
            0 => Self::Add,
            1 => Self::Or,
            2 => Self::AddCarry,
            3 => Self::SubBorrow,
            4 => Self::And,
            5 => Self::Sub,
            6 => Self::Xor,
            _ => Self::Compare,
        }
    }

    /// The operation behind the register field of opcode 0x0fba.
    pub(super) const fn from_bit_group(number: u8) -> Option<Self> {
        match number {
            4 => Some(Self::BitTest),
            5 => Some(Self::BitSet),
            6 => Some(Self::BitReset),
            7 => Some(Self::BitComplement),
            _ => None,
        }
    }

    /// Whether there is a result to write back, and not only flags.
    #[must_use]
    pub const fn has_result(self) -> bool {
        !matches!(self, Self::Compare | Self::Test | Self::BitTest)
    }

    /// Result (of `a op b`, on `size` bytes) and flags register. Without a result to write, the first is `a`.
    #[must_use]
    pub fn apply(self, a: u64, b: u64, size: u8, flags: u64) -> (u64, u64) {
        let (a, b) = (truncate(a, size), truncate(b, size));
        let carry = flags & CF;
        match self {
            Self::Add => add(a, b, 0, size, flags),
            Self::AddCarry => add(a, b, carry, size, flags),
            Self::Sub => sub(a, b, 0, size, flags),
            Self::SubBorrow => sub(a, b, carry, size, flags),
            Self::Compare => (a, sub(a, b, 0, size, flags).1),
            Self::Or => logic(a | b, size, flags),
            Self::And => logic(a & b, size, flags),
            Self::Xor => logic(a ^ b, size, flags),
            Self::Test => (a, logic(a & b, size, flags).1),
            Self::BitTest => (a, bit_flags(a, b, flags)),
            Self::BitSet => (a | bit(b), bit_flags(a, b, flags)),
            Self::BitReset => (a & !bit(b), bit_flags(a, b, flags)),
            Self::BitComplement => (a ^ bit(b), bit_flags(a, b, flags)),
        }
    }
}

const fn bit(number: u64) -> u64 {
    1 << (number & 63)
}

const fn bit_flags(a: u64, number: u64, flags: u64) -> u64 {
    flags & !CF | (a & bit(number) != 0) as u64
}

/// Sign, zero and parity of a result, and whatever the caller found out.
fn flags_of(result: u64, size: u8, others: u64, old: u64) -> u64 {
    let mut flags = old & !(CF | PF | AF | ZF | SF | OF) | others;
    if result == 0 {
        flags |= ZF;
    }
    if sign_extend(result, size) >> 63 != 0 {
        flags |= SF;
    }
    if (result as u8).count_ones().is_multiple_of(2) {
        flags |= PF;
    }
    flags
}

const fn when(condition: bool, flag: u64) -> u64 {
    if condition { flag } else { 0 }
}

const fn top_bit(value: u64, size: u8) -> bool {
    sign_extend(value, size) >> 63 != 0
}

fn add(a: u64, b: u64, carry: u64, size: u8, flags: u64) -> (u64, u64) {
    let wide = u128::from(a) + u128::from(b) + u128::from(carry);
    let result = truncate(wide as u64, size);
    let others = when(wide >> (8 * u32::from(size)) != 0, CF)
        | when((a ^ b ^ result) & 0x10 != 0, AF)
        | when(top_bit((a ^ result) & (b ^ result), size), OF);
    (result, flags_of(result, size, others, flags))
}

fn sub(a: u64, b: u64, borrow: u64, size: u8, flags: u64) -> (u64, u64) {
    let result = truncate(a.wrapping_sub(b).wrapping_sub(borrow), size);
    let others = when(u128::from(a) < u128::from(b) + u128::from(borrow), CF)
        | when((a ^ b ^ result) & 0x10 != 0, AF)
        | when(top_bit((a ^ b) & (a ^ result), size), OF);
    (result, flags_of(result, size, others, flags))
}

fn logic(result: u64, size: u8, flags: u64) -> (u64, u64) {
    (result, flags_of(result, size, 0, flags))
}
