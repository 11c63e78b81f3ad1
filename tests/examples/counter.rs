//! A QEMU plug-in that counts the guest instructions of each CPU, and those at the hypervisor's addresses apart. [`tests::counter`] reads the counters while the machine runs.
#![allow(unsafe_code)] // an interface of C functions and callbacks

mod plugin;

use std::ffi::{c_char, c_int, c_uint, c_void};
use std::ptr;
use std::sync::atomic::Ordering;

use plugin::{Block, Id, NO_REGISTERS, qemu_plugin_register_vcpu_tb_exec_cb, qemu_plugin_tb_n_insns};
use tests::counter::{CPUS, HYPERVISOR, SIZE, STRIDE};

unsafe extern "C" {
    fn qemu_plugin_tb_vaddr(block: Block) -> u64;
}

/// Added to the number of instructions of a block that is the hypervisor's.
const OURS: usize = 1 << 32;

/// Called once, when QEMU has loaded the plug-in. Not 0 makes QEMU give up.
///
/// # Safety
///
/// `argv` is `argc` strings, as QEMU promises.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn qemu_plugin_install(
    id: Id,
    _machine: *const c_void,
    argc: c_int,
    argv: *const *const c_char,
) -> c_int {
    // SAFETY: this is QEMU's call.
    unsafe { plugin::install(id, argc, argv, SIZE, translated) }
}

/// QEMU has translated a block of instructions: have its executions counted.
extern "C" fn translated(_id: Id, block: Block) {
    // SAFETY: `block` is valid during this callback; the number travels in the pointer's place and
    // is never followed.
    unsafe {
        let ours = if qemu_plugin_tb_vaddr(block) >= HYPERVISOR { OURS } else { 0 };
        let instructions = qemu_plugin_tb_n_insns(block) | ours;
        qemu_plugin_register_vcpu_tb_exec_cb(block, executed, NO_REGISTERS, ptr::without_provenance_mut(instructions));
    }
}

extern "C" fn executed(cpu: c_uint, instructions: *mut c_void) {
    let Some(counters) = plugin::words() else {
        return;
    };
    let cpu = cpu as usize;
    if cpu < CPUS {
        let number = instructions.addr();
        // One writer a counter: no need for an atomic addition.
        let add = |at: usize| {
            let counter = &counters[at];
            counter.store(counter.load(Ordering::Relaxed) + (number & (OURS - 1)) as u64, Ordering::Relaxed);
        };
        add(cpu * STRIDE / 8);
        if number & OURS != 0 {
            add(cpu * STRIDE / 8 + 1);
        }
    }
}
