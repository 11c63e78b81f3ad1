//! The signal frame on the user stack, as the x86-64 ABI of Linux has it.

use super::{AltStack, INFO_SIZE, Info};
use alloc::vec::Vec;
use ipc::message::Registers;
use zerocopy::{FromBytes, FromZeros, Immutable, IntoBytes, KnownLayout};

/// Bytes below the stack pointer that belong to the interrupted code.
const RED_ZONE: u64 = 128;
/// Size of the legacy part of a saved FPU state.
const FXSAVE_SIZE: usize = 512;
/// Legacy part and header of an XSAVE image.
const XSAVE_HEADER_END: usize = 576;
const MAGIC1: u32 = 0x4650_5853;
const MAGIC2: u32 = 0x4650_5845;

/// `struct rt_sigframe`.
#[derive(Clone, Copy, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Frame {
    /// Where the handler returns to.
    pub restorer: u64,
    /// uc_flags, uc_link.
    pub flags: [u64; 2],
    /// uc_stack: start, flags, size.
    pub stack: [u64; 3],
    /// r8–r15, rdi, rsi, rbp, rbx, rdx, rax, rcx, rsp, rip, rflags.
    pub registers: [u64; 18],
    /// cs, gs, fs, ss; error code, vector, old mask, cr2.
    pub rest: [u64; 5],
    /// Address of the FPU state.
    pub fpu: u64,
    /// 0.
    pub reserved: [u64; 8],
    /// Mask to restore.
    pub mask: u64,
    /// `siginfo_t`.
    pub info: [u8; INFO_SIZE],
}

const _: () = assert!(size_of::<Frame>() == 440);

/// Offset of the `ucontext_t`.
pub const CONTEXT_OFFSET: u64 = 8;
/// Offset of the `siginfo_t`.
pub const INFO_OFFSET: u64 = 312;

/// What a frame tells of the cause.
#[derive(Clone, Copy, Debug, Default)]
pub struct Cause {
    /// Error code of the fault.
    pub error: u64,
    /// Vector of the fault.
    pub vector: u64,
    /// Fault address.
    pub address: u64,
}

/// Everything to be written, and where.
pub struct Placed {
    /// Address of the frame: the handler's stack pointer.
    pub at: u64,
    /// The frame.
    pub frame: Frame,
    /// Address of the FPU state.
    pub fpu_at: u64,
    /// The FPU state as Linux lays it out.
    pub fpu: Vec<u8>,
}

/// What a handler is to find.
pub struct Delivered<'a> {
    /// The signal.
    pub info: &'a Info,
    /// Mask to restore.
    pub mask: u64,
    /// Where the handler returns to.
    pub restorer: u64,
    /// The alternate stack.
    pub alt_stack: AltStack,
    /// The handler runs on it.
    pub switch: bool,
    /// The cause, if it was a fault.
    pub cause: Cause,
}

/// Puts a frame together.
pub fn place(registers: &Registers, image: &[u8], delivered: &Delivered<'_>) -> Option<Placed> {
    let Delivered { info, mask, restorer, alt_stack, switch, cause } = *delivered;
    let top =
        if switch { alt_stack.start.checked_add(alt_stack.size)? } else { registers.rsp.checked_sub(RED_ZONE)? };
    let fpu = fpu_frame(image);
    let fpu_at = top.checked_sub(fpu.len() as u64)? & !63;
    // As after a call: 8 below a multiple of 16.
    let at = (fpu_at.checked_sub(size_of::<Frame>() as u64)? & !15).checked_sub(8)?;
    if switch && at < alt_stack.start {
        return None;
    }
    let r = registers;
    let frame = Frame {
        restorer,
        // UC_FP_XSTATE, UC_SIGCONTEXT_SS, UC_STRICT_RESTORE_SS
        flags: [if image.len() > XSAVE_HEADER_END { 7 } else { 6 }, 0],
        stack: [alt_stack.start, alt_stack.flags.into(), alt_stack.size],
        registers: [
            r.r8, r.r9, r.r10, r.r11, r.r12, r.r13, r.r14, r.r15, r.rdi, r.rsi, r.rbp, r.rbx, r.rdx, r.rax, r.rcx,
            r.rsp, r.rip, r.rflags,
        ],
        // Selectors: cs 0x33, ss 0x2b, as programs know them from Linux.
        rest: [0x33 | 0x2b << 48, cause.error, cause.vector, mask, cause.address],
        fpu: if fpu.is_empty() { 0 } else { fpu_at },
        reserved: [0; 8],
        mask,
        info: info.bytes,
    };
    Some(Placed { at, frame, fpu_at, fpu })
}

/// The XSAVE image with the marks by which user mode knows its size.
fn fpu_frame(image: &[u8]) -> Vec<u8> {
    let mut out = image.to_vec();
    if image.len() > XSAVE_HEADER_END {
        let size = image.len() as u32;
        // What the image can hold: x87 and SSE, and AVX if there is room for it.
        let features: u64 = if image.len() >= XSAVE_HEADER_END + 256 { 7 } else { 3 };
        out[464..468].copy_from_slice(&MAGIC1.to_le_bytes());
        out[468..472].copy_from_slice(&(size + 4).to_le_bytes());
        out[472..480].copy_from_slice(&features.to_le_bytes());
        out[480..484].copy_from_slice(&size.to_le_bytes());
        out.extend_from_slice(&MAGIC2.to_le_bytes());
    }
    out
}

/// Makes an image that a program wrote safe to load: no reserved bits.
pub fn sanitise(image: &mut [u8]) {
    if image.len() >= FXSAVE_SIZE {
        // MXCSR: reserved bits fault.
        image[26] = 0;
        image[27] = 0;
        image[464..512].fill(0);
    }
    if image.len() >= XSAVE_HEADER_END {
        let features: u8 = if image.len() >= XSAVE_HEADER_END + 256 { 7 } else { 3 };
        image[512] &= features;
        image[513..XSAVE_HEADER_END].fill(0);
    }
}

/// The registers that a frame restores, on top of those that it does not know.
pub fn restored(frame: &Frame, current: &Registers) -> Registers {
    let [r8, r9, r10, r11, r12, r13, r14, r15, rdi, rsi, rbp, rbx, rdx, rax, rcx, rsp, rip, rflags] = frame.registers;
    Registers { rax, rbx, rcx, rdx, rsi, rdi, rbp, rsp, r8, r9, r10, r11, r12, r13, r14, r15, rip, rflags, ..*current }
}

impl Frame {
    /// An empty frame to read into.
    pub fn zeroed() -> Frame {
        Frame::new_zeroed()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn delivered(info: &Info, alt_stack: AltStack, switch: bool) -> Delivered<'_> {
        Delivered { info, mask: 0xff, restorer: 0x1000, alt_stack, switch, cause: Cause::default() }
    }

    #[test]
    fn offsets_are_those_of_the_abi() {
        assert_eq!(core::mem::offset_of!(Frame, registers) as u64, CONTEXT_OFFSET + 40);
        assert_eq!(core::mem::offset_of!(Frame, fpu) as u64, CONTEXT_OFFSET + 40 + 23 * 8);
        assert_eq!(core::mem::offset_of!(Frame, mask) as u64, CONTEXT_OFFSET + 296);
        assert_eq!(core::mem::offset_of!(Frame, info) as u64, INFO_OFFSET);
    }

    #[test]
    fn what_is_placed_is_restored() {
        let registers = Registers {
            rsp: 0x7000_1234,
            rip: 0x40_1000,
            rax: 5,
            r15: 9,
            rflags: 0x202,
            fs_base: 77,
            ..Default::default()
        };
        let image = vec![1; 832];
        let info = Info::kernel(10);
        let placed = place(&registers, &image, &delivered(&info, AltStack::default(), false)).unwrap();
        assert_eq!((placed.at % 16, placed.fpu_at % 64), (8, 0));
        assert!(placed.fpu_at + placed.fpu.len() as u64 <= registers.rsp - 128);
        assert!(placed.at + 440 <= placed.fpu_at);
        assert_eq!(restored(&placed.frame, &Registers { fs_base: 77, ..Default::default() }), registers);
        assert_eq!(placed.fpu.len(), 836);
    }

    #[test]
    fn a_small_alternate_stack_is_refused() {
        let registers = Registers { rsp: 0x7000_0000, ..Default::default() };
        let alt = AltStack { start: 0x10_0000, size: 1024, flags: 0 };
        assert!(place(&registers, &[0; 832], &delivered(&Info::kernel(1), alt, true)).is_none());
        let low = Registers { rsp: 100, ..Default::default() };
        assert!(place(&low, &[], &delivered(&Info::kernel(1), alt, false)).is_none());
    }

    #[test]
    fn hostile_images_lose_their_reserved_bits() {
        let mut image = [0xff; 832];
        sanitise(&mut image);
        assert_eq!((image[26], image[512], image[513], image[575]), (0, 7, 0, 0));
    }
}
