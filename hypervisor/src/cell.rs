//! Cells: what each owns, and why it was stopped.
//!
//! A cell lives in pages of the pool from its creation to its destruction; CPUs hold a plain reference to theirs. It is freed
//! only after every CPU was moved away, under the management lock.
#![allow(unsafe_code)] // Cells live in pool pages.

use core::sync::atomic::{AtomicBool, AtomicPtr, AtomicU64, Ordering};

use arrayvec::ArrayVec;
use hypervisor_abi::comm::{CellState, CommRegion, FLAG_PUTC_ACTIVE, FLAG_PUTC_PERMITTED, Message, Reply, offset};
use hypervisor_abi::config::{CellConfig, CellFlags};
use hypervisor_abi::hypercall::Error;
use spin::Mutex;
use zerocopy::IntoBytes;
use zerocopy::little_endian::{U16, U32, U64};

use crate::console;
use crate::memory::host;
use crate::memory::nested::CellMemory;
use crate::percpu::{self, Shared};
use crate::say;
use crate::svm::bitmap::{self, PORT_PAGES};
use crate::vendor::CellContext;

/// Most cells at a time.
pub const MAX_CELLS: usize = 32;
/// Longest line of a cell that is printed in one piece.
const MAX_LINE: usize = 120;
/// Most CPUs.
pub const MAX_CPUS: u32 = 256;

/// Why a cell was stopped. The numbers are part of the interface.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Reason {
    /// Access to memory that the cell does not have.
    Memory = 1,
    /// Access to a port.
    Port = 2,
    /// Access to a model-specific register.
    Msr = 3,
    /// Triple fault.
    TripleFault = 4,
    /// An access to emulated memory by an instruction that is not known.
    Instruction = 5,
    /// A forbidden access to a PCI function.
    Pci = 6,
    /// A forbidden interrupt target or delivery mode.
    Interrupt = 7,
    /// An exit that should not happen.
    Exit = 8,
    /// No answer to a message.
    Timeout = 9,
    /// A control register.
    ControlRegister = 10,
    /// A state that the CPU refuses.
    InvalidState = 11,
}

impl Reason {
    const fn text(self) -> &'static str {
        match self {
            Self::Memory => "memory access outside of the cell",
            Self::Port => "access to a port that the cell does not own",
            Self::Msr => "access to a model-specific register",
            Self::TripleFault => "triple fault",
            Self::Instruction => "unknown instruction on emulated memory",
            Self::Pci => "forbidden access to a PCI function",
            Self::Interrupt => "forbidden interrupt target or mode",
            Self::Exit => "unexpected exit",
            Self::Timeout => "no answer to a message",
            Self::ControlRegister => "forbidden control register value",
            Self::InvalidState => "guest state that the CPU refuses",
        }
    }
}

/// Something a guest did that it must not.
#[derive(Clone, Copy, Debug)]
pub struct Violation {
    /// What.
    pub reason: Reason,
    /// Where: guest-physical address, port, register, ...
    pub address: u64,
    /// More.
    pub detail: u64,
}

impl Violation {
    /// A violation.
    #[must_use]
    pub const fn new(reason: Reason, address: u64, detail: u64) -> Self {
        Self { reason, address, detail }
    }

    /// A forbidden interrupt.
    #[must_use]
    pub const fn interrupt(address: u64, detail: u64) -> Self {
        Self::new(Reason::Interrupt, address, detail)
    }
}

/// A violation, and where it happened.
#[derive(Clone, Copy, Debug)]
pub struct Failure {
    /// What.
    pub violation: Violation,
    /// CPU.
    pub cpu: u32,
    /// Instruction pointer.
    pub rip: u64,
    /// Base of the code segment.
    pub code_base: u64,
    /// First bytes of the instruction, as far as they can be read.
    pub code: [u8; 16],
}

/// A cell.
pub struct Cell {
    /// Id; 0 is the root cell.
    pub id: u32,
    config: &'static [u8],
    config_pages: Option<(u64, usize)>,
    cpus: [AtomicU64; MAX_CPUS as usize / 64],
    /// Memory.
    pub memory: CellMemory,
    ports: u64,
    ports_lock: Mutex<()>,
    msr_bitmap: u64,
    comm: Option<u64>,
    /// The root cell may write the loadable regions.
    pub loadable: AtomicBool,
    /// Its CPUs were started, and it was not stopped since.
    pub running: AtomicBool,
    /// First violation since the last start.
    pub failure: Mutex<Option<Failure>>,
    /// Emulated devices.
    pub devices: crate::devices::Devices,
    /// What the cell has printed of its present line.
    line: Mutex<ArrayVec<u8, MAX_LINE>>,
}

static TABLE: [AtomicPtr<Cell>; MAX_CELLS] = [const { AtomicPtr::new(core::ptr::null_mut()) }; MAX_CELLS];

const CELL_PAGES: usize = size_of::<Cell>().div_ceil(4096);

/// What cells are made from at enable.
#[derive(Clone, Copy)]
pub struct Platform {
    /// MSR bitmap of the root cell.
    pub root_msrs: u64,
    /// MSR bitmap of the others.
    pub cell_msrs: u64,
    /// Port of the PM timer.
    pub pm_timer: u16,
    /// MMCONFIG base.
    pub mmconfig: u64,
    /// TSC rate.
    pub tsc_khz: u32,
    /// APIC timer rate.
    pub apic_khz: u32,
}

/// The platform, set at enable.
pub static PLATFORM: Mutex<Platform> =
    Mutex::new(Platform { root_msrs: 0, cell_msrs: 0, pm_timer: 0, mmconfig: 0, tsc_khz: 0, apic_khz: 0 });

/// All cells, the root cell first.
pub fn all() -> impl Iterator<Item = &'static Cell> {
    // SAFETY: the table holds live cells; they are removed before they are freed, under the management lock, and whoever
    // iterates holds that lock or has a CPU in the cell.
    TABLE.iter().filter_map(|slot| unsafe { slot.load(Ordering::Acquire).as_ref() })
}

/// The root cell.
#[must_use]
pub fn root() -> &'static Cell {
    // SAFETY: set before any guest runs.
    unsafe { &*TABLE[0].load(Ordering::Acquire) }
}

/// The cell with this id.
#[must_use]
pub fn find(id: u32) -> Option<&'static Cell> {
    all().find(|cell| cell.id == id)
}

/// Forgets all cells (at enable: the image may have been used before).
pub fn forget_all() {
    TABLE.iter().for_each(|slot| slot.store(core::ptr::null_mut(), Ordering::Release));
}

impl Cell {
    /// Makes a cell that owns nothing yet, and enters it in the table. `pages` are given back with it.
    pub fn new(id: u32, config: &'static [u8], config_pages: Option<(u64, usize)>) -> Result<&'static Self, Error> {
        let parsed = CellConfig::parse(config);
        let root = id == 0;
        let slot = TABLE.iter().find(|slot| slot.load(Ordering::Acquire).is_null()).ok_or(Error::NoMemory)?;
        let platform = *PLATFORM.lock();
        let page = host::take_pages(CELL_PAGES, 1)?;
        let memory = CellMemory::new().inspect_err(|_| host::give_pages(page, CELL_PAGES))?;
        let ports = host::take_pages(PORT_PAGES, 1).inspect_err(|_| {
            memory.destroy();
            host::give_pages(page, CELL_PAGES);
        })?;
        let has_comm = parsed.as_ref().is_ok_and(|config| config.comm_region().is_some());
        let comm = if has_comm {
            Some(host::take_pages(1, 1).inspect_err(|_| {
                memory.destroy();
                host::give_pages(ports, PORT_PAGES);
                host::give_pages(page, CELL_PAGES);
            })?)
        } else {
            None
        };
        let cell = Self {
            id,
            config,
            config_pages,
            cpus: [const { AtomicU64::new(0) }; MAX_CPUS as usize / 64],
            memory,
            ports,
            ports_lock: Mutex::new(()),
            msr_bitmap: if root { platform.root_msrs } else { platform.cell_msrs },
            comm,
            loadable: AtomicBool::new(false),
            running: AtomicBool::new(root),
            failure: Mutex::new(None),
            devices: crate::devices::Devices::new(),
            line: Mutex::new(ArrayVec::new_const()),
        };
        let at = host::pointer(page).cast::<Self>();
        // SAFETY: fresh pages, big enough and page aligned.
        unsafe { at.write(cell) };
        slot.store(at, Ordering::Release);
        // SAFETY: just written.
        let cell = unsafe { &*at };
        cell.with_ports(|ports| ports.fill(0xff));
        Ok(cell)
    }

    /// Takes the cell out of the table and gives its pages back. No CPU may belong to it any more.
    pub fn free(&'static self) {
        self.end_line();
        let address = core::ptr::from_ref(self).cast_mut();
        for slot in &TABLE {
            // Only one slot holds it.
            let _ = slot.compare_exchange(address, core::ptr::null_mut(), Ordering::AcqRel, Ordering::Relaxed);
        }
        self.memory.destroy();
        host::give_pages(self.ports, PORT_PAGES);
        if let Some(comm) = self.comm {
            host::give_pages(comm, 1);
        }
        if let Some((pages, count)) = self.config_pages {
            host::give_pages(pages, count);
        }
        host::give_pages(host::physical(address as u64), CELL_PAGES);
    }

    /// Whether this is the root cell.
    #[must_use]
    pub const fn is_root(&self) -> bool {
        self.id == 0
    }

    /// The configuration. It was checked at creation and is in the hypervisor's own memory.
    #[must_use]
    pub fn config(&self) -> CellConfig<'static> {
        crate::setup::parse_cell(self.config, self.is_root())
    }

    /// What a CPU needs to run this cell.
    #[must_use]
    pub fn context(&self) -> CellContext {
        CellContext {
            nested_root: self.memory.root(),
            port_bitmap: self.ports,
            msr_bitmap: self.msr_bitmap,
            root: self.is_root(),
        }
    }

    /// Adds or removes a CPU.
    pub fn set_cpu(&self, cpu: u32, owned: bool) {
        let word = &self.cpus[cpu as usize / 64];
        if owned {
            word.fetch_or(1 << (cpu % 64), Ordering::AcqRel);
        } else {
            word.fetch_and(!(1 << (cpu % 64)), Ordering::AcqRel);
        }
    }

    /// Whether the cell has this CPU.
    #[must_use]
    pub fn has_cpu(&self, cpu: u32) -> bool {
        cpu < MAX_CPUS && self.cpus[cpu as usize / 64].load(Ordering::Acquire) & 1 << (cpu % 64) != 0
    }

    /// The cell's CPUs.
    pub fn shared_cpus(&self) -> impl Iterator<Item = &'static Shared> + '_ {
        (0..percpu::count()).filter(|&cpu| self.has_cpu(cpu)).filter_map(percpu::get)
    }

    fn with_ports(&self, f: impl FnOnce(&mut [u8])) {
        let _guard = self.ports_lock.lock();
        // SAFETY: the cell's own pages, under its lock; the CPU only reads them.
        f(unsafe { core::slice::from_raw_parts_mut(host::pointer(self.ports), PORT_PAGES * 4096) });
    }

    /// Lets the cell use ports, or takes them away.
    pub fn allow_ports(&self, first: u16, count: u16, allowed: bool) {
        self.with_ports(|ports| bitmap::set_ports(ports, first, count, allowed));
    }

    /// Physical address of the communication region.
    #[must_use]
    pub const fn comm_page(&self) -> Option<u64> {
        self.comm
    }

    fn comm_word(&self, offset: usize) -> Option<&'static core::sync::atomic::AtomicU32> {
        // SAFETY: the page is the pool's, aligned, shared with the cell: only accessed in atomic words.
        self.comm.map(|page| unsafe { &*host::pointer(page).add(offset).cast() })
    }

    /// Fills the communication region as at a start.
    pub fn init_comm(&self) {
        self.end_line();
        let Some(page) = self.comm else { return };
        let platform = *PLATFORM.lock();
        let config = self.config();
        let mut flags = 0;
        if config.flags().contains(CellFlags::VIRTUAL_CONSOLE_PERMITTED) {
            flags |= FLAG_PUTC_PERMITTED;
        }
        if config.flags().contains(CellFlags::VIRTUAL_CONSOLE_ACTIVE) {
            flags |= FLAG_PUTC_ACTIVE;
        }
        let mut region = CommRegion::new();
        region.flags = U32::new(flags);
        region.console = config.header().console;
        region.pci_mmconfig_base = U64::new(platform.mmconfig);
        region.pm_timer_address = U16::new(platform.pm_timer);
        region.num_cpus = U16::new(self.shared_cpus().count() as u16);
        region.tsc_khz = U32::new(platform.tsc_khz);
        region.apic_khz = U32::new(platform.apic_khz);
        // SAFETY: the cell's page; none of its CPUs runs.
        let bytes = unsafe { core::slice::from_raw_parts_mut(host::pointer(page), 4096) };
        bytes.fill(0);
        bytes[..size_of::<CommRegion>()].copy_from_slice(region.as_bytes());
    }

    /// What the cell says of itself, or what we know better.
    #[must_use]
    pub fn state(&self) -> CellState {
        if self.failure.lock().is_some() {
            return CellState::Failed;
        }
        if !self.running.load(Ordering::Acquire) {
            return CellState::ShutDown;
        }
        self.comm_word(offset::CELL_STATE)
            .map_or(CellState::Running, |state| CellState::from_code(state.load(Ordering::Acquire)))
    }

    /// Prints a character of the cell: line by line, so that the lines of several cells do not mix.
    pub fn put(&self, byte: u8) {
        let mut line = self.line.lock();
        line.push(byte);
        if byte == b'\n' || line.is_full() {
            console::write(&line);
            line.clear();
        }
    }

    /// Prints what the cell has begun to print and will not end.
    pub fn end_line(&self) {
        let mut line = self.line.lock();
        if !line.is_empty() {
            line.push(b'\n');
            console::write(&line);
            line.clear();
        }
    }

    /// Notes a violation; only the first counts.
    pub fn fail(&self, failure: Failure) {
        self.failure.lock().get_or_insert(failure);
        if let Some(state) = self.comm_word(offset::CELL_STATE) {
            state.store(CellState::Failed as u32, Ordering::Release);
        }
        // Last: who reads it may rely on what it says.
        self.end_line();
        say!(
            "cell {} \"{}\" stopped: {} (address {:#x}, detail {:#x}) on CPU {} at {:#x}+{:#x}",
            self.id,
            self.config().name(),
            failure.violation.reason.text(),
            failure.violation.address,
            failure.violation.detail,
            failure.cpu,
            failure.code_base,
            failure.rip,
        );
    }

    /// Sends a message and waits for the answer; `None` if the cell takes no messages or is at its end. `wait` is called while
    /// waiting.
    pub fn message(&self, message: Message, mut wait: impl FnMut()) -> Option<Reply> {
        let config = self.config();
        if config.flags().contains(CellFlags::PASSIVE_COMMREG) || self.state().is_terminal() {
            return None;
        }
        let reply = self.comm_word(offset::REPLY_FROM_CELL)?;
        reply.store(Reply::None as u32, Ordering::Release);
        self.comm_word(offset::MSG_TO_CELL)?.store(message as u32, Ordering::Release);
        let mut left = config.msg_reply_timeout();
        loop {
            match Reply::from_code(reply.load(Ordering::Acquire)) {
                Reply::None => {}
                answer => return Some(answer),
            }
            if self.state().is_terminal() {
                return None;
            }
            if left == 1 {
                let violation = Violation::new(Reason::Timeout, message as u64, config.msg_reply_timeout());
                self.fail(Failure { violation, cpu: u32::MAX, rip: 0, code_base: 0, code: [0; 16] });
                return None;
            }
            left = left.saturating_sub(1);
            wait();
        }
    }
}
