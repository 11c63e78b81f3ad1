//! Disable: all CPUs of the root cell call together, and go on as hosts.
#![allow(unsafe_code)] // Leaving.

use core::hint::spin_loop;
use core::sync::atomic::{AtomicU32, Ordering};

use hypervisor_abi::hypercall::Error;

use crate::cpu::Cpu;
use crate::vendor::{Vcpu, reg};
use crate::{cell, devices, entry, say};

static ARRIVED: AtomicU32 = AtomicU32::new(0);
static DEVICES_OFF: AtomicU32 = AtomicU32::new(0);

/// Leaves the hypervisor on this CPU. Returns only with an error.
pub fn disable(cpu: &mut Cpu) -> Error {
    // The same answer for all CPUs: cells are managed by calls of the root cell, and its CPUs are all on the way here.
    if cell::all().count() > 1 {
        return Error::Busy;
    }
    let root = cell::root();
    let cpus = root.shared_cpus().count() as u32;
    if ARRIVED.fetch_add(1, Ordering::AcqRel) == 0 {
        devices::cell_exit(cpu.number, root);
        DEVICES_OFF.store(1, Ordering::Release);
    }
    while ARRIVED.load(Ordering::Acquire) < cpus || DEVICES_OFF.load(Ordering::Acquire) == 0 {
        spin_loop();
    }
    if cpu.number == 0 {
        say!("hypervisor left");
    }
    cpu.vcpu.restore();
    let registers = *cpu.vcpu.registers();
    // SAFETY: the caller is the driver's stub, which keeps what it needs in these registers; its state was just restored.
    unsafe {
        entry::leave(cpu.boot_tables, registers[reg::RBX], registers[reg::RBP], registers[reg::R12], cpu.frame.host_rip)
    }
}
