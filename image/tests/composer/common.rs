//! Programs made by hand, so that the tests need no compiler.

use std::path::{Path, PathBuf};

use image::BuildInputs;

/// A segment of a program: flags, virtual address, physical address, bytes, bytes in memory.
pub struct Segment<'a>(pub u32, pub u64, pub u64, pub &'a [u8], pub u64);

pub const R: u32 = 4;
pub const RW: u32 = 6;
pub const RX: u32 = 5;
pub const RWX: u32 = 7;

/// An ELF file for x86-64.
pub fn elf(kind: u16, entry: u64, segments: &[Segment<'_>]) -> Vec<u8> {
    let mut out = b"\x7fELF\x02\x01\x01\0\0\0\0\0\0\0\0\0".to_vec();
    out.extend(kind.to_le_bytes());
    out.extend(62u16.to_le_bytes());
    out.extend(1u32.to_le_bytes());
    for word in [entry, 64, 0] {
        out.extend(word.to_le_bytes());
    }
    out.extend(0u32.to_le_bytes());
    for half in [64, 56, segments.len() as u16, 0, 0, 0] {
        out.extend(half.to_le_bytes());
    }
    let mut offset = 0x1000u64;
    for Segment(flags, vaddr, paddr, bytes, memory) in segments {
        offset = offset.next_multiple_of(0x1000) + vaddr % 0x1000;
        out.extend(1u32.to_le_bytes());
        out.extend(flags.to_le_bytes());
        for word in [offset, *vaddr, *paddr, bytes.len() as u64, *memory, 0x1000] {
            out.extend(word.to_le_bytes());
        }
        offset += bytes.len() as u64;
    }
    for Segment(_, vaddr, _, bytes, _) in segments {
        let start = out.len().next_multiple_of(0x1000).max(0x1000) + (vaddr % 0x1000) as usize;
        out.resize(start, 0);
        out.extend_from_slice(bytes);
    }
    out
}

/// A server: code, constants, data with zero-initialised bytes behind it.
pub fn server(seed: u8) -> Vec<u8> {
    let code = [seed; 100];
    elf(
        2,
        0x40_0010,
        &[
            Segment(RX, 0x40_0000, 0x40_0000, &code, 100),
            Segment(R, 0x40_1080, 0x40_1080, b"constants", 9),
            Segment(RW, 0x40_2000, 0x40_2000, b"data", 0x1800),
        ],
    )
}

/// A kernel with its head, ending at 0x105000.
pub fn kernel() -> Vec<u8> {
    let mut text = vec![0x90; 0x2000];
    text[16..24].copy_from_slice(b"CRTOSKRN");
    text[24..32].copy_from_slice(&0u64.to_le_bytes());
    text[32..40].copy_from_slice(&0x10_5000u64.to_le_bytes());
    text[40..48].copy_from_slice(&0x10_0100u64.to_le_bytes());
    const VIRTUAL: u64 = 0xffff_ffff_8000_0000;
    elf(
        2,
        0x10_0100,
        &[
            Segment(RX, VIRTUAL + 0x10_0000, 0x10_0000, &text, 0x2000),
            Segment(RW, VIRTUAL + 0x10_2000, 0x10_2000, b"data", 0x3000),
        ],
    )
}

/// A program of functions with names: each takes so many bytes of stack and calls the next.
pub fn chain(functions: &[(&str, u32)]) -> Vec<u8> {
    const CODE: u64 = 0x40_0000;
    const LENGTH: usize = 20;
    let mut code = Vec::new();
    for (index, (_, bytes)) in functions.iter().enumerate() {
        // sub rsp, bytes; call the next one, or nop; add rsp, bytes; ret
        code.extend([0x48, 0x81, 0xec]);
        code.extend(bytes.to_le_bytes());
        code.extend(if index + 1 < functions.len() { [0xe8, 8, 0, 0, 0] } else { [0x90; 5] });
        code.extend([0x48, 0x81, 0xc4]);
        code.extend(bytes.to_le_bytes());
        code.push(0xc3);
        assert_eq!(code.len(), LENGTH * (index + 1));
    }
    let mut out = elf(2, CODE, &[Segment(RX, CODE, CODE, &code, code.len() as u64)]);
    // Symbols, their names, and the three section headers that lead there.
    let (mut symbols, mut names) = (vec![0; 24], vec![0]);
    for (index, (name, _)) in functions.iter().enumerate() {
        symbols.extend((names.len() as u32).to_le_bytes());
        symbols.extend([0x12, 0, 1, 0]);
        symbols.extend((CODE + (LENGTH * index) as u64).to_le_bytes());
        symbols.extend((LENGTH as u64).to_le_bytes());
        names.extend_from_slice(name.as_bytes());
        names.push(0);
    }
    let places = [(0u32, 0, 0, 0u32), (2, out.len(), symbols.len(), 2), (3, out.len() + symbols.len(), names.len(), 0)];
    out.extend(symbols);
    out.extend(names);
    let headers = out.len() as u64;
    for (kind, offset, size, link) in places {
        out.extend(0u32.to_le_bytes());
        out.extend(kind.to_le_bytes());
        for word in [0, 0, offset as u64, size as u64] {
            out.extend(word.to_le_bytes());
        }
        out.extend(link.to_le_bytes());
        out.extend(0u32.to_le_bytes());
        for word in [8u64, if kind == 2 { 24 } else { 0 }] {
            out.extend(word.to_le_bytes());
        }
    }
    out[40..48].copy_from_slice(&headers.to_le_bytes());
    out[58..64].copy_from_slice(&[64, 0, 3, 0, 0, 0]);
    out
}

/// A directory with a kernel and the servers of the manifests that ship.
pub fn inputs(dir: &Path) -> BuildInputs {
    let servers = dir.join("servers");
    std::fs::create_dir_all(&servers).unwrap();
    for (seed, name) in ["init", "linux", "vfs-proxy", "hello"].into_iter().enumerate() {
        std::fs::write(servers.join(name), server(seed as u8 + 1)).unwrap();
    }
    // And some that nobody can be started from.
    let good = server(9);
    let mut foreign = good.clone();
    foreign[18] = 183;
    let writable_code = elf(2, 0x40_0000, &[Segment(RWX, 0x40_0000, 0x40_0000, &[0x90; 64], 64)]);
    let deep = chain(&[("start", 0x100), ("middle", 0x1000), ("deepest", 0x5000)]);
    let bad: [(&str, &[u8]); 5] = [
        ("foreign", &foreign),
        ("short", &good[..0x1080]),
        ("script", b"#!/bin/sh\n"),
        ("writable-code", &writable_code),
        ("deep", &deep),
    ];
    for (name, bytes) in bad {
        std::fs::write(servers.join(name), bytes).unwrap();
    }
    std::fs::write(dir.join("kernel"), kernel()).unwrap();
    BuildInputs { kernel_elf: dir.join("kernel"), servers_dir: servers, out_dir: dir.join("out"), machine: None }
}

/// A manifest that ships.
pub fn shipped(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("manifests").join(format!("{name}.toml"))
}
