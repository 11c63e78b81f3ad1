//! The first PCI function that the cell has: finds it, and takes a hundred interrupts from it, by a pin, MSI or MSI-X, as the
//! command line says. Knows QEMU's edu, e1000, e1000e and pci-serial.
#![no_std]
#![no_main]

mod inmate;
use core::sync::atomic::{AtomicU32, Ordering::Relaxed};

use inmate::*;

const VECTOR: u8 = 0x52;
/// Pins of the slots.
const PINS: core::ops::RangeInclusive<u32> = 16..=23;

#[derive(Clone, Copy)]
struct Device {
    function: u32,
    id: u32,
    registers: u32,
    ports: u16,
}

const EDU: u32 = 0x11e8_1234;
const E1000: u32 = 0x100e_8086;
const E1000E: u32 = 0x10d3_8086;
/// Causes of an interrupt: a packet received, the same by the first queue.
const RECEIVED_PACKET: u32 = 1 << 7;
const RECEIVE_QUEUE: u32 = 1 << 20;

static COUNT: AtomicU32 = AtomicU32::new(0);
static mut DEVICE: Device = Device { function: 0, id: 0, registers: 0, ports: 0 };

impl Device {
    fn find() -> Option<Self> {
        let function = (0..256).find(|function| pci_read(*function, 0) != u32::MAX)?;
        let bars = || (0x10..0x28).step_by(4).map(|bar| pci_read(function, bar));
        Some(Self {
            function,
            id: pci_read(function, 0),
            registers: bars().find(|bar| bar & 1 == 0 && *bar != 0).unwrap_or(0) & !15,
            ports: (bars().find(|bar| bar & 1 != 0).unwrap_or(0) & !3) as u16,
        })
    }

    /// Says so if it does not work without interrupts.
    fn prepare(&self) {
        let at = self.registers;
        match self.id {
            EDU => {
                write(at + 4, 0x1234_5678);
                if read(at + 4) != !0x1234_5678 {
                    say!("device inmate: edu does not answer");
                }
            }
            E1000 => {
                write(at + 0xd8, u32::MAX);
                write(at + 0xd0, RECEIVED_PACKET);
            }
            E1000E => {
                write(at + 0xd8, u32::MAX);
                // By the first message.
                write(at + 0xe4, 8);
                write(at + 0xd0, RECEIVE_QUEUE);
            }
            _ => {
                // What it sends it receives.
                out8(self.ports + 4, 0x10);
                out8(self.ports, b'x');
                let came = (0..1_000_000).any(|_| in8(self.ports + 5) & 1 != 0);
                if !came || in8(self.ports) != b'x' {
                    say!("device inmate: the serial line does not loop");
                }
            }
        }
    }

    /// Makes it ask for an interrupt.
    fn raise(&self) {
        match self.id {
            EDU => write(self.registers + 0x60, 1),
            E1000 => write(self.registers + 0xc8, RECEIVED_PACKET),
            E1000E => write(self.registers + 0xc8, RECEIVE_QUEUE),
            // pci-serial: the transmitter is empty.
            _ => out8(self.ports + 1, 2),
        }
    }

    fn acknowledge(&self) {
        match self.id {
            EDU => write(self.registers + 0x64, read(self.registers + 0x24)),
            E1000 => _ = read(self.registers + 0xc0),
            E1000E => write(self.registers + 0xc0, u32::MAX),
            _ => {
                in8(self.ports + 2);
                out8(self.ports + 1, 0);
            }
        }
    }

    fn by_pin(&self) -> Option<()> {
        for pin in PINS {
            ioapic_write(0x11 + 2 * pin, apic_id() << 24);
            ioapic_write(0x10 + 2 * pin, PIN_LEVEL | u32::from(VECTOR));
        }
        Some(())
    }

    fn by_msi(&self) -> Option<()> {
        let at = pci_capability(self.function, 0x05)?;
        let control = pci_read(self.function, at);
        pci_write(self.function, at + 4, message_address());
        // The data are 16 bits, and written as 32, as drivers do.
        if control & 1 << 23 != 0 {
            pci_write(self.function, at + 8, 0);
            pci_write(self.function, at + 12, VECTOR.into());
        } else {
            pci_write(self.function, at + 8, VECTOR.into());
        }
        pci_write(self.function, at, control | 1 << 16);
        Some(())
    }

    fn by_msix(&self) -> Option<()> {
        let at = pci_capability(self.function, 0x11)?;
        let place = pci_read(self.function, at + 4);
        let table = (pci_read(self.function, 0x10 + 4 * (place & 7)) & !15) + (place & !7);
        write(table, message_address());
        write(table + 4, 0);
        write(table + 8, VECTOR.into());
        write(table + 12, 0);
        pci_write(self.function, at, pci_read(self.function, at) | 1 << 31);
        Some(())
    }
}

entry!(interrupt_entry, interrupt);
extern "C" fn interrupt() {
    // SAFETY: written before interrupts were on, and then no more.
    unsafe { DEVICE }.acknowledge();
    COUNT.fetch_add(1, Relaxed);
    write(APIC_EOI, 0);
}

fn run() {
    gate(VECTOR, interrupt_entry);
    write(APIC_SPURIOUS, 0x1ff);
    let Some(device) = Device::find() else {
        say!("device inmate: no device");
        return;
    };
    // SAFETY: interrupts are off: nobody reads it yet.
    unsafe { DEVICE = device };
    say!("device inmate: id {:08x}", device.id);
    let way = command();
    // Ports, memory, master; pins only if they are meant.
    pci_write(device.function, 4, if way == b'p' { 7 } else { 0x407 });
    let ready = match way {
        b'p' => device.by_pin(),
        b'm' => device.by_msi(),
        _ => device.by_msix(),
    };
    if ready.is_none() {
        say!("device inmate: it has no such interrupts");
        return;
    }
    device.prepare();
    interrupts_on();
    for _ in 0..100 {
        let before = COUNT.load(Relaxed);
        device.raise();
        while COUNT.load(Relaxed) == before {
            pause();
        }
    }
    say!("device inmate: interrupts {:08x}", COUNT.load(Relaxed));
}

#[unsafe(no_mangle)]
extern "C" fn main() -> ! {
    run();
    loop {
        pause();
        COMM.answer();
    }
}
