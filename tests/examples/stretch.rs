//! A QEMU plug-in that finds the longest stretch that a kernel runs without letting interrupts in.
//!
//! A stretch is what is executed in the upper half of the address space, from the way in (or the last `sti`) to the way out (or the
//! next). What comes before the first instruction in the lower half is the kernel's start, and not counted. For one CPU, and a kernel whose
//! ways in all close interrupts. [`tests::stretch`] reads what it finds.
#![allow(unsafe_code)] // an interface of C functions and callbacks

mod plugin;

use std::ffi::{c_char, c_int, c_uint, c_void};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};

use plugin::{Block, Id, NO_REGISTERS, qemu_plugin_register_vcpu_tb_exec_cb, qemu_plugin_tb_n_insns};
use tests::stretch::{FROM, LONGEST, SIZE, TO};

type Instruction = *mut c_void;

unsafe extern "C" {
    fn qemu_plugin_tb_vaddr(block: Block) -> u64;
    fn qemu_plugin_tb_get_insn(block: Block, index: usize) -> Instruction;
    fn qemu_plugin_insn_data(instruction: Instruction) -> *const u8;
}

/// `sti` ends a block of QEMU's: nothing behind it is in the same one.
const STI: u8 = 0xfb;

static IN_KERNEL: AtomicBool = AtomicBool::new(false);
static COUNTS: AtomicBool = AtomicBool::new(false);
static LENGTH: AtomicU64 = AtomicU64::new(0);
static START: AtomicU64 = AtomicU64::new(0);

/// What is known of a translated block.
struct Known {
    address: u64,
    instructions: u64,
    lets_in: bool,
}

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

/// QEMU has translated a block of instructions: have its executions noticed.
extern "C" fn translated(_id: Id, block: Block) {
    // SAFETY: `block` and its instructions are valid during this callback, and each instruction has one byte at least. What is known of
    // it is never freed, because executions may come at any time.
    unsafe {
        let instructions = qemu_plugin_tb_n_insns(block);
        let lets_in =
            instructions > 0 && *qemu_plugin_insn_data(qemu_plugin_tb_get_insn(block, instructions - 1)) == STI;
        let address = qemu_plugin_tb_vaddr(block);
        let known = Box::new(Known { address, instructions: instructions as u64, lets_in });
        qemu_plugin_register_vcpu_tb_exec_cb(block, executed, NO_REGISTERS, Box::into_raw(known).cast());
    }
}

/// There is one CPU, and so one thread that comes here.
extern "C" fn executed(_: c_uint, known: *mut c_void) {
    // SAFETY: it was made in `translated`, and stays.
    let known = unsafe { &*known.cast::<Known>() };
    if known.address >> 63 == 0 {
        // The kernel's first instructions lie here too, before it is where it belongs.
        if IN_KERNEL.swap(false, Relaxed) {
            COUNTS.store(true, Relaxed);
        }
        return;
    }
    if !IN_KERNEL.swap(true, Relaxed) {
        LENGTH.store(0, Relaxed);
        START.store(known.address, Relaxed);
    }
    let length = LENGTH.load(Relaxed) + known.instructions;
    LENGTH.store(if known.lets_in { 0 } else { length }, Relaxed);
    if let (true, Some(report)) = (COUNTS.load(Relaxed), plugin::words())
        && length > report[LONGEST].load(Relaxed)
    {
        report[LONGEST].store(length, Relaxed);
        report[FROM].store(START.load(Relaxed), Relaxed);
        report[TO].store(known.address, Relaxed);
    }
    if known.lets_in {
        START.store(known.address, Relaxed);
    }
}
