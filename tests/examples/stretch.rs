//! A QEMU plug-in that finds the longest stretch that a kernel runs without letting interrupts in.
//!
//! A stretch is what is executed in the upper half of the address space, from the way in (or the last `sti`) to the way out (or the
//! next `sti`). What comes before the first instruction in the lower half is the kernel's start, and not counted. For one CPU, and a kernel whose
//! ways in all close interrupts. [`tests::stretch`] reads what it finds.
#![allow(unsafe_code)] // an interface of C functions and callbacks

mod plugin;

use std::ffi::{c_char, c_int, c_uint, c_void};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};

use plugin::{Block, Id, NO_REGISTERS, qemu_plugin_register_vcpu_tb_exec_cb, qemu_plugin_tb_n_insns};
use tests::stretch::{FROM, LONGEST, MOSTLY, SIZE, TO};

type Instruction = *mut c_void;

unsafe extern "C" {
    fn qemu_plugin_tb_vaddr(block: Block) -> u64;
    fn qemu_plugin_tb_get_insn(block: Block, index: usize) -> Instruction;
    fn qemu_plugin_insn_data(instruction: Instruction) -> *const u8;
    fn qemu_plugin_insn_size(instruction: Instruction) -> usize;
}

/// `sti`, `iretq`, `sysretq`: behind each of them interrupts are on, whether another instruction comes before the next one or not. They end a
/// block of QEMU's.
const LET_IN: [&[u8]; 3] = [&[0xfb], &[0x48, 0xcf], &[0x48, 0x0f, 0x07]];

static IN_KERNEL: AtomicBool = AtomicBool::new(false);
static COUNTS: AtomicBool = AtomicBool::new(false);
static LENGTH: AtomicU64 = AtomicU64::new(0);
static START: AtomicU64 = AtomicU64::new(0);
/// Which stretch it is, and the most instructions that one block has had in it.
static NUMBER: AtomicU64 = AtomicU64::new(0);
static MOST: AtomicU64 = AtomicU64::new(0);
static MOST_AT: AtomicU64 = AtomicU64::new(0);

/// What is known of a translated block.
struct Known {
    address: u64,
    instructions: u64,
    lets_in: bool,
    /// The stretch in which it was last executed, and its instructions there.
    stretch: AtomicU64,
    spent: AtomicU64,
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
    // SAFETY: `block` and its instructions are valid during this callback, and each instruction has its size in bytes. What is known of
    // it is never freed, because executions may come at any time.
    unsafe {
        let instructions = qemu_plugin_tb_n_insns(block);
        let lets_in = instructions > 0 && {
            let last = qemu_plugin_tb_get_insn(block, instructions - 1);
            LET_IN.contains(&std::slice::from_raw_parts(qemu_plugin_insn_data(last), qemu_plugin_insn_size(last)))
        };
        let address = qemu_plugin_tb_vaddr(block);
        let known = Box::new(Known {
            address,
            instructions: instructions as u64,
            lets_in,
            stretch: AtomicU64::new(0),
            spent: AtomicU64::new(0),
        });
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
        begin(known.address);
    }
    let number = NUMBER.load(Relaxed);
    let before = if known.stretch.swap(number, Relaxed) == number { known.spent.load(Relaxed) } else { 0 };
    known.spent.store(before + known.instructions, Relaxed);
    if before + known.instructions > MOST.load(Relaxed) {
        MOST.store(before + known.instructions, Relaxed);
        MOST_AT.store(known.address, Relaxed);
    }
    let length = LENGTH.load(Relaxed) + known.instructions;
    LENGTH.store(length, Relaxed);
    if let (true, Some(report)) = (COUNTS.load(Relaxed), plugin::words())
        && length > report[LONGEST].load(Relaxed)
    {
        report[LONGEST].store(length, Relaxed);
        report[FROM].store(START.load(Relaxed), Relaxed);
        report[TO].store(known.address, Relaxed);
        report[MOSTLY].store(MOST_AT.load(Relaxed), Relaxed);
    }
    if known.lets_in {
        begin(known.address);
    }
}

/// A stretch begins.
fn begin(address: u64) {
    LENGTH.store(0, Relaxed);
    START.store(address, Relaxed);
    MOST.store(0, Relaxed);
    NUMBER.fetch_add(1, Relaxed);
}
