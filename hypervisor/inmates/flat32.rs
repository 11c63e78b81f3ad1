//! A 32-bit flat image as an i386 real-time system under Jailhouse expects its cell: linked at 1 MiB, entered at 0x10000c with the
//! stack at 0xe0000, communication region at 0x900000 above 8 MiB of memory, timer by x2APIC registers, calibrated on the PM timer,
//! COM1 polled, PCI by ports, pins by the I/O interrupt controller, an e1000. No BIOS, no A20, no 8259, no 8254.
//!
//! Prints a line for each requirement, "flat32: NAME ok FIGURE" or "FAILED FIGURE", on COM1; then answers ARP for 10.0.0.1.
#![no_std]
#![no_main]

mod inmate;
use core::arch::{asm, global_asm};
use core::fmt::{self, Write};
use core::sync::atomic::{AtomicU32, Ordering::Relaxed};

use inmate::*;

const COMM: Comm = Comm(0x90_0000);
const MEMORY: u32 = 0x80_0000;
/// What the reset code left: offset of its second instruction, code selector, CR0.
const FOUND: u32 = 0xe_0000;
const TIMER: u8 = 0x20;
const PIN: u8 = 0x2a;

// The image's first bytes are a header to others; it is entered behind it.
global_asm!(
    ".section .start, \"ax\"",
    ".globl start",
    "start: .long 0x1badb002, 0, -0x1badb002",
    "mov eax, esp",
    "push eax",
    "call flat32_main",
    ".text",
);

// ---- COM1 ----

const COM1: u16 = 0x3f8;

struct Uart;

impl Uart {
    /// 115200 8N1, no interrupts. The divider as it reads back.
    fn set_up() -> u8 {
        out8(COM1 + 1, 0);
        out8(COM1 + 3, 0x80);
        out8(COM1, 1);
        out8(COM1 + 1, 0);
        let divider = in8(COM1);
        out8(COM1 + 3, 3);
        out8(COM1 + 2, 7);
        divider
    }
}

impl Write for Uart {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        for byte in text.bytes() {
            while in8(COM1 + 5) & 0x20 == 0 {}
            out8(COM1, byte);
        }
        Ok(())
    }
}

fn verdict(name: &str, met: bool, figure: u32) {
    let word = if met { "ok" } else { "FAILED" };
    _ = writeln!(Uart, "flat32: {name} {word} {figure:08x}");
}

// ---- clocks ----

const PM_HZ: u32 = 3_579_545;
/// Ticks a second.
const HZ: u32 = 100;
/// Of clocks of the emulation on a busy machine.
const PERCENT: u32 = 15;

/// Registers of the local interrupt controller as x2APIC has them.
mod x2apic {
    pub const EOI: u32 = 0x80b;
    pub const SPURIOUS: u32 = 0x80f;
    /// Of vectors 0x20 to 0x3f.
    pub const IN_SERVICE: u32 = 0x811;
    pub const ERRORS: u32 = 0x828;
    pub const TIMER: u32 = 0x832;
    pub const INITIAL: u32 = 0x838;
    pub const CURRENT: u32 = 0x839;
    pub const DIVIDE: u32 = 0x83e;
}

static TICKS: AtomicU32 = AtomicU32::new(0);
static APIC_PER_TICK: AtomicU32 = AtomicU32::new(0);
static TSC_PER_TICK: AtomicU32 = AtomicU32::new(0);
static LAST_TICK: AtomicU32 = AtomicU32::new(0);

/// Its low half: differences of seconds fit.
fn tsc() -> u32 {
    let low: u32;
    // SAFETY: reads a counter.
    unsafe { asm!("rdtsc", out("eax") low, out("edx") _, options(nostack, preserves_flags)) };
    low
}

fn pm_time() -> u32 {
    in32(COMM.word(0x40) as u16) & 0xff_ffff
}

/// What APIC timer and TSC count in a tenth of a second of the PM timer; `None` if that stands still.
fn calibration_pass() -> Option<(u32, u32)> {
    loop {
        let (start, tsc_start) = (pm_time(), tsc());
        let (mut now, mut stuck) = (start, 0);
        wrmsr(x2apic::INITIAL, u32::MAX);
        while now >= start && now - start < PM_HZ / 10 {
            let last = now;
            now = pm_time();
            stuck = if now == last { stuck + 1 } else { 0 };
            if stuck > 1_000_000 {
                return None;
            }
        }
        if now < start {
            // It has wrapped: once more.
            continue;
        }
        let apic = u32::MAX - rdmsr(x2apic::CURRENT) as u32;
        let tsc = tsc().wrapping_sub(tsc_start);
        // As much as a tenth of a second holds, whenever exactly we looked.
        let parts = (now - start) / (PM_HZ / 10 / 1024);
        return Some((apic / parts * 1024, tsc / parts * 1024));
    }
}

fn near(a: u32, b: u32) -> bool {
    a.abs_diff(b) <= b / 100 * PERCENT
}

entry!(tick_entry, tick);
/// One-shot: the next one is early by what this one was late.
extern "C" fn tick() {
    let (per_tick, apic) = (TSC_PER_TICK.load(Relaxed), APIC_PER_TICK.load(Relaxed));
    let now = tsc();
    let late = now.wrapping_sub(LAST_TICK.load(Relaxed)).saturating_sub(per_tick).min(per_tick / 2);
    LAST_TICK.store(now.wrapping_sub(late), Relaxed);
    wrmsr(x2apic::INITIAL, apic - late / (per_tick / apic).max(1));
    TICKS.fetch_add(1, Relaxed);
    wrmsr(x2apic::EOI, 0);
}

fn wait_for_ticks(count: u32) {
    while TICKS.load(Relaxed) < count {
        wait_for_interrupt();
    }
}

fn clocks() {
    wrmsr(x2apic::SPURIOUS, 0x1ff);
    wrmsr(x2apic::ERRORS, 0);
    // By 16.
    wrmsr(x2apic::DIVIDE, 3);
    wrmsr(x2apic::TIMER, 0x1_0000);
    let passes = [calibration_pass(), calibration_pass(), calibration_pass()];
    let [Some(first), Some(second), Some((apic, tsc_count))] = passes else {
        verdict("calibration", false, 0);
        return;
    };
    let told = COMM.word(0x48) / 16;
    let agree = near(first.0, apic) && near(second.0, apic) && near(apic / 100, told);
    verdict("calibration", agree, apic);

    gate(TIMER, tick_entry);
    let per_tick = apic / (HZ / 10);
    APIC_PER_TICK.store(per_tick, Relaxed);
    TSC_PER_TICK.store(tsc_count / (HZ / 10), Relaxed);
    LAST_TICK.store(tsc(), Relaxed);
    wrmsr(x2apic::TIMER, TIMER.into());
    let start = pm_time();
    wrmsr(x2apic::INITIAL, per_tick);
    interrupts_on();
    wait_for_ticks(10);
    let left = rdmsr(x2apic::CURRENT) as u32;
    verdict("timer", left <= per_tick && rdmsr(x2apic::ERRORS) & 0xff == 0, left);
    wait_for_ticks(HZ);
    let took = pm_time().wrapping_sub(start) & 0xff_ffff;
    verdict("ticks", near(took, PM_HZ), took);
    wrmsr(x2apic::TIMER, 0x1_0000);
    let in_service = rdmsr(x2apic::IN_SERVICE) as u32;
    verdict("end_of_interrupt", in_service & 1 == 0, in_service);

    // The same with the registers in memory, if the processor has them there.
    let in_memory = rdmsr(0x1b) & 0x400 == 0;
    if in_memory {
        TICKS.store(0, Relaxed);
        write(APIC_TIMER, TIMER.into());
        write(APIC_INITIAL, per_tick);
        wait_for_ticks(5);
        write(APIC_TIMER, 0x1_0000);
    }
    verdict("apic_page", !in_memory || read(APIC_TIMER) & 0x1_0000 != 0, in_memory.into());
}

// ---- pins ----

static NIC: AtomicU32 = AtomicU32::new(0);
static PIN_INTERRUPTS: AtomicU32 = AtomicU32::new(0);
const PACKET: u32 = 0x80;

entry!(pin_entry, pin);
extern "C" fn pin() {
    // Reading acknowledges.
    if read(NIC.load(Relaxed) + nic::CAUSE) & PACKET != 0 {
        PIN_INTERRUPTS.fetch_add(1, Relaxed);
    }
    wrmsr(x2apic::EOI, 0);
}

fn pins() {
    let (version, to_us) = (ioapic_read(1), apic_id() << 24);
    // Low word and high word of pin 10.
    ioapic_write(0x25, to_us);
    ioapic_write(0x24, PIN_MASKED | PIN_LEVEL | u32::from(PIN));
    let stored = ioapic_read(0x24) == 0x1_802a && ioapic_read(0x25) == to_us;
    verdict("pin_registers", version >> 16 & 0xff == 23 && stored, version);

    // Which pin the device has is a matter of its slot.
    gate(PIN, pin_entry);
    for pin in [10, 11].into_iter().chain(16..24) {
        ioapic_write(0x11 + 2 * pin, to_us);
        ioapic_write(0x10 + 2 * pin, PIN_MASKED | PIN_LEVEL | u32::from(PIN));
        ioapic_write(0x10 + 2 * pin, PIN_LEVEL | u32::from(PIN));
    }
    let at = NIC.load(Relaxed);
    write(at + nic::MASK_CLEAR, u32::MAX);
    write(at + nic::MASK_SET, PACKET);
    for _ in 0..10 {
        let before = PIN_INTERRUPTS.load(Relaxed);
        write(at + nic::CAUSE_SET, PACKET);
        _ = (0..10_000_000).any(|_| {
            pause();
            PIN_INTERRUPTS.load(Relaxed) != before
        });
    }
    write(at + nic::MASK_CLEAR, u32::MAX);
    let count = PIN_INTERRUPTS.load(Relaxed);
    verdict("pins", count == 10, count);
}

// ---- the network device ----

/// Registers of the e1000, and bits.
mod nic {
    pub const CONTROL: u32 = 0x0;
    pub const RESET: u32 = 1 << 26;
    pub const LINK_UP: u32 = 1 << 6;
    pub const STATUS: u32 = 0x8;
    pub const CAUSE: u32 = 0xc0;
    pub const CAUSE_SET: u32 = 0xc8;
    pub const MASK_SET: u32 = 0xd0;
    pub const MASK_CLEAR: u32 = 0xd8;
    pub const RECEIVE_CONTROL: u32 = 0x100;
    pub const SEND_CONTROL: u32 = 0x400;
    pub const GAP: u32 = 0x410;
    /// Address, its high half, bytes, and at +0x10 and +0x18 head and tail.
    pub const RECEIVE_RING: u32 = 0x2800;
    pub const SEND_RING: u32 = 0x3800;
    pub const TAIL: u32 = 0x18;
    pub const MAC: u32 = 0x5400;
}

/// There is no IOMMU: where the device finds it too.
const DMA: u32 = 0x5190_0000;
const SLOTS: u32 = 8;
const RECEIVE_SLOTS: u32 = DMA;
const SEND_SLOTS: u32 = DMA + 0x100;
/// Of 2 KiB, one for each slot; behind them what is sent.
const BUFFERS: u32 = DMA + 0x1000;
const OUT: u32 = BUFFERS + SLOTS * 2048;

fn find_nic() {
    let function = (0..256).rfind(|function| pci_read(*function, 0) == 0x100e_8086).unwrap_or(0);
    let registers = pci_read(function, 0x10) & !15;
    // What is not the cell's is not there.
    let alone = pci_read(0x1f << 3, 0) == u32::MAX;
    verdict("pci", function != 0 && registers != 0 && alone, function);
    pci_write(function, 4, 6);
    NIC.store(registers, Relaxed);
}

fn bring_up() -> [u8; 6] {
    let at = NIC.load(Relaxed);
    write(at + nic::CONTROL, read(at + nic::CONTROL) | nic::RESET);
    while read(at + nic::CONTROL) & nic::RESET != 0 {}
    write(at + nic::MASK_CLEAR, u32::MAX);
    for slot in 0..SLOTS {
        for (ring, buffer) in [(RECEIVE_SLOTS, BUFFERS + slot * 2048), (SEND_SLOTS, OUT)] {
            [buffer, 0, 0, 0].into_iter().zip(0..).for_each(|(word, n)| write(ring + 16 * slot + 4 * n, word));
        }
    }
    for (ring, slots, tail) in [(nic::RECEIVE_RING, RECEIVE_SLOTS, SLOTS - 1), (nic::SEND_RING, SEND_SLOTS, 0)] {
        [slots, 0, 16 * SLOTS].into_iter().zip(0..).for_each(|(word, n)| write(at + ring + 4 * n, word));
        write(at + ring + 0x10, 0);
        write(at + ring + nic::TAIL, tail);
    }
    // As for copper; broadcasts too, and 2 KiB a buffer; short packets are filled up.
    write(at + nic::GAP, 10 | 8 << 10 | 6 << 20);
    write(at + nic::RECEIVE_CONTROL, 0x8002);
    write(at + nic::SEND_CONTROL, 0xa | 15 << 4 | 64 << 12);
    write(at + nic::CONTROL, read(at + nic::CONTROL) | nic::LINK_UP);
    let up = (0..1_000_000).any(|_| read(at + nic::STATUS) & 2 != 0);
    verdict("link", up, read(at + nic::STATUS));
    let (low, high) = (read(at + nic::MAC).to_le_bytes(), read(at + nic::MAC + 4).to_le_bytes());
    [low[0], low[1], low[2], low[3], high[0], high[1]]
}

fn load<const N: usize>(at: u32) -> [u8; N] {
    // SAFETY: a buffer of the card's, which nothing of Rust's lies in.
    core::array::from_fn(|n| unsafe { ((at as usize + n) as *const u8).read_volatile() })
}

fn store(at: u32, bytes: &[u8]) {
    // SAFETY: as above.
    bytes.iter().zip(0..).for_each(|(byte, n)| unsafe { ((at as usize + n) as *mut u8).write_volatile(*byte) });
}

const ARP: [u8; 10] = [8, 6, 0, 1, 8, 0, 6, 4, 0, 1];
const OWN: [u8; 4] = [10, 0, 0, 1];

/// Looks for a packet in this receive slot; answers it if it asks for our address. Whether there was one.
fn serve(received: u32, sent: &mut u32, mac: [u8; 6]) -> bool {
    let slot = RECEIVE_SLOTS + 16 * (received % SLOTS);
    if read(slot + 12) & 1 == 0 {
        return false;
    }
    let packet = BUFFERS + 2048 * (received % SLOTS);
    let length = read(slot + 8) & 0xffff;
    if length >= 42 && load(packet + 12) == ARP && load(packet + 38) == OWN {
        let mut reply = [0; 42];
        reply[..6].copy_from_slice(&load::<6>(packet + 6));
        reply[6..12].copy_from_slice(&mac);
        reply[12..22].copy_from_slice(&ARP);
        reply[21] = 2;
        reply[22..28].copy_from_slice(&mac);
        reply[28..32].copy_from_slice(&OWN);
        reply[32..].copy_from_slice(&load::<10>(packet + 22));
        store(OUT, &reply);
        let slot = SEND_SLOTS + 16 * (*sent % SLOTS);
        // Length; the command: end of packet, add checksum, report.
        write(slot + 8, 42 | 0x0b << 24);
        write(slot + 12, 0);
        *sent += 1;
        write(NIC.load(Relaxed) + nic::SEND_RING + nic::TAIL, *sent % SLOTS);
        while read(slot + 12) & 1 == 0 {
            pause();
        }
        verdict("network", true, *sent);
    }
    write(slot + 12, 0);
    write(NIC.load(Relaxed) + nic::RECEIVE_RING + nic::TAIL, received % SLOTS);
    true
}

// ---- the start ----

unsafe extern "C" {
    static _end: u8;
}

fn entry_state(stack: u32, divider: u8) {
    let found = read(FOUND);
    verdict("reset", found == 0xf000_0003 && read(FOUND + 4) == 0x6000_0010, found);
    let selector: u32;
    // SAFETY: reads a register.
    unsafe { asm!("mov {:e}, cs", out(reg) selector, options(nomem, nostack, preserves_flags)) };
    verdict("entry", selector & 0xffff == 8, selector);
    verdict("stack", stack == 0xe_0000, stack);
    verdict("console", divider == 1 && in8(COM1 + 3) == 3, divider.into());
    let end = &raw const _end as u32;
    let signed = COMM.word(0) == u32::from_le_bytes(*b"JHCO") && COMM.word(4) & 0xffff == 0x4d4d;
    verdict("comm_region", signed && end < MEMORY, end);
    let rates = COMM.word(0x44) != 0 && COMM.word(0x48) != 0;
    verdict("comm_layout", COMM.word(4) >> 16 == 2 && rates && COMM.word(0x40) >> 16 == 1, COMM.word(0x40));
    write(0x500, 1);
    write(0x70_0500, 2);
    // A delay of old: harmless.
    out8(0x80, 0xaa);
    verdict("address_lines", read(0x500) == 1 && read(0x70_0500) == 2, read(0x500));
    write(MEMORY - 4, 0x1234_5678);
    verdict("memory", read(MEMORY - 4) == 0x1234_5678, MEMORY - 4);
}

#[unsafe(no_mangle)]
extern "C" fn flat32_main(stack: u32) -> ! {
    let base = rdmsr(0x1b);
    entry_state(stack, Uart::set_up());
    clocks();
    find_nic();
    pins();
    let mac = bring_up();
    verdict("apic_base", rdmsr(0x1b) == base, base as u32);
    _ = writeln!(Uart, "flat32: ready");
    let (mut received, mut sent) = (0, 0);
    loop {
        pause();
        received += u32::from(serve(received, &mut sent, mac));
        match COMM.message() {
            None => {}
            Some(SHUTDOWN) => {
                verdict("halt", true, 0);
                COMM.end();
            }
            Some(_) => COMM.reply(RECEIVED),
        }
    }
}
