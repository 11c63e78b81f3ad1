//! Enable: all CPUs of Linux come in, and go on as guests; or none does.
//!
//! The first CPU sets everything up that there is once; then each sets itself up; then, when nobody failed, all enter their
//! guests. An error anywhere sends all of them back, with the same error, and nothing is left behind but the console's text.
#![allow(unsafe_code)] // The configuration lies behind the per-CPU areas; control registers.

use core::hint::spin_loop;
use core::sync::atomic::{AtomicI32, AtomicU32, AtomicU64, Ordering};

use hypervisor_abi::config::{CellConfig, MemoryFlags, SystemConfig, SystemHeader};
use hypervisor_abi::hypercall::Error;
use spin::Mutex;
use x86_64::PhysAddr;
use x86_64::registers::control::{Cr3, Cr3Flags};
use x86_64::structures::paging::PhysFrame;

use crate::cell::{self, Cell, PLATFORM, Platform};
use crate::cpu::Cpu;
use crate::memory::host;
use crate::memory::nested::CellMemory;
use crate::percpu::{self, PerCpu};
use crate::svm::bitmap::{MSR_PAGES, PORT_PAGES, fill_msr};
use crate::svm::vcpu::{SvmVcpu, paging_levels};
use crate::svm::vmcb::Vmcb;
use crate::units::msr;
use crate::vendor::{CellContext, LinuxFrame, Vcpu};
use crate::{apic, clock, console, entry, guest, idt, say, x86};

/// Bytes at the end of the hypervisor memory that hold the driver's tables.
const BOOT_TABLES: u64 = 64 << 10;
const PAGE: u64 = 4096;

static ARRIVED: AtomicU32 = AtomicU32::new(0);
static READY: AtomicU32 = AtomicU32::new(0);
static STAGE: AtomicU32 = AtomicU32::new(0);
static ERROR: AtomicI32 = AtomicI32::new(0);
static SERIAL: Mutex<()> = Mutex::new(());
static TABLES: AtomicU64 = AtomicU64::new(0);
static PARKING: Mutex<Option<CellContext>> = Mutex::new(None);
static SYSTEM: Mutex<&'static [u8]> = Mutex::new(&[]);

const ONCE_DONE: u32 = 1;
const ALL_DONE: u32 = 2;

fn wait_for(counter: &AtomicU32, value: u32) {
    while counter.load(Ordering::Acquire) < value {
        spin_loop();
    }
}

/// A CPU comes in. Returns only with an error, with the boot tables loaded.
pub extern "C" fn enter(number: u32, area: &'static PerCpu, frame: &LinuxFrame, boot_tables: u64) -> i64 {
    let first = ARRIVED.fetch_add(1, Ordering::AcqRel) == 0;
    if first {
        note(once(number));
        STAGE.store(ONCE_DONE, Ordering::Release);
    }
    wait_for(&STAGE, ONCE_DONE);
    let mut cpu = None;
    if ERROR.load(Ordering::Acquire) == 0 {
        let _serial = SERIAL.lock();
        cpu = Some(this_cpu(number, area, frame, boot_tables));
    }
    READY.fetch_add(1, Ordering::AcqRel);
    wait_for(&READY, entry::online_cpus());
    if first {
        if ERROR.load(Ordering::Acquire) == 0 {
            note(last());
        }
        STAGE.store(ALL_DONE, Ordering::Release);
    }
    wait_for(&STAGE, ALL_DONE);
    match (cpu, ERROR.load(Ordering::Acquire)) {
        (Some(mut cpu), 0) => guest::run(&mut cpu),
        (cpu, error) => {
            if cpu.is_some() {
                SvmVcpu::release();
            }
            // The first CPU may have ours without having come any further.
            // SAFETY: the tables that this CPU came with.
            unsafe { load_tables(boot_tables) };
            error.into()
        }
    }
}

fn note(result: Result<(), Error>) {
    if let Err(error) = result {
        say!("enable failed: {error}");
        ERROR.store(error.code(), Ordering::Release);
    }
}

/// # Safety
/// The tables map the hypervisor where it is.
unsafe fn load_tables(root: u64) {
    // SAFETY: the caller's.
    unsafe { Cr3::write(PhysFrame::containing_address(PhysAddr::new_truncate(root)), Cr3Flags::empty()) };
}

/// The system configuration.
fn system() -> SystemConfig<'static> {
    SystemConfig::parse(&SYSTEM.lock()).unwrap_or_else(|_| unreachable!("checked at enable"))
}

/// Reads a cell's configuration out of the hypervisor's own memory. It was checked when the cell was made.
pub fn parse_cell(config: &'static [u8], root: bool) -> CellConfig<'static> {
    if root {
        return *system().root_cell();
    }
    CellConfig::parse(config).unwrap_or_else(|_| unreachable!("checked at creation"))
}

fn invalid(error: impl core::fmt::Display) -> Error {
    say!("system configuration: {error}");
    Error::Invalid
}

/// What is done once, by the first CPU.
fn once(number: u32) -> Result<(), Error> {
    let max_cpus = entry::max_cpus();
    if max_cpus > cell::MAX_CPUS {
        say!("{max_cpus} CPUs, at most {} are supported", cell::MAX_CPUS);
        return Err(Error::Range);
    }
    percpu::set_count(max_cpus);
    let start = percpu::base() + max_cpus as usize * percpu::SIZE;
    // SAFETY: the driver copied the configuration here; behind it is more of the hypervisor's memory.
    let head = unsafe { core::slice::from_raw_parts(start as *const u8, size_of::<SystemHeader>() + 4096) };
    let length = SystemConfig::probe_size(head).map_err(invalid)?;
    // SAFETY: as above.
    let bytes = unsafe { core::slice::from_raw_parts(start as *const u8, length as usize) };
    let system = SystemConfig::parse(bytes).map_err(invalid)?;
    let memory = system.hypervisor_memory();
    let used = (start as u64 + length).next_multiple_of(PAGE) - host::BASE;
    if used + BOOT_TABLES > memory.size() {
        return Err(Error::NoMemory);
    }
    *SYSTEM.lock() = bytes;

    idt::init();
    cell::forget_all();
    host::init_pool(memory.phys_start(), memory.size(), used, BOOT_TABLES, paging_levels());
    TABLES.store(host::build()?, Ordering::Release);
    // From here on with our own tables and handlers: a bug shows itself.
    // SAFETY: they map the hypervisor where it is.
    unsafe { load_tables(TABLES.load(Ordering::Acquire)) };
    let debug_console = &system.header().debug_console;
    let registers = if debug_console.pio_port().is_none() && debug_console.kind.get() != 0 {
        Some(host::map_device(debug_console.address.get(), debug_console.size.get().max(1).into())?)
    } else {
        None
    };
    console::init(debug_console, registers);
    say!("hypervisor on {} CPUs, memory {:#x} at {:#x}", entry::online_cpus(), memory.size(), memory.phys_start());
    check_cpu()?;
    apic::init()?;
    clock::init();
    root_cell(number, &system)?;
    *PARKING.lock() = Some(parking()?);
    Ok(())
}

/// What this CPU must be able to do.
fn check_cpu() -> Result<(), Error> {
    const SVM: u32 = 1 << 2;
    const NESTED_PAGING: u32 = 1 << 0;
    let has_svm = x86::cpuid(0x8000_0001, 0)[2] & SVM != 0;
    let has_nested = has_svm && x86::cpuid(0x8000_000a, 0)[3] & NESTED_PAGING != 0;
    if !has_nested {
        say!("this CPU has no {}", if has_svm { "nested paging" } else { "SVM" });
        return Err(Error::NoDevice);
    }
    Ok(())
}

fn root_cell(number: u32, system: &SystemConfig<'static>) -> Result<(), Error> {
    let header = system.header();
    let x2apic = apic::x2apic();
    let bitmap = |rights: fn(u32, bool) -> msr::Rights| -> Result<u64, Error> {
        let pages = host::take_pages(MSR_PAGES, 1)?;
        // SAFETY: just taken.
        fill_msr(unsafe { core::slice::from_raw_parts_mut(host::pointer(pages), MSR_PAGES * 4096) }, |msr| {
            rights(msr, x2apic)
        });
        Ok(pages)
    };
    *PLATFORM.lock() = Platform {
        root_msrs: bitmap(msr::root)?,
        cell_msrs: bitmap(msr::cell)?,
        pm_timer: header.pm_timer_address.get(),
        mmconfig: header.pci_mmconfig_base.get(),
        tsc_khz: header.tsc_khz.get(),
        apic_khz: header.apic_khz.get(),
    };
    let root = Cell::new(0, *SYSTEM.lock(), None)?;
    let config = root.config();
    for (index, region) in config.memory().iter().enumerate() {
        if !host::in_reach(region.phys_start(), region.size()) || !host::in_reach(region.virt_start(), region.size()) {
            say!("memory region {index} of the root cell: this machine has no such addresses");
            return Err(Error::Invalid);
        }
        root.memory.map_region(region)?;
    }
    root.memory.map_apic()?;
    hide_hypervisor(&root.memory)?;
    for range in config.ports() {
        root.allow_ports(range.base(), range.length(), true);
    }
    config.cpus().for_each(|cpu| root.set_cpu(cpu, true));
    crate::devices::init(number, system)?;
    crate::devices::cell_init(number, root)
}

/// What Linux sees where the hypervisor is: its console, and otherwise an empty page. Nothing can be written.
fn hide_hypervisor(memory: &CellMemory) -> Result<(), Error> {
    let (phys, size) = host::extent();
    let empty = host::take_pages(1, 1)?;
    let console = host::physical(console::page_address() as u64);
    for page in (phys..phys + size).step_by(PAGE as usize) {
        let shown = if page == console { console } else { empty };
        memory.map(page, shown, PAGE, MemoryFlags::READ)?;
    }
    Ok(())
}

/// A guest that halts, for CPUs that wait: one page of memory, no ports, no MSRs.
fn parking() -> Result<CellContext, Error> {
    const CLI_HLT_JMP: [u8; 4] = [0xfa, 0xf4, 0xeb, 0xfc];
    let code = host::take_pages(1, 1)?;
    // SAFETY: just taken.
    unsafe { host::pointer(code).cast::<[u8; 4]>().write(CLI_HLT_JMP) };
    let memory = CellMemory::new()?;
    memory.map(0, code, PAGE, MemoryFlags::READ | MemoryFlags::EXECUTE)?;
    let ports = host::take_pages(PORT_PAGES, 1)?;
    // SAFETY: just taken.
    unsafe { core::ptr::write_bytes(host::pointer(ports), 0xff, PORT_PAGES * 4096) };
    Ok(CellContext {
        nested_root: memory.root(),
        port_bitmap: ports,
        msr_bitmap: PLATFORM.lock().cell_msrs,
        root: false,
    })
}

/// What each CPU does for itself, one after the other.
fn this_cpu(number: u32, area: &'static PerCpu, frame: &LinuxFrame, boot_tables: u64) -> Cpu {
    let root = cell::root();
    let shared = &area.shared;
    let pages = host::physical(area.vendor.get().addr() as u64);
    let parking = PARKING.lock().unwrap_or_else(|| unreachable!("made by the first CPU"));
    // SAFETY: the driver switched SVM on; the area is this CPU's.
    let mut vcpu = unsafe {
        let vmcb = &mut *area.vendor.get().cast::<Vmcb>();
        SvmVcpu::new(vmcb, pages, pages + PAGE, parking, root.context())
    };
    // Linux's tables are still loaded, but on the first CPU the page tables are not.
    vcpu.capture(frame);
    idt::load();
    // SAFETY: our tables map the hypervisor where it is.
    unsafe { load_tables(TABLES.load(Ordering::Acquire)) };
    shared.cpu.store(number, Ordering::Relaxed);
    shared.apic_id.store(apic::own_id(), Ordering::Relaxed);
    let ldr = apic::read(apic::register::LDR);
    shared.logical_id.store(if apic::x2apic() { ldr } else { ldr >> 24 }, Ordering::Relaxed);
    let model = if apic::x2apic() { 0xf } else { apic::read(apic::register::DFR) >> 28 };
    shared.hardware_logical_id.store(shared.logical_id.load(Ordering::Relaxed), Ordering::Relaxed);
    shared.logical_model.store(model, Ordering::Relaxed);
    shared.set_cell(root);
    shared.present.store(true, Ordering::Release);
    Cpu { number, shared, vcpu, icr_high: 0, virtual_x2apic: false, frame: *frame, boot_tables }
}

/// The last check, when all CPUs are ready.
fn last() -> Result<(), Error> {
    let config = cell::root().config();
    let missing = config.cpus().find(|&cpu| percpu::get(cpu).is_none());
    let extra = percpu::all().map(|cpu| cpu.cpu.load(Ordering::Relaxed)).find(|&cpu| !config.has_cpu(cpu));
    if let Some(cpu) = missing.or(extra) {
        say!("CPU {cpu} is not both in the root cell's configuration and on line");
        return Err(Error::Invalid);
    }
    Ok(())
}
