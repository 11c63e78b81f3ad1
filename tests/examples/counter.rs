//! A QEMU plug-in that counts the guest instructions of each CPU.
//!
//! `-plugin libcounter.so,counters=PATH`: PATH is a file of [`tests::counter::SIZE`] bytes, mapped by
//! QEMU and by whoever reads the counters while the machine runs.
#![allow(unsafe_code)] // an interface of C functions and callbacks

use std::ffi::{CStr, c_char, c_int, c_uint, c_void};
use std::fs::OpenOptions;
use std::ptr;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};

use rustix::mm::{MapFlags, ProtFlags, mmap};
use tests::counter::{CPUS, SIZE, STRIDE};

/// The version of the plug-in interface that this is written for. QEMU 7.2 has 1.
#[unsafe(no_mangle)]
pub static qemu_plugin_version: c_int = 1;

type Id = u64;
type Block = *mut c_void;

unsafe extern "C" {
    fn qemu_plugin_register_vcpu_tb_trans_cb(id: Id, callback: extern "C" fn(Id, Block));
    fn qemu_plugin_tb_n_insns(block: Block) -> usize;
    fn qemu_plugin_register_vcpu_tb_exec_cb(
        block: Block,
        callback: extern "C" fn(c_uint, *mut c_void),
        flags: c_int,
        data: *mut c_void,
    );
}

/// The callback neither reads nor writes the guest's registers.
const NO_REGISTERS: c_int = 0;

static COUNTERS: OnceLock<&'static [AtomicU64]> = OnceLock::new();

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
    for number in 0..usize::try_from(argc).unwrap_or(0) {
        // SAFETY: `number` is below `argc`, and each element is a string that outlives this call.
        let argument = unsafe { CStr::from_ptr(*argv.add(number)) }.to_string_lossy();
        let Some(path) = argument.strip_prefix("counters=") else {
            continue;
        };
        match map(path) {
            Ok(counters) if COUNTERS.set(counters).is_ok() => {
                // SAFETY: `id` is the one that QEMU has given us, and the callback is of the type
                // that the interface asks for.
                unsafe { qemu_plugin_register_vcpu_tb_trans_cb(id, translated) };
                return 0;
            }
            Ok(_) => {}
            Err(error) => eprintln!("counter: {path}: {error}"),
        }
    }
    eprintln!("counter: counters=PATH is needed once");
    1
}

fn map(path: &str) -> std::io::Result<&'static [AtomicU64]> {
    let file = OpenOptions::new().read(true).write(true).open(path)?;
    if file.metadata()?.len() < SIZE as u64 {
        return Err(std::io::Error::other("too short"));
    }
    // SAFETY: a new mapping where the kernel likes, of a file that is as long as it.
    let address =
        unsafe { mmap(ptr::null_mut(), SIZE, ProtFlags::READ | ProtFlags::WRITE, MapFlags::SHARED, &file, 0)? };
    // SAFETY: the mapping is page-aligned, SIZE bytes long, stays for the life of the process, and
    // is only ever accessed as atomics, here and by the reader.
    Ok(unsafe { std::slice::from_raw_parts(address.cast::<AtomicU64>(), SIZE / 8) })
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
    let Some(counters) = COUNTERS.get() else {
        return;
    };
    let cpu = cpu as usize;
    if cpu < CPUS {
        // One writer a counter: no need for an atomic addition.
        let counter = &counters[cpu * STRIDE / 8];
        counter.store(counter.load(Ordering::Relaxed) + instructions.addr() as u64, Ordering::Relaxed);
    }
}
