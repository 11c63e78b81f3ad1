//! Entry.
#![cfg_attr(target_os = "none", no_std, no_main)]

#[cfg(target_os = "none")]
#[panic_handler]
fn panic(info: &core::panic::PanicInfo) -> ! {
    kernel::arch::x86_64::stop(info)
}

// The linker finds the entry by this reference.
#[cfg(target_os = "none")]
#[used]
static ENTRY: extern "C" fn(u64) -> ! = kernel::arch::x86_64::start;

#[cfg(not(target_os = "none"))]
fn main() {}
