//! Accesses that may fault: the handler of the signal goes on behind them, and says what it saw.

use std::arch::asm;
use std::ffi::{c_int, c_void};
use std::sync::atomic::{AtomicI32, AtomicUsize, Ordering::Relaxed};

use crate::sys;

/// `si_code` of an address with nothing mapped (sigaction(2)).
pub const SEGV_MAPERR: c_int = 1;
/// `si_code` of an access that the mapping does not allow.
pub const SEGV_ACCERR: c_int = 2;
/// `si_code` of a division by zero.
pub const FPE_INTDIV: c_int = 1;

static CODE: AtomicI32 = AtomicI32::new(0);
static ADDRESS: AtomicUsize = AtomicUsize::new(0);

/// `si_code` and `si_addr` of the last fault.
pub fn last() -> (c_int, usize) {
    (CODE.load(Relaxed), ADDRESS.load(Relaxed))
}

/// An access has left the address behind it in R11, and finds the signal in R10.
extern "C" fn on_fault(signal: c_int, info: *mut libc::siginfo_t, context: *mut c_void) {
    // SAFETY: both are what the kernel gives a handler with SA_SIGINFO, and nobody else looks at them meanwhile.
    let (info, context) = unsafe { (&*info, &mut *context.cast::<libc::ucontext_t>()) };
    CODE.store(info.si_code, Relaxed);
    // SAFETY: of a fault, the address is there.
    ADDRESS.store(unsafe { info.si_addr() }.addr(), Relaxed);
    let registers = &mut context.uc_mcontext.gregs;
    registers[libc::REG_RIP as usize] = registers[libc::REG_R11 as usize];
    registers[libc::REG_R10 as usize] = signal.into();
}

/// Catches that signal.
pub fn catch(signal: c_int) {
    sys::handle(signal, sys::Handler::Info(on_fault), libc::SA_ONSTACK);
}

/// Reads a byte; the signal, if that faults.
pub fn read(address: usize) -> Result<u8, i64> {
    let (value, signal): (u8, i64);
    // SAFETY: it reads one byte of whatever is mapped there; what faults is caught, or ends the program.
    unsafe {
        asm!("xor r10d, r10d", "lea r11, [rip + 2f]", "mov {value}, byte ptr [{address}]", "2:",
            address = in(reg) address, value = lateout(reg_byte) value, out("r10") signal, out("r11") _, options(nostack));
    }
    if signal == 0 { Ok(value) } else { Err(signal) }
}

/// Writes a byte; the signal, if that faults. For addresses in mappings that only the checks know.
pub fn write(address: usize, value: u8) -> Result<(), i64> {
    let signal: i64;
    // SAFETY: nothing of Rust's lies in such a mapping; what faults is caught.
    unsafe {
        asm!("xor r10d, r10d", "lea r11, [rip + 2f]", "mov byte ptr [{address}], {value}", "2:",
            address = in(reg) address, value = in(reg_byte) value, out("r10") signal, out("r11") _, options(nostack));
    }
    if signal == 0 { Ok(()) } else { Err(signal) }
}

/// Divides by zero; the signal.
pub fn divide() -> i64 {
    let signal: i64;
    // SAFETY: changes no more than it says; the exception is caught.
    unsafe {
        asm!("xor r10d, r10d", "lea r11, [rip + 2f]", "cdq", "idiv ecx", "2:",
            inout("eax") 1000 => _, in("ecx") 0, out("edx") _, out("r10") signal, out("r11") _, options(nostack));
    }
    signal
}
