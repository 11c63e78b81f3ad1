//! The image of the vDSO: an ELF shared object, put together here.
#![allow(unsafe_code)] // The code is assembly between two labels, read as bytes.

use alloc::vec;
use alloc::vec::Vec;

/// Where the code starts in the image; the data page lies 4096 bytes before the image.
const TEXT: usize = 0xa00;

core::arch::global_asm!(
    ".pushsection .rodata.crtos_vdso, \"a\", @progbits",
    ".globl crtos_vdso_text",
    ".hidden crtos_vdso_text",
    ".globl crtos_vdso_clock_gettime",
    ".hidden crtos_vdso_clock_gettime",
    ".globl crtos_vdso_clock_getres",
    ".hidden crtos_vdso_clock_getres",
    ".globl crtos_vdso_gettimeofday",
    ".hidden crtos_vdso_gettimeofday",
    ".globl crtos_vdso_time",
    ".hidden crtos_vdso_time",
    ".globl crtos_vdso_getcpu",
    ".hidden crtos_vdso_getcpu",
    ".globl crtos_vdso_end",
    ".hidden crtos_vdso_end",
    ".balign 16",
    "crtos_vdso_text:",
    // Nanoseconds of CLOCK_MONOTONIC to rax (CLOCK_REALTIME if ecx is not 0). Destroys rdx, r8-r10.
    "crtos_vdso_now:",
    "lea r8, [rip + crtos_vdso_text - {text} - 4096]",
    "2: mov r9, [r8]",
    "test r9b, 1",
    "jnz 3f",
    "lfence",
    "rdtsc",
    "shl rdx, 32",
    "or rax, rdx",
    "xor edx, edx",
    "sub rax, [r8 + 8]",
    "cmovb rax, rdx",
    "mul qword ptr [r8 + 16]",
    "shrd rax, rdx, 32",
    "add rax, [r8 + 24]",
    "test ecx, ecx",
    "jz 4f",
    "add rax, [r8 + 32]",
    "4: cmp r9, [r8]",
    "jne 2b",
    "ret",
    "3: pause",
    "jmp 2b",
    ".balign 16",
    "crtos_vdso_clock_gettime:",
    "cmp edi, 11",
    "ja 6f",
    // REALTIME 0, MONOTONIC 1, MONOTONIC_RAW 4, REALTIME_COARSE 5, MONOTONIC_COARSE 6, BOOTTIME 7, TAI 11.
    "mov eax, 0x8f3",
    "0: bt eax, edi",
    "jnc 6f",
    "mov eax, 0x821",
    "xor ecx, ecx",
    "bt eax, edi",
    "setc cl",
    "call crtos_vdso_now",
    "xor edx, edx",
    "mov ecx, 1000000000",
    "div rcx",
    "mov [rsi], rax",
    "mov [rsi + 8], rdx",
    "xor eax, eax",
    "ret",
    "6: mov eax, 228",
    "syscall",
    "ret",
    ".balign 16",
    "crtos_vdso_clock_getres:",
    "mov eax, 0x8f3",
    "cmp edi, 11",
    "ja 7f",
    "bt eax, edi",
    "jnc 7f",
    "test rsi, rsi",
    "jz 8f",
    "mov qword ptr [rsi], 0",
    "mov qword ptr [rsi + 8], 1",
    "8: xor eax, eax",
    "ret",
    "7: mov eax, 229",
    "syscall",
    "ret",
    ".balign 16",
    "crtos_vdso_gettimeofday:",
    "test rdi, rdi",
    "jz 9f",
    "mov ecx, 1",
    "call crtos_vdso_now",
    "xor edx, edx",
    "mov ecx, 1000000000",
    "div rcx",
    "mov [rdi], rax",
    "mov eax, edx",
    "xor edx, edx",
    "mov ecx, 1000",
    "div ecx",
    "mov [rdi + 8], rax",
    "9: test rsi, rsi",
    "jz 5f",
    "mov qword ptr [rsi], 0",
    "5: xor eax, eax",
    "ret",
    ".balign 16",
    "crtos_vdso_time:",
    "mov ecx, 1",
    "call crtos_vdso_now",
    "xor edx, edx",
    "mov ecx, 1000000000",
    "div rcx",
    "test rdi, rdi",
    "jz 5f",
    "mov [rdi], rax",
    "5: ret",
    ".balign 16",
    // One processor, one node.
    "crtos_vdso_getcpu:",
    "test rdi, rdi",
    "jz 5f",
    "mov dword ptr [rdi], 0",
    "5: test rsi, rsi",
    "jz 5f",
    "mov dword ptr [rsi], 0",
    "5: xor eax, eax",
    "ret",
    "crtos_vdso_end:",
    ".popsection",
    text = const TEXT,
);

unsafe extern "C" {
    static crtos_vdso_text: u8;
    static crtos_vdso_clock_gettime: u8;
    static crtos_vdso_clock_getres: u8;
    static crtos_vdso_gettimeofday: u8;
    static crtos_vdso_time: u8;
    static crtos_vdso_getcpu: u8;
    static crtos_vdso_end: u8;
}

const VERSION: &[u8] = b"LINUX_2.6";
const SONAME: &[u8] = b"linux-vdso.so.1";

fn functions() -> [(&'static [u8], usize); 5] {
    let offset = |label: *const u8| label as usize - &raw const crtos_vdso_text as usize;
    [
        (b"__vdso_clock_gettime", offset(&raw const crtos_vdso_clock_gettime)),
        (b"__vdso_clock_getres", offset(&raw const crtos_vdso_clock_getres)),
        (b"__vdso_gettimeofday", offset(&raw const crtos_vdso_gettimeofday)),
        (b"__vdso_time", offset(&raw const crtos_vdso_time)),
        (b"__vdso_getcpu", offset(&raw const crtos_vdso_getcpu)),
    ]
}

fn code() -> &'static [u8] {
    let start = &raw const crtos_vdso_text;
    let bytes = &raw const crtos_vdso_end as usize - start as usize;
    // SAFETY: everything between the two labels is read-only data of this program.
    unsafe { core::slice::from_raw_parts(start, bytes) }
}

/// The ELF hash of a name (System V ABI).
fn hash(name: &[u8]) -> u32 {
    name.iter().fold(0, |hash: u32, byte| {
        let hash = (hash << 4).wrapping_add(u32::from(*byte));
        let high = hash & 0xf000_0000;
        (hash ^ (high >> 24)) & !high
    })
}

struct Builder {
    bytes: Vec<u8>,
}

impl Builder {
    fn at(&self) -> u64 {
        self.bytes.len() as u64
    }

    fn align(&mut self, to: usize) -> u64 {
        self.bytes.resize(self.bytes.len().next_multiple_of(to), 0);
        self.at()
    }

    fn u16(&mut self, values: &[u16]) {
        values.iter().for_each(|value| self.bytes.extend_from_slice(&value.to_le_bytes()));
    }

    fn u32(&mut self, values: &[u32]) {
        values.iter().for_each(|value| self.bytes.extend_from_slice(&value.to_le_bytes()));
    }

    fn u64(&mut self, values: &[u64]) {
        values.iter().for_each(|value| self.bytes.extend_from_slice(&value.to_le_bytes()));
    }
}

/// Builds the image. Link address 0.
pub fn build() -> Vec<u8> {
    let functions = functions();
    let mut names = vec![0];
    let mut name = |text: &[u8]| {
        let at = names.len() as u32;
        names.extend_from_slice(text);
        names.push(0);
        at
    };
    let symbol_names: Vec<u32> = functions.iter().map(|(text, _)| name(text)).collect();
    let (version_name, soname) = (name(VERSION), name(SONAME));
    let symbols = functions.len() as u32 + 1;

    // File header and three program headers: 64 + 3 * 56 = 232 bytes, filled in at the end.
    let mut out = Builder { bytes: vec![0; 232] };
    let hash_at = out.align(8);
    // One bucket: all symbols in one chain.
    out.u32(&[1, symbols, 1]);
    out.u32(
        &(0..symbols).map(|index| if index == 0 || index + 1 == symbols { 0 } else { index + 1 }).collect::<Vec<_>>(),
    );
    let symbols_at = out.align(8);
    out.u64(&[0, 0, 0]);
    for (index, (_, offset)) in functions.iter().enumerate() {
        // st_name; GLOBAL FUNC, default visibility, section 5; value, size.
        out.u32(&[symbol_names[index], 0x0005_0012]);
        out.u64(&[(TEXT + offset) as u64, 16]);
    }
    let names_at = out.at();
    out.bytes.extend_from_slice(&names);
    let versions_at = out.align(2);
    out.u16(&[0]);
    out.u16(&vec![2; functions.len()]);
    let definitions_at = out.align(8);
    // Version 1 is the object itself (VER_FLG_BASE), version 2 is LINUX_2.6.
    for (flags, index, text, offset, next) in [(1, 1, SONAME, soname, 28), (0, 2, VERSION, version_name, 0)] {
        out.u16(&[1, flags, index, 1]);
        out.u32(&[hash(text), 20, next, offset, 0]);
    }
    let dynamic_at = out.align(8);
    let dynamic: [(u64, u64); 9] = [
        (14, soname.into()),           // DT_SONAME
        (4, hash_at),                  // DT_HASH
        (5, names_at),                 // DT_STRTAB
        (10, names.len() as u64),      // DT_STRSZ
        (6, symbols_at),               // DT_SYMTAB
        (11, 24),                      // DT_SYMENT
        (0x6fff_fff0, versions_at),    // DT_VERSYM
        (0x6fff_fffc, definitions_at), // DT_VERDEF
        (0x6fff_fffd, 2),              // DT_VERDEFNUM
    ];
    dynamic.iter().for_each(|(tag, value)| out.u64(&[*tag, *value]));
    out.u64(&[0, 0]);
    let dynamic_size = out.at() - dynamic_at;
    assert!(out.bytes.len() <= TEXT, "the tables of the vDSO have grown into its code");
    out.bytes.resize(TEXT, 0);
    out.bytes.extend_from_slice(code());
    let text_end = out.at();

    // Sections, for tools: null, .dynsym, .dynstr, .gnu.version, .gnu.version_d, .text, .shstrtab.
    const SECTION_NAMES: &[u8] = b"\0.dynsym\0.dynstr\0.gnu.version\0.gnu.version_d\0.text\0.shstrtab\0";
    let section_names_at = out.at();
    out.bytes.extend_from_slice(SECTION_NAMES);
    let sections_at = out.align(8);
    /// Name, type, flags, start, end, link, info, alignment, entry size.
    type Section = (u32, u32, u64, u64, u64, u32, u32, u64, u64);
    let sections: [Section; 7] = [
        (0, 0, 0, 0, 0, 0, 0, 0, 0),
        (1, 11, 2, symbols_at, names_at, 2, 1, 8, 24),
        (9, 3, 2, names_at, names_at + names.len() as u64, 0, 0, 1, 0),
        (17, 0x6fff_ffff, 2, versions_at, versions_at + 2 * u64::from(symbols), 1, 0, 2, 2),
        (30, 0x6fff_fffd, 2, definitions_at, definitions_at + 56, 2, 2, 8, 0),
        (45, 1, 6, TEXT as u64, text_end, 0, 0, 16, 0),
        (51, 3, 0, section_names_at, section_names_at + SECTION_NAMES.len() as u64, 0, 0, 1, 0),
    ];
    for (name, kind, flags, start, end, link, info, alignment, entry) in sections {
        out.u32(&[name, kind]);
        out.u64(&[flags, if flags & 2 != 0 { start } else { 0 }, start, end - start]);
        out.u32(&[link, info]);
        out.u64(&[alignment, entry]);
    }
    let total = out.at();

    let mut head = Builder { bytes: Vec::with_capacity(232) };
    head.bytes.extend_from_slice(b"\x7fELF\x02\x01\x01\0\0\0\0\0\0\0\0\0");
    head.u16(&[3, 62]);
    head.u32(&[1]);
    head.u64(&[TEXT as u64, 64, sections_at]);
    head.u32(&[0]);
    head.u16(&[64, 56, 3, 64, sections.len() as u16, 6]);
    // type, flags, offset, end, alignment; everything is read and executed in place.
    for (kind, flags, offset, end, alignment) in
        [(1u32, 5u32, 0, total, 4096u64), (2, 4, dynamic_at, dynamic_at + dynamic_size, 8), (0x6474_e551, 6, 0, 0, 16)]
    {
        head.u32(&[kind, flags]);
        head.u64(&[offset, offset, offset, end - offset, end - offset, alignment]);
    }
    out.bytes[..232].copy_from_slice(&head.bytes);
    out.bytes
}

#[cfg(test)]
mod tests {
    #[test]
    fn the_hash_is_the_one_of_the_abi() {
        assert_eq!(super::hash(b"LINUX_2.6"), 61_765_110);
        assert_eq!(super::hash(b"printf"), 0x077905a6);
    }
}
