//! A virtual CPU on SVM: the control block of one physical CPU, and the way into the guest.
//!
//! * Global interrupts are off (GIF 0) whenever the hypervisor runs, so it is never interrupted, not even by NMI; they are on
//!   in the guest only, where interrupts go straight to the guest (they are not intercepted) and an NMI stops it.
//! * VMRUN switches only part of the state. FS, GS, TR, LDTR and the system call MSRs stay in the CPU, since the hypervisor
//!   does not use them; VMLOAD puts them in when a CPU is (re)started, VMSAVE takes them out when Linux comes and goes.
//! * Each CPU runs one guest at a time, all with the same address space id, so the TLB is flushed when the CPU changes cells
//!   and when a mapping of its cell is taken away, and only then: TLB_CONTROL is set for one entry.
//! * No use is made of the clean bits: everything that is changed is seen.
#![allow(unsafe_code)] // Privileged instructions, and the control block that the CPU writes.

use core::arch::{asm, global_asm};

use x86_64::registers::control::{Cr0, Cr2, Cr3, Cr4};
use x86_64::registers::model_specific::Msr;

use super::exit;
use super::vmcb::{Segment, Vmcb, intercept1, intercept2};
use crate::decode::CodeSize;
use crate::memory::walk::GuestPaging;
use crate::units::msr::number;
use crate::vendor::{CellContext, Event, Exit, LinuxFrame, Registers, Vcpu, reg};

const MSR_HOST_SAVE: u32 = 0xc001_0117;
const EFER_SVME: u64 = 1 << 12;
const EFER_LMA: u64 = 1 << 10;
const EFER_LME: u64 = 1 << 8;
const EFER_WRITABLE: u64 = 0xd901 | EFER_LME; // SCE LME NXE LMSLE FFXSR TCE
const CR0_PE: u64 = 1;
const RFLAGS_VM: u64 = 1 << 17;
const PAT_RESET: u64 = 0x0007_0406_0007_0406;
/// What PAT is while a cell has not switched its MTRRs on: everything uncached.
const PAT_UNCACHED: u64 = 0;
const MTRR_ENABLE: u64 = 1 << 11;
const CR0_START: u64 = 0x6000_0010;

global_asm!(
    // void svm_run(u64 vmcb_phys, Registers *registers): RAX and RSP of the guest are in the control block.
    ".globl svm_run",
    "svm_run:",
    "push rbx",
    "push rbp",
    "push r12",
    "push r13",
    "push r14",
    "push r15",
    "push rsi",
    "mov rax, rdi",
    "mov rcx, [rsi + 0x08]",
    "mov rdx, [rsi + 0x10]",
    "mov rbx, [rsi + 0x18]",
    "mov rbp, [rsi + 0x28]",
    "mov rdi, [rsi + 0x38]",
    "mov r8,  [rsi + 0x40]",
    "mov r9,  [rsi + 0x48]",
    "mov r10, [rsi + 0x50]",
    "mov r11, [rsi + 0x58]",
    "mov r12, [rsi + 0x60]",
    "mov r13, [rsi + 0x68]",
    "mov r14, [rsi + 0x70]",
    "mov r15, [rsi + 0x78]",
    "mov rsi, [rsi + 0x30]",
    "vmrun rax",
    ".globl svm_exited",
    "svm_exited:",
    "push rsi",
    "mov rsi, [rsp + 8]",
    "mov [rsi + 0x08], rcx",
    "mov [rsi + 0x10], rdx",
    "mov [rsi + 0x18], rbx",
    "mov [rsi + 0x28], rbp",
    "mov [rsi + 0x38], rdi",
    "mov [rsi + 0x40], r8",
    "mov [rsi + 0x48], r9",
    "mov [rsi + 0x50], r10",
    "mov [rsi + 0x58], r11",
    "mov [rsi + 0x60], r12",
    "mov [rsi + 0x68], r13",
    "mov [rsi + 0x70], r14",
    "mov [rsi + 0x78], r15",
    "pop rax",
    "mov [rsi + 0x30], rax",
    "pop rsi",
    "pop r15",
    "pop r14",
    "pop r13",
    "pop r12",
    "pop rbp",
    "pop rbx",
    "ret",
);

unsafe extern "C" {
    fn svm_run(vmcb: u64, registers: *mut Registers);
    /// Where the CPU goes on after an exit.
    fn svm_exited();
}

/// The virtual CPU of the CPU it was made on.
pub struct SvmVcpu {
    vmcb: &'static mut Vmcb,
    vmcb_phys: u64,
    parking: CellContext,
    cell: CellContext,
    registers: Registers,
    mtrr_def_type: u64,
    pat: u64,
    /// FS, GS, TR, LDTR and system call MSRs in the control block are to be loaded at the next entry.
    load: bool,
    parked: bool,
}

fn attributes_data() -> u16 {
    0xc93
}

fn real_mode_segment(attributes: u16) -> Segment {
    Segment { selector: 0, attributes, limit: 0xffff, base: 0 }
}

fn read_msr(msr: u32) -> u64 {
    // SAFETY: only called with MSRs that every CPU with SVM has.
    unsafe { Msr::new(msr).read() }
}

fn write_msr(msr: u32, value: u64) {
    // SAFETY: only called with MSRs and values of the guest's own that the CPU accepted from it before.
    unsafe { Msr::new(msr).write(value) }
}

impl SvmVcpu {
    /// Makes the virtual CPU of this CPU. `host_save` is a page for the CPU's own use; `parking` is a context whose memory
    /// holds, at 0, a loop that halts.
    ///
    /// # Safety
    /// SVM is switched on; both pages are this CPU's alone, at these physical addresses.
    pub unsafe fn new(
        vmcb: &'static mut Vmcb,
        vmcb_phys: u64,
        host_save: u64,
        parking: CellContext,
        cell: CellContext,
    ) -> Self {
        write_msr(MSR_HOST_SAVE, host_save);
        vmcb.intercept1 = intercept1::NMI
            | intercept1::INVD
            | intercept1::INVLPGA
            | intercept1::IO
            | intercept1::MSR
            | intercept1::SHUTDOWN;
        vmcb.intercept2 = intercept2::VMRUN
            | intercept2::VMMCALL
            | intercept2::VMLOAD
            | intercept2::VMSAVE
            | intercept2::STGI
            | intercept2::CLGI
            | intercept2::SKINIT
            | intercept2::XSETBV;
        vmcb.asid = 1;
        vmcb.nested_control = 1;
        let mut vcpu = Self {
            vmcb,
            vmcb_phys,
            parking,
            cell,
            registers: [0; 16],
            mtrr_def_type: 0,
            pat: PAT_RESET,
            load: false,
            parked: false,
        };
        vcpu.use_context(cell);
        vcpu
    }

    /// The CPU goes back to what it was before [`Self::new`].
    pub fn release() {
        write_msr(MSR_HOST_SAVE, 0);
    }

    fn use_context(&mut self, context: CellContext) {
        self.vmcb.nested_cr3 = context.nested_root;
        self.vmcb.iopm_base = context.port_bitmap;
        self.vmcb.msrpm_base = context.msr_bitmap;
        if context.root {
            self.vmcb.intercept1 &= !intercept1::CPUID;
        } else {
            self.vmcb.intercept1 |= intercept1::CPUID;
        }
        // Same address space id, other memory: what is cached belongs to the former cell.
        self.flush();
    }

    fn apply_pat(&mut self) {
        let cached = self.cell.root || self.mtrr_def_type & MTRR_ENABLE != 0;
        self.vmcb.pat = if cached { self.pat } else { PAT_UNCACHED };
    }
}

impl Vcpu for SvmVcpu {
    fn run(&mut self) -> Exit {
        self.vmcb.rax = self.registers[reg::RAX];
        self.vmcb.rsp = self.registers[reg::RSP];
        if core::mem::take(&mut self.load) {
            // SAFETY: the hypervisor uses none of the state that VMLOAD replaces (its IDT uses no stack switch, so no TSS).
            unsafe { asm!("vmload rax", in("rax") self.vmcb_phys, options(nostack)) };
        }
        // SAFETY: GIF is 0, the control block is valid or the CPU says that it is not; all registers are saved around it.
        unsafe { svm_run(self.vmcb_phys, &raw mut self.registers) };
        self.registers[reg::RAX] = self.vmcb.rax;
        self.registers[reg::RSP] = self.vmcb.rsp;
        self.vmcb.tlb_control = 0;
        // An event whose delivery was interrupted by the exit (a nested fault on the stack, say) is delivered again. Software
        // interrupts and exceptions are repeated by repeating their instruction.
        let pending = self.vmcb.exit_int_info;
        let kind = pending >> 8 & 7;
        self.vmcb.event_injection = if pending & 1 << 31 != 0 && (kind == 0 || kind == 2) { pending } else { 0 };
        // The guest's state is lost if our own was saved in its place (seen in emulation, rarely, on a busy host): it must not be run.
        if self.vmcb.rip == svm_exited as *const () as u64 {
            return Exit::Unexpected(self.vmcb.exit_code);
        }
        let exit = exit::decode(self.vmcb);
        if matches!(exit, Exit::Nmi) {
            // The NMI stays pending until global interrupts are on: take it here, the handler notes it.
            // SAFETY: maskable interrupts are off, and the IDT has an NMI handler.
            unsafe { asm!("stgi", "nop", "clgi") };
        }
        exit
    }

    fn capture(&mut self, frame: &LinuxFrame) {
        let (cs, ss, ds, es): (u16, u16, u16, u16);
        let (dr6, dr7): (u64, u64);
        // SAFETY: reads only; VMSAVE writes to our control block.
        unsafe {
            asm!("mov {0:x}, cs", "mov {1:x}, ss", "mov {2:x}, ds", "mov {3:x}, es",
                out(reg) cs, out(reg) ss, out(reg) ds, out(reg) es, options(nomem, nostack));
            asm!("mov {}, dr6", "mov {}, dr7", out(reg) dr6, out(reg) dr7, options(nomem, nostack));
            asm!("vmsave rax", in("rax") self.vmcb_phys, options(nostack));
        }
        let gdt = x86_64::instructions::tables::sgdt();
        let idt = x86_64::instructions::tables::sidt();
        let vmcb = &mut *self.vmcb;
        let table = |limit: u16, base: u64| Segment { limit: limit.into(), base, ..Segment::default() };
        vmcb.gdtr = table(gdt.limit, gdt.base.as_u64());
        vmcb.idtr = table(idt.limit, idt.base.as_u64());
        let segment = |selector, attributes| Segment { selector, attributes, limit: u32::MAX, base: 0 };
        vmcb.cs = segment(cs, 0xa9b);
        vmcb.ss = segment(ss, attributes_data());
        vmcb.ds = segment(ds, if ds & !3 == 0 { 0 } else { 0xcf3 });
        vmcb.es = segment(es, if es & !3 == 0 { 0 } else { 0xcf3 });
        vmcb.cpl = 0;
        vmcb.efer = read_msr(number::EFER) | EFER_SVME;
        vmcb.cr0 = Cr0::read_raw();
        vmcb.cr2 = Cr2::read_raw();
        vmcb.cr3 = frame.cr3;
        vmcb.cr4 = frame.cr4;
        vmcb.dr6 = dr6;
        vmcb.dr7 = dr7;
        vmcb.rflags = 2;
        vmcb.rip = frame.guest_rip;
        self.registers = [0; 16];
        self.registers[reg::RSP] = frame.rsp;
        self.registers[reg::RBP] = frame.rsp;
        self.registers[reg::RBX] = frame.cr3;
        self.registers[reg::R12] = frame.cr4;
        self.mtrr_def_type = read_msr(number::MTRR_DEF_TYPE);
        self.pat = read_msr(number::PAT);
        vmcb.pat = self.pat;
    }

    fn restore(&mut self) {
        // FS, GS, TR, LDTR and the system call MSRs are the guest's all the time.
        // SAFETY: this is the state that Linux had in guest mode a moment ago, on this CPU.
        unsafe {
            asm!("mov dr6, {}", "mov dr7, {}", in(reg) self.vmcb.dr6, in(reg) self.vmcb.dr7, options(nomem, nostack));
            Cr0::write_raw(self.vmcb.cr0);
            asm!("mov cr2, {}", in(reg) self.vmcb.cr2, options(nomem, nostack));
        }
        write_msr(number::PAT, self.vmcb.pat);
        write_msr(number::EFER, self.vmcb.efer | EFER_SVME);
        Self::release();
    }

    fn set_cell(&mut self, cell: &CellContext) {
        self.cell = *cell;
        self.use_context(*cell);
        // Only the bit that switches them on is a cell's own: the types are the machine's.
        let machine = read_msr(number::MTRR_DEF_TYPE);
        self.mtrr_def_type = if cell.root { machine } else { machine & !MTRR_ENABLE };
        self.pat = PAT_RESET;
        self.apply_pat();
    }

    fn start(&mut self, base: u64, ip: u16) {
        self.use_context(self.cell);
        let code = Segment { selector: (base >> 4) as u16, attributes: 0x9b, limit: 0xffff, base };
        let vmcb = &mut *self.vmcb;
        vmcb.cs = code;
        vmcb.rip = ip.into();
        for segment in [&mut vmcb.ds, &mut vmcb.es, &mut vmcb.ss, &mut vmcb.fs, &mut vmcb.gs] {
            *segment = real_mode_segment(0x93);
        }
        vmcb.gdtr = real_mode_segment(0);
        vmcb.idtr = real_mode_segment(0);
        vmcb.ldtr = real_mode_segment(0x82);
        vmcb.tr = real_mode_segment(0x8b);
        vmcb.cpl = 0;
        vmcb.efer = EFER_SVME;
        vmcb.cr0 = CR0_START;
        vmcb.cr2 = 0;
        vmcb.cr3 = 0;
        vmcb.cr4 = 0;
        vmcb.dr6 = 0xffff_0ff0;
        vmcb.dr7 = 0x400;
        vmcb.rflags = 2;
        vmcb.event_injection = 0;
        vmcb.interrupt_shadow = 0;
        vmcb.star = 0;
        vmcb.lstar = 0;
        vmcb.cstar = 0;
        vmcb.sfmask = 0;
        vmcb.kernel_gs_base = 0;
        vmcb.sysenter_cs = 0;
        vmcb.sysenter_esp = 0;
        vmcb.sysenter_eip = 0;
        self.parked = false;
        self.registers = [0; 16];
        self.load = true;
        // SAFETY: debug addresses belong to whoever has the CPU; nothing of the former guest is to be seen.
        unsafe {
            asm!("mov dr0, {0}", "mov dr1, {0}", "mov dr2, {0}", "mov dr3, {0}", in(reg) 0u64, options(nomem, nostack))
        };
    }

    fn park(&mut self) {
        self.start(0, 0);
        self.use_context(self.parking);
        self.parked = true;
    }

    fn parked(&self) -> bool {
        self.parked
    }

    fn flush(&mut self) {
        self.vmcb.tlb_control = 1;
    }

    fn registers(&mut self) -> &mut Registers {
        &mut self.registers
    }

    fn rip(&self) -> u64 {
        self.vmcb.rip
    }

    fn set_rip(&mut self, rip: u64) {
        self.vmcb.rip = rip;
        self.vmcb.interrupt_shadow = 0;
    }

    fn code_base(&self) -> u64 {
        self.vmcb.cs.base
    }

    fn code_size(&self) -> CodeSize {
        let attributes = self.vmcb.cs.attributes;
        if self.vmcb.cr0 & CR0_PE == 0 || self.virtual_8086() {
            CodeSize::Bits16
        } else if self.vmcb.efer & EFER_LMA != 0 && attributes & 0x200 != 0 {
            CodeSize::Bits64
        } else if attributes & 0x400 != 0 {
            CodeSize::Bits32
        } else {
            CodeSize::Bits16
        }
    }

    fn privilege(&self) -> u8 {
        self.vmcb.cpl
    }

    fn virtual_8086(&self) -> bool {
        self.vmcb.rflags & RFLAGS_VM != 0
    }

    fn flags(&mut self) -> &mut u64 {
        &mut self.vmcb.rflags
    }

    fn paging(&self) -> GuestPaging {
        GuestPaging { cr0: self.vmcb.cr0, cr3: self.vmcb.cr3, cr4: self.vmcb.cr4, efer: self.vmcb.efer }
    }

    fn inject(&mut self, event: Event) {
        const VALID: u64 = 1 << 31;
        const EXCEPTION: u64 = 3 << 8;
        const WITH_CODE: u64 = 1 << 11;
        self.vmcb.event_injection = match event {
            Event::UndefinedOpcode => VALID | EXCEPTION | 6,
            Event::GeneralProtection => VALID | EXCEPTION | WITH_CODE | 13,
            Event::Nmi => VALID | 2 << 8 | 2,
        };
    }

    fn read_msr(&self, msr: u32) -> Option<u64> {
        match msr {
            number::EFER => Some(self.vmcb.efer & !EFER_SVME),
            number::PAT => Some(self.pat),
            number::MTRR_DEF_TYPE => Some(self.mtrr_def_type),
            _ => None,
        }
    }

    fn write_msr(&mut self, msr: u32, value: u64) -> Option<bool> {
        match msr {
            number::EFER => {
                let value = value & !EFER_SVME;
                if value & !(EFER_WRITABLE | EFER_LMA) != 0 {
                    return Some(false);
                }
                // LMA is the CPU's; SVME must stay.
                self.vmcb.efer = value & !EFER_LMA | self.vmcb.efer & EFER_LMA | EFER_SVME;
            }
            number::PAT => {
                if value.to_le_bytes().iter().any(|kind| *kind > 7 || *kind == 2 || *kind == 3) {
                    return Some(false);
                }
                self.pat = value;
                self.apply_pat();
            }
            number::MTRR_DEF_TYPE => {
                self.mtrr_def_type = self.mtrr_def_type & !MTRR_ENABLE | value & MTRR_ENABLE;
                self.apply_pat();
            }
            _ => return None,
        }
        Some(true)
    }
}

/// Physical address of the page tables in use.
#[must_use]
pub fn current_tables() -> u64 {
    Cr3::read_raw().0.start_address().as_u64()
}

/// Levels of the page tables in use.
#[must_use]
pub fn paging_levels() -> u32 {
    if Cr4::read_raw() & 1 << 12 != 0 { 5 } else { 4 }
}
