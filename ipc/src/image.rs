//! The boot image: `[kernel | image header | blob | segment bytes]`, one flat piece of memory.
//!
//! The kernel finds the header by the field that the composer patches into the kernel's own head
//! ([`KernelHead`], at a fixed offset from the load address).

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// Guest-physical address that the image is loaded at; also the cell's reset address.
pub const LOAD_ADDRESS: u64 = 0x10_0000;
/// Where [`KernelHead`] lies, from the load address. Before it is the 16-bit jump of the reset entry.
pub const KERNEL_HEAD_OFFSET: u64 = 16;
/// [`KernelHead::magic`].
pub const KERNEL_MAGIC: [u8; 8] = *b"CRTOSKRN";
/// [`ImageHeader::magic`].
pub const IMAGE_MAGIC: [u8; 8] = *b"CRTOSIMG";
/// [`ImageHeader::version`].
pub const IMAGE_VERSION: u32 = 2;

/// What the kernel binary says of itself, and where the composer tells it the rest.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct KernelHead {
    /// [`KERNEL_MAGIC`].
    pub magic: [u8; 8],
    /// Guest-physical address of the [`ImageHeader`]; 0 until composed.
    pub image_header: u64,
    /// Guest-physical end of the kernel including its zero-initialised data: the header lies at or after it.
    pub kernel_end: u64,
    /// Guest-physical address of the 32-bit PVH entry.
    pub pvh_entry: u64,
}

/// What a range of guest-physical memory is.
pub mod range_kind {
    /// Slot not used.
    pub const NONE: u32 = 0;
    /// RAM of this cell alone: the only memory that kernel objects are made of.
    pub const PRIVATE: u32 = 1;
    /// RAM that another realm can read or write: cached, frames only.
    pub const SHARED: u32 = 2;
    /// Device registers: uncached, frames only.
    pub const DEVICE: u32 = 3;
}

/// A range of guest-physical memory.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Range {
    /// Start, a multiple of 4 KiB.
    pub start: u64,
    /// Bytes, a multiple of 4 KiB.
    pub size: u64,
    /// [`range_kind`].
    pub kind: u32,
    /// 0.
    pub reserved: u32,
}

/// A loadable piece of the first process: its bytes lie page-aligned in the image.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct FirstSegment {
    /// Virtual address, a multiple of 4 KiB.
    pub vaddr: u64,
    /// Offset of the bytes from the image header, a multiple of 4 KiB.
    pub offset: u64,
    /// Bytes in the image.
    pub file_size: u64,
    /// Bytes in memory; what exceeds `file_size` is zero. A multiple of 4 KiB.
    pub memory_size: u64,
    /// Bits of [`crate::Protection`].
    pub protection: u32,
    /// 0.
    pub reserved: u32,
}

/// Most memory ranges in a header.
pub const MAX_RANGES: usize = 16;
/// Most segments of the first process.
pub const MAX_FIRST_SEGMENTS: usize = 8;

/// What the kernel must know of the composed system. One page at most.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct ImageHeader {
    /// [`IMAGE_MAGIC`].
    pub magic: [u8; 8],
    /// [`IMAGE_VERSION`].
    pub version: u32,
    /// Entries of `ranges` in use.
    pub range_count: u32,
    /// Bytes from this header to the end of the image.
    pub size: u64,
    /// Offset of the postcard blob from this header, a multiple of 4 KiB; `init` reads it.
    pub blob_offset: u64,
    /// Bytes of the blob.
    pub blob_size: u64,
    /// FNV-1a (64 bit) of the blob's bytes.
    pub blob_checksum: u64,
    /// Entry point of the first process.
    pub first_entry: u64,
    /// Stack bytes of the first process (its top is [`crate::slots::layout::STACK_TOP`]).
    pub first_stack: u64,
    /// Heap bytes of the first process (at [`crate::slots::layout::HEAP`]).
    pub first_heap: u64,
    /// Entries of `first_segments` in use.
    pub first_segment_count: u32,
    /// 1 if the image holds a console ring.
    pub has_console_ring: u32,
    /// Guest-physical address of the communication region in a cell.
    pub comm_region: u64,
    /// Guest-physical address of the console ring (see [`crate::shadow::ConsoleRing`]), in a SHARED range.
    pub console_ring: u64,
    /// Bytes of the console ring including its head.
    pub console_ring_size: u64,
    /// Priority of the first process.
    pub first_priority: u64,
    /// 1 if the processor polls while it has nothing to do, 0 if it halts.
    pub polls: u64,
    /// Identifies this build: digest of everything composed.
    pub build_id: [u8; 32],
    /// Digest of the manifest.
    pub manifest_digest: [u8; 32],
    /// Memory of the cell.
    pub ranges: [Range; MAX_RANGES],
    /// The first process.
    pub first_segments: [FirstSegment; MAX_FIRST_SEGMENTS],
}

static_assertions::const_assert!(size_of::<ImageHeader>() <= 4096);

/// FNV-1a, 64 bit: finds damage, not malice.
pub fn checksum(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, |hash, byte| (hash ^ u64::from(*byte)).wrapping_mul(0x100_0000_01b3))
}

#[cfg(test)]
mod tests {
    #[test]
    fn checksum_is_fnv1a() {
        assert_eq!(super::checksum(b""), 0xcbf2_9ce4_8422_2325);
        assert_eq!(super::checksum(b"a"), 0xaf63_dc4c_8601_ec8c);
    }
}
