//! What the hypervisor tells a cell, and is told by it: the communication region.
#![allow(unsafe_code)] // Shared page, hypercall.

use super::paging;
use core::cell::Cell;
use hypervisor_abi::comm::{self, offset};
use hypervisor_abi::hypercall::Hypercall;

static REGION: super::cpu::Exclusive<Cell<u64>> = super::cpu::Exclusive(Cell::new(0));

/// Maps and checks the region.
pub fn set_up(physical: u64) {
    let address = paging::map_device(physical, paging::Device::CommRegion);
    REGION.0.set(address);
    let mut signature = [0; 6];
    for (index, byte) in signature.iter_mut().enumerate() {
        *byte = read::<u8>(index);
    }
    if signature != comm::SIGNATURE {
        REGION.0.set(0);
        panic!("no communication region at {physical:#x}");
    }
    let revision = read::<u16>(offset::REVISION);
    if revision != comm::REVISION {
        write(offset::CELL_STATE, comm::CellState::FailedCommRevision as u32);
        REGION.0.set(0);
        panic!("communication region of revision {revision}, not {}", comm::REVISION);
    }
    write(offset::CELL_STATE, comm::CellState::Running as u32);
}

fn read<T: Copy>(offset: usize) -> T {
    let pointer = core::ptr::with_exposed_provenance::<T>(REGION.0.get() as usize + offset);
    // SAFETY: the region's page is mapped; all bit patterns of the integers read are valid.
    unsafe { pointer.read_volatile() }
}

fn write(offset: usize, value: u32) {
    let pointer = core::ptr::with_exposed_provenance_mut::<u32>(REGION.0.get() as usize + offset);
    // SAFETY: the region's page is mapped; the fields written are aligned.
    unsafe { pointer.write_volatile(value) }
}

/// Ticks per millisecond of the TSC and of the APIC timer before its divider.
pub fn clocks() -> (u64, u64) {
    (read::<u32>(offset::TSC_KHZ).into(), read::<u32>(offset::APIC_KHZ).into())
}

/// Whether the console hypercall may be used.
pub fn console_permitted() -> bool {
    REGION.0.get() != 0 && read::<u32>(offset::FLAGS) & comm::FLAG_PUTC_PERMITTED != 0
}

/// Hands a byte to the hypervisor's console.
pub fn put(byte: u8, amd: bool) {
    let code = Hypercall::DebugConsolePutc as u64;
    // SAFETY: the hypercall changes rax only.
    unsafe {
        if amd {
            core::arch::asm!("vmmcall", inout("rax") code => _, in("rdi") u64::from(byte), in("rsi") 0, options(nostack));
        } else {
            core::arch::asm!("vmcall", inout("rax") code => _, in("rdi") u64::from(byte), in("rsi") 0, options(nostack));
        }
    }
}

/// Answers the hypervisor if it has asked something. It does so without an interrupt, so this is called whenever the CPU goes idle and
/// whenever the timer fires.
pub fn answer() {
    if REGION.0.get() == 0 {
        return;
    }
    let message = read::<u32>(offset::MSG_TO_CELL);
    if message == comm::Message::None as u32 {
        return;
    }
    let reply = if message == comm::Message::ShutdownRequest as u32 {
        comm::Reply::RequestApproved
    } else if message == comm::Message::ReconfigCompleted as u32 {
        comm::Reply::Received
    } else {
        comm::Reply::Unknown
    };
    write(offset::MSG_TO_CELL, comm::Message::None as u32);
    core::sync::atomic::fence(core::sync::atomic::Ordering::SeqCst);
    write(offset::REPLY_FROM_CELL, reply as u32);
}

/// Tells the hypervisor that this cell has ended. `false`: there is no hypervisor.
pub fn end(failed: bool) -> bool {
    if REGION.0.get() == 0 {
        return false;
    }
    write(offset::CELL_STATE, if failed { comm::CellState::Failed } else { comm::CellState::ShutDown } as u32);
    true
}
