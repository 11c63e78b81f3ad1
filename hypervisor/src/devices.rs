//! Emulated devices: where the pure units meet guest accesses and the machine.
//!
//! The units decide, this carries out. A lock for shared memory functions, one for all other of PCI, and one for the I/O interrupt
//! controllers; nothing waits for another CPU while it holds one. The first is held for no access to the machine's devices, and
//! is given in the order in which it was asked for: a doorbell waits for at most one access of each other CPU.

mod machine;
mod remapping;

use core::sync::atomic::Ordering;

use hypervisor_abi::config::{MemoryFlags, SystemConfig};
use hypervisor_abi::hypercall::Error;
use spin::Mutex;
use spin::mutex::TicketMutex;

use crate::apic;
use crate::cell::{self, Cell, Reason, Violation};
use crate::cpu::{Cpu, flush_cell, kick};
use crate::memory::nested::overlapping;
use crate::percpu;
use crate::say;
use crate::units::icr::Command;
use crate::units::ioapic::{self, Ioapics};
use crate::units::ivshmem::{Action, Links};
use crate::units::keyboard;
use crate::units::pci::{
    self, AddressPort, ConfigAddress, ConfigSpace, Message, Mmconfig, MsixAccess, PortAccess, Quiesce,
};
use machine::Chips;

/// First of the ports that are always moderated.
const MODERATED_FIRST: u16 = 0xcf8;
/// How many.
const MODERATED_COUNT: u16 = 8;

/// Shared memory functions.
static LINKS: TicketMutex<Links> = TicketMutex::new(Links::new());
/// All other functions.
static PCI: Mutex<ConfigSpace> = Mutex::new(ConfigSpace::new());
/// All I/O interrupt controllers.
static IOAPICS: Mutex<Ioapics> = Mutex::new(Ioapics::new());

/// What a cell has for itself.
pub struct Devices {
    /// Its configuration address register.
    address: Mutex<AddressPort>,
}

impl Devices {
    /// As after a reset.
    #[must_use]
    pub const fn new() -> Self {
        Self { address: Mutex::new(AddressPort::new()) }
    }
}

impl Default for Devices {
    fn default() -> Self {
        Self::new()
    }
}

/// An access by the guest to an emulated register.
#[derive(Clone, Copy, Debug)]
pub enum Access {
    /// Read.
    Read,
    /// Write of a value.
    Write(u64),
}

impl Access {
    const fn written(self) -> Option<u64> {
        match self {
            Self::Read => None,
            Self::Write(value) => Some(value),
        }
    }
}

type Outcome = Result<u64, Violation>;

// ---- interrupt targets ----

/// The logical id that the hardware of a CPU answers to. Cells other than root only get their natural one.
fn hardware_logical_id(shared: &percpu::Shared) -> u32 {
    shared.hardware_logical_id.load(Ordering::Relaxed)
}

/// Whether everybody that an interrupt would reach belongs to `cell`.
fn targets_own(cell: &Cell, address: u64, data: u32) -> bool {
    let Ok(command) = Command::from_msi(address, data, apic::cell_model(cell)) else { return false };
    let mut reached = false;
    for shared in percpu::all() {
        if command.hits(shared.apic_id.load(Ordering::Relaxed), hardware_logical_id(shared), false) {
            if !cell.has_cpu(shared.cpu.load(Ordering::Relaxed)) {
                return false;
            }
            reached = true;
        }
    }
    reached
}

fn message_allowed(cell: &Cell, message: Message) -> bool {
    // Several vectors differ in the low bits only.
    remapping::is_linuxs(cell, message.address) || targets_own(cell, message.address, message.data)
}

/// A device of the root cell may only be silenced, not the cell stopped: it owned the machine before.
fn forbidden(cell: &Cell, violation: Violation) -> Outcome {
    if cell.is_root() {
        say!("root cell: {violation:x?} ignored");
        return Ok(u64::MAX);
    }
    Err(violation)
}

// ---- actions of shared memory devices ----

fn act(cpu: u32, action: Action) {
    match action {
        Action::Notify { owner, iommu, address, data, .. } => {
            let Some(cell) = cell::find(owner) else { return };
            let command = if remapping::is_linuxs(cell, address) {
                remapping::command(cpu, cell, iommu, address, data)
            } else {
                Command::from_msi(address, data, apic::cell_model(cell)).ok()
            };
            // Only CPUs of the cell are looked at.
            if let Some(command) = command {
                apic::deliver(cell, &command, None);
            }
        }
        Action::WriteStateTable { table, index, value } => {
            machine::table_write(cpu, table + u64::from(index) * 4, value);
        }
        Action::ClearStateTable { table, size } => {
            (0..size / 4).for_each(|entry| machine::table_write(cpu, table + entry * 4, 0));
        }
        Action::MapBar { owner, address, size } => {
            let Some(cell) = cell::find(owner) else { return };
            let mapped = (address..address + size).step_by(4096).any(|page| cell.memory.translate(page).is_some());
            if mapped && cell.memory.unmap(address, size).is_ok() {
                // Whoever still has the mapping sees the memory behind it, which is the cell's own, until it is told.
                flush_cell(cell);
                cell.shared_cpus().for_each(kick);
            }
        }
        Action::UnmapBar { owner, address, size } => {
            let Some(cell) = cell::find(owner) else { return };
            // New mappings need no flush: absence is not cached.
            let _ = overlapping(&cell.config(), address, size, |virt, phys, size, flags| {
                cell.memory.map(virt, phys, size, flags)
            });
        }
    }
}

// ---- guest accesses ----

/// Memory access; `None` if no device is there. The value read, or 0.
pub fn memory(cpu: &mut Cpu, address: u64, size: u8, access: Access) -> Option<Outcome> {
    let number = cpu.number;
    let cell = cpu.cell();
    if let Some(window) = machine::window().filter(|window| window.contains(address)) {
        return Some(match window.decode(address, size) {
            Some(at) => config(cpu, at, access),
            None => Ok(u64::MAX),
        });
    }
    let mut links = LINKS.lock();
    match access {
        Access::Read => {
            if let Some(value) = links.read(cell.id, address, size) {
                return Some(Ok(value));
            }
        }
        Access::Write(value) => {
            if links.write(cell.id, address, size, value, &mut |action| act(number, action)) {
                return Some(Ok(0));
            }
        }
    }
    drop(links);
    let mut space = PCI.lock();
    let mut read_word = |phys: u64| machine::memory_read(number, phys, 4) as u32;
    let table = space.msix(cell.id, address, size, access.written(), &mut read_word);
    if let Some(decision) = table {
        return Some(match decision {
            MsixAccess::Ignore => Ok(0),
            MsixAccess::Checked(message) if !message_allowed(cell, message) => {
                forbidden(cell, Violation::new(Reason::Interrupt, message.address, message.data.into()))
            }
            MsixAccess::Checked(_) | MsixAccess::PassThrough => Ok(through(number, address, size, access)),
        });
    }
    drop(space);
    ioapic_access(cell, address, size, access)
        .or_else(|| subpage(number, cell, address, size, access))
        .or_else(|| test_device(number, cell, address, size, access))
}

/// Regions that are not made of whole pages: the access must lie inside one, and be of a size that its flags name.
fn subpage(cpu: u32, cell: &Cell, address: u64, size: u8, access: Access) -> Option<Outcome> {
    let config = cell.config();
    let region = config.memory().iter().find(|region| region.is_subpage() && region.contains_virt(address))?;
    let flags = region.flags();
    let offset = address - region.virt_start();
    let wanted = match size {
        1 => MemoryFlags::IO_8,
        2 => MemoryFlags::IO_16,
        4 => MemoryFlags::IO_32,
        _ => MemoryFlags::IO_64,
    };
    let right = if matches!(access, Access::Read) { MemoryFlags::READ } else { MemoryFlags::WRITE };
    let aligned = address.is_multiple_of(size.into()) || flags.contains(MemoryFlags::IO_UNALIGNED);
    let inside = offset.checked_add(size.into()).is_some_and(|end| end <= region.size());
    if !flags.contains(wanted | right) || !aligned || !inside {
        return None;
    }
    Some(Ok(through(cpu, region.phys_start() + offset, size, access)))
}

/// The register that some cells have to try instructions on emulated memory with; what it keeps is the end of the communication region.
fn test_device(cpu: u32, cell: &Cell, address: u64, size: u8, access: Access) -> Option<Outcome> {
    const PAGE: u64 = 4096;
    const SIZE: u64 = 8;
    let at = address.checked_sub(cell.config().test_register()?)?;
    if at > SIZE - u64::from(size) || !at.is_multiple_of(size.into()) {
        return None;
    }
    Some(Ok(through(cpu, cell.comm_page()? + PAGE - SIZE + at, size, access)))
}

fn through(cpu: u32, phys: u64, size: u8, access: Access) -> u64 {
    match access {
        Access::Read => machine::memory_read(cpu, phys, size),
        Access::Write(value) => {
            machine::memory_write(cpu, phys, size, value);
            0
        }
    }
}

fn config(cpu: &mut Cpu, at: ConfigAddress, access: Access) -> Outcome {
    let number = cpu.number;
    let cell = cpu.cell();
    let mut links = LINKS.lock();
    if let Some((link, peer)) = links.function(cell.id, at.bdf) {
        return Ok(match access {
            Access::Read => link.config_read(peer, at.offset, at.size).into(),
            Access::Write(value) => {
                link.config_write(peer, at.offset, at.size, value as u32, &mut |action| act(number, action));
                0
            }
        });
    }
    drop(links);
    let mut space = PCI.lock();
    match access {
        Access::Read => Ok(match space.read(cell.id, at) {
            pci::Read::Value(value) => value,
            pci::Read::PassThrough => machine::config_read(at),
        }
        .into()),
        Access::Write(value) => {
            let value = value as u32;
            let violation = Violation::new(Reason::Pci, u64::from(at.bdf) << 16 | u64::from(at.offset), value.into());
            match space.write(cell.id, at, value) {
                pci::Write::Done => {}
                pci::Write::PassThrough => machine::config_write(at, value),
                pci::Write::Masked { mask } => masked(at, value, mask),
                pci::Write::Checked { message, mask } if message_allowed(cell, message) => masked(at, value, mask),
                pci::Write::Checked { .. } | pci::Write::Deny => return forbidden(cell, violation),
            }
            Ok(0)
        }
    }
}

/// Replaces the bits in `mask` only.
fn masked(at: ConfigAddress, value: u32, mask: u32) {
    let kept = if mask == at.ones() { 0 } else { machine::config_read(at) & !mask };
    machine::config_write(at, kept | value & mask);
}

fn ioapic_access(cell: &Cell, address: u64, size: u8, access: Access) -> Option<Outcome> {
    use ioapic::Machine;
    let mut chips = IOAPICS.lock();
    let Access::Write(value) = access else {
        return Some(Ok(match chips.read(cell.id, address, size)? {
            ioapic::Read::Value(value) => value,
            ioapic::Read::Register(register) => Chips.read(register),
        }
        .into()));
    };
    let violation = Violation::new(Reason::Interrupt, address, value);
    match chips.write(cell.id, address, size, value as u32)? {
        ioapic::Write::Done => {}
        ioapic::Write::Register { register, value } => Chips.write(register, value),
        ioapic::Write::Checked { register, value, entry } if entry_allowed(cell, entry) => Chips.write(register, value),
        ioapic::Write::Eoi { chip, vector } => Chips::eoi(chip, vector),
        ioapic::Write::Checked { .. } | ioapic::Write::Deny => return Some(forbidden(cell, violation)),
    }
    Some(Ok(0))
}

fn entry_allowed(cell: &Cell, entry: ioapic::Entry) -> bool {
    const FIXED: u8 = 0;
    const LOWEST: u8 = 1;
    const EXTERNAL: u8 = 7;
    if entry.is_remappable() {
        return cell.is_root() && remapping::is_on();
    }
    let mode = match entry.delivery_mode() {
        FIXED | LOWEST => entry.delivery_mode(),
        // Linux leaves the old interrupt controller connected to its boot CPU.
        EXTERNAL if cell.is_root() => return true,
        _ => return false,
    };
    let address = 0xfee0_0000 | u64::from(entry.destination()) << 12 | u64::from(entry.is_logical()) << 2;
    targets_own(cell, address, u32::from(mode) << 8 | u32::from(entry.vector()))
}

/// Port access; `None` if no device is there. The value read, or 0.
pub fn port(cpu: &mut Cpu, port: u16, size: u8, access: Access) -> Option<Outcome> {
    if port == keyboard::COMMAND_PORT && size == 1 && !cpu.cell().is_root() {
        return keyboard_command(cpu.cell(), access);
    }
    if !(MODERATED_FIRST..MODERATED_FIRST + MODERATED_COUNT).contains(&port) {
        return None;
    }
    let cell = cpu.cell();
    let meaning = cell.devices.address.lock().access(port, size, access.written().map(|value| value as u32));
    Some(Ok(match meaning {
        PortAccess::Latched => 0,
        PortAccess::Address(value) => value.into(),
        PortAccess::Config(at) => return Some(config(cpu, at, access)),
        PortAccess::Nowhere => u64::MAX,
        PortAccess::OtherPort if cell.is_root() => match access {
            Access::Read => machine::port_in(port, size).into(),
            Access::Write(value) => {
                machine::port_out(port, size, value as u32);
                0
            }
        },
        PortAccess::OtherPort => return None,
    }))
}

/// The keyboard controller's command port, if the cell has it.
fn keyboard_command(cell: &Cell, access: Access) -> Option<Outcome> {
    let port = keyboard::COMMAND_PORT;
    if !cell.config().ports().iter().any(|range| range.base() <= port && u32::from(port) < range.end()) {
        return None;
    }
    Some(match access {
        Access::Read => Ok(machine::port_in(port, 1).into()),
        Access::Write(command) if keyboard::resets(command as u8) => Err(Violation::new(Reason::Port, port.into(), 1)),
        Access::Write(command) => {
            machine::port_out(port, 1, command as u32);
            Ok(0)
        }
    })
}

/// Ports that are always moderated, whatever a configuration says.
pub fn forbid_ports(cell: &Cell) {
    cell.allow_ports(MODERATED_FIRST, MODERATED_COUNT, false);
    // Linux had the machine, and resets it as it likes.
    if !cell.is_root() {
        cell.allow_ports(keyboard::COMMAND_PORT, 1, false);
    }
}

// ---- life of cells ----

fn quiesce(write: Quiesce) {
    let old = machine::config_read(write.address);
    machine::config_write(write.address, old & !write.mask | write.value & write.mask);
}

/// Once, at enable.
pub fn init(cpu: u32, system: &SystemConfig<'static>) -> Result<(), Error> {
    let header = system.header();
    let base = header.pci_mmconfig_base.get();
    remapping::init(cpu, system);
    machine::init((base != 0).then(|| Mmconfig::new(base, header.pci_mmconfig_end_bus)))
}

/// A cell gets its devices. Its CPUs do not run yet.
pub fn cell_init(cpu: u32, cell: &'static Cell) -> Result<(), Error> {
    forbid_ports(cell);
    let config = cell.config();
    for chip in config.irqchips() {
        machine::map_chip(chip.address.get())?;
    }
    let invalid = |what: &str, error: &dyn core::fmt::Debug| {
        say!("cell \"{}\": {what}: {error:?}", config.name());
        Error::Invalid
    };
    let links = LINKS.lock().attach_cell(cell.id, &config, &mut |action| act(cpu, action));
    links.map_err(|error| invalid("PCI", &error))?;
    let functions = PCI.lock().attach_cell(cell.id, &config, &mut machine::config_read, &mut quiesce);
    functions.map_err(|error| invalid("PCI", &error))?;
    let pins = IOAPICS.lock().attach_cell(cell.id, &config, &mut Chips);
    pins.map_err(|error| invalid("interrupt controller", &error))
}

/// A cell starts or stops: its devices are as after a reset.
pub fn cell_reset(cpu: u32, cell: &'static Cell) {
    *cell.devices.address.lock() = AddressPort::new();
    LINKS.lock().reset_cell(cell.id, &mut |action| act(cpu, action));
    PCI.lock().reset_cell(cell.id, &mut machine::config_read, &mut quiesce);
    IOAPICS.lock().reset_cell(cell.id, &mut Chips);
}

/// A cell goes.
pub fn cell_exit(cpu: u32, cell: &'static Cell) {
    LINKS.lock().detach_cell(cell.id, &mut |action| act(cpu, action));
    PCI.lock().detach_cell(cell.id, &mut quiesce);
    IOAPICS.lock().detach_cell(cell.id, &mut Chips);
}
