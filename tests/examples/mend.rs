//! Mends a race of QEMU's that stops emulated machines, in the QEMU that loads this library first (`LD_PRELOAD`).
//!
//! Whenever any processor loads FPU registers (FXRSTOR, XRSTOR, FLDENV), QEMU calls `cpu_clear_ignne`, which clears a bit in `hflags2` of
//! the first processor: a word that also says whether its global interrupt flag is set and whether it runs a guest's nested tables. That is not
//! atomic, and with a thread for each processor a VMRUN or an exit of the first one in between is undone by half: it runs on with
//! interrupts off for ever, or exits a second time out of the hypervisor. The bit (IGNNE#) is set only by a write to port 0xf0, for the
//! interrupt of an external x87: without one, clearing it does nothing, so here the function returns at once.
//!
//! QEMU 7.2 and 10 have it, with the function among their dynamic symbols. The decision is in `docs/decisions/0042-the-emulator-is-mended.md`.
#![allow(unsafe_code)] // Patches a function of the program that it is loaded into.

use std::ffi::c_void;

/// `ret`.
const RETURN: u8 = 0xc3;

/// Run by the dynamic loader, before the program's own `main`.
#[used]
#[unsafe(link_section = ".init_array")]
static MEND: extern "C" fn() = mend;

extern "C" fn mend() {
    // SAFETY: a name that ends with 0; the search order is the program's own.
    let function = unsafe { libc::dlsym(libc::RTLD_DEFAULT, c"cpu_clear_ignne".as_ptr()) };
    // It is not there in a program that QEMU starts.
    if !function.is_null()
        && let Err(error) = patch(function)
    {
        eprintln!("mend: cannot mend QEMU: {error}");
        std::process::abort();
    }
}

/// Makes a function return at once.
fn patch(function: *mut c_void) -> std::io::Result<()> {
    const PAGE: usize = 4096;
    let start = function.map_addr(|address| address & !(PAGE - 1));
    let protect = |protection| {
        // SAFETY: the page is mapped, since a function lies there; nobody runs it yet but this thread, which does not run code in it.
        match unsafe { libc::mprotect(start, PAGE, protection) } {
            0 => Ok(()),
            _ => Err(std::io::Error::last_os_error()),
        }
    };
    protect(libc::PROT_READ | libc::PROT_WRITE)?;
    // SAFETY: the page can be written, and the program has not begun: nobody executes what is written.
    unsafe { function.cast::<u8>().write(RETURN) };
    protect(libc::PROT_READ | libc::PROT_EXEC)
}
