//! Why a configuration cannot be read.

use super::REVISION;

/// A configuration that is not well formed. Each names the field and what to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ConfigError {
    /// The bytes end before the part that the counts promise.
    Truncated {
        /// The part that is cut off.
        part: &'static str,
        /// Bytes left for it.
        have: usize,
    },
    /// Not a configuration of the expected kind.
    Signature {
        /// Signature that was expected.
        expected: &'static str,
    },
    /// A system configuration where a cell configuration is wanted, or the other way round.
    WrongKind {
        /// Kind that was found.
        found: &'static str,
        /// Kind that is wanted.
        wanted: &'static str,
    },
    /// A configuration of the format before the architecture byte (revision 12 and older).
    OldFormat {
        /// Its revision.
        revision: u16,
    },
    /// Not for x86.
    Architecture(u8),
    /// Another revision.
    Revision(u16),
    /// The name is empty, not ended by NUL, or not printable ASCII.
    Name,
    /// The CPU bitmap is empty or beyond [`super::MAX_CPU_SET`].
    CpuSetSize(u32),
    /// A value that nothing defines.
    Value {
        /// Field.
        field: &'static str,
        /// Number of the record.
        index: usize,
        /// The value, or the bits of it that are not defined.
        value: u64,
    },
    /// The output buffer is too small (when writing).
    NoSpace {
        /// Bytes needed.
        need: usize,
    },
    /// Too many records for the field that counts them (when writing).
    TooMany(&'static str),
}

impl core::fmt::Display for ConfigError {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        match *self {
            Self::Truncated { part, have } => {
                write!(
                    f,
                    "the file ends inside {part} ({have} bytes left): it was cut, or a count in its header is wrong"
                )
            }
            Self::Signature { expected } => write!(f, "not a configuration: it does not start with \"{expected}\""),
            Self::WrongKind { found, wanted } => {
                write!(f, "this is a {found} configuration, a {wanted} configuration is needed: give the other file")
            }
            Self::OldFormat { revision } => write!(
                f,
                "configuration of the old format (revision {revision}), revision {REVISION} is needed: rebuild it with the headers of revision {REVISION}"
            ),
            Self::Architecture(arch) => {
                write!(f, "architecture: configuration is for architecture {arch}, x86 (0) is needed")
            }
            Self::Revision(revision) => write!(
                f,
                "revision: configuration has revision {revision}, {REVISION} is needed: rebuild it with the headers of revision {REVISION}"
            ),
            Self::Name => write!(f, "name: must be 1 to 31 printable ASCII characters, ended by NUL"),
            Self::CpuSetSize(size) => {
                write!(f, "cpu_set_size: {size} bytes; give 1 to {} bytes (8 hold 64 CPUs)", super::MAX_CPU_SET)
            }
            Self::Value { field, index, value } => {
                write!(f, "{field} of record {index}: {value:#x} is not defined in revision {REVISION}")
            }
            Self::NoSpace { need } => write!(f, "the buffer is too small, {need} bytes are needed"),
            Self::TooMany(field) => write!(f, "{field}: too many records"),
        }
    }
}

impl core::error::Error for ConfigError {}
