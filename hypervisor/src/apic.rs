//! The local APICs: kicks of the hypervisor, and what cells write to their own.
//!
//! In xAPIC mode reads of a guest go to the hardware, writes are caught; in x2APIC mode only the interrupt command register is, and of
//! cells the local vectors.
#![allow(unsafe_code)] // Device registers and the interrupt window.

use core::arch::asm;
use core::sync::atomic::{AtomicUsize, Ordering};

use hypervisor_abi::hypercall::Error;
use x86_64::registers::model_specific::Msr;

use crate::cell::Violation;
use crate::cpu::{Cpu, kick};
use crate::memory::host;
use crate::memory::nested::APIC_PAGE;
use crate::percpu::Shared;
use crate::units::icr::{Command, Delivery, LogicalModel, Refusal, is_plain, lvt_allowed};
use crate::units::msr::number::{APIC_BASE, X2APIC_FIRST};

/// Registers: offset in the page divided by 16, which is also the distance from the first x2APIC MSR.
pub mod register {
    /// Id.
    pub const ID: u32 = 0x02;
    /// Task priority.
    pub const TPR: u32 = 0x08;
    /// End of interrupt.
    pub const EOI: u32 = 0x0b;
    /// Logical destination.
    pub const LDR: u32 = 0x0d;
    /// Destination format.
    pub const DFR: u32 = 0x0e;
    /// Spurious interrupt vector.
    pub const SVR: u32 = 0x0f;
    /// First of the in-service registers.
    pub const ISR: u32 = 0x10;
    /// Interrupt command, low.
    pub const ICR: u32 = 0x30;
    /// Interrupt command, high.
    pub const ICR_HIGH: u32 = 0x31;
    /// First of the local vector table, but for CMCI.
    pub const LVT_TIMER: u32 = 0x32;
    /// Last of the local vector table.
    pub const LVT_ERROR: u32 = 0x37;
    /// Corrected machine check.
    pub const LVT_CMCI: u32 = 0x2f;
    /// Timer's initial count.
    pub const TIMER_INITIAL: u32 = 0x38;
    /// Timer's current count.
    pub const TIMER_CURRENT: u32 = 0x39;
    /// Timer's divider.
    pub const TIMER_DIVIDE: u32 = 0x3e;
    /// Self IPI of x2APIC.
    pub const SELF_IPI: u32 = 0x3f;
    /// Last register.
    pub const LAST: u32 = 0x3f;
}

const MASKED: u32 = 1 << 16;
const SVR_ENABLE: u32 = 1 << 8;
const BASE_EXTD: u64 = 1 << 10;

/// Address of the registers; 0 in x2APIC mode.
static REGISTERS: AtomicUsize = AtomicUsize::new(0);

/// Finds out which mode Linux uses, and maps the registers.
pub fn init() -> Result<(), Error> {
    // SAFETY: every CPU with SVM has this MSR.
    let base = unsafe { Msr::new(APIC_BASE).read() };
    let address = if base & BASE_EXTD != 0 { 0 } else { host::map_device(APIC_PAGE, 4096)? };
    REGISTERS.store(address, Ordering::Relaxed);
    if base & BASE_EXTD == 0 && base & 0x000f_ffff_ffff_f000 != APIC_PAGE {
        return Err(Error::NoDevice);
    }
    Ok(())
}

/// Whether the APICs are in x2APIC mode.
#[must_use]
pub fn x2apic() -> bool {
    REGISTERS.load(Ordering::Relaxed) == 0
}

/// Reads a register.
#[must_use]
pub fn read(register: u32) -> u32 {
    match REGISTERS.load(Ordering::Relaxed) {
        // SAFETY: x2APIC mode is on, and only existing registers are used.
        0 => unsafe { Msr::new(X2APIC_FIRST + register).read() as u32 },
        // SAFETY: the page is mapped.
        base => unsafe { ((base + register as usize * 16) as *const u32).read_volatile() },
    }
}

/// Writes a register.
pub fn write(register: u32, value: u32) {
    match REGISTERS.load(Ordering::Relaxed) {
        // SAFETY: as above; what guests may write is checked before.
        0 => unsafe { Msr::new(X2APIC_FIRST + register).write(value.into()) },
        // SAFETY: as above.
        base => unsafe { ((base + register as usize * 16) as *mut u32).write_volatile(value) },
    }
}

/// Id of this CPU.
#[must_use]
pub fn own_id() -> u32 {
    let id = read(register::ID);
    if x2apic() { id } else { id >> 24 }
}

/// Sends an interrupt to one CPU.
fn send(low: u32, apic_id: u32) {
    if x2apic() {
        // Earlier stores must be visible before the interrupt; a write to this MSR does not order them.
        // SAFETY: fences, and a command that was checked.
        unsafe {
            asm!("mfence", "lfence", options(nostack));
            Msr::new(X2APIC_FIRST + register::ICR).write(u64::from(apic_id) << 32 | u64::from(low));
        }
        return;
    }
    while read(register::ICR) & 1 << 12 != 0 {
        core::hint::spin_loop();
    }
    write(register::ICR_HIGH, apic_id << 24);
    write(register::ICR, low);
}

/// Sends an NMI to one CPU.
pub fn send_nmi(apic_id: u32) {
    send(0x4400, apic_id);
}

/// Puts this CPU's APIC into the state after a reset, without any interrupt left in it.
pub fn clear(shared: &Shared) {
    // It must be on to let go of what it holds.
    write(register::SVR, SVR_ENABLE | 0xff);
    for entry in register::LVT_TIMER..=register::LVT_ERROR {
        write(entry, MASKED);
    }
    write(register::TIMER_INITIAL, 0);
    write(register::TPR, 0);
    for _ in 0..256 {
        // SAFETY: every vector has a handler that just returns; the stack is ours.
        unsafe { asm!("stgi", "sti", "nop", "nop", "cli", "clgi") };
        if (0..8).all(|n| read(register::ISR + n) == 0) {
            break;
        }
        write(register::EOI, 0);
    }
    if !x2apic() {
        write(register::DFR, u32::MAX);
        write(register::LDR, 0);
    }
    write(register::SVR, 0xff);
    shared.logical_id.store(if x2apic() { read(register::LDR) } else { 0 }, Ordering::Relaxed);
    shared.hardware_logical_id.store(shared.logical_id.load(Ordering::Relaxed), Ordering::Relaxed);
    shared.logical_model.store(0xf, Ordering::Relaxed);
}

fn model(cpu: &Cpu) -> LogicalModel {
    if x2apic() {
        LogicalModel::X2
    } else if cpu.shared.logical_model.load(Ordering::Relaxed) == 0xf {
        LogicalModel::Flat
    } else {
        LogicalModel::Cluster
    }
}

/// Carries out `command` for `cell`; `own` is the sender's CPU number, if a CPU sends.
pub fn deliver(cell: &crate::cell::Cell, command: &Command, own: Option<u32>) {
    for target in cell.shared_cpus() {
        let number = target.cpu.load(Ordering::Relaxed);
        let apic_id = target.apic_id.load(Ordering::Relaxed);
        if !command.hits(apic_id, target.logical_id.load(Ordering::Relaxed), own == Some(number)) {
            continue;
        }
        match command.delivery {
            Delivery::Fixed | Delivery::Lowest => send(0x4000 | u32::from(command.vector), apic_id),
            Delivery::Nmi => {
                target.nmi.store(true, Ordering::Release);
                kick(target);
            }
            Delivery::Init => {
                target.signals.init();
                kick(target);
            }
            Delivery::StartUp => {
                target.signals.start_up(command.vector);
                kick(target);
            }
        }
        if command.single() {
            return;
        }
    }
}

/// How message-signalled interrupts name logical targets in `cell`.
pub fn cell_model(cell: &crate::cell::Cell) -> LogicalModel {
    if x2apic() {
        LogicalModel::X2
    } else if cell.shared_cpus().all(|cpu| cpu.logical_model.load(Ordering::Relaxed) == 0xf) {
        LogicalModel::Flat
    } else {
        LogicalModel::Cluster
    }
}

/// A guest writes to its interrupt command register.
pub fn guest_command(cpu: &mut Cpu, low: u32, destination: u32) -> Result<(), Violation> {
    match Command::decode(low, destination, model(cpu)) {
        Ok(command) => {
            deliver(cpu.cell(), &command, Some(cpu.number));
            Ok(())
        }
        Err(Refusal::Ignored) => Ok(()),
        // A vector that no APIC sends: the hardware would note an error and send nothing.
        Err(Refusal::Vector(_)) => Ok(()),
        Err(Refusal::Delivery(_)) => Err(Violation::interrupt(u64::from(destination), u64::from(low))),
    }
}

/// A guest writes to a register of its APIC. Emulates xAPIC semantics: `value` is what goes into the page.
pub fn guest_write(cpu: &mut Cpu, register: u32, value: u32) -> Result<(), Violation> {
    match register {
        register::ICR => {
            let destination = if x2apic() { cpu.icr_high } else { cpu.icr_high >> 24 };
            return guest_command(cpu, value, destination);
        }
        register::ICR_HIGH => cpu.icr_high = value,
        register::LVT_CMCI | register::LVT_TIMER..=register::LVT_ERROR => {
            if !lvt_allowed(value, cpu.cell().is_root()) {
                return Err(Violation::interrupt(u64::from(register) << 4, value.into()));
            }
            write(register, value);
        }
        register::LDR => {
            let id = value >> 24;
            cpu.shared.logical_id.store(id, Ordering::Relaxed);
            // A cell cannot make its CPU answer to interrupts that are meant for others: the hardware gets the one logical
            // id that nobody else has by nature, or none. The cell's own interrupts are sorted by what it wrote.
            let natural = 1u32.checked_shl(cpu.shared.apic_id.load(Ordering::Relaxed)).unwrap_or(0);
            let hardware = if cpu.cell().is_root() || id == natural { id } else { 0 };
            cpu.shared.hardware_logical_id.store(hardware, Ordering::Relaxed);
            write(register, hardware << 24);
        }
        register::DFR => {
            cpu.shared.logical_model.store(value >> 28, Ordering::Relaxed);
            if cpu.cell().is_root() {
                write(register, value);
            }
        }
        // The id names the CPU to the hypervisor.
        register::ID => {}
        _ if is_plain(register) => write(register, value),
        // Nothing else can be written, and on some machines a write there is an interrupt message to whomever it names.
        _ => {}
    }
    Ok(())
}

/// A guest reads an x2APIC register, and the hardware is in xAPIC mode.
pub fn guest_read_x2(cpu: &Cpu, register: u32) -> Option<u64> {
    match register {
        register::ID => Some(cpu.shared.apic_id.load(Ordering::Relaxed).into()),
        register::LDR => {
            let id = cpu.shared.apic_id.load(Ordering::Relaxed);
            Some(u64::from((id >> 4) << 16 | 1 << (id & 15)))
        }
        register::ICR => Some(u64::from(cpu.icr_high >> 24) << 32 | u64::from(read(register))),
        register::EOI | register::SELF_IPI | register::DFR | register::ICR_HIGH => None,
        _ => Some(read(register).into()),
    }
}

/// A guest writes an x2APIC register, and the hardware is in xAPIC mode. `None`: there is no such register.
pub fn guest_write_x2(cpu: &mut Cpu, register: u32, value: u64) -> Option<Result<(), Violation>> {
    let low = value as u32;
    match register {
        register::ICR => {
            cpu.icr_high = ((value >> 32) as u32) << 24;
            Some(guest_command(cpu, low, (value >> 32) as u32))
        }
        register::SELF_IPI => Some(guest_command(cpu, 0x4_4000 | low & 0xff, 0)),
        register::ID | register::LDR | register::DFR | register::ICR_HIGH | 0x10..=0x27 | 0x39 => None,
        _ => Some(guest_write(cpu, register, low)),
    }
}
