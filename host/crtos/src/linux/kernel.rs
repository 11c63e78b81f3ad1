//! A kernel's file: the fields of the x86 boot protocol (Linux, `Documentation/x86/boot.rst`) that a loader needs.

use std::ops::Range;

use anyhow::{Context, Result, bail};

/// Where the set-up header begins, in the file and in the boot parameters.
pub const HEADER: usize = 0x1f1;
/// Distance of the 64-bit entry from the start of the code.
pub const ENTRY: u64 = 0x200;
/// First version of the protocol that has all of what is read here, the 64-bit entry included.
const VERSION: u16 = 0x20c;

/// What a file says of its kernel.
pub struct Kernel<'a> {
    /// The set-up header, to be copied into the boot parameters.
    pub header: &'a [u8],
    /// What is loaded.
    pub code: &'a [u8],
    /// Bytes of memory that it needs from there on.
    pub memory: u64,
    /// Where it would like to be.
    pub preferred: u64,
    /// Whether it can be elsewhere.
    pub relocatable: bool,
    /// At which multiples.
    pub alignment: u64,
    /// First address that the initial file system cannot have.
    pub initrd_limit: u64,
    /// Longest command line, without the end.
    pub command_line: usize,
}

fn field<const N: usize>(file: &[u8], at: usize) -> Result<[u8; N]> {
    let bytes = file.get(at..at + N).context("the kernel's file is too short")?;
    Ok(bytes.try_into()?)
}

impl<'a> Kernel<'a> {
    /// Reads one.
    pub fn parse(file: &'a [u8]) -> Result<Self> {
        const LOADED_HIGH: u8 = 1;
        const ENTRY_64: u16 = 1;
        let byte = |at| field::<1>(file, at).map(|[byte]| byte);
        let half = |at| field(file, at).map(u16::from_le_bytes);
        let word = |at| field(file, at).map(|bytes| u64::from(u32::from_le_bytes(bytes)));
        if half(0x1fe)? != 0xaa55 || field(file, 0x202)? != *b"HdrS" {
            bail!("this is no Linux kernel in the bzImage format");
        }
        if half(0x206)? < VERSION || byte(0x211)? & LOADED_HIGH == 0 || half(0x236)? & ENTRY_64 == 0 {
            bail!("this kernel has no 64-bit entry: it is too old, or a 32-bit one");
        }
        let end = 0x202 + usize::from(byte(0x201)?);
        let sectors = match byte(HEADER)? {
            0 => 4,
            count => usize::from(count),
        };
        let start = (sectors + 1) * 512;
        let length = word(0x1f4)? as usize * 16;
        let code: Range<usize> = start..start + length;
        let kernel = Self {
            header: file.get(HEADER..end).context("the kernel's file is too short")?,
            // The last paragraph may be incomplete.
            code: file
                .get(start..code.end.min(file.len()))
                .filter(|code| code.len() + 16 > length)
                .context("the kernel's file is too short")?,
            memory: word(0x260)?.max(length as u64),
            preferred: u64::from_le_bytes(field(file, 0x258)?),
            relocatable: byte(0x234)? != 0,
            alignment: word(0x230)?,
            initrd_limit: word(0x22c)? + 1,
            command_line: word(0x238)? as usize,
        };
        if !kernel.alignment.is_power_of_two() || length <= ENTRY as usize || end < 0x264 {
            bail!("the kernel's header is damaged");
        }
        Ok(kernel)
    }
}
