//! What the cell's processors run first: real mode at the reset address, all at once. The first one enters the kernel as its boot protocol wants it (64
//! bits, paging on, all memory at its own address, RSI at the boot parameters), as soon as all have left their APIC ids; the others halt, until the
//! kernel wakes them by INIT and start-up.
#![allow(unsafe_code)] // Its code is a part of this program that the assembler has made.

use std::arch::global_asm;

use anyhow::{Result, ensure};
use hypervisor_abi::comm::offset;

use super::parameters::{CONTENTS, RECORD};
use super::{PAGE, PAGE_TABLES, PARAMETERS};

/// Offset of the value that the first instruction loads: the loader's own address.
const BASE: usize = 2;
/// Offset of the 64-bit code.
const LONG_MODE: usize = 0x100;
/// Where the code ends, and these begin: address of the communication region,
const COMM: usize = 0x200;
/// of the kernel's entry,
const ENTRY: usize = 0x204;
/// operands of LGDT and of the jump into 64-bit code,
const GDT_POINTER: usize = 0x208;
const FAR_POINTER: usize = 0x210;
/// how many processors came by, and how many have left their id,
const CAME: usize = 0x218;
const LEFT: usize = 0x21a;
/// descriptors, ids.
const GDT: usize = 0x220;
const IDS: usize = 0x240;
const MAX_IDS: usize = 255;
const SIZE: usize = IDS + MAX_IDS;

/// As the boot protocol has them: code by selector 0x10, data by 0x18.
const DESCRIPTORS: [u64; 4] = [0, 0, 0x00af_9b00_0000_ffff, 0x00cf_9300_0000_ffff];
const CODE: u16 = 0x10;

global_asm!(
    ".pushsection .rodata.cell_loader, \"a\"",
    ".balign 8",
    ".globl crtos_cell_loader",
    "crtos_cell_loader:",
    ".code16",
    "    .byte 0x66, 0xbb", // mov ebx, BASE
    "    .long 0",
    // Memory is cached from here on.
    "    mov ecx, 0x2ff",
    "    rdmsr",
    "    or ah, 8",
    "    wrmsr",
    // The code segment's base is a multiple of 64 KiB: BX is the offset in it.
    "    mov esi, ebx",
    "    mov eax, 1",
    "    cpuid",
    "    shr ebx, 24",
    "    mov edx, ebx",
    "    mov ebx, esi",
    "    mov ax, 1",
    "    lock xadd word ptr cs:[bx + {came}], ax",
    "    cmp ax, {max_ids}",
    "    jae 2f",
    "    mov si, ax",
    "    mov byte ptr cs:[bx + si + {ids}], dl",
    "    lock inc word ptr cs:[bx + {left}]",
    "    test ax, ax",
    "    jz 3f",
    "2:  hlt",
    "    jmp 2b",
    "3:  .byte 0x66, 0x2e, 0x0f, 0x01, 0x97", // lgdt (32-bit) cs:[bx + ...]
    "    .word {gdt_pointer}",
    "    mov eax, 0x20", // PAE
    "    mov cr4, eax",
    "    lea eax, [ebx + {tables}]",
    "    mov cr3, eax",
    "    mov ecx, 0xc0000080",
    "    rdmsr",
    "    or ah, 1", // LME
    "    wrmsr",
    "    mov eax, 0x80000011", // PG, ET, PE; caches on
    "    mov cr0, eax",
    "    .byte 0x66, 0x2e, 0xff, 0xaf", // jmp far (32-bit) cs:[bx + ...]
    "    .word {far_pointer}",
    ".org crtos_cell_loader + {long_mode}",
    ".code64",
    "    mov eax, 0x18",
    "    mov ds, eax",
    "    mov es, eax",
    "    mov ss, eax",
    "    mov fs, eax",
    "    mov gs, eax",
    "    mov ebx, ebx",
    "    mov edx, dword ptr [rbx + {comm}]",
    "4:  pause",
    "    mov ax, word ptr [rbx + {left}]",
    "    cmp ax, word ptr [rdx + {num_cpus}]",
    "    jb 4b",
    // Into the record: PM timer and processors, configuration window, clocks, APIC ids.
    "    lea rdi, [rbx + {contents}]",
    "    mov eax, dword ptr [rdx + {pm_timer}]",
    "    mov dword ptr [rdi + 4], eax",
    "    mov rax, qword ptr [rdx + {window}]",
    "    mov qword ptr [rdi + 8], rax",
    "    mov rax, qword ptr [rdx + {tsc_khz}]",
    "    mov qword ptr [rdi + 16], rax",
    "    add rdi, 25",
    "    lea rsi, [rbx + {ids}]",
    "    mov ecx, {max_ids}",
    "    cld",
    "    rep movsb",
    "    lea rsi, [rbx + {parameters}]",
    "    mov eax, dword ptr [rbx + {entry}]",
    "    jmp rax",
    ".org crtos_cell_loader + {end}",
    ".popsection",
    came = const CAME,
    left = const LEFT,
    ids = const IDS,
    max_ids = const MAX_IDS,
    gdt_pointer = const GDT_POINTER,
    far_pointer = const FAR_POINTER,
    tables = const PAGE_TABLES,
    long_mode = const LONG_MODE,
    comm = const COMM,
    entry = const ENTRY,
    num_cpus = const offset::NUM_CPUS,
    pm_timer = const offset::PM_TIMER_ADDRESS,
    window = const offset::PCI_MMCONFIG_BASE,
    tsc_khz = const offset::TSC_KHZ,
    contents = const PARAMETERS as usize + RECORD + CONTENTS,
    parameters = const PARAMETERS,
    end = const COMM,
);

unsafe extern "C" {
    static crtos_cell_loader: [u8; COMM];
}

/// The loader for that reset address, communication region and entry of the kernel.
pub fn bytes(base: u32, comm: u64, entry: u64) -> Result<Vec<u8>> {
    ensure!(comm < 1 << 32, "the communication region is not below 4 GiB");
    let (comm, entry) = (comm as u32, u32::try_from(entry)?);
    // SAFETY: read-only bytes, as many as the assembler has made.
    let mut bytes = unsafe { &crtos_cell_loader }.to_vec();
    bytes.resize(SIZE, 0);
    let mut put = |at: usize, value: &[u8]| bytes[at..at + value.len()].copy_from_slice(value);
    put(BASE, &base.to_le_bytes());
    put(COMM, &comm.to_le_bytes());
    put(ENTRY, &entry.to_le_bytes());
    put(GDT_POINTER, &(size_of_val(&DESCRIPTORS) as u16 - 1).to_le_bytes());
    put(GDT_POINTER + 2, &(base + GDT as u32).to_le_bytes());
    put(FAR_POINTER, &(base + LONG_MODE as u32).to_le_bytes());
    put(FAR_POINTER + 4, &CODE.to_le_bytes());
    for (n, descriptor) in DESCRIPTORS.iter().enumerate() {
        put(GDT + n * 8, &descriptor.to_le_bytes());
    }
    Ok(bytes)
}

/// Page tables at `address` that map the first 4 GiB by 2 MiB each.
pub fn page_tables(address: u64) -> Vec<u8> {
    const TABLE: u64 = 3; // present, writable
    const BIG_PAGE: u64 = TABLE | 1 << 7;
    let mut tables = vec![0u64; 6 * 512];
    tables[0] = (address + PAGE) | TABLE;
    for n in 0..4 {
        tables[512 + n] = (address + (2 + n as u64) * PAGE) | TABLE;
    }
    for (n, entry) in (0..).zip(&mut tables[1024..]) {
        *entry = n << 21 | BIG_PAGE;
    }
    tables.iter().flat_map(|entry| entry.to_le_bytes()).collect()
}
