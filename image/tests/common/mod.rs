//! Programs made by hand, so that the tests need no compiler.
#![allow(dead_code)]

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

/// A directory with a kernel and the servers of the manifests that ship.
pub fn inputs(dir: &Path) -> BuildInputs {
    let servers = dir.join("servers");
    std::fs::create_dir_all(&servers).unwrap();
    for (seed, name) in ["init", "linux", "vfs-proxy", "hello"].into_iter().enumerate() {
        std::fs::write(servers.join(name), server(seed as u8 + 1)).unwrap();
    }
    std::fs::write(dir.join("kernel"), kernel()).unwrap();
    BuildInputs { kernel_elf: dir.join("kernel"), servers_dir: servers, out_dir: dir.join("out") }
}

/// A manifest that ships.
pub fn shipped(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("manifests").join(format!("{name}.toml"))
}
