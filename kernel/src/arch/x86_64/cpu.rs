//! The processor: descriptor tables, control registers, per-CPU block.
#![allow(unsafe_code)] // Privileged instructions and the tables they load.

use core::arch::asm;
use core::cell::{Cell, UnsafeCell};
use core::mem::offset_of;
use raw_cpuid::CpuId;
use x86_64::registers::model_specific::Msr;

/// What the entry code reaches through GS.
#[repr(C)]
struct PerCpu {
    /// Top of the kernel stack, as after a call.
    stack: Cell<u64>,
    scratch: Cell<u64>,
    /// So that the 64-bit fields behind it are aligned.
    padding: u32,
    /// Its first stack pointer is the end of the current thread's frame.
    task: UnsafeCell<TaskState>,
}

/// Offset of the top of the kernel stack.
pub const STACK: usize = offset_of!(PerCpu, stack);
/// Offset of a place that the entry code may use.
pub const SCRATCH: usize = offset_of!(PerCpu, scratch);
/// Offset of the end of the current thread's frame.
pub const FRAME_END: usize = offset_of!(PerCpu, task) + offset_of!(TaskState, rsp);

static_assertions::const_assert!(FRAME_END.is_multiple_of(8));

/// Kernel data that only one CPU touches, with interrupts off.
#[repr(transparent)]
pub struct Exclusive<T>(pub T);

// SAFETY: see the type: the kernel runs on one CPU, and its interrupt handlers touch nothing but what is made for it.
unsafe impl<T> Sync for Exclusive<T> {}

#[repr(C, packed(4))]
struct TaskState {
    reserved: u32,
    rsp: [u64; 3],
    reserved2: u64,
    ist: [u64; 7],
    reserved3: [u16; 5],
    io_map: u16,
}

const IST_STACK: usize = 4096;

#[repr(C, align(16))]
struct Stack(UnsafeCell<[u8; IST_STACK]>);

static PER_CPU: Exclusive<PerCpu> = Exclusive(PerCpu {
    stack: Cell::new(0),
    scratch: Cell::new(0),
    padding: 0,
    task: UnsafeCell::new(TaskState {
        reserved: 0,
        rsp: [0; 3],
        reserved2: 0,
        ist: [0; 7],
        reserved3: [0; 5],
        io_map: size_of::<TaskState>() as u16,
    }),
});
static STACKS: Exclusive<[Stack; 3]> = Exclusive([const { Stack(UnsafeCell::new([0; IST_STACK])) }; 3]);
/// Laid out so that `sysret` gives the selectors that Linux programs see.
static DESCRIPTORS: Exclusive<UnsafeCell<[u64; 9]>> = Exclusive(UnsafeCell::new([
    0,
    0,
    0x00af_9b00_0000_ffff, // 0x10: kernel code
    0x00cf_9300_0000_ffff, // 0x18: kernel data
    0,                     // 0x20: base of the sysret selectors
    0x00cf_f300_0000_ffff, // 0x28: user data
    0x00af_fb00_0000_ffff, // 0x30: user code
    0,                     // 0x38: task state
    0,
]));
static GATES: Exclusive<UnsafeCell<[[u64; 2]; 256]>> = Exclusive(UnsafeCell::new([[0; 2]; 256]));

#[repr(C, packed)]
struct TablePointer {
    limit: u16,
    base: u64,
}

unsafe extern "C" {
    static trap_stubs: u8;
    static debug_entry: u8;
    static nmi_entry: u8;
    static double_fault_entry: u8;
    static machine_check_entry: u8;
    static syscall_entry: u8;
    static boot_stack_top: u8;
}

const EFER: u32 = 0xc000_0080;
const STAR: u32 = 0xc000_0081;
const LSTAR: u32 = 0xc000_0082;
const FMASK: u32 = 0xc000_0084;
const FS_BASE: u32 = 0xc000_0100;
const GS_BASE: u32 = 0xc000_0101;
const KERNEL_GS_BASE: u32 = 0xc000_0102;

/// PG, AM, WP, NE, ET, MP, PE; task switched (no FPU) until somebody wants it.
const CR0: u64 = 1 << 31 | 1 << 18 | 1 << 16 | 1 << 5 | 1 << 4 | 1 << 3 | 1 << 1 | 1;

/// Writes a model-specific register.
#[inline(always)]
pub fn write_msr(number: u32, value: u64) {
    // SAFETY: the callers in this directory write architectural registers with values that keep the kernel's state valid.
    unsafe { Msr::new(number).write(value) }
}

/// Reads a model-specific register.
pub fn read_msr(number: u32) -> u64 {
    // SAFETY: reading the architectural registers used here has no effect.
    unsafe { Msr::new(number).read() }
}

fn gate(address: u64, ist: u64, privilege: u64) -> [u64; 2] {
    let low =
        (address & 0xffff) | 0x10 << 16 | ist << 32 | (0x8e00 | privilege << 13) << 32 | (address >> 16 & 0xffff) << 48;
    [low, address >> 32]
}

/// Sets up tables and control registers.
pub fn set_up() {
    let address = |symbol: *const u8| symbol.expose_provenance() as u64;
    let task = PER_CPU.0.task.get();
    let task_address = task.expose_provenance() as u64;
    // SAFETY: single-threaded start; the statics are used by nobody else yet. The tables loaded are complete and stay for good.
    unsafe {
        for (index, stack) in STACKS.0.iter().enumerate() {
            (*task).ist[index] = stack.0.get().expose_provenance() as u64 + IST_STACK as u64;
        }
        let descriptors = &mut *DESCRIPTORS.0.get();
        let limit = size_of::<TaskState>() as u64 - 1;
        descriptors[7] = limit | (task_address & 0xff_ffff) << 16 | 0x89 << 40 | (task_address >> 24 & 0xff) << 56;
        descriptors[8] = task_address >> 32;
        let gates = &mut *GATES.0.get();
        let stubs = address(&raw const trap_stubs);
        for (vector, entry) in gates.iter_mut().enumerate() {
            let privilege = if vector == 3 || vector == 4 { 3 } else { 0 };
            *entry = gate(stubs + 16 * vector as u64, 0, privilege);
        }
        gates[1] = gate(address(&raw const debug_entry), 1, 0);
        gates[2] = gate(address(&raw const nmi_entry), 2, 0);
        gates[8] = gate(address(&raw const double_fault_entry), 3, 0);
        gates[18] = gate(address(&raw const machine_check_entry), 3, 0);
        let table = TablePointer { limit: 9 * 8 - 1, base: DESCRIPTORS.0.get().expose_provenance() as u64 };
        asm!("lgdt [{}]", in(reg) &raw const table, options(nostack));
        asm!(
            "push 0x10", "lea {t}, [rip + 2f]", "push {t}", "retfq", "2:",
            "mov {t:e}, 0x18", "mov ss, {t:e}", "xor {t:e}, {t:e}", "mov ds, {t:e}", "mov es, {t:e}", "mov fs, {t:e}", "mov gs, {t:e}",
            "lldt {t:x}", "mov {t:e}, 0x38", "ltr {t:x}",
            t = out(reg) _
        );
        let table = TablePointer { limit: 256 * 16 - 1, base: GATES.0.get().expose_provenance() as u64 };
        asm!("lidt [{}]", in(reg) &raw const table, options(nostack));
    }
    PER_CPU.0.stack.set(address(&raw const boot_stack_top) - 8);
    write_msr(GS_BASE, (&raw const PER_CPU).expose_provenance() as u64);
    write_msr(KERNEL_GS_BASE, 0);
    write_msr(EFER, read_msr(EFER) | 1);
    write_msr(STAR, 0x10 << 32 | 0x23 << 48);
    write_msr(LSTAR, address(&raw const syscall_entry));
    write_msr(FMASK, 0x0025_7fd5);
    control_registers();
}

fn control_registers() {
    let cpuid = CpuId::new();
    let extended = cpuid.get_extended_feature_info();
    let basic = cpuid.get_feature_info();
    // PAE, PGE, OSFXSR, OSXMMEXCPT.
    let mut cr4: u64 = 1 << 5 | 1 << 7 | 1 << 9 | 1 << 10;
    if basic.as_ref().is_some_and(|f| f.has_xsave()) {
        cr4 |= 1 << 18;
    }
    if let Some(features) = extended {
        if features.has_smep() {
            cr4 |= 1 << 20;
        }
        if features.has_smap() {
            cr4 |= 1 << 21;
        }
        if features.has_umip() {
            cr4 |= 1 << 11;
        }
    }
    // SAFETY: the kernel's own mappings hold under all of these: nothing of it is user-accessible or both writable and executable.
    unsafe {
        asm!("mov cr4, {}", in(reg) cr4, options(nostack));
        asm!("mov cr0, {}", in(reg) CR0, options(nostack));
    }
}

/// The address that the last page fault was about.
pub fn fault_address() -> u64 {
    x86_64::registers::control::Cr2::read_raw()
}

/// Entries into the kernel save registers in the frame that ends here.
#[inline(always)]
pub fn set_frame_end(end: u64) {
    // SAFETY: the field is the processor's, and the entry code's, to read only, at the next entry from user mode; GS leads to the block
    // from `set_up` on.
    unsafe { asm!("mov gs:[{}], {}", const FRAME_END, in(reg) end, options(nostack, preserves_flags)) };
}

/// Sets the user's FS base.
#[inline(always)]
pub fn set_fs_base(base: u64) {
    write_msr(FS_BASE, base);
}

/// Sets the user's GS base, which is exchanged with the kernel's on the way out.
#[inline(always)]
pub fn set_gs_base(base: u64) {
    write_msr(KERNEL_GS_BASE, base);
}

/// Opens the FPU registers to use, or closes them: then the next use is an exception.
#[inline(always)]
pub fn open_fpu(open: bool) {
    // SAFETY: the kernel itself uses no FPU instructions but those that save and load, where they are open.
    unsafe {
        if open {
            asm!("clts", options(nostack));
        } else {
            asm!("mov cr0, {}", in(reg) CR0, options(nostack));
        }
    }
}

/// Loads the page-table register.
pub fn load_root(physical: u64) {
    // SAFETY: every root has the kernel's half.
    unsafe { asm!("mov cr3, {}", in(reg) physical, options(nostack)) }
}
