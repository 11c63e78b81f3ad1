//! A QEMU plug-in that counts the guest instructions of each CPU. [`tests::counter`] reads the counters while the machine runs.
#![allow(unsafe_code)] // an interface of C functions and callbacks

mod plugin;

use std::ffi::{c_char, c_int, c_uint, c_void};
use std::ptr;
use std::sync::atomic::Ordering;

use plugin::{Block, Id, NO_REGISTERS, qemu_plugin_register_vcpu_tb_exec_cb, qemu_plugin_tb_n_insns};
use tests::counter::{CPUS, SIZE, STRIDE};

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
        let instructions = qemu_plugin_tb_n_insns(block);
        qemu_plugin_register_vcpu_tb_exec_cb(block, executed, NO_REGISTERS, ptr::without_provenance_mut(instructions));
    }
}

extern "C" fn executed(cpu: c_uint, instructions: *mut c_void) {
    let Some(counters) = plugin::words() else {
        return;
    };
    let cpu = cpu as usize;
    if cpu < CPUS {
        // One writer a counter: no need for an atomic addition.
        let counter = &counters[cpu * STRIDE / 8];
        counter.store(counter.load(Ordering::Relaxed) + instructions.addr() as u64, Ordering::Relaxed);
    }
}
