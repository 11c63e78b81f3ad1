//! Programs as the linker left them: checked, and cut into page-aligned pieces.

use std::path::Path;

use elf::ElfBytes;
use elf::abi;
use elf::endian::LittleEndian;
use ipc::Protection;
use sha2::{Digest, Sha256};

use crate::diagnostic::Diagnostics;
use crate::stack::{self, Need};
use crate::units::page_up;

/// A page-aligned piece of a program.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Piece {
    /// Virtual address, a multiple of 4 KiB.
    pub vaddr: u64,
    /// The bytes that are not zero-initialised.
    pub bytes: Vec<u8>,
    /// Bytes in memory, a multiple of 4 KiB.
    pub memory_size: u64,
    /// How it is mapped.
    pub protection: Protection,
}

/// A server's program.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Program {
    /// Entry point.
    pub entry: u64,
    /// Pieces by address, no two in one page.
    pub pieces: Vec<Piece>,
    /// SHA-256 of entry and pieces: what runs, not how the linker wrapped it.
    pub digest: [u8; 32],
    /// The stack that its calls can need; unknown without symbols.
    pub stack: Option<Need>,
}

/// A kernel: flat bytes from [`ipc::image::LOAD_ADDRESS`] on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Kernel {
    /// The bytes, zero-initialised data included.
    pub flat: Vec<u8>,
}

/// Largest file that is read, and largest program in memory.
pub const MAX_BYTES: u64 = 256 << 20;

/// Reads a program file.
pub fn read_file(path: &Path) -> Result<Vec<u8>, Diagnostics> {
    let fail = |message: String| Diagnostics::of(path.display().to_string(), message, "build it, or say where it is");
    let size = std::fs::metadata(path).map_err(|e| fail(format!("cannot be read: {e}")))?.len();
    if size > MAX_BYTES {
        return Err(fail(format!("is {size} bytes long, which is too much for a program")));
    }
    std::fs::read(path).map_err(|e| fail(format!("cannot be read: {e}")))
}

/// The loadable segments of an x86-64 executable.
fn segments<'a>(
    bytes: &'a [u8],
    fail: &dyn Fn(&str, &str) -> Diagnostics,
) -> Result<(ElfBytes<'a, LittleEndian>, Vec<elf::segment::ProgramHeader>), Diagnostics> {
    if !bytes.starts_with(&abi::ELFMAGIC) {
        return Err(fail("is not an ELF file", "give the file that cargo built"));
    }
    let truncated = |_| fail("is damaged or cut short", "build it again");
    if bytes.get(abi::EI_CLASS) != Some(&abi::ELFCLASS64) || bytes.get(abi::EI_DATA) != Some(&abi::ELFDATA2LSB) {
        return Err(fail("is not a 64-bit little-endian program", "build it for x86_64-unknown-none"));
    }
    let file = ElfBytes::<LittleEndian>::minimal_parse(bytes).map_err(truncated)?;
    if file.ehdr.e_machine != abi::EM_X86_64 {
        return Err(fail(
            &format!("is for another processor (ELF machine {})", file.ehdr.e_machine),
            "build it for x86_64-unknown-none",
        ));
    }
    match file.ehdr.e_type {
        abi::ET_EXEC => {}
        abi::ET_DYN => {
            return Err(fail(
                "is position independent, and there is nobody to relocate it",
                "link it with -no-pie at a fixed address",
            ));
        }
        other => return Err(fail(&format!("is not an executable (ELF type {other})"), "link it")),
    }
    let headers = file.segments().ok_or_else(|| fail("has no program headers", "link it"))?;
    let headers: Vec<_> = headers.iter().collect();
    for header in &headers {
        match header.p_type {
            abi::PT_INTERP => return Err(fail("wants a dynamic linker", "link it statically")),
            abi::PT_TLS => {
                return Err(fail("has thread-local storage, which servers do not have", "remove the thread_local"));
            }
            _ => {}
        }
    }
    let mut loads: Vec<_> = headers.into_iter().filter(|h| h.p_type == abi::PT_LOAD && h.p_memsz > 0).collect();
    if loads.is_empty() {
        return Err(fail("has nothing to load", "link it"));
    }
    loads.sort_by_key(|h| h.p_vaddr);
    for header in &loads {
        let end = header.p_vaddr.checked_add(header.p_memsz);
        if header.p_filesz > header.p_memsz || header.p_memsz > MAX_BYTES || end.is_none() {
            return Err(fail("has a segment of impossible size", "build it again"));
        }
        file.segment_data(header).map_err(truncated)?;
    }
    Ok((file, loads))
}

impl Program {
    /// Reads the program of a server. `what` names it in messages.
    pub fn parse(bytes: &[u8], what: &str) -> Result<Self, Diagnostics> {
        let fail = |message: &str, cure: &str| Diagnostics::of(what, message, cure);
        let (file, loads) = segments(bytes, &fail)?;
        let mut pieces: Vec<Piece> = Vec::new();
        for header in &loads {
            let data = file.segment_data(header).map_err(|_| fail("is damaged or cut short", "build it again"))?;
            let protection = protection(header.p_flags);
            if !protection.is_legal() {
                return Err(fail(
                    &format!("has a segment at {:#x} that is both writable and executable", header.p_vaddr),
                    "put code and data into different sections in its linker script",
                ));
            }
            let vaddr = header.p_vaddr & !0xfff;
            let lead = header.p_vaddr - vaddr;
            let end = header.p_vaddr + header.p_memsz;
            if vaddr == 0 || end > ipc::slots::layout::START_INFO {
                return Err(fail(
                    &format!("has a segment at {:#x}–{end:#x}, outside the room for programs", header.p_vaddr),
                    &format!(
                        "link it at {:#x}, below {:#x}",
                        ipc::slots::layout::PROGRAM,
                        ipc::slots::layout::START_INFO
                    ),
                ));
            }
            if let Some(last) = pieces.last()
                && last.vaddr + last.memory_size > vaddr
            {
                return Err(fail(
                    &format!("has two segments in the page at {vaddr:#x}"),
                    "align the sections to 4 KiB in its linker script",
                ));
            }
            let mut piece = vec![0; lead as usize];
            piece.extend_from_slice(data);
            let memory_size = page_up(lead + header.p_memsz).unwrap_or(u64::MAX);
            pieces.push(Piece { vaddr, bytes: piece, memory_size, protection });
        }
        let entry = file.ehdr.e_entry;
        let runs = |p: &Piece| {
            p.protection.contains(Protection::EXECUTE) && (p.vaddr..p.vaddr + p.bytes.len() as u64).contains(&entry)
        };
        if !pieces.iter().any(runs) {
            return Err(fail(
                &format!("starts at {entry:#x}, where it has no code"),
                "name the entry in its linker script",
            ));
        }
        let mut hash = Sha256::new();
        hash.update(entry.to_le_bytes());
        for piece in &pieces {
            hash.update(piece.vaddr.to_le_bytes());
            hash.update(piece.memory_size.to_le_bytes());
            hash.update([piece.protection.bits()]);
            hash.update((piece.bytes.len() as u64).to_le_bytes());
            hash.update(&piece.bytes);
        }
        Ok(Self { entry, pieces, digest: hash.finalize().into(), stack: stack::need(bytes, entry) })
    }
}

fn protection(flags: u32) -> Protection {
    let mut protection = Protection::READ;
    protection.set(Protection::WRITE, flags & abi::PF_W != 0);
    protection.set(Protection::EXECUTE, flags & abi::PF_X != 0);
    protection
}

impl Kernel {
    /// Reads a kernel: its segments by *physical* address.
    pub fn parse(bytes: &[u8], what: &str) -> Result<Self, Diagnostics> {
        let fail = |message: &str, cure: &str| Diagnostics::of(what, message, cure);
        let base = ipc::image::LOAD_ADDRESS;
        let (file, loads) = segments(bytes, &fail)?;
        let mut flat: Vec<u8> = Vec::new();
        for header in &loads {
            let data = file.segment_data(header).map_err(|_| fail("is damaged or cut short", "build it again"))?;
            let start = header.p_paddr.checked_sub(base).filter(|s| *s < MAX_BYTES);
            let Some(start) = start.map(|s| s as usize) else {
                return Err(fail(
                    &format!("has a segment at physical address {:#x}, not behind {base:#x}", header.p_paddr),
                    "give it a load address (AT) in the kernel's linker script",
                ));
            };
            let end = start + header.p_memsz as usize;
            if flat.len() < end {
                flat.resize(end, 0);
            }
            flat[start..start + data.len()].copy_from_slice(data);
        }
        Ok(Self { flat })
    }
}
