//! The image as an ELF file that a PC's firmware or QEMU (`-kernel`) starts by its PVH note.

/// Bytes before the image in the file.
const IMAGE_OFFSET: u64 = 0x1000;
/// Type of the note that holds the entry (`XEN_ELFNOTE_PHYS32_ENTRY`).
const PHYS32_ENTRY: u32 = 18;

/// Wraps `image`, to be loaded at `load_address` and entered at `entry`.
pub fn wrap(image: &[u8], load_address: u64, entry: u64) -> Vec<u8> {
    const EHDR: u64 = 64;
    const PHDR: u64 = 56;
    let note_offset = EHDR + 2 * PHDR;
    let mut note = Vec::new();
    for word in [4, 8, PHYS32_ENTRY] {
        note.extend_from_slice(&u32::to_le_bytes(word));
    }
    note.extend_from_slice(b"Xen\0");
    note.extend_from_slice(&entry.to_le_bytes());

    let mut out = Vec::with_capacity(IMAGE_OFFSET as usize + image.len());
    out.extend_from_slice(b"\x7fELF\x02\x01\x01\0\0\0\0\0\0\0\0\0");
    out.extend_from_slice(&2u16.to_le_bytes()); // executable
    out.extend_from_slice(&62u16.to_le_bytes()); // x86-64
    out.extend_from_slice(&1u32.to_le_bytes());
    for word in [entry, EHDR, 0] {
        out.extend_from_slice(&word.to_le_bytes());
    }
    out.extend_from_slice(&0u32.to_le_bytes());
    for half in [EHDR as u16, PHDR as u16, 2, 0, 0, 0] {
        out.extend_from_slice(&half.to_le_bytes());
    }
    let size = image.len() as u64;
    let mut header = |kind: u32, flags: u32, offset: u64, address: u64, bytes: u64, align: u64| {
        out.extend_from_slice(&kind.to_le_bytes());
        out.extend_from_slice(&flags.to_le_bytes());
        for word in [offset, address, address, bytes, bytes, align] {
            out.extend_from_slice(&word.to_le_bytes());
        }
    };
    header(1, 7, IMAGE_OFFSET, load_address, size, 0x1000);
    header(4, 4, note_offset, 0, note.len() as u64, 4);
    out.extend_from_slice(&note);
    out.resize(IMAGE_OFFSET as usize, 0);
    out.extend_from_slice(image);
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use elf::ElfBytes;
    use elf::endian::LittleEndian;

    #[test]
    fn an_independent_reader_finds_the_segment_and_the_note() {
        let file = wrap(b"image", 0x10_0000, 0x10_1234);
        let elf = ElfBytes::<LittleEndian>::minimal_parse(&file).unwrap();
        let segments: Vec<_> = elf.segments().unwrap().iter().collect();
        assert_eq!((segments[0].p_paddr, segments[0].p_filesz), (0x10_0000, 5));
        assert_eq!(elf.segment_data(&segments[0]).unwrap(), b"image");
        let notes: Vec<_> = elf.segment_data_as_notes(&segments[1]).unwrap().collect();
        let elf::note::Note::Unknown(note) = &notes[0] else { panic!("{notes:?}") };
        assert_eq!((note.n_type, note.name), (18, &b"Xen\0"[..]));
        assert_eq!(note.desc, 0x10_1234u64.to_le_bytes());
    }
}
