//! The virtual machine control block: its layout, as far as it is used.

/// A segment register.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct Segment {
    /// Selector.
    pub selector: u16,
    /// Bits 0..8: type, S, DPL, P; bits 8..12: AVL, L, D, G.
    pub attributes: u16,
    /// Limit.
    pub limit: u32,
    /// Base.
    pub base: u64,
}

/// The control block: control area, then the guest's state. Written by the CPU at each exit.
#[repr(C, align(4096))]
pub struct Vmcb {
    /// Intercepted CR reads (bit n: CRn).
    pub intercept_cr_read: u16,
    /// Intercepted CR writes.
    pub intercept_cr_write: u16,
    /// Intercepted DR accesses.
    pub intercept_dr: u32,
    /// Intercepted exceptions.
    pub intercept_exceptions: u32,
    /// See [`intercept1`].
    pub intercept1: u32,
    /// See [`intercept2`].
    pub intercept2: u32,
    reserved_014: [u8; 0x40 - 0x14],
    /// Physical address of the port bitmap.
    pub iopm_base: u64,
    /// Physical address of the MSR bitmap.
    pub msrpm_base: u64,
    /// Added to the time stamp counter.
    pub tsc_offset: u64,
    /// Address space id; not 0.
    pub asid: u32,
    /// 1: flush the whole TLB at entry.
    pub tlb_control: u32,
    /// Virtual interrupt control.
    pub v_intr: u64,
    /// Bit 0: the guest is in an interrupt shadow.
    pub interrupt_shadow: u64,
    /// Why it stopped.
    pub exit_code: u64,
    /// First detail.
    pub exit_info1: u64,
    /// Second detail.
    pub exit_info2: u64,
    /// Event that was being delivered when it stopped.
    pub exit_int_info: u64,
    /// Bit 0: nested paging.
    pub nested_control: u64,
    reserved_098: [u8; 0xa8 - 0x98],
    /// Event to deliver at entry.
    pub event_injection: u64,
    /// Root of the nested tables.
    pub nested_cr3: u64,
    reserved_0b8: [u8; 0xc0 - 0xb8],
    /// What the CPU may take from its cache of this block; 0: nothing.
    pub clean: u64,
    reserved_0c8: [u8; 0x400 - 0xc8],
    /// ES.
    pub es: Segment,
    /// CS.
    pub cs: Segment,
    /// SS.
    pub ss: Segment,
    /// DS.
    pub ds: Segment,
    /// FS.
    pub fs: Segment,
    /// GS.
    pub gs: Segment,
    /// GDTR.
    pub gdtr: Segment,
    /// LDTR.
    pub ldtr: Segment,
    /// IDTR.
    pub idtr: Segment,
    /// TR.
    pub tr: Segment,
    reserved_4a0: [u8; 0xcb - 0xa0],
    /// Privilege level.
    pub cpl: u8,
    reserved_4cc: [u8; 4],
    /// EFER.
    pub efer: u64,
    reserved_4d8: [u8; 0x148 - 0xd8],
    /// CR4.
    pub cr4: u64,
    /// CR3.
    pub cr3: u64,
    /// CR0.
    pub cr0: u64,
    /// DR7.
    pub dr7: u64,
    /// DR6.
    pub dr6: u64,
    /// RFLAGS.
    pub rflags: u64,
    /// RIP.
    pub rip: u64,
    reserved_580: [u8; 0x1d8 - 0x180],
    /// RSP.
    pub rsp: u64,
    reserved_5e0: [u8; 0x1f8 - 0x1e0],
    /// RAX.
    pub rax: u64,
    /// STAR.
    pub star: u64,
    /// LSTAR.
    pub lstar: u64,
    /// CSTAR.
    pub cstar: u64,
    /// SFMASK.
    pub sfmask: u64,
    /// KernelGsBase.
    pub kernel_gs_base: u64,
    /// SYSENTER_CS.
    pub sysenter_cs: u64,
    /// SYSENTER_ESP.
    pub sysenter_esp: u64,
    /// SYSENTER_EIP.
    pub sysenter_eip: u64,
    /// CR2.
    pub cr2: u64,
    reserved_648: [u8; 0x268 - 0x248],
    /// PAT.
    pub pat: u64,
    reserved_670: [u8; 0x1000 - 0x670],
}

const _: () = {
    use core::mem::{offset_of, size_of};
    assert!(size_of::<Vmcb>() == 4096);
    assert!(offset_of!(Vmcb, iopm_base) == 0x40 && offset_of!(Vmcb, exit_code) == 0x70);
    assert!(offset_of!(Vmcb, nested_control) == 0x90 && offset_of!(Vmcb, event_injection) == 0xa8);
    assert!(offset_of!(Vmcb, clean) == 0xc0 && offset_of!(Vmcb, tr) == 0x490 && offset_of!(Vmcb, cpl) == 0x4cb);
    assert!(offset_of!(Vmcb, efer) == 0x4d0 && offset_of!(Vmcb, cr4) == 0x548 && offset_of!(Vmcb, rip) == 0x578);
    assert!(offset_of!(Vmcb, rsp) == 0x5d8 && offset_of!(Vmcb, rax) == 0x5f8 && offset_of!(Vmcb, cr2) == 0x640);
    assert!(offset_of!(Vmcb, pat) == 0x668);
};

/// Bits of [`Vmcb::intercept1`].
pub mod intercept1 {
    /// NMI.
    pub const NMI: u32 = 1 << 1;
    /// CPUID.
    pub const CPUID: u32 = 1 << 18;
    /// INVD.
    pub const INVD: u32 = 1 << 22;
    /// INVLPGA.
    pub const INVLPGA: u32 = 1 << 26;
    /// Port accesses by bitmap.
    pub const IO: u32 = 1 << 27;
    /// MSR accesses by bitmap.
    pub const MSR: u32 = 1 << 28;
    /// Triple fault.
    pub const SHUTDOWN: u32 = 1 << 31;
}

/// Bits of [`Vmcb::intercept2`].
pub mod intercept2 {
    /// VMRUN (must be set).
    pub const VMRUN: u32 = 1 << 0;
    /// VMMCALL.
    pub const VMMCALL: u32 = 1 << 1;
    /// VMLOAD.
    pub const VMLOAD: u32 = 1 << 2;
    /// VMSAVE.
    pub const VMSAVE: u32 = 1 << 3;
    /// STGI.
    pub const STGI: u32 = 1 << 4;
    /// CLGI.
    pub const CLGI: u32 = 1 << 5;
    /// SKINIT.
    pub const SKINIT: u32 = 1 << 6;
    /// XSETBV.
    pub const XSETBV: u32 = 1 << 13;
}

/// Values of [`Vmcb::exit_code`].
pub mod exit_code {
    /// NMI.
    pub const NMI: u64 = 0x61;
    /// CPUID.
    pub const CPUID: u64 = 0x72;
    /// INVD.
    pub const INVD: u64 = 0x76;
    /// INVLPGA.
    pub const INVLPGA: u64 = 0x7a;
    /// Port access.
    pub const IO: u64 = 0x7b;
    /// MSR access.
    pub const MSR: u64 = 0x7c;
    /// Triple fault.
    pub const SHUTDOWN: u64 = 0x7f;
    /// VMRUN.
    pub const VMRUN: u64 = 0x80;
    /// VMMCALL.
    pub const VMMCALL: u64 = 0x81;
    /// SKINIT, the last of the instructions of the extension.
    pub const SKINIT: u64 = 0x86;
    /// XSETBV.
    pub const XSETBV: u64 = 0x8d;
    /// Nested page fault.
    pub const NESTED_FAULT: u64 = 0x400;
    /// Invalid state. The manual says -1; some CPUs store only 32 bits of it.
    pub const INVALID: u32 = u32::MAX;
}
