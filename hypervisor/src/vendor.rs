//! What the rest of the hypervisor knows of a CPU's virtualisation: one trait, filled by [`crate::svm`] (and its siblings).

use crate::decode::CodeSize;
use crate::memory::walk::GuestPaging;

/// A port access that was caught.
#[derive(Clone, Copy, Debug)]
pub struct IoAccess {
    /// Port.
    pub port: u16,
    /// Bytes: 1, 2 or 4.
    pub size: u8,
    /// IN, else OUT.
    pub input: bool,
    /// INS or OUTS.
    pub string: bool,
    /// Address of the next instruction.
    pub next_rip: u64,
}

/// An access to guest-physical memory that the nested tables do not allow.
#[derive(Clone, Copy, Debug)]
pub struct MemoryAccess {
    /// Guest-physical address.
    pub address: u64,
    /// It was a write.
    pub write: bool,
    /// It was an instruction fetch.
    pub fetch: bool,
    /// It was the walk of the guest's own page tables.
    pub walk: bool,
}

/// Why a guest stopped.
#[derive(Clone, Copy, Debug)]
pub enum Exit {
    /// Non-maskable interrupt: somebody kicked this CPU, or it is the guest's own.
    Nmi,
    /// CPUID.
    Cpuid,
    /// The hypercall instruction.
    Hypercall,
    /// RDMSR.
    MsrRead,
    /// WRMSR.
    MsrWrite,
    /// A port that the cell may not touch, or that is moderated.
    Io(IoAccess),
    /// Memory that the cell does not have, or that is emulated.
    Memory(MemoryAccess),
    /// XSETBV.
    SetXcr,
    /// An instruction of the virtualisation extension: undefined for a guest.
    Undefined,
    /// The guest is at its end.
    TripleFault,
    /// The CPU refuses the guest's state.
    InvalidState,
    /// Anything else, with the vendor's number.
    Unexpected(u64),
}

/// Something to deliver when the guest goes on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Event {
    /// #UD.
    UndefinedOpcode,
    /// #GP(0).
    GeneralProtection,
    /// NMI.
    Nmi,
}

/// General registers, in the order of their encoding: RAX, RCX, RDX, RBX, RSP, RBP, RSI, RDI, R8 to R15.
pub type Registers = [u64; 16];

/// Indices into [`Registers`].
pub mod reg {
    /// RAX.
    pub const RAX: usize = 0;
    /// RCX.
    pub const RCX: usize = 1;
    /// RDX.
    pub const RDX: usize = 2;
    /// RBX.
    pub const RBX: usize = 3;
    /// RSP.
    pub const RSP: usize = 4;
    /// RBP.
    pub const RBP: usize = 5;
    /// RSI.
    pub const RSI: usize = 6;
    /// RDI.
    pub const RDI: usize = 7;
    /// R12.
    pub const R12: usize = 12;
}

/// What a virtual CPU takes from its cell.
#[derive(Clone, Copy, Debug)]
pub struct CellContext {
    /// Root of the nested page tables.
    pub nested_root: u64,
    /// Physical address of the port bitmap.
    pub port_bitmap: u64,
    /// Physical address of the MSR bitmap.
    pub msr_bitmap: u64,
    /// It is the root cell.
    pub root: bool,
}

/// Linux's state that is not in registers when a CPU comes in.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub struct LinuxFrame {
    /// CR3.
    pub cr3: u64,
    /// RSP.
    pub rsp: u64,
    /// CR4.
    pub cr4: u64,
    /// Where to go on as guest.
    pub guest_rip: u64,
    /// Where to go on as host.
    pub host_rip: u64,
}

/// A CPU that runs guests.
pub trait Vcpu {
    /// Runs the guest until it stops.
    fn run(&mut self) -> Exit;

    /// Makes this CPU's guest continue where Linux was.
    fn capture(&mut self, frame: &LinuxFrame);
    /// Takes Linux's state back from the guest into the CPU: the last thing before leaving, all but CR3, CR4 and tables.
    fn restore(&mut self);
    /// Changes to another cell, or to a new life of the same: memory types are as after power-on, which a start by INIT does not change.
    fn set_cell(&mut self, cell: &CellContext);
    /// Puts the CPU into the state of a CPU that starts in real mode at `ip` of the code segment at `base`.
    fn start(&mut self, base: u64, ip: u16);
    /// Makes the guest halt for good (until kicked), without touching any memory of a cell.
    fn park(&mut self);
    /// Whether it was parked and not started since.
    fn parked(&self) -> bool;
    /// Nested mappings were removed or changed: nothing that was cached of them may be used any more.
    fn flush(&mut self);

    /// The guest's registers.
    fn registers(&mut self) -> &mut Registers;
    /// Instruction pointer.
    fn rip(&self) -> u64;
    /// Goes to another instruction; an interrupt shadow ends.
    fn set_rip(&mut self, rip: u64);
    /// Base of the code segment.
    fn code_base(&self) -> u64;
    /// Size of the code segment.
    fn code_size(&self) -> CodeSize;
    /// Privilege level.
    fn privilege(&self) -> u8;
    /// Virtual 8086 mode.
    fn virtual_8086(&self) -> bool;
    /// Flags.
    fn flags(&mut self) -> &mut u64;
    /// How linear addresses are translated.
    fn paging(&self) -> GuestPaging;
    /// Delivers `event` when the guest goes on.
    fn inject(&mut self, event: Event);

    /// Reads an MSR that the vendor's extension virtualises.
    fn read_msr(&self, msr: u32) -> Option<u64>;
    /// Writes an MSR that the vendor's extension virtualises; `Some(false)`: a value that must be refused.
    fn write_msr(&mut self, msr: u32, value: u64) -> Option<bool>;
}
