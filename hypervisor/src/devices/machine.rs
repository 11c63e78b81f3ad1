//! The machine's side of the emulated devices: configuration space, I/O interrupt controllers, ports, shared memory.
#![allow(unsafe_code)] // Device registers.

use core::sync::atomic::{AtomicU32, AtomicUsize, Ordering};

use arrayvec::ArrayVec;
use hypervisor_abi::hypercall::Error;
use spin::Mutex;
use x86_64::instructions::port::Port;

use crate::memory::host;
use crate::units::ioapic::{self, MAX_CHIPS};
use crate::units::pci::{ADDRESS_PORT, ConfigAddress, DATA_PORT, Mmconfig};

/// The memory-mapped window, if there is one, and where the hypervisor has it.
static WINDOW: Mutex<Option<Mmconfig>> = Mutex::new(None);
static WINDOW_AT: AtomicUsize = AtomicUsize::new(0);
/// Held around a pair of port accesses.
static PORTS: Mutex<()> = Mutex::new(());
/// Registers of I/O interrupt controllers: machine address, and where the hypervisor has them.
static CHIPS: Mutex<ArrayVec<(u64, usize), MAX_CHIPS>> = Mutex::new(ArrayVec::new_const());

/// Takes the memory-mapped window into use.
pub fn init(window: Option<Mmconfig>) -> Result<(), Error> {
    CHIPS.lock().clear();
    if let Some(window) = &window {
        WINDOW_AT.store(host::map_device(window.base(), window.size())?, Ordering::Relaxed);
    }
    *WINDOW.lock() = window;
    Ok(())
}

/// The memory-mapped window.
pub fn window() -> Option<Mmconfig> {
    *WINDOW.lock()
}

/// Maps the registers of an I/O interrupt controller. Before it is used.
pub fn map_chip(address: u64) -> Result<(), Error> {
    let mut chips = CHIPS.lock();
    if chips.iter().all(|(known, _)| *known != address) {
        let at = host::map_device(address, 4096)?;
        chips.try_push((address, at)).map_err(|_| Error::NoMemory)?;
    }
    Ok(())
}

fn in_window(at: ConfigAddress) -> Option<usize> {
    let window = window()?;
    let address = window.address_of(at);
    window.contains(address).then(|| WINDOW_AT.load(Ordering::Relaxed) + (address - window.base()) as usize)
}

/// Reads the machine's configuration space.
pub fn config_read(at: ConfigAddress) -> u32 {
    if let Some(address) = in_window(at) {
        // SAFETY: mapped; an access inside one dword.
        return unsafe { read_sized(address, at.size) as u32 };
    }
    if at.offset >= 0x100 {
        return at.ones();
    }
    let _guard = PORTS.lock();
    port_out(ADDRESS_PORT, 4, at.port_value());
    port_in(DATA_PORT + (at.offset & 3), at.size)
}

/// Writes the machine's configuration space.
pub fn config_write(at: ConfigAddress, value: u32) {
    if let Some(address) = in_window(at) {
        // SAFETY: mapped; an access inside one dword. What may be written was decided before.
        unsafe { write_sized(address, at.size, value.into()) };
        return;
    }
    if at.offset < 0x100 {
        let _guard = PORTS.lock();
        port_out(ADDRESS_PORT, 4, at.port_value());
        port_out(DATA_PORT + (at.offset & 3), at.size, value);
    }
}

/// # Safety
/// `address` is mapped, and aligned to `size`.
unsafe fn read_sized(address: usize, size: u8) -> u64 {
    // SAFETY: the caller's.
    unsafe {
        match size {
            1 => (address as *const u8).read_volatile().into(),
            2 => (address as *const u16).read_volatile().into(),
            4 => (address as *const u32).read_volatile().into(),
            _ => (address as *const u64).read_volatile(),
        }
    }
}

/// # Safety
/// `address` is mapped, and aligned to `size`; the write does no harm.
unsafe fn write_sized(address: usize, size: u8, value: u64) {
    // SAFETY: the caller's.
    unsafe {
        match size {
            1 => (address as *mut u8).write_volatile(value as u8),
            2 => (address as *mut u16).write_volatile(value as u16),
            4 => (address as *mut u32).write_volatile(value as u32),
            _ => (address as *mut u64).write_volatile(value),
        }
    }
}

/// Reads device memory of the machine for a cell. Accesses that are not aligned read all-ones.
pub fn memory_read(cpu: u32, phys: u64, size: u8) -> u64 {
    if !phys.is_multiple_of(size.into()) {
        return u64::MAX;
    }
    // SAFETY: the window maps the page, and the access stays inside it.
    unsafe { read_sized(host::look(cpu, phys).addr(), size) }
}

/// Writes device memory of the machine for a cell. Accesses that are not aligned do nothing.
pub fn memory_write(cpu: u32, phys: u64, size: u8, value: u64) {
    if phys.is_multiple_of(size.into()) {
        // SAFETY: as above; that the cell may do this was decided before.
        unsafe { write_sized(host::look(cpu, phys).addr(), size, value) };
    }
}

/// Sets an entry of a state table.
pub fn table_write(cpu: u32, phys: u64, value: u32) {
    // SAFETY: the window maps the page; entries are aligned words that several realms read.
    unsafe { (*host::look(cpu, phys & !3).cast::<AtomicU32>()).store(value, Ordering::SeqCst) };
}

/// Reads a port.
pub fn port_in(port: u16, size: u8) -> u32 {
    // SAFETY: that this may be read was decided before.
    unsafe {
        match size {
            1 => Port::<u8>::new(port).read().into(),
            2 => Port::<u16>::new(port).read().into(),
            _ => Port::<u32>::new(port).read(),
        }
    }
}

/// Writes a port.
pub fn port_out(port: u16, size: u8, value: u32) {
    // SAFETY: that this may be written was decided before.
    unsafe {
        match size {
            1 => Port::<u8>::new(port).write(value as u8),
            2 => Port::<u16>::new(port).write(value as u16),
            _ => Port::<u32>::new(port).write(value),
        }
    }
}

/// The registers of the I/O interrupt controllers.
pub struct Chips;

impl Chips {
    fn at(chip: u64) -> Option<usize> {
        CHIPS.lock().iter().find(|(address, _)| *address == chip).map(|(_, at)| *at)
    }

    /// Writes the end-of-interrupt register.
    pub fn eoi(chip: u64, vector: u8) {
        if let Some(at) = Self::at(chip) {
            // SAFETY: mapped.
            unsafe { write_sized(at + 0x40, 4, vector.into()) };
        }
    }
}

impl ioapic::Machine for Chips {
    fn read(&mut self, register: ioapic::Register) -> u32 {
        let Some(at) = Self::at(register.chip) else { return u32::MAX };
        // SAFETY: mapped. The caller holds the lock of all controllers, so index and data belong together.
        unsafe {
            write_sized(at, 4, register.index.into());
            read_sized(at + 0x10, 4) as u32
        }
    }

    fn write(&mut self, register: ioapic::Register, value: u32) {
        let Some(at) = Self::at(register.chip) else { return };
        // SAFETY: as above.
        unsafe {
            write_sized(at, 4, register.index.into());
            write_sized(at + 0x10, 4, value.into());
        }
    }
}
