//! How much stack a program's calls can need, from its machine code.
//!
//! Each function that the symbol table names is decoded; the depth of its frame is followed along its branches. Along the calls
//! of the program, from the entry on, the depths add up to the deepest chain.
//!
//! What the number bounds: direct calls and jumps to other functions, exactly; a circle of calls once around; a call through a
//! pointer as if it went to the deepest function whose address the program keeps anywhere, whose own calls through pointers
//! are not followed further. So a program can need more (deep recursion, pointers behind pointers), and [`Need`] says where;
//! and rarely it needs less. Programs without symbols have no number.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use elf::ElfBytes;
use elf::abi;
use elf::endian::LittleEndian;
use serde::Serialize;

mod frame;

use frame::Frame;

/// What a program needs.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Need {
    /// Bytes of the deepest chain of calls.
    pub bytes: u64,
    /// Its functions, from the entry on.
    pub chain: Vec<String>,
    /// Functions that call themselves, perhaps by way of others: counted once.
    pub recursive: Vec<String>,
    /// Functions that call through pointers.
    pub indirect: usize,
    /// Functions that take stack by an amount that is not written in the code: not counted.
    pub dynamic: Vec<String>,
}

/// Functions by address, and what is known of the program.
struct Program {
    names: BTreeMap<u64, String>,
    frames: BTreeMap<u64, Frame>,
    /// Functions whose address the program keeps.
    kept: BTreeSet<u64>,
}

/// Bytes at an address of the program.
fn bytes_at<'a>(loads: &[(u64, &'a [u8], bool)], start: u64, size: u64) -> Option<&'a [u8]> {
    loads.iter().find_map(|(base, bytes, _)| {
        let first = usize::try_from(start.checked_sub(*base)?).ok()?;
        bytes.get(first..first.checked_add(usize::try_from(size).ok()?)?)
    })
}

impl Program {
    fn read(bytes: &[u8]) -> Option<Self> {
        let file = ElfBytes::<LittleEndian>::minimal_parse(bytes).ok()?;
        let mut loads = Vec::new();
        for header in file.segments()?.iter().filter(|h| h.p_type == abi::PT_LOAD) {
            loads.push((header.p_vaddr, file.segment_data(&header).ok()?, header.p_flags & abi::PF_X != 0));
        }
        let (symbols, strings) = file.symbol_table().ok()??;
        let mut sizes = BTreeMap::new();
        let mut names = BTreeMap::new();
        for symbol in symbols.iter().filter(|s| s.st_symtype() == abi::STT_FUNC && s.st_shndx != abi::SHN_UNDEF) {
            let name = strings.get(symbol.st_name as usize).unwrap_or("?");
            names.insert(symbol.st_value, format!("{:#}", rustc_demangle::demangle(name)));
            sizes.insert(symbol.st_value, symbol.st_size);
        }
        // A function without a size ends where the next begins.
        let starts: Vec<u64> = sizes.keys().copied().collect();
        let mut frames = BTreeMap::new();
        let mut kept = BTreeSet::new();
        for (index, start) in starts.iter().enumerate() {
            let next = starts.get(index + 1).map_or(u64::MAX, |next| next - start);
            let own = sizes[start];
            let code = match own {
                0 => (1..next.min(4096)).rev().find_map(|size| bytes_at(&loads, *start, size)),
                size => bytes_at(&loads, *start, size.min(next)),
            };
            let frame = frame::follow(code?, *start);
            kept.extend(frame.addresses.iter().filter(|address| names.contains_key(address)));
            frames.insert(*start, frame);
        }
        for (_, data, executable) in &loads {
            let words = data.chunks_exact(8).filter(|_| !executable);
            kept.extend(
                words.filter_map(|w| w.try_into().ok().map(u64::from_le_bytes)).filter(|w| names.contains_key(w)),
            );
        }
        Some(Self { names, frames, kept })
    }
}

/// A function, and whether calls through pointers are followed below it.
type Visit = (u64, bool);

/// Follows the calls.
struct Walk<'a> {
    program: &'a Program,
    /// What is known already: deepest need of a function, and the call it comes from.
    known: HashMap<Visit, (u64, Option<Visit>)>,
    path: Vec<u64>,
    recursive: BTreeSet<u64>,
}

impl Walk<'_> {
    /// Bytes from the return address of `function` on.
    fn need(&mut self, function: u64, pointers: bool) -> u64 {
        if let Some((bytes, _)) = self.known.get(&(function, pointers)) {
            return *bytes;
        }
        let Some(frame) = self.program.frames.get(&function) else { return 8 };
        if let Some(at) = self.path.iter().position(|other| *other == function) {
            // Who calls itself by way of a pointer only is not known to: the pointer may go elsewhere.
            if !self.path[at..].is_empty() && !pointers_between(self.program, &self.path[at..], function) {
                self.recursive.insert(function);
            }
            return 0;
        }
        self.path.push(function);
        let mut deepest = (8 + frame.deepest, None);
        for (depth, target) in &frame.calls {
            let bytes = self.need(*target, pointers).saturating_add(8 + depth);
            if bytes > deepest.0 {
                deepest = (bytes, Some((*target, pointers)));
            }
        }
        if let Some(depth) = frame.through_pointers.filter(|_| pointers) {
            for target in &self.program.kept {
                let bytes = self.need(*target, false).saturating_add(8 + depth);
                if bytes > deepest.0 {
                    deepest = (bytes, Some((*target, false)));
                }
            }
        }
        self.path.pop();
        self.known.insert((function, pointers), deepest);
        deepest.0
    }
}

/// Whether one of the steps along `path` and back to `function` is no direct call.
fn pointers_between(program: &Program, path: &[u64], function: u64) -> bool {
    path.iter().zip(path[1..].iter().chain([&function])).any(|(from, to)| {
        program.frames.get(from).is_none_or(|frame| !frame.calls.iter().any(|(_, target)| target == to))
    })
}

/// What the program in this ELF file needs, beginning at `entry`. `None`: it has no symbols to tell.
pub fn need(bytes: &[u8], entry: u64) -> Option<Need> {
    let program = Program::read(bytes)?;
    program.frames.get(&entry)?;
    let mut walk = Walk { program: &program, known: HashMap::new(), path: Vec::new(), recursive: BTreeSet::new() };
    // The entry has no return address, but the compiler's alignment makes up for that.
    let bytes = walk.need(entry, true);
    let mut chain = Vec::new();
    let mut at = Some((entry, true));
    while let Some(call) = at.filter(|_| chain.len() < 256) {
        chain.push(program.names.get(&call.0).cloned().unwrap_or_default());
        at = walk.known.get(&call).and_then(|(_, next)| *next);
    }
    let reached: BTreeSet<u64> = walk.known.keys().map(|(function, _)| *function).collect();
    let named = |functions: &mut dyn Iterator<Item = u64>| functions.map(|f| program.names[&f].clone()).collect();
    let frame = |function: &u64| program.frames.get(function);
    Some(Need {
        bytes,
        chain,
        recursive: named(&mut walk.recursive.iter().copied()),
        indirect: reached.iter().filter_map(frame).filter(|f| f.through_pointers.is_some()).count(),
        dynamic: named(&mut reached.iter().copied().filter(|f| frame(f).is_some_and(|f| f.dynamic))),
    })
}

#[cfg(test)]
mod tests;
