//! The first 80 bytes of the hypervisor image.
//!
//! The build fills in what the image knows of itself (sizes, entry), the driver what only the running machine
//! knows (CPU counts, console address), and then it calls the entry on every CPU.

use zerocopy::little_endian::{U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

/// First bytes of an image.
pub const SIGNATURE: [u8; 8] = *b"JAILHOUS";

/// Image header, at offset 0 of the image.
#[derive(Clone, Copy, Debug, Default, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct ImageHeader {
    /// [`SIGNATURE`].
    pub signature: [u8; 8],
    /// Bytes of code, data and bss, page aligned: the per-CPU areas start here. Set by the build.
    pub core_size: U64,
    /// Bytes of one per-CPU area, page aligned. Set by the build.
    pub percpu_size: U64,
    /// Offset of the entry function from the start of the image. Set by the build.
    pub entry: U64,
    /// Offset of the virtual console page. Set by the build.
    pub console_page: U64,
    /// Unused here (coverage data elsewhere); zero.
    pub gcov_info: U64,
    /// Highest CPU number of the root cell plus one. Set by the driver.
    pub max_cpus: U32,
    /// CPUs that will call the entry. Set by the driver.
    pub online_cpus: U32,
    /// Address of a memory-mapped debug console in the hypervisor's address space, or 0. Set by the driver.
    pub debug_console_base: U64,
    /// Unused on x86; zero.
    pub arm_hyp_vectors: U64,
    /// Unused on x86; zero.
    pub arm_hyp_abi: U32,
    /// Zero.
    pub reserved: U32,
}

const _: () = assert!(size_of::<ImageHeader>() == 80);
const _: () = assert!(core::mem::offset_of!(ImageHeader, max_cpus) == 0x30);
const _: () = assert!(core::mem::offset_of!(ImageHeader, debug_console_base) == 0x38);

/// Why a header cannot be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HeaderError {
    /// Fewer than 80 bytes.
    Truncated,
    /// Not [`SIGNATURE`].
    Signature,
    /// A size is zero or not a multiple of the page size, or the entry or console lies outside the core.
    Layout,
    /// The image, its per-CPU areas and the configuration do not fit in the hypervisor memory.
    TooLarge {
        /// Bytes needed.
        need: u64,
        /// Bytes reserved.
        have: u64,
    },
}

impl core::fmt::Display for HeaderError {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        match self {
            Self::Truncated => write!(f, "hypervisor image is shorter than its header: rebuild it"),
            Self::Signature => write!(f, "not a hypervisor image (signature is not JAILHOUS)"),
            Self::Layout => write!(f, "hypervisor image header is inconsistent: rebuild it"),
            Self::TooLarge { need, have } => {
                write!(
                    f,
                    "hypervisor needs {need:#x} bytes, {have:#x} are reserved: raise the size of hypervisor_memory"
                )
            }
        }
    }
}

impl core::error::Error for HeaderError {}

impl ImageHeader {
    /// Reads and checks the header of an image.
    pub fn parse(image: &[u8]) -> Result<&Self, HeaderError> {
        let (header, _) = Self::ref_from_prefix(image).map_err(|_| HeaderError::Truncated)?;
        if header.signature != SIGNATURE {
            return Err(HeaderError::Signature);
        }
        let core = header.core_size.get();
        let paged = |n: u64| n != 0 && n.is_multiple_of(crate::PAGE_SIZE);
        if !paged(core)
            || !paged(header.percpu_size.get())
            || header.entry.get() >= core
            || header.console_page.get() >= core
        {
            return Err(HeaderError::Layout);
        }
        Ok(header)
    }

    /// Offset of the system configuration behind the per-CPU areas of `max_cpus` CPUs, if it fits in `memory` bytes.
    pub fn config_offset(&self, max_cpus: u32, config_size: u64, memory: u64) -> Result<u64, HeaderError> {
        let offset = self.percpu_size.get().saturating_mul(u64::from(max_cpus)).saturating_add(self.core_size.get());
        let need = offset.saturating_add(config_size);
        if need > memory { Err(HeaderError::TooLarge { need, have: memory }) } else { Ok(offset) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn good() -> ImageHeader {
        ImageHeader {
            signature: SIGNATURE,
            core_size: U64::new(0x20000),
            percpu_size: U64::new(0x8000),
            entry: U64::new(0x1000),
            ..Default::default()
        }
    }

    #[test]
    fn good_header_is_read() {
        let h = good();
        let read = ImageHeader::parse(h.as_bytes()).unwrap();
        assert_eq!(read.config_offset(4, 0x1000, 0x100_0000), Ok(0x40000));
        assert_eq!(read.config_offset(4, 0x1000, 0x40000), Err(HeaderError::TooLarge { need: 0x41000, have: 0x40000 }));
        assert!(read.config_offset(u32::MAX, u64::MAX, u64::MAX - 1).is_err());
    }

    #[test]
    fn bad_headers_are_refused() {
        assert_eq!(ImageHeader::parse(&[0; 79]).unwrap_err(), HeaderError::Truncated);
        assert_eq!(ImageHeader::parse(&[0; 80]).unwrap_err(), HeaderError::Signature);
        let mut h = good();
        h.entry = U64::new(0x20000);
        assert_eq!(ImageHeader::parse(h.as_bytes()).unwrap_err(), HeaderError::Layout);
        let mut h = good();
        h.percpu_size = U64::new(0x8001);
        assert_eq!(ImageHeader::parse(h.as_bytes()).unwrap_err(), HeaderError::Layout);
    }
}
