//! The argument block of a new program: what the proxy writes into the page(s) that `linux` names in an
//! [`crate::shadow::special::ARGUMENTS`] call, and `linux` turns into the program's first stack.
//!
//! Layout: [`StartHeader`], then `strings_size` bytes of NUL-terminated strings in this order: the path of the program
//! (absolute or relative to the proxy's working directory, already looked up along PATH), the platform's name for
//! `AT_PLATFORM` (may be empty), `argc` arguments, `envc` environment strings.
//!
//! Rules:
//! * The writer is Linux: the reader believes nothing until [`Block::parse`] has counted every string.
//! * Working directory, umask, descriptors and credentials stay with the proxy; what is here of them is for the auxiliary vector only.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// [`StartHeader::magic`].
pub const START_MAGIC: u64 = u64::from_le_bytes(*b"CRTOSARG");
/// [`StartHeader::version`].
pub const START_VERSION: u32 = 1;
/// Largest block: header, arguments and environment together.
pub const MAX_BLOCK: usize = 1 << 20;
/// Most arguments and environment strings together.
pub const MAX_STRINGS: usize = 16384;
/// `RLIMIT_*` numbers go from 0 to one less than this.
pub const RLIMITS: usize = 16;

/// [`StartHeader::flags`].
pub mod start_flags {
    /// `AT_SECURE`: the program must distrust its environment.
    pub const SECURE: u32 = 1;
}

/// Head of the block. 392 bytes, little endian.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct StartHeader {
    /// [`START_MAGIC`].
    pub magic: u64,
    /// [`START_VERSION`].
    pub version: u32,
    /// [`start_flags`].
    pub flags: u32,
    /// Bytes of header and strings.
    pub size: u32,
    /// Bytes of the strings.
    pub strings_size: u32,
    /// Arguments.
    pub argc: u32,
    /// Environment strings.
    pub envc: u32,
    /// Real user id.
    pub uid: u32,
    /// Effective user id.
    pub euid: u32,
    /// Real group id.
    pub gid: u32,
    /// Effective group id.
    pub egid: u32,
    /// Process id of the proxy; also the thread id of its first worker.
    pub pid: u32,
    /// Process id of its parent.
    pub ppid: u32,
    /// Scheduling policy to start with (0 OTHER, 1 FIFO, 2 RR).
    pub policy: u32,
    /// Real-time priority to start with, 1–99, or 0.
    pub priority: u32,
    /// `AT_HWCAP` of the proxy (CPUID leaf 1 EDX); 0: the real-time side asks the processor.
    pub hwcap: u64,
    /// `AT_HWCAP2` of the proxy.
    pub hwcap2: u64,
    /// `AT_CLKTCK`.
    pub clock_ticks: u64,
    /// Blocked signals (bit n−1 for signal n) to start with.
    pub blocked_signals: u64,
    /// Ignored signals to start with.
    pub ignored_signals: u64,
    /// For `AT_RANDOM` and address-space layout.
    pub random: [u8; 32],
    /// Soft and hard limit by `RLIMIT_*` number; `u64::MAX`: none.
    pub limits: [[u64; 2]; RLIMITS],
}

static_assertions::const_assert_eq!(size_of::<StartHeader>(), 392);

/// Why a block is not believed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BlockError {
    /// Shorter than its header says, or longer than [`MAX_BLOCK`].
    Size,
    /// Not a block of this version.
    Version,
    /// The strings do not end where and as often as the header says.
    Strings,
}

/// A checked block.
#[derive(Clone, Copy, Debug)]
pub struct Block<'a> {
    /// The head.
    pub header: StartHeader,
    strings: &'a [u8],
}

impl<'a> Block<'a> {
    /// Checks the bytes of a block; bytes after its end are ignored.
    pub fn parse(bytes: &'a [u8]) -> Result<Block<'a>, BlockError> {
        let (header, rest) = StartHeader::read_from_prefix(bytes).map_err(|_| BlockError::Size)?;
        if header.magic != START_MAGIC || header.version != START_VERSION {
            return Err(BlockError::Version);
        }
        let size = header.size as usize;
        let strings_size = header.strings_size as usize;
        if size > MAX_BLOCK || size != size_of::<StartHeader>().saturating_add(strings_size) {
            return Err(BlockError::Size);
        }
        let strings = rest.get(..strings_size).ok_or(BlockError::Size)?;
        let count = (header.argc as usize).saturating_add(header.envc as usize);
        if count > MAX_STRINGS || strings.last() != Some(&0) {
            return Err(BlockError::Strings);
        }
        if strings.iter().filter(|byte| **byte == 0).count() != count + 2 {
            return Err(BlockError::Strings);
        }
        Ok(Block { header, strings })
    }

    fn all(&self) -> impl Iterator<Item = &'a [u8]> {
        self.strings[..self.strings.len() - 1].split(|byte| *byte == 0)
    }

    /// Path of the program.
    pub fn path(&self) -> &'a [u8] {
        self.all().next().unwrap_or(&[])
    }

    /// `AT_PLATFORM`.
    pub fn platform(&self) -> &'a [u8] {
        self.all().nth(1).unwrap_or(&[])
    }

    /// Arguments.
    pub fn arguments(&self) -> impl Iterator<Item = &'a [u8]> {
        self.all().skip(2).take(self.header.argc as usize)
    }

    /// Environment strings.
    pub fn environment(&self) -> impl Iterator<Item = &'a [u8]> {
        self.all().skip(2 + self.header.argc as usize).take(self.header.envc as usize)
    }
}

/// Bytes that [`encode`] needs for these strings.
pub fn encoded_size(path: &[u8], platform: &[u8], arguments: &[&[u8]], environment: &[&[u8]]) -> usize {
    let strings = arguments.iter().chain(environment).map(|string| string.len() + 1).sum::<usize>();
    size_of::<StartHeader>() + path.len() + 1 + platform.len() + 1 + strings
}

/// Writes a block; fills in magic, version, sizes and counts of `header`. Gives the bytes written, or an error if
/// `out` is too small, the block too large, or a string holds a NUL.
pub fn encode(
    header: &StartHeader,
    path: &[u8],
    platform: &[u8],
    arguments: &[&[u8]],
    environment: &[&[u8]],
    out: &mut [u8],
) -> Result<usize, BlockError> {
    let size = encoded_size(path, platform, arguments, environment);
    if size > MAX_BLOCK || size > out.len() {
        return Err(BlockError::Size);
    }
    if arguments.len() + environment.len() > MAX_STRINGS {
        return Err(BlockError::Strings);
    }
    let header = StartHeader {
        magic: START_MAGIC,
        version: START_VERSION,
        size: size as u32,
        strings_size: (size - size_of::<StartHeader>()) as u32,
        argc: arguments.len() as u32,
        envc: environment.len() as u32,
        ..*header
    };
    let mut at = size_of::<StartHeader>();
    out[..at].copy_from_slice(header.as_bytes());
    for string in [path, platform].iter().chain(arguments).chain(environment) {
        if string.contains(&0) {
            return Err(BlockError::Strings);
        }
        out[at..at + string.len()].copy_from_slice(string);
        at += string.len();
        out[at] = 0;
        at += 1;
    }
    Ok(at)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample(out: &mut [u8]) -> usize {
        let header = StartHeader { uid: 1000, clock_ticks: 100, random: [7; 32], ..Default::default() };
        encode(&header, b"/bin/echo", b"x86_64", &[b"echo", b"", b"hi"], &[b"A=1", b"B="], out).unwrap()
    }

    #[test]
    fn what_is_encoded_is_parsed() {
        let mut bytes = [0xff; 1024];
        let size = sample(&mut bytes);
        let block = Block::parse(&bytes).unwrap();
        assert_eq!(block.header.size as usize, size);
        assert_eq!((block.header.uid, block.header.clock_ticks, block.header.argc), (1000, 100, 3));
        assert_eq!((block.path(), block.platform()), (&b"/bin/echo"[..], &b"x86_64"[..]));
        assert!(block.arguments().eq([&b"echo"[..], b"", b"hi"]));
        assert!(block.environment().eq([&b"A=1"[..], b"B="]));
    }

    #[test]
    fn no_arguments_at_all() {
        let mut bytes = [0; 512];
        let size = encode(&StartHeader::default(), b"", b"", &[], &[], &mut bytes).unwrap();
        let block = Block::parse(&bytes[..size]).unwrap();
        assert_eq!((block.path(), block.arguments().count(), block.environment().count()), (&b""[..], 0, 0));
    }

    #[test]
    fn lies_are_found() {
        let mut bytes = [0; 1024];
        let size = sample(&mut bytes);
        assert_eq!(Block::parse(&bytes[..size - 1]).unwrap_err(), BlockError::Size);
        assert_eq!(Block::parse(&bytes[..10]).unwrap_err(), BlockError::Size);
        for (offset, error) in [(0, BlockError::Version), (8, BlockError::Version), (16, BlockError::Size)] {
            let mut copy = bytes;
            copy[offset] ^= 1;
            assert_eq!(Block::parse(&copy).unwrap_err(), error);
        }
        for offset in [24, 28] {
            let mut copy = bytes;
            copy[offset..offset + 4].copy_from_slice(&u32::MAX.to_le_bytes());
            assert_eq!(Block::parse(&copy).unwrap_err(), BlockError::Strings);
        }
        let mut copy = bytes;
        copy[size - 1] = b'x';
        assert_eq!(Block::parse(&copy).unwrap_err(), BlockError::Strings);
        assert_eq!(encode(&StartHeader::default(), b"a\0b", b"", &[], &[], &mut bytes), Err(BlockError::Strings));
        assert_eq!(encode(&StartHeader::default(), b"abc", b"", &[], &[], &mut bytes[..300]), Err(BlockError::Size));
    }
}
