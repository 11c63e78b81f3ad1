//! Making, starting, stopping and destroying cells.
//!
//! Under the management lock, with all other CPUs of the root cell suspended while its memory or CPUs change. A step that
//! fails undoes all steps before it.
#![allow(unsafe_code)] // A cell's configuration is copied into pages of the pool.

use core::sync::atomic::Ordering;

use hypervisor_abi::comm::{CellState, Message, Reply};
use hypervisor_abi::config::{CellConfig, CellDescriptor, Memory, MemoryFlags};
use hypervisor_abi::hypercall::Error;

use crate::cell::{self, Cell};
use crate::cpu::{Cpu, flush_cell, resume};
use crate::memory::host;
use crate::memory::nested::{APIC_PAGE, root_parts};
use crate::percpu::Shared;
use crate::{clock, devices, percpu, say};

/// Biggest configuration.
const MAX_CONFIG: u64 = 64 << 10;
const PAGE: u64 = 4096;

/// Suspends the root cell's other CPUs while it lives.
struct RootSuspended {
    number: u32,
}

impl RootSuspended {
    fn new(cpu: &Cpu) -> Self {
        cpu.suspend(cell::root());
        Self { number: cpu.number }
    }
}

impl Drop for RootSuspended {
    fn drop(&mut self) {
        // Also those that belong to another cell by now, or again to root: whoever was suspended.
        percpu::all()
            .filter(|cpu| cpu.cpu.load(Ordering::Relaxed) != self.number && cpu.suspend.load(Ordering::Acquire))
            .for_each(resume);
    }
}

fn others_unlocked(except: u32) -> Result<(), Error> {
    let locked =
        cell::all().any(|cell| cell.id != except && !cell.is_root() && cell.state() == CellState::RunningLocked);
    if locked { Err(Error::NotPermitted) } else { Ok(()) }
}

/// Asks a running cell whether it may be stopped.
fn ask_to_stop(cpu: &mut Cpu, cell: &Cell) -> Result<(), Error> {
    if !cell.running.load(Ordering::Acquire) {
        return Ok(());
    }
    let answer = cell.message(Message::ShutdownRequest, || {
        cpu.serve_suspension();
    });
    match answer {
        Some(Reply::RequestDenied) => Err(Error::NotPermitted),
        _ => Ok(()),
    }
}

fn tell_others(cpu: &mut Cpu, except: u32) {
    for cell in cell::all().filter(|cell| !cell.is_root() && cell.id != except && cell.running.load(Ordering::Acquire))
    {
        let _ = cell.message(Message::ReconfigCompleted, || {
            cpu.serve_suspension();
        });
    }
}

// ---- create ----

/// Copies the configuration at guest-physical `address` of the root cell into the pool: what is checked cannot change any more.
fn copy_config(cpu: &Cpu, address: u64) -> Result<(&'static [u8], u64, usize), Error> {
    let read = |offset: u64, buffer: &mut [u8]| -> Result<(), Error> {
        let mut done = 0;
        while done < buffer.len() {
            let at = address.checked_add(offset + done as u64).ok_or(Error::Invalid)?;
            let count = (buffer.len() - done).min((PAGE - at % PAGE) as usize);
            let phys = cell::root().memory.translate(at).ok_or(Error::Invalid)?;
            host::read_physical(cpu.number, phys, &mut buffer[done..done + count]);
            done += count;
        }
        Ok(())
    };
    let mut head = [0; size_of::<CellDescriptor>()];
    read(0, &mut head)?;
    let size = CellConfig::probe_size(&head).map_err(|error| {
        say!("cell configuration: {error}");
        Error::Invalid
    })?;
    if size > MAX_CONFIG {
        return Err(Error::TooBig);
    }
    let pages = size.div_ceil(PAGE) as usize;
    let phys = host::take_pages(pages, 1)?;
    // SAFETY: just taken; given back with the cell.
    let bytes = unsafe { core::slice::from_raw_parts_mut(host::pointer(phys), size as usize) };
    read(0, bytes).inspect_err(|_| host::give_pages(phys, pages))?;
    Ok((bytes, phys, pages))
}

fn overlap(a: u64, a_size: u64, b: u64, b_size: u64) -> bool {
    a < b.saturating_add(b_size) && b < a.saturating_add(a_size)
}

fn check_memory(region: &Memory) -> Result<(), &'static str> {
    let (hypervisor, hypervisor_size) = host::extent();
    let comm = region.flags().contains(MemoryFlags::COMM_REGION);
    let limit = 1 << 48;
    if region.size() > limit || region.virt_start() > limit || region.phys_start() > limit {
        return Err("region out of range");
    }
    if region.size() == 0 && !comm {
        // No memory: it stands for a section that a shared memory device does not have.
        return Ok(());
    }
    if comm && (region.size() != PAGE || region.is_subpage()) {
        return Err("communication region is not one page");
    }
    if overlap(region.virt_start(), region.size(), APIC_PAGE, PAGE) {
        return Err("region covers the local APIC");
    }
    if comm {
        return Ok(());
    }
    if !region.is_subpage() && !region.phys_start().is_multiple_of(PAGE) {
        return Err("region is not page aligned");
    }
    if overlap(region.phys_start(), region.size(), hypervisor, hypervisor_size) {
        return Err("region covers hypervisor memory");
    }
    if overlap(region.phys_start(), region.size(), APIC_PAGE, PAGE) {
        return Err("region covers the local APIC");
    }
    Ok(())
}

fn check(cpu: &Cpu, config: &CellConfig<'_>) -> Result<(), Error> {
    let refuse = |why: &str, error: Error| {
        say!("cell \"{}\": {why}", config.name());
        Err(error)
    };
    let same =
        cell::all().any(|cell| cell.config().name() == config.name() || config.id() != 0 && cell.id == config.id());
    if same {
        return refuse("name or id is taken", Error::Exists);
    }
    if config.cpus().next().is_none() {
        return refuse("no CPU", Error::Invalid);
    }
    for number in config.cpus() {
        if number == cpu.number {
            return refuse("the calling CPU cannot be given away", Error::Busy);
        }
        if number == 0 {
            return refuse("CPU 0 cannot be given away", Error::Invalid);
        }
        if !cell::root().has_cpu(number) || percpu::get(number).is_none() {
            return refuse("a CPU is not the root cell's", Error::Busy);
        }
    }
    for (index, region) in config.memory().iter().enumerate() {
        if let Err(why) = check_memory(region) {
            say!("cell \"{}\": memory region {index}: {why}", config.name());
            return Err(Error::Invalid);
        }
    }
    Ok(())
}

/// Creates the cell whose configuration is at guest-physical `address`; its id.
pub fn create(cpu: &mut Cpu, address: u64) -> Result<u32, Error> {
    let _guard = cpu.manage();
    others_unlocked(u32::MAX)?;
    let (bytes, pages, count) = copy_config(cpu, address)?;
    let result = create_from(cpu, bytes, pages, count);
    match result {
        Ok(id) => {
            tell_others(cpu, id);
            Ok(id)
        }
        Err(error) => Err(error),
    }
}

fn create_from(cpu: &Cpu, bytes: &'static [u8], pages: u64, count: usize) -> Result<u32, Error> {
    let give = || host::give_pages(pages, count);
    let config = CellConfig::parse(bytes).map_err(|error| {
        say!("cell configuration: {error}");
        give();
        Error::Invalid
    })?;
    check(cpu, &config).inspect_err(|_| give())?;
    let id = match config.id() {
        0 => (1..).find(|&id| cell::find(id).is_none()).unwrap_or(u32::MAX),
        id => id,
    };
    let suspended = RootSuspended::new(cpu);
    let cell = Cell::new(id, bytes, Some((pages, count))).inspect_err(|_| give())?;
    if let Err(error) = furnish(cpu, cell, &config) {
        say!("cell \"{}\": {error}", config.name());
        strip(cpu, cell, &config);
        cell.free();
        return Err(error);
    }
    let root = cell::root();
    for number in config.cpus() {
        root.set_cpu(number, false);
        cell.set_cpu(number, true);
        let Some(shared) = percpu::get(number) else { continue };
        shared.clear_stats();
        shared.failed.store(false, Ordering::Release);
        shared.waiting.store(false, Ordering::Release);
        shared.set_cell(cell);
        shared.park.store(true, Ordering::Release);
    }
    drop(suspended);
    wait_until_parked(cell.shared_cpus());
    say!("cell {id} \"{}\" created", config.name());
    Ok(id)
}

/// Gives the cell its memory, ports and devices, and takes from root what is not shared.
fn furnish(cpu: &Cpu, cell: &'static Cell, config: &CellConfig<'static>) -> Result<(), Error> {
    let root = cell::root();
    let platform = *cell::PLATFORM.lock();
    flush_cell(root);
    for region in config.memory() {
        cell.memory.map_region(region)?;
        if let Some(comm) = cell.comm_page().filter(|_| region.flags().contains(MemoryFlags::COMM_REGION)) {
            let rights = region.flags() & (MemoryFlags::READ | MemoryFlags::WRITE);
            cell.memory.map(region.virt_start(), comm, PAGE, rights)?;
        } else if !region.flags().intersects(MemoryFlags::ROOTSHARED | MemoryFlags::COMM_REGION) {
            root_parts(&root.config(), region, |virt, _, size, _| root.memory.unmap(virt, size))?;
        }
    }
    cell.memory.map_apic()?;
    for range in config.ports() {
        cell.allow_ports(range.base(), range.length(), true);
        root.allow_ports(range.base(), range.length(), false);
    }
    if platform.pm_timer != 0 {
        cell.allow_ports(platform.pm_timer, 4, true);
        root.allow_ports(platform.pm_timer, 4, true);
    }
    devices::cell_init(cpu.number, cell)
}

/// Gives root back what the cell had and root's configuration names.
fn strip(cpu: &Cpu, cell: &'static Cell, config: &CellConfig<'static>) {
    let root = cell::root();
    let root_config = root.config();
    devices::cell_exit(cpu.number, cell);
    for region in config.memory() {
        if region.flags().intersects(MemoryFlags::ROOTSHARED | MemoryFlags::COMM_REGION) {
            continue;
        }
        // The tables that the pages need exist since they were split, or bigger pages make them needless.
        let result =
            root_parts(&root_config, region, |virt, phys, size, flags| root.memory.map(virt, phys, size, flags));
        if result.is_err() {
            say!("root cell: out of pages, memory at {:#x} is not given back", region.phys_start());
        }
    }
    for range in config.ports() {
        for port in (range.base()..).take(range.length().into()) {
            let owned = root_config
                .ports()
                .iter()
                .any(|own| port.checked_sub(own.base()).is_some_and(|offset| offset < own.length()));
            root.allow_ports(port, 1, owned);
        }
    }
    devices::forbid_ports(root);
    flush_cell(root);
}

// ---- stop, load, start ----

/// Waits until CPUs that were asked to park have done so.
fn wait_until_parked(cpus: impl Iterator<Item = &'static Shared>) {
    for shared in cpus {
        while shared.park.load(Ordering::Acquire) {
            core::hint::spin_loop();
        }
    }
}

/// Stops the cell's CPUs. The cell agreed, or was not asked because it is at its end.
fn halt(cpu: &Cpu, cell: &'static Cell) {
    cpu.suspend(cell);
    cell.running.store(false, Ordering::Release);
    // All of them before any goes on: what they have sent each other ends with them.
    for shared in cell.shared_cpus() {
        shared.reset.store(false, Ordering::Release);
        let _ = shared.signals.take();
        shared.nmi.store(false, Ordering::Release);
        shared.park.store(true, Ordering::Release);
        shared.waiting.store(false, Ordering::Release);
    }
    cell.shared_cpus().for_each(resume);
    devices::cell_reset(cpu.number, cell);
}

fn find(id: u32) -> Result<&'static Cell, Error> {
    let cell = cell::find(id).ok_or(Error::NoEntry)?;
    if cell.is_root() { Err(Error::Invalid) } else { Ok(cell) }
}

fn loadable_regions(cell: &Cell, f: impl Fn(&Memory) -> Result<(), Error>) -> Result<(), Error> {
    let config = cell.config();
    let mut regions = config.memory().iter().filter(|region| region.flags().contains(MemoryFlags::LOADABLE));
    regions.try_for_each(f)
}

/// Stops the cell, and lets root write its loadable regions.
pub fn set_loadable(cpu: &mut Cpu, id: u32) -> Result<(), Error> {
    let _guard = cpu.manage();
    let cell = find(id)?;
    ask_to_stop(cpu, cell)?;
    halt(cpu, cell);
    if cell.loadable.load(Ordering::Acquire) {
        return Ok(());
    }
    let root = cell::root();
    let _suspended = RootSuspended::new(cpu);
    flush_cell(root);
    loadable_regions(cell, |region| {
        root_parts(&root.config(), region, |virt, phys, size, flags| {
            root.memory.map(virt, phys, size, flags | MemoryFlags::READ | MemoryFlags::WRITE)
        })
    })?;
    cell.loadable.store(true, Ordering::Release);
    Ok(())
}

/// Starts the cell's CPUs at its reset address.
pub fn start(cpu: &mut Cpu, id: u32) -> Result<(), Error> {
    let _guard = cpu.manage();
    let cell = find(id)?;
    ask_to_stop(cpu, cell)?;
    halt(cpu, cell);
    // When they can be suspended again, its CPUs have parked, and measured the clocks if nobody did before.
    cpu.suspend(cell);
    cell.shared_cpus().for_each(resume);
    if !clock::known() {
        say!("cell {id}: not started without knowing the clocks: start it again");
        return Err(Error::Busy);
    }
    if cell.loadable.load(Ordering::Acquire) {
        let root = cell::root();
        let _suspended = RootSuspended::new(cpu);
        flush_cell(root);
        loadable_regions(cell, |region| {
            if region.flags().contains(MemoryFlags::ROOTSHARED) {
                return Ok(());
            }
            root_parts(&root.config(), region, |virt, _, size, _| root.memory.unmap(virt, size))
        })?;
        cell.loadable.store(false, Ordering::Release);
    }
    *cell.failure.lock() = None;
    cell.init_comm();
    let platform = *cell::PLATFORM.lock();
    say!("cell {id} starts, TSC {} kHz, APIC {} kHz", platform.tsc_khz, platform.apic_khz);
    cell.running.store(true, Ordering::Release);
    // All are told before any goes on: the first may send the others start-up interrupts at once, and those must find them started.
    cpu.suspend(cell);
    for shared in cell.shared_cpus() {
        shared.failed.store(false, Ordering::Release);
        shared.clear_stats();
        shared.reset.store(true, Ordering::Release);
    }
    cell.shared_cpus().for_each(resume);
    Ok(())
}

/// Destroys the cell: its CPUs wait for Linux to start them again, everything else is root's again.
pub fn destroy(cpu: &mut Cpu, id: u32) -> Result<(), Error> {
    let _guard = cpu.manage();
    let cell = find(id)?;
    others_unlocked(id)?;
    ask_to_stop(cpu, cell)?;
    halt(cpu, cell);
    let config = cell.config();
    let root = cell::root();
    let suspended = RootSuspended::new(cpu);
    cpu.suspend(cell);
    strip(cpu, cell, &config);
    for number in config.cpus() {
        cell.set_cpu(number, false);
        root.set_cpu(number, true);
        let Some(shared) = percpu::get(number) else { continue };
        shared.clear_stats();
        shared.failed.store(false, Ordering::Release);
        shared.set_cell(root);
        shared.waiting.store(true, Ordering::Release);
        shared.park.store(true, Ordering::Release);
    }
    drop(suspended);
    // The CPUs went on, took root's context, and so left the cell's tables. Wait until the last one did.
    wait_until_parked(config.cpus().filter_map(percpu::get));
    say!("cell {id} \"{}\" destroyed", config.name());
    cell.free();
    tell_others(cpu, id);
    Ok(())
}
