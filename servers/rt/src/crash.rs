//! Ways to crash on purpose: what the supervisor is tested with.
#![allow(unsafe_code)] // Each of these is a deliberate fault.

use alloc::vec::Vec;

/// Crashes in the named way; an unknown name panics.
///
/// `null` writes through a null pointer, `wild` writes to memory that is not there, `execdata` jumps into the heap, `stack`
/// overruns the stack, `ud2` executes an invalid instruction, `port` touches an I/O port, `spin` loops for ever, `panic` panics.
pub fn by(way: &str) -> ! {
    match way {
        "null" => write_to(0x10),
        "wild" => write_to(0x5555_0000_0000),
        "execdata" => {
            let code: &'static mut [u8] = Vec::leak(alloc::vec![0xc3u8; 16]);
            // SAFETY: the call faults: the heap is never executable. Were it, the bytes there are a return.
            let jump: extern "C" fn() = unsafe { core::mem::transmute(code.as_ptr()) };
            jump();
        }
        "stack" => {
            core::hint::black_box(overrun(1));
        }
        // SAFETY: only raises a fault.
        "ud2" => unsafe { core::arch::asm!("ud2", options(nomem, nostack)) },
        // SAFETY: user mode may not do this, so it only raises a fault.
        "port" => unsafe { core::arch::asm!("out 0x80, al", in("al") 0u8, options(nomem, nostack)) },
        "spin" => loop {
            core::hint::spin_loop();
        },
        _ => {}
    }
    panic!("asked to crash: {way}")
}

fn write_to(address: usize) {
    // SAFETY: nothing is ever mapped at these addresses, so it only raises a fault.
    unsafe { core::arch::asm!("mov qword ptr [{0}], 0", in(reg) address, options(nostack)) };
}

#[allow(unconditional_recursion)]
fn overrun(depth: u64) -> u64 {
    let frame = core::hint::black_box([depth; 64]);
    overrun(depth + 1) + frame[depth as usize % 64]
}
