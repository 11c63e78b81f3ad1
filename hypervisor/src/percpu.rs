//! The per-CPU areas: stack, pages for the vendor's extension, and what other CPUs may look at and ask for.
#![allow(unsafe_code)] // The areas lie behind the image, at addresses that only the layout gives.

use core::cell::UnsafeCell;
use core::sync::atomic::{AtomicBool, AtomicPtr, AtomicU32, AtomicU64, Ordering};

use hypervisor_abi::hypercall::CpuStat;

use crate::cell::Cell;
use crate::units::start::Signals;

/// Bytes of a stack.
pub const STACK_SIZE: usize = 0x6000;

/// One CPU's area.
#[repr(C, align(4096))]
pub struct PerCpu {
    guard: [u8; 4096],
    stack: UnsafeCell<[u8; STACK_SIZE]>,
    /// For the vendor's extension: control block, host state.
    pub vendor: UnsafeCell<[[u8; 4096]; 2]>,
    /// What other CPUs see.
    pub shared: Shared,
}

/// Bytes of an area.
pub const SIZE: usize = size_of::<PerCpu>();
/// Offset of the end of the stack.
pub const STACK_TOP: usize = 4096 + STACK_SIZE;
/// Bytes below the stack, not mapped.
pub const GUARD_SIZE: usize = 4096;

/// What other CPUs see of a CPU, and how they ask it for something: set a request, then kick it by NMI.
#[repr(C, align(4096))]
pub struct Shared {
    /// Number of the CPU.
    pub cpu: AtomicU32,
    /// Its APIC id.
    pub apic_id: AtomicU32,
    /// Its logical APIC id (LDR), as its cell last set it.
    pub logical_id: AtomicU32,
    /// The logical id that its APIC really answers to.
    pub hardware_logical_id: AtomicU32,
    /// Bits 28..32 of its DFR as its cell last set them: 0xf is flat, 0 is cluster.
    pub logical_model: AtomicU32,
    /// The CPU takes part: it came in at enable.
    pub present: AtomicBool,
    /// Cell that it belongs to.
    pub cell: AtomicPtr<Cell>,
    /// A kick is on its way: its NMI was sent and not yet taken. At most one is, so that each NMI can be told from those of the machine.
    pub kicked: AtomicBool,
    /// An NMI was taken: there may be requests.
    pub attention: AtomicBool,
    /// An NMI for the guest.
    pub nmi: AtomicBool,
    /// Asked to wait in the hypervisor.
    pub suspend: AtomicBool,
    /// Waits in the hypervisor.
    pub suspended: AtomicBool,
    /// Asked to forget cached nested mappings.
    pub flush: AtomicBool,
    /// Asked to take over the context of its (new) cell, and park.
    pub park: AtomicBool,
    /// Asked to start at its cell's reset address.
    pub reset: AtomicBool,
    /// INIT and start-up interrupts that have arrived.
    pub signals: Signals,
    /// Waits for a start-up interrupt.
    pub waiting: AtomicBool,
    /// Stopped for a violation.
    pub failed: AtomicBool,
    /// Exits by reason, since the CPU's cell got it.
    pub stats: [AtomicU64; CpuStat::COUNT],
}

impl Shared {
    /// Counts an exit.
    pub fn count(&self, what: CpuStat) {
        let counter = &self.stats[what as usize];
        // Only the CPU itself writes while it runs.
        counter.store(counter.load(Ordering::Relaxed) + 1, Ordering::Relaxed);
    }

    /// Counts start over.
    pub fn clear_stats(&self) {
        self.stats.iter().for_each(|counter| counter.store(0, Ordering::Relaxed));
    }

    /// The cell of the CPU.
    pub fn cell(&self) -> &'static Cell {
        // SAFETY: set before the CPU first runs a guest; a cell is freed only after all its CPUs were moved to another.
        unsafe { &*self.cell.load(Ordering::Acquire) }
    }

    /// Gives the CPU to a cell.
    pub fn set_cell(&self, cell: &'static Cell) {
        self.cell.store(core::ptr::from_ref(cell).cast_mut(), Ordering::Release);
    }
}

unsafe extern "C" {
    static __image_end: u8;
}

/// Number of areas, set once at enable.
static COUNT: AtomicU32 = AtomicU32::new(0);

/// Tells how many areas there are.
pub fn set_count(count: u32) {
    COUNT.store(count, Ordering::Release);
}

/// Number of areas.
pub fn count() -> u32 {
    COUNT.load(Ordering::Acquire)
}

/// Address of the first area.
#[must_use]
pub fn base() -> usize {
    (&raw const __image_end).addr()
}

/// What CPU `cpu` shares; `None` if it does not take part.
#[must_use]
pub fn get(cpu: u32) -> Option<&'static Shared> {
    if cpu >= count() {
        return None;
    }
    // SAFETY: the driver made room for `count` areas behind the image, zeroed, which is a valid state of every field.
    let area = unsafe { &*((base() + cpu as usize * SIZE) as *const PerCpu) };
    area.shared.present.load(Ordering::Acquire).then_some(&area.shared)
}

/// The CPU whose stack `address` lies in, as long as it is one that comes in.
#[must_use]
pub fn of_stack(address: usize) -> Option<&'static Shared> {
    let index = address.checked_sub(base())? / SIZE;
    // SAFETY: as in `get`.
    (index < count() as usize).then(|| unsafe { &(*((base() + index * SIZE) as *const PerCpu)).shared })
}

/// All CPUs that take part.
pub fn all() -> impl Iterator<Item = &'static Shared> {
    (0..count()).filter_map(get)
}
