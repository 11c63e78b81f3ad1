//! A CPU in the hypervisor: its guest, and what it does when others ask.
//!
//! A CPU asks another for something by setting a flag in its [`Shared`] and kicking it by NMI; the other one sees to it before
//! its guest runs again. NMIs carry no name: one that nobody's kick accounts for is the guest's own. Waiting for the management lock, a CPU keeps serving such requests, so nobody waits in a circle.

use core::hint::spin_loop;
use core::sync::atomic::Ordering::{AcqRel, Acquire, Relaxed, Release};

use hypervisor_abi::hypercall::CpuStat;
use spin::{Mutex, MutexGuard};

use crate::apic;
use crate::cell::Cell;
use crate::clock;
use crate::percpu::Shared;
use crate::svm::vcpu::SvmVcpu;
use crate::vendor::{Event, LinuxFrame, Vcpu};
use crate::x86;

/// This CPU, for the code that runs on it.
pub struct Cpu {
    /// Its number.
    pub number: u32,
    /// What others see of it.
    pub shared: &'static Shared,
    /// Its guest.
    pub vcpu: SvmVcpu,
    /// Destination half of the interrupt command register, as the guest wrote it.
    pub icr_high: u32,
    /// The cell switched to x2APIC mode, which is emulated where the CPU has none.
    pub virtual_x2apic: bool,
    /// How Linux came in.
    pub frame: LinuxFrame,
    /// Page tables that Linux's driver made for coming and going.
    pub boot_tables: u64,
}

/// Held while cells are managed.
static MANAGEMENT: Mutex<()> = Mutex::new(());

impl Cpu {
    /// The cell of this CPU.
    pub fn cell(&self) -> &'static Cell {
        self.shared.cell()
    }

    /// Sees to everything that NMIs told this CPU of, before its guest runs: requests of others, and NMIs of the guest's own.
    pub fn attend(&mut self) {
        // What is done may open a window for interrupts, in which the next kick is taken.
        while self.shared.attention.swap(false, AcqRel) {
            self.serve();
            // One that waits for INIT or start-up takes no NMI.
            if self.shared.nmi.swap(false, AcqRel) && !self.vcpu.parked() {
                self.shared.count(CpuStat::Exception);
                self.vcpu.inject(Event::Nmi);
            }
        }
    }

    fn serve(&mut self) {
        self.serve_suspension();
        let shared = self.shared;
        if shared.flush.swap(false, AcqRel) {
            self.vcpu.flush();
        }
        if shared.park.swap(false, AcqRel) {
            self.vcpu.set_cell(&self.cell().context());
            self.halt();
            if !self.cell().is_root() {
                clock::measure();
            }
        }
        // Before INIT and start-up: all CPUs of a cell start together, so what another one sends may be there before this one has begun.
        if shared.reset.swap(false, AcqRel) {
            let address = self.cell().config().cpu_reset_address();
            self.start(address & !0xffff, address as u16);
        }
        let signals = shared.signals.take();
        if signals.init {
            // As after a real INIT; a CPU that waits already goes on waiting.
            shared.waiting.store(true, Release);
            self.halt();
        }
        if let Some(vector) = signals.start_up
            && shared.waiting.swap(false, AcqRel)
        {
            // The vector is the number of the page that becomes the code segment.
            self.start(u64::from(vector) << 12, 0);
        }
    }

    fn start(&mut self, base: u64, ip: u16) {
        apic::clear(self.shared);
        x86::reset_extended_state();
        self.icr_high = 0;
        self.virtual_x2apic = false;
        self.vcpu.start(base, ip);
    }

    fn halt(&mut self) {
        apic::clear(self.shared);
        self.vcpu.park();
    }

    /// Waits for as long as another CPU wants.
    pub fn serve_suspension(&mut self) {
        if !self.shared.suspend.load(Acquire) {
            return;
        }
        self.shared.count(CpuStat::Management);
        self.shared.suspended.store(true, Release);
        while self.shared.suspend.load(Acquire) {
            spin_loop();
        }
        self.shared.suspended.store(false, Release);
    }

    /// Stops the guest for good.
    pub fn stop(&mut self) {
        self.shared.failed.store(true, Release);
        self.shared.waiting.store(false, Release);
        self.halt();
    }

    /// Takes the management lock.
    pub fn manage(&mut self) -> MutexGuard<'static, ()> {
        loop {
            if let Some(guard) = MANAGEMENT.try_lock() {
                return guard;
            }
            self.serve_suspension();
            spin_loop();
        }
    }

    /// Stops all other CPUs of `cell` inside the hypervisor. The management lock is held.
    pub fn suspend(&self, cell: &Cell) {
        for other in cell.shared_cpus().filter(|other| other.cpu.load(Relaxed) != self.number) {
            other.suspend.store(true, Release);
            kick(other);
        }
        for other in cell.shared_cpus().filter(|other| other.cpu.load(Relaxed) != self.number) {
            while !other.suspended.load(Acquire) {
                spin_loop();
            }
        }
    }
}

/// Lets a suspended CPU go on, and waits until it knows: it must not be found suspended the next time.
pub fn resume(other: &Shared) {
    other.suspend.store(false, Release);
    while other.suspended.load(Acquire) {
        spin_loop();
    }
}

/// Makes a CPU look at its requests. An NMI that is on its way already does for all requests that were made before it is taken.
pub fn kick(other: &Shared) {
    if !other.kicked.swap(true, AcqRel) {
        apic::send_nmi(other.apic_id.load(Relaxed));
    }
}

/// Tells every CPU of `cell` that mappings were taken away or changed; those that are suspended see it when they go on.
pub fn flush_cell(cell: &Cell) {
    cell.shared_cpus().for_each(|other| other.flush.store(true, Release));
}
