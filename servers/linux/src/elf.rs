//! What a program file says of itself: header and program headers, checked.

use crate::errno::{Errno, Result};
use crate::memory::vma::{in_window, prot};
use crate::memory::{PAGE, page_down, page_up};
use alloc::vec::Vec;
use elf::abi;
use elf::endian::LittleEndian;
use elf::file::{Class, FileHeader};
use elf::segment::SegmentTable;

/// Bytes from the start of a file that hold all headers of any program that is accepted.
pub const HEAD: usize = PAGE as usize;

/// A piece to load.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Segment {
    /// Address, before the bias.
    pub address: u64,
    /// Offset in the file.
    pub offset: u64,
    /// Bytes in the file.
    pub file_size: u64,
    /// Bytes in memory.
    pub memory_size: u64,
    /// [`prot`] bits.
    pub protection: u8,
}

impl Segment {
    /// First page.
    pub fn start(&self) -> u64 {
        page_down(self.address)
    }

    /// End, in whole pages. (Checked not to overflow.)
    pub fn end(&self) -> u64 {
        page_up(self.address + self.memory_size).unwrap_or(u64::MAX)
    }
}

/// A program.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Program {
    /// Entry point, before the bias.
    pub entry: u64,
    /// May be loaded anywhere.
    pub relocatable: bool,
    /// Address of the program headers in memory, before the bias.
    pub headers: u64,
    /// How many.
    pub header_count: u16,
    /// Pieces in ascending order, not overlapping.
    pub segments: Vec<Segment>,
    /// Offset and size of the interpreter's path.
    pub interpreter: Option<(u64, usize)>,
}

impl Program {
    /// From the first [`HEAD`] bytes (or fewer, if the file is shorter).
    pub fn parse(head: &[u8]) -> Result<Program> {
        let refused = Errno::ENOEXEC;
        if head.len() < 64 {
            return Err(refused);
        }
        let ident = elf::file::parse_ident::<LittleEndian>(head).map_err(|_| refused)?;
        if ident.1 != Class::ELF64 {
            return Err(refused);
        }
        let tail = head.get(abi::EI_NIDENT..abi::EI_NIDENT + 48).ok_or(refused)?;
        let header = FileHeader::parse_tail(ident, tail).map_err(|_| refused)?;
        let relocatable = match header.e_type {
            abi::ET_EXEC => false,
            abi::ET_DYN => true,
            _ => return Err(refused),
        };
        if header.e_machine != abi::EM_X86_64 || header.e_phentsize != 56 || header.e_phnum == 0 {
            return Err(refused);
        }
        let table_start = usize::try_from(header.e_phoff).map_err(|_| refused)?;
        let table_end = table_start.checked_add(usize::from(header.e_phnum) * 56).ok_or(refused)?;
        let table = head.get(table_start..table_end).ok_or(refused)?;
        let mut segments: Vec<Segment> = Vec::new();
        let (mut interpreter, mut headers) = (None, 0);
        for entry in SegmentTable::new(LittleEndian, Class::ELF64, table) {
            match entry.p_type {
                abi::PT_LOAD if entry.p_memsz == 0 => {}
                abi::PT_LOAD => {
                    let mut protection = prot::READ;
                    for (flag, bit) in [(abi::PF_W, prot::WRITE), (abi::PF_X, prot::EXEC)] {
                        if entry.p_flags & flag != 0 {
                            protection |= bit;
                        }
                    }
                    let segment = Segment {
                        address: entry.p_vaddr,
                        offset: entry.p_offset,
                        file_size: entry.p_filesz,
                        memory_size: entry.p_memsz,
                        protection,
                    };
                    let end = entry.p_vaddr.checked_add(entry.p_memsz).and_then(page_up).ok_or(refused)?;
                    let previous = segments.last().map_or(0, Segment::end);
                    if entry.p_filesz > entry.p_memsz
                        || entry.p_offset.checked_add(entry.p_filesz).is_none_or(|end| end > i64::MAX as u64)
                        || end > ipc::shadow::WINDOW_END
                        || (!segments.is_empty() && segment.start() < previous)
                        || protection & (prot::WRITE | prot::EXEC) == prot::WRITE | prot::EXEC
                    {
                        return Err(refused);
                    }
                    if header.e_phoff >= entry.p_offset
                        && header.e_phoff - entry.p_offset < entry.p_filesz
                        && headers == 0
                    {
                        headers = entry.p_vaddr + (header.e_phoff - entry.p_offset);
                    }
                    segments.push(segment);
                }
                abi::PT_INTERP => {
                    let size = usize::try_from(entry.p_filesz).map_err(|_| refused)?;
                    if !(2..=HEAD).contains(&size) {
                        return Err(refused);
                    }
                    interpreter = Some((entry.p_offset, size));
                }
                _ => {}
            }
        }
        let (first, last) = (segments.first().ok_or(refused)?, segments.last().ok_or(refused)?);
        if !relocatable && !in_window(first.start(), last.end() - first.start()) {
            return Err(refused);
        }
        Ok(Program { entry: header.e_entry, relocatable, headers, header_count: header.e_phnum, segments, interpreter })
    }

    /// First page and bytes from the start of the first piece to the end of the last.
    pub fn extent(&self) -> (u64, u64) {
        let start = self.segments.first().map_or(0, Segment::start);
        (start, self.segments.last().map_or(start, Segment::end) - start)
    }
}

/// The `#!` line of a script: interpreter and optional argument.
pub fn script(head: &[u8]) -> Option<(&[u8], Option<&[u8]>)> {
    let line = head.strip_prefix(b"#!")?;
    let end = line.iter().position(|byte| *byte == b'\n').or((line.len() < 254).then_some(line.len()))?;
    let line = line[..end.min(line.len())].trim_ascii();
    let split = line.iter().position(|byte| matches!(byte, b' ' | b'\t'));
    let (interpreter, argument) = match split {
        Some(at) => (&line[..at], Some(line[at..].trim_ascii())),
        None => (line, None),
    };
    (!interpreter.is_empty()).then_some((interpreter, argument.filter(|argument| !argument.is_empty())))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn head(path: &str) -> Vec<u8> {
        let mut bytes = std::fs::read(path).unwrap();
        bytes.truncate(HEAD);
        bytes
    }

    #[test]
    fn a_distribution_program() {
        let program = Program::parse(&head("/bin/echo")).unwrap();
        assert!(program.relocatable && program.interpreter.is_some() && program.headers == 64);
        assert!(program.segments.iter().any(|segment| segment.protection == prot::READ | prot::EXEC));
        assert!(program.segments.iter().any(|segment| segment.protection == prot::READ | prot::WRITE));
        let loader = Program::parse(&head("/lib64/ld-linux-x86-64.so.2")).unwrap();
        assert!(loader.interpreter.is_none() && loader.entry != 0);
    }

    #[test]
    fn no_cut_and_no_flipped_byte_makes_it_panic() {
        let good = head("/bin/echo");
        for length in 0..800 {
            let _ = Program::parse(&good[..length.min(good.len())]);
        }
        for index in 0..800 {
            for value in [0, 1, 0x7f, 0x80, 0xff] {
                let mut bad = good.clone();
                bad[index] = value;
                if let Ok(program) = Program::parse(&bad) {
                    let _ = program.extent();
                }
            }
        }
        assert_eq!(Program::parse(b"#!/bin/sh\n"), Err(Errno::ENOEXEC));
    }

    #[test]
    fn scripts() {
        assert_eq!(script(b"#!/bin/sh\necho"), Some((&b"/bin/sh"[..], None)));
        assert_eq!(script(b"#! /usr/bin/env  python3 -u \nx"), Some((&b"/usr/bin/env"[..], Some(&b"python3 -u"[..]))));
        assert_eq!(script(b"#!\n"), None);
        assert_eq!(script(b"\x7fELF"), None);
    }
}
