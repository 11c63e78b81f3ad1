//! Programs that cannot be composed, each with its sentence.

use std::path::Path;

use super::common::{self, R, RW, RWX, RX, Segment, elf};
use image::elf_file::{Kernel, Program};

fn refuse(bytes: &[u8]) -> String {
    Program::parse(bytes, "prog").unwrap_err().to_string()
}

fn code(flags: u32, vaddr: u64) -> Vec<u8> {
    elf(2, vaddr, &[Segment(flags, vaddr, vaddr, &[0x90; 64], 64)])
}

#[test]
fn a_good_program_is_cut_into_pages() {
    let program = Program::parse(&common::server(7), "prog").unwrap();
    assert_eq!(program.entry, 0x40_0010);
    let pieces: Vec<_> = program.pieces.iter().map(|p| (p.vaddr, p.bytes.len(), p.memory_size)).collect();
    assert_eq!(pieces, [(0x40_0000, 100, 0x1000), (0x40_1000, 0x89, 0x1000), (0x40_2000, 4, 0x2000)]);
    assert_ne!(program.digest, Program::parse(&common::server(8), "prog").unwrap().digest);
}

#[test]
fn foreign_files_are_named() {
    assert_eq!(refuse(b"#!/bin/sh\n"), "prog: is not an ELF file; give the file that cargo built");
    assert_eq!(refuse(b""), "prog: is not an ELF file; give the file that cargo built");
    let mut narrow = code(RX, 0x40_0000);
    narrow[4] = 1;
    assert_eq!(refuse(&narrow), "prog: is not a 64-bit little-endian program; build it for x86_64-unknown-none");
    let mut arm = code(RX, 0x40_0000);
    arm[18] = 183;
    assert_eq!(refuse(&arm), "prog: is for another processor (ELF machine 183); build it for x86_64-unknown-none");
    let mut shared = code(RX, 0x40_0000);
    shared[16] = 3;
    assert!(refuse(&shared).contains("is position independent"));
    let mut object = code(RX, 0x40_0000);
    object[16] = 1;
    assert_eq!(refuse(&object), "prog: is not an executable (ELF type 1); link it");
    assert_eq!(refuse(&elf(2, 0x40_0000, &[])), "prog: has nothing to load; link it");
    for (kind, part) in [(3u8, "wants a dynamic linker"), (7, "has thread-local storage")] {
        let mut other = elf(2, 0x40_0000, &[Segment(RX, 0x40_0000, 0, &[0x90], 1), Segment(R, 0x50_0000, 0, b"x", 1)]);
        other[64 + 56] = kind;
        assert!(refuse(&other).contains(part), "{part}");
    }
}

#[test]
fn truncated_programs_are_refused() {
    let whole = common::server(1);
    for end in (0..0x1000).step_by(7).chain((0x1000..whole.len() - 1).step_by(97)) {
        assert!(Program::parse(&whole[..end], "prog").is_err(), "{end:#x}");
        let _ = Kernel::parse(&whole[..end], "kernel");
    }
}

#[test]
fn segments_must_be_sound() {
    assert_eq!(
        refuse(&code(RWX, 0x40_0000)),
        "prog: has a segment at 0x400000 that is both writable and executable; put code and data into different sections in its linker script"
    );
    assert!(
        refuse(&code(RX, 0x1000_0000)).contains("outside the room for programs; link it at 0x400000, below 0x10000000")
    );
    assert!(refuse(&code(RX, 0)).contains("outside the room for programs"));
    assert!(refuse(&code(RW, 0x40_0000)).contains("starts at 0x400000, where it has no code"));
    let two = elf(2, 0x40_0000, &[Segment(RX, 0x40_0000, 0, &[0x90; 8], 8), Segment(R, 0x40_0800, 0, b"x", 1)]);
    assert_eq!(
        refuse(&two),
        "prog: has two segments in the page at 0x400000; align the sections to 4 KiB in its linker script"
    );
    let mut large = code(RX, 0x40_0000);
    large[64 + 40..64 + 48].copy_from_slice(&u64::MAX.to_le_bytes());
    assert_eq!(refuse(&large), "prog: has a segment of impossible size; build it again");
}

#[test]
fn images_are_refused_before_anything_is_written() {
    let dir = tempfile::tempdir().unwrap();
    let inputs = common::inputs(dir.path());
    let refuse = |manifest: &Path| image::build(manifest, &inputs).unwrap_err().to_string();

    std::fs::remove_file(inputs.servers_dir.join("linux")).unwrap();
    let message = refuse(&common::shipped("default"));
    assert!(
        message.contains("the program of server \"linux\", linux, cannot be read")
            && message.ends_with("build it, or say where it is"),
        "{message}"
    );
    std::fs::write(inputs.servers_dir.join("linux"), common::server(2)).unwrap();

    let low = elf(2, 0x1000, &[Segment(RX, 0x1000, 0x1000, &[0x90; 64], 64)]);
    std::fs::write(&inputs.kernel_elf, low).unwrap();
    assert!(
        refuse(&common::shipped("default")).contains("has a segment at physical address 0x1000, not behind 0x100000")
    );
    let headless = elf(2, 0x10_0000, &[Segment(RX, 0x10_0000, 0x10_0000, &[0x90; 64], 64)]);
    std::fs::write(&inputs.kernel_elf, headless).unwrap();
    assert_eq!(
        refuse(&common::shipped("default")),
        "kernel: has no kernel head at 16 bytes from its start; give our kernel"
    );
    std::fs::write(&inputs.kernel_elf, common::kernel()).unwrap();

    let small = dir.path().join("small.toml");
    let text = std::fs::read_to_string(common::shipped("default")).unwrap();
    std::fs::write(&small, text.replace("name = \"default\"", "name = \"default\"\nimage_limit = \"32 KiB\"")).unwrap();
    let message = refuse(&small);
    assert!(message.contains("more than image_limit of system \"default\" (32 KiB); raise image_limit"), "{message}");
    assert!(refuse(&dir.path().join("none.toml")).contains("none.toml: cannot read the manifest"));
    assert!(!inputs.out_dir.exists());
    image::build(&common::shipped("default"), &inputs).unwrap();
}
