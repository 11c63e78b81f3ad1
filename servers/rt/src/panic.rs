//! What a panic does: a line on the console, then a fault that the supervisor sees. It never returns and never unwinds.

#[cfg(target_os = "none")]
#[panic_handler]
fn panic(info: &core::panic::PanicInfo) -> ! {
    match info.location() {
        Some(place) => crate::log!("panic at {}:{}: {}", place.file(), place.line(), info.message()),
        None => crate::log!("panic: {}", info.message()),
    }
    abort()
}

/// Ends the server with an invalid-opcode fault.
#[cfg(target_os = "none")]
#[allow(unsafe_code)] // The instruction that faults.
pub(crate) fn abort() -> ! {
    // SAFETY: the instruction only raises a fault; what happens then is the supervisor's matter.
    unsafe { core::arch::asm!("ud2", options(noreturn, nomem, nostack)) }
}
