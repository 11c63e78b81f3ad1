//! Hand-assembled bytes, and bytes from nowhere.

use proptest::prelude::*;

use super::CodeSize::{Bits16, Bits32, Bits64};
use super::*;

fn reg(index: u8, size: u8) -> Register {
    Register { index, size, high: false }
}

fn high(index: u8) -> Register {
    Register { index, size: 1, high: true }
}

fn store(index: u8, size: u8) -> Access {
    Access::Store(Source::Register(reg(index, size)))
}

fn load(index: u8, size: u8) -> Access {
    Access::Load { to: reg(index, size), extend: Extend::Zero }
}

fn constant(value: u64) -> Access {
    Access::Store(Source::Immediate(value))
}

/// Checks one instruction: alone, with bytes behind it, and cut at every place.
#[track_caller]
fn check(code: CodeSize, bytes: &[u8], size: u8, access: Access) {
    let expected = Instruction { length: bytes.len() as u8, size, access };
    assert_eq!(decode(bytes, code), Ok(expected), "{bytes:02x?}");
    let mut longer = bytes.to_vec();
    longer.resize(32, 0xcc);
    assert_eq!(decode(&longer, code), Ok(expected), "{bytes:02x?} and more");
    for cut in 0..bytes.len() {
        assert_eq!(decode(&bytes[..cut], code), Err(DecodeError::Truncated), "{bytes:02x?} cut at {cut}");
    }
}

#[test]
fn plain_moves_of_all_sizes() {
    check(Bits64, &[0x88, 0x08], 1, store(1, 1)); // mov [rax], cl
    check(Bits64, &[0x66, 0x89, 0x08], 2, store(1, 2)); // mov [rax], cx
    check(Bits64, &[0x89, 0x08], 4, store(1, 4)); // mov [rax], ecx
    check(Bits64, &[0x48, 0x89, 0x08], 8, store(1, 8)); // mov [rax], rcx
    check(Bits64, &[0x8a, 0x11], 1, load(2, 1)); // mov dl, [rcx]
    check(Bits64, &[0x66, 0x8b, 0x11], 2, load(2, 2)); // mov dx, [rcx]
    check(Bits64, &[0x8b, 0x11], 4, load(2, 4)); // mov edx, [rcx]
    check(Bits64, &[0x48, 0x8b, 0x11], 8, load(2, 8)); // mov rdx, [rcx]
    check(Bits32, &[0x89, 0x08], 4, store(1, 4));
    check(Bits32, &[0x66, 0x89, 0x08], 2, store(1, 2));
    check(Bits16, &[0x89, 0x07], 2, store(0, 2)); // mov [bx], ax
    check(Bits16, &[0x66, 0x89, 0x07], 4, store(0, 4)); // mov [bx], eax
}

#[test]
fn extended_registers_and_byte_registers() {
    check(Bits64, &[0x44, 0x89, 0x00], 4, store(8, 4)); // mov [rax], r8d
    check(Bits64, &[0x45, 0x8b, 0x3e], 4, load(15, 4)); // mov r15d, [r14]
    check(Bits64, &[0x4c, 0x8b, 0x38], 8, load(15, 8)); // mov r15, [rax]
    check(Bits64, &[0x40, 0x88, 0x30], 1, store(6, 1)); // mov [rax], sil
    check(Bits64, &[0x88, 0x30], 1, Access::Store(Source::Register(high(2)))); // mov [rax], dh
    check(Bits32, &[0x8a, 0x20], 1, Access::Load { to: high(0), extend: Extend::Zero }); // mov ah, [eax]
    check(Bits64, &[0x40, 0x8a, 0x20], 1, load(4, 1)); // mov spl, [rax]
}

#[test]
fn immediates() {
    check(Bits64, &[0xc6, 0x00, 0x80], 1, constant(0x80)); // mov byte [rax], 0x80
    check(Bits64, &[0x66, 0xc7, 0x00, 0x34, 0x12], 2, constant(0x1234));
    check(Bits64, &[0xc7, 0x00, 0x78, 0x56, 0x34, 0x92], 4, constant(0x9234_5678));
    check(Bits64, &[0x48, 0xc7, 0x00, 0xff, 0xff, 0xff, 0xff], 8, constant(u64::MAX));
    check(Bits64, &[0x48, 0xc7, 0x00, 0xff, 0xff, 0xff, 0x7f], 8, constant(0x7fff_ffff));
    check(Bits16, &[0xc7, 0x06, 0x00, 0x10, 0x34, 0x12], 2, constant(0x1234)); // mov word [0x1000], 0x1234
    check(Bits16, &[0x66, 0xc7, 0x07, 4, 3, 2, 1], 4, constant(0x0102_0304));
    // mov dword [rip+0x12345678], 1: the displacement comes before the constant.
    check(Bits64, &[0xc7, 0x05, 0x78, 0x56, 0x34, 0x12, 1, 0, 0, 0], 4, constant(1));
}

#[test]
fn every_addressing_form_has_its_length() {
    // 32- and 64-bit addressing.
    check(Bits64, &[0x8b, 0x40, 0x10], 4, load(0, 4)); // [rax+0x10]
    check(Bits64, &[0x8b, 0x80, 0, 0, 1, 0], 4, load(0, 4)); // [rax+0x10000]
    check(Bits64, &[0x8b, 0x05, 0, 0, 1, 0], 4, load(0, 4)); // [rip+0x10000]
    check(Bits32, &[0x8b, 0x05, 0, 0, 0xe0, 0xfe], 4, load(0, 4)); // [0xfee00000]
    check(Bits64, &[0x8b, 0x04, 0x08], 4, load(0, 4)); // [rax+rcx]
    check(Bits64, &[0x8b, 0x44, 0x88, 0x04], 4, load(0, 4)); // [rax+rcx*4+4]
    check(Bits64, &[0x8b, 0x84, 0x88, 0, 0, 1, 0], 4, load(0, 4)); // [rax+rcx*4+0x10000]
    check(Bits64, &[0x8b, 0x04, 0x25, 0, 0, 0xe0, 0x7e], 4, load(0, 4)); // [0x7ee00000]
    check(Bits64, &[0x8b, 0x04, 0x8d, 0, 0, 1, 0], 4, load(0, 4)); // [rcx*4+0x10000]
    check(Bits64, &[0x8b, 0x44, 0x25, 0x08], 4, load(0, 4)); // [rbp+0x8], base 5 with displacement
    check(Bits64, &[0x8b, 0x45, 0x00], 4, load(0, 4)); // [rbp]
    check(Bits64, &[0x8b, 0x04, 0x24], 4, load(0, 4)); // [rsp]
    check(Bits64, &[0x41, 0x8b, 0x45, 0x00], 4, load(0, 4)); // [r13]
    check(Bits64, &[0x41, 0x8b, 0x04, 0x24], 4, load(0, 4)); // [r12]
    check(Bits64, &[0x67, 0x8b, 0x40, 0x10], 4, load(0, 4)); // [eax+0x10]
    // 16-bit addressing.
    check(Bits16, &[0x8b, 0x07], 2, load(0, 2)); // [bx]
    check(Bits16, &[0x8b, 0x06, 0x34, 0x12], 2, load(0, 2)); // [0x1234]
    check(Bits16, &[0x8b, 0x46, 0x02], 2, load(0, 2)); // [bp+2]
    check(Bits16, &[0x8b, 0x87, 0, 1], 2, load(0, 2)); // [bx+0x100]
    check(Bits16, &[0x8b, 0x04], 2, load(0, 2)); // [si]: no SIB in 16-bit addressing
    check(Bits32, &[0x67, 0x8b, 0x06, 0x34, 0x12], 4, load(0, 4));
    check(Bits16, &[0x67, 0x66, 0x8b, 0x04, 0x24], 4, load(0, 4)); // [esp]
}

#[test]
fn the_register_field_is_complete() {
    for (rex, offset) in [(0x40, 0), (0x44, 8)] {
        for index in 0..8u8 {
            check(Bits64, &[rex, 0x8b, index << 3], 4, load(index + offset, 4));
            check(Bits64, &[rex, 0x88, index << 3], 1, store(index + offset, 1));
            check(Bits64, &[rex | 8, 0x89, index << 3], 8, store(index + offset, 8));
        }
    }
}

#[test]
fn accumulator_and_absolute_address() {
    check(Bits64, &[0xa1, 1, 2, 3, 4, 5, 6, 7, 8], 4, load(0, 4));
    check(Bits64, &[0xa0, 1, 2, 3, 4, 5, 6, 7, 8], 1, load(0, 1));
    check(Bits64, &[0x48, 0xa3, 1, 2, 3, 4, 5, 6, 7, 8], 8, store(0, 8));
    check(Bits64, &[0x67, 0xa3, 1, 2, 3, 4], 4, store(0, 4));
    check(Bits32, &[0xa3, 1, 2, 3, 4], 4, store(0, 4));
    check(Bits32, &[0xa2, 1, 2, 3, 4], 1, store(0, 1));
    check(Bits16, &[0xa1, 1, 2], 2, load(0, 2));
    check(Bits32, &[0x66, 0xa1, 1, 2, 3, 4], 2, load(0, 2));
}

#[test]
fn extending_loads() {
    let extended = |index, size, extend| Access::Load { to: reg(index, size), extend };
    check(Bits64, &[0x0f, 0xb6, 0x00], 1, extended(0, 4, Extend::Zero)); // movzx eax, byte [rax]
    check(Bits64, &[0x0f, 0xb7, 0x00], 2, extended(0, 4, Extend::Zero)); // movzx eax, word [rax]
    check(Bits64, &[0x48, 0x0f, 0xb6, 0x18], 1, extended(3, 8, Extend::Zero));
    check(Bits64, &[0x66, 0x0f, 0xb6, 0x18], 1, extended(3, 2, Extend::Zero));
    check(Bits64, &[0x0f, 0xbe, 0x00], 1, extended(0, 4, Extend::Sign)); // movsx
    check(Bits64, &[0x4c, 0x0f, 0xbf, 0x00], 2, extended(8, 8, Extend::Sign));
    check(Bits64, &[0x48, 0x63, 0x00], 4, extended(0, 8, Extend::Sign)); // movsxd rax, dword [rax]
    check(Bits64, &[0x63, 0x00], 4, extended(0, 4, Extend::Sign));
    check(Bits16, &[0x0f, 0xb6, 0x07], 1, extended(0, 2, Extend::Zero));
    assert_eq!(decode(&[0x63, 0x00], Bits32), Err(DecodeError::Unsupported(0x63))); // ARPL there
}

#[test]
fn other_stores() {
    check(Bits64, &[0x0f, 0xc3, 0x00], 4, store(0, 4)); // movnti [rax], eax
    check(Bits64, &[0x48, 0x0f, 0xc3, 0x00], 8, store(0, 8));
    assert_eq!(decode(&[0x66, 0x0f, 0xc3, 0x00], Bits64), Err(DecodeError::Unsupported(0x0fc3)));
    let string = |size, repeat, address_size| Access::StoreString { from: reg(0, size), repeat, address_size };
    check(Bits64, &[0xaa], 1, string(1, false, 8));
    check(Bits64, &[0xf3, 0xab], 4, string(4, true, 8));
    check(Bits64, &[0xf3, 0x48, 0xab], 8, string(8, true, 8));
    check(Bits16, &[0xab], 2, string(2, false, 2));
    check(Bits32, &[0xf3, 0xab], 4, string(4, true, 4));
    check(Bits64, &[0x87, 0x08], 4, Access::Exchange(reg(1, 4))); // xchg [rax], ecx
    check(Bits64, &[0x86, 0x28], 1, Access::Exchange(high(1))); // xchg [rax], ch
}

#[test]
fn arithmetic() {
    let modify = |op, operand| Access::Modify { op, operand };
    let r = |index, size| Source::Register(reg(index, size));
    let i = Source::Immediate;
    check(Bits64, &[0x01, 0x08], 4, modify(Alu::Add, r(1, 4))); // add [rax], ecx
    check(Bits64, &[0x08, 0x08], 1, modify(Alu::Or, r(1, 1))); // or [rax], cl
    check(Bits64, &[0x03, 0x08], 4, Access::Combine { op: Alu::Add, to: reg(1, 4) }); // add ecx, [rax]
    check(Bits64, &[0x3b, 0x08], 4, Access::Combine { op: Alu::Compare, to: reg(1, 4) }); // cmp ecx, [rax]
    check(Bits64, &[0x48, 0x39, 0x08], 8, modify(Alu::Compare, r(1, 8))); // cmp [rax], rcx
    check(Bits64, &[0x80, 0x08, 0x01], 1, modify(Alu::Or, i(1))); // or byte [rax], 1
    check(Bits64, &[0x83, 0x20, 0xfe], 4, modify(Alu::And, i(0xffff_fffe))); // and dword [rax], -2
    check(Bits64, &[0x48, 0x83, 0x20, 0xfe], 8, modify(Alu::And, i(u64::MAX - 1)));
    check(Bits64, &[0x81, 0x38, 0, 0, 1, 0], 4, modify(Alu::Compare, i(0x10000))); // cmp dword [rax], 0x10000
    check(Bits64, &[0x66, 0x81, 0x38, 0, 1], 2, modify(Alu::Compare, i(0x100)));
    check(Bits64, &[0x85, 0x08], 4, modify(Alu::Test, r(1, 4))); // test [rax], ecx
    check(Bits64, &[0xf7, 0x00, 0, 0x10, 0, 0], 4, modify(Alu::Test, i(0x1000))); // test dword [rax], 0x1000
    check(Bits64, &[0xf6, 0x40, 1, 0x10], 1, modify(Alu::Test, i(0x10)));
    check(Bits64, &[0x0f, 0xba, 0x20, 12], 4, modify(Alu::BitTest, i(12))); // bt dword [rax], 12
    check(Bits64, &[0x0f, 0xba, 0x28, 44], 4, modify(Alu::BitSet, i(12))); // bts, number wraps
    check(Bits64, &[0xf0, 0x01, 0x08], 4, modify(Alu::Add, r(1, 4))); // lock add
    assert_eq!(decode(&[0xf7, 0x18], Bits64), Err(DecodeError::Unsupported(0xf7))); // neg
    assert_eq!(decode(&[0x0f, 0xba, 0x00, 1], Bits64), Err(DecodeError::Unsupported(0x0fba)));
}

#[test]
fn prefixes_in_any_order() {
    check(Bits64, &[0x65, 0x89, 0x08], 4, store(1, 4));
    check(Bits64, &[0x2e, 0x66, 0x3e, 0x89, 0x08], 2, store(1, 2));
    // A prefix behind REX makes REX void.
    check(Bits64, &[0x48, 0x66, 0x89, 0x08], 2, store(1, 2));
    // REX.W beats 0x66.
    check(Bits64, &[0x66, 0x48, 0x89, 0x08], 8, store(1, 8));
    check(Bits64, &[0x48, 0x44, 0x89, 0x08], 4, store(9, 4));
}

#[test]
fn what_we_do_not_emulate() {
    for (bytes, opcode) in [
        (&[0x90][..], 0x90),
        (&[0xff, 0x30], 0xff),             // push [rax]
        (&[0xc6, 0xf8, 0x00], 0),          // xabort is register form
        (&[0xc7, 0x08, 0, 0, 0, 0], 0xc7), // group field 1
        (&[0x0f, 0x28, 0x00], 0x0f28),     // movaps
        (&[0xc5, 0xf8, 0x28, 0x00], 0xc5), // VEX
        (&[0xa5], 0xa5),                   // movs
        (&[0xf0, 0x89, 0x08], 0x89),       // lock mov
        (&[0xf0, 0x3b, 0x08], 0x3b),       // lock cmp
    ] {
        let error = decode(bytes, Bits64).unwrap_err();
        match opcode {
            0 => assert_eq!(error, DecodeError::NoMemory),
            opcode => assert_eq!(error, DecodeError::Unsupported(opcode), "{bytes:02x?}"),
        }
    }
    assert_eq!(decode(&[0x89, 0xc8], Bits64), Err(DecodeError::NoMemory)); // mov eax, ecx
    assert_eq!(decode(&[0x66; 20], Bits64), Err(DecodeError::Truncated)); // too long
    // In 32-bit code 0x48 is DEC.
    assert_eq!(decode(&[0x48, 0x89, 0x08], Bits32), Err(DecodeError::Unsupported(0x48)));
}

#[test]
fn registers_keep_what_is_not_written() {
    let whole = 0x1111_2222_3333_4444;
    assert_eq!(reg(0, 1).write(whole, 0xaa), 0x1111_2222_3333_44aa);
    assert_eq!(high(0).write(whole, 0x1aa), 0x1111_2222_3333_aa44);
    assert_eq!(reg(0, 2).write(whole, 0xaaaa), 0x1111_2222_3333_aaaa);
    assert_eq!(reg(0, 4).write(whole, u64::MAX), 0xffff_ffff);
    assert_eq!(reg(0, 8).write(whole, 5), 5);
    assert_eq!(high(0).read(whole), 0x44);
    assert_eq!(high(0).read(0xab00), 0xab);
    assert_eq!(reg(0, 2).read(whole), 0x4444);
    assert_eq!(reg(0, 4).load(whole, 0xff80, 1, Extend::Sign), 0xffff_ff80);
    assert_eq!(reg(0, 4).load(whole, 0xff80, 1, Extend::Zero), 0x80);
    assert_eq!(reg(0, 8).load(whole, 0x8000_0000, 4, Extend::Sign), 0xffff_ffff_8000_0000);
    assert_eq!(reg(0, 2).load(whole, 0x80, 1, Extend::Sign), 0x1111_2222_3333_ff80);
}

#[test]
fn flags_of_known_sums() {
    const CF: u64 = 1;
    const PF: u64 = 4;
    const AF: u64 = 16;
    const ZF: u64 = 64;
    const SF: u64 = 128;
    const OF: u64 = 2048;
    assert_eq!(Alu::Add.apply(0xff, 1, 1, 2), (0, 2 | CF | PF | AF | ZF));
    assert_eq!(Alu::Add.apply(0x7f, 1, 1, 0), (0x80, AF | SF | OF));
    assert_eq!(Alu::Add.apply(u64::MAX, 1, 8, 0), (0, CF | PF | AF | ZF));
    assert_eq!(Alu::AddCarry.apply(0xffff_ffff, 0, 4, CF), (0, CF | PF | AF | ZF));
    assert_eq!(Alu::Sub.apply(0, 1, 4, 0), (0xffff_ffff, CF | PF | AF | SF));
    assert_eq!(Alu::Sub.apply(0x80, 1, 1, 0), (0x7f, AF | OF));
    assert_eq!(Alu::SubBorrow.apply(5, u64::MAX, 8, CF), (5, CF | PF | AF));
    assert_eq!(Alu::Compare.apply(7, 7, 4, CF), (7, ZF | PF));
    assert_eq!(Alu::And.apply(0xf0, 0x0f, 4, CF | OF), (0, ZF | PF));
    assert_eq!(Alu::Xor.apply(0x8000, 1, 2, 0), (0x8001, SF));
    assert_eq!(Alu::Test.apply(3, 1, 4, 0), (3, 0));
    assert_eq!(Alu::BitSet.apply(0, 31, 4, ZF | CF), (0x8000_0000, ZF));
    assert_eq!(Alu::BitReset.apply(2, 1, 4, 0), (0, CF));
    assert_eq!(Alu::BitComplement.apply(2, 0, 4, 0), (3, 0));
    assert_eq!(Alu::BitTest.apply(4, 2, 4, 0), (4, CF));
}

fn code() -> impl Strategy<Value = CodeSize> {
    prop_oneof![Just(Bits16), Just(Bits32), Just(Bits64)]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(8_000))]

    #[test]
    fn bytes_from_nowhere_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..20), code in code()) {
        if let Ok(instruction) = decode(&bytes, code) {
            prop_assert!(usize::from(instruction.length) <= bytes.len().min(MAX_LENGTH));
            prop_assert!([1, 2, 4, 8].contains(&instruction.size));
            prop_assert!(instruction.reads() || instruction.writes());
            // Only the bytes of the instruction count.
            let alone = &bytes[..instruction.length.into()];
            prop_assert_eq!(decode(alone, code), Ok(instruction));
            if let Access::Modify { op, operand: Source::Immediate(value) } = instruction.access {
                let _ = op.apply(value, value, instruction.size, 0);
            }
        }
    }

    /// The flags against the definition: carry is the unsigned, overflow the signed overflow.
    #[test]
    fn sums_match_their_definition(a: u64, b: u64, carry in 0u64..2, size in prop_oneof![Just(1u8), Just(2), Just(4), Just(8)]) {
        let (ua, ub) = (i128::from(truncate(a, size)), i128::from(truncate(b, size)));
        let (sa, sb) = (i128::from(sign_extend(a, size) as i64), i128::from(sign_extend(b, size) as i64));
        let limit = 1i128 << (8 * u32::from(size));
        let signed = -(limit / 2)..limit / 2;
        let c = i128::from(carry);
        let (sum, flags) = Alu::AddCarry.apply(a, b, size, carry);
        prop_assert_eq!(i128::from(sum), (ua + ub + c) % limit);
        prop_assert_eq!(flags & 1 != 0, ua + ub + c >= limit);
        prop_assert_eq!(flags >> 11 & 1 != 0, !signed.contains(&(sa + sb + c)));
        let (difference, flags) = Alu::SubBorrow.apply(a, b, size, carry);
        prop_assert_eq!(i128::from(difference), (ua - ub - c).rem_euclid(limit));
        prop_assert_eq!(flags & 1 != 0, ua < ub + c);
        prop_assert_eq!(flags >> 11 & 1 != 0, !signed.contains(&(sa - sb - c)));
    }
}
