//! Entry.
#![cfg_attr(target_os = "none", no_std, no_main)]

#[cfg(target_os = "none")]
#[panic_handler]
fn panic(info: &core::panic::PanicInfo<'_>) -> ! {
    hypervisor::say!("hypervisor: {info}");
    hypervisor::idt::stop()
}

#[cfg(not(target_os = "none"))]
fn main() {}
