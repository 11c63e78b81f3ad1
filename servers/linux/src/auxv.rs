//! The first stack of a program: arguments, environment and auxiliary vector, as the System V ABI lays them out.

use crate::errno::{Errno, Result};
use alloc::vec::Vec;

/// Types of auxiliary entries.
#[allow(missing_docs)]
pub mod at {
    pub const NULL: u64 = 0;
    pub const PHDR: u64 = 3;
    pub const PHENT: u64 = 4;
    pub const PHNUM: u64 = 5;
    pub const PAGESZ: u64 = 6;
    pub const BASE: u64 = 7;
    pub const FLAGS: u64 = 8;
    pub const ENTRY: u64 = 9;
    pub const UID: u64 = 11;
    pub const EUID: u64 = 12;
    pub const GID: u64 = 13;
    pub const EGID: u64 = 14;
    pub const PLATFORM: u64 = 15;
    pub const HWCAP: u64 = 16;
    pub const CLKTCK: u64 = 17;
    pub const SECURE: u64 = 23;
    pub const RANDOM: u64 = 25;
    pub const HWCAP2: u64 = 26;
    pub const EXECFN: u64 = 31;
    pub const SYSINFO_EHDR: u64 = 33;
}

/// What goes onto the stack.
pub struct Contents<'a> {
    /// Arguments.
    pub arguments: &'a [&'a [u8]],
    /// Environment.
    pub environment: &'a [&'a [u8]],
    /// `AT_EXECFN`.
    pub path: &'a [u8],
    /// `AT_PLATFORM`.
    pub platform: &'a [u8],
    /// `AT_RANDOM`.
    pub random: [u8; 16],
    /// The other entries.
    pub auxiliary: &'a [(u64, u64)],
}

/// Builds the bytes that end at `top`; gives the stack pointer and the bytes from there on. At most `limit` bytes.
pub fn build(contents: &Contents<'_>, top: u64, limit: u64) -> Result<(u64, Vec<u8>)> {
    let mut strings: Vec<u8> = Vec::new();
    let mut put = |bytes: &[u8]| {
        let at = strings.len() as u64;
        strings.extend_from_slice(bytes);
        strings.push(0);
        at
    };
    let arguments: Vec<u64> = contents.arguments.iter().map(|string| put(string)).collect();
    let environment: Vec<u64> = contents.environment.iter().map(|string| put(string)).collect();
    let path = put(contents.path);
    let platform = put(contents.platform);
    let random = strings.len() as u64;
    strings.extend_from_slice(&contents.random);

    // argc, pointers with their NULLs, entries with AT_RANDOM, AT_PLATFORM, AT_EXECFN and AT_NULL.
    let words = 1 + arguments.len() + 1 + environment.len() + 1 + 2 * (contents.auxiliary.len() + 4);
    let total = words as u64 * 8 + strings.len() as u64 + 32;
    if total > limit || total > top {
        return Err(Errno::E2BIG);
    }
    // The last word of the stack stays zero, as on Linux.
    let base = (top - 8 - strings.len() as u64) & !15;
    let pointer = (base - words as u64 * 8) & !15;

    let mut out: Vec<u8> = Vec::with_capacity((top - pointer) as usize);
    let mut word = |value: u64| out.extend_from_slice(&value.to_le_bytes());
    word(arguments.len() as u64);
    for list in [&arguments, &environment] {
        list.iter().for_each(|offset| word(base + offset));
        word(0);
    }
    for (kind, value) in contents.auxiliary {
        word(*kind);
        word(*value);
    }
    for (kind, value) in
        [(at::RANDOM, base + random), (at::PLATFORM, base + platform), (at::EXECFN, base + path), (at::NULL, 0)]
    {
        word(kind);
        word(value);
    }
    out.resize((base - pointer) as usize, 0);
    out.extend_from_slice(&strings);
    out.resize((top - pointer) as usize, 0);
    Ok((pointer, out))
}

#[cfg(test)]
mod tests {
    use super::*;

    const TOP: u64 = 0x7000_0000;

    fn word(bytes: &[u8], base: u64, address: u64) -> u64 {
        let at = (address - base) as usize;
        u64::from_le_bytes(bytes[at..at + 8].try_into().unwrap())
    }

    fn string(bytes: &[u8], base: u64, address: u64) -> Vec<u8> {
        bytes[(address - base) as usize..].iter().copied().take_while(|byte| *byte != 0).collect()
    }

    #[test]
    fn laid_out_as_the_abi_says() {
        for count in 0..5 {
            let all: [&[u8]; 5] = [b"echo", b"a", b"", b"long argument", b"x"];
            let arguments = all[..count].to_vec();
            let contents = Contents {
                arguments: &arguments,
                environment: &[b"HOME=/", b"A=b"],
                path: b"/bin/echo",
                platform: b"x86_64",
                random: [9; 16],
                auxiliary: &[(at::PAGESZ, 4096), (at::ENTRY, 0x1234)],
            };
            let (pointer, bytes) = build(&contents, TOP, 65536).unwrap();
            assert!(pointer.is_multiple_of(16) && pointer + bytes.len() as u64 == TOP);
            assert_eq!(word(&bytes, pointer, pointer), count as u64);
            let mut at = pointer + 8;
            for argument in &arguments {
                assert_eq!(string(&bytes, pointer, word(&bytes, pointer, at)), *argument);
                at += 8;
            }
            assert_eq!(word(&bytes, pointer, at), 0);
            assert_eq!(string(&bytes, pointer, word(&bytes, pointer, at + 8)), b"HOME=/");
            assert_eq!(word(&bytes, pointer, at + 24), 0);
            at += 32;
            let mut seen = Vec::new();
            while word(&bytes, pointer, at) != at::NULL {
                seen.push((word(&bytes, pointer, at), word(&bytes, pointer, at + 8)));
                at += 16;
            }
            assert_eq!(seen[..2], [(at::PAGESZ, 4096), (at::ENTRY, 0x1234)]);
            assert_eq!(string(&bytes, pointer, seen[4].1), b"/bin/echo");
            assert_eq!(&bytes[(seen[2].1 - pointer) as usize..][..16], [9; 16]);
        }
    }

    #[test]
    fn too_much_is_refused() {
        let contents = Contents {
            arguments: &[&[b'a'; 5000]],
            environment: &[],
            path: b"",
            platform: b"",
            random: [0; 16],
            auxiliary: &[],
        };
        assert_eq!(build(&contents, TOP, 4096), Err(Errno::E2BIG));
    }
}
