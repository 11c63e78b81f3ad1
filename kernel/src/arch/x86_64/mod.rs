//! x86-64: ways in, tables, timer, interrupt controllers, FPU, console.
//!
//! One CPU runs; others of the cell are parked by the entry code. Per-CPU data is kept apart already.
#![allow(unsafe_code)] // The start of the kernel: everything it relies on is set up here.

mod apic;
mod boot_inmate;
mod boot_pvh;
mod cell;
mod console;
mod cpu;
mod fpu;
pub mod hooks;
mod ioapic;
mod paging;
mod time;
mod trap;

use crate::kernel::{Kernel, Machine};
use crate::memory::{Page, to_physical};
use crate::{first_process, sched};
use core::fmt::Write;
use core::panic::PanicInfo;
use ipc::image::{IMAGE_MAGIC, IMAGE_VERSION, ImageHeader, KernelHead, MAX_FIRST_SEGMENTS, MAX_RANGES};
use zerocopy::FromBytes;

static KERNEL: cpu::Exclusive<Kernel> = cpu::Exclusive(Kernel::new());

/// The kernel's state.
fn kernel() -> &'static Kernel {
    &KERNEL.0
}

unsafe extern "C" {
    static kernel_head: KernelHead;
}

/// First Rust code: on the boot tables, with a stack.
#[unsafe(export_name = "kernel_start")]
pub extern "C" fn start(in_cell: u64) -> ! {
    let in_cell = in_cell != 0;
    // SAFETY: the head is in the image, mapped by the boot tables; the composer wrote it before the kernel ran. Volatile, because the
    // compiler sees the value that the kernel was linked with.
    let header_address = unsafe { (&raw const kernel_head.image_header).read_volatile() };
    console::early(in_cell);
    cpu::set_up();
    let header = match read_header(header_address) {
        Ok(header) => header,
        Err(why) => panic!("{why}"),
    };
    paging::set_up(&header);
    if in_cell {
        cell::set_up(header.comm_region);
    }
    console::set_up(in_cell, &header);
    fpu::set_up();
    apic::set_up();
    let tsc_khz = time::set_up(in_cell);
    ioapic::set_up(in_cell);
    let k = kernel();
    k.machine.set(Machine { tsc_khz, in_cell, image_header: header_address, polls: header.polls != 0 });
    k.cpu.stamp.set(hooks::now());
    let way = if in_cell { "cell" } else { "standalone" };
    let _ = writeln!(console::Output, "kernel: {way}, TSC {tsc_khz} kHz, APIC {} kHz", time::apic_khz());
    if let Err(why) = first_process::start(k, &header, header_address) {
        panic!("first process: {why}");
    }
    trap::run(k, sched::settle(k))
}

/// Reads and checks the image header, through the boot tables.
fn read_header(physical: u64) -> Result<ImageHeader, &'static str> {
    if physical == 0 {
        return Err("this kernel is not composed with an image");
    }
    if !physical.is_multiple_of(4096) || physical >= 1 << 30 {
        return Err("the image header is misplaced");
    }
    let mut bytes = [0; 4096];
    // SAFETY: the boot tables map the first GiB at the kernel's base; the composer put the header into the loaded image. The page is
    // named so that its address through the direct map comes out as that one.
    unsafe { Page::at(to_physical(0xffff_ffff_8000_0000 + physical)) }.copy_out(0, &mut bytes);
    let (header, _) = ImageHeader::read_from_prefix(&bytes).map_err(|_| "the image header is too short")?;
    if header.magic != IMAGE_MAGIC {
        return Err("no image header where the kernel's head says");
    }
    if header.version != IMAGE_VERSION {
        return Err("the image header is of another version");
    }
    if header.range_count as usize > MAX_RANGES || header.first_segment_count as usize > MAX_FIRST_SEGMENTS {
        return Err("the image header has too many entries");
    }
    if header.polls > 1 {
        return Err("the image header wants the processor to idle in an unknown way");
    }
    Ok(header)
}

/// The kernel has found itself in a state it cannot be in: says so, and ends the system.
pub fn stop(info: &PanicInfo) -> ! {
    let _ = writeln!(console::Output, "kernel: {info}");
    hooks::halt(true)
}
