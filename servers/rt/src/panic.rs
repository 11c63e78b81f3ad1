//! What a panic does: a line on the console, the same for the supervisor's report, then a fault. It never returns and never unwinds.

#[cfg(target_os = "none")]
#[panic_handler]
fn panic(info: &core::panic::PanicInfo) -> ! {
    use core::fmt::Write;
    let (file, line) = info.location().map_or(("?", 0), |place| (place.file(), place.line()));
    // It has room for so many bytes and leaves out the rest; that is no error.
    let _ = write!(crate::buffer::PanicText::default(), "{file}:{line}: {}", info.message());
    crate::log!("panic at {file}:{line}: {}", info.message());
    abort()
}

/// Ends the server with an invalid-opcode fault.
#[cfg(target_os = "none")]
#[allow(unsafe_code)] // The instruction that faults.
pub(crate) fn abort() -> ! {
    // SAFETY: the instruction only raises a fault; what happens then is the supervisor's matter.
    unsafe { core::arch::asm!("ud2", options(noreturn, nomem, nostack)) }
}
