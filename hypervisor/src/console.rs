//! The hypervisor's console: a UART that the configuration names, and a page that Linux reads.
//!
//! The page is `{u32 busy, u32 tail, char[2048]}`: `tail` counts all characters ever written, a reader tries again while
//! `busy` is set or when `tail` ran away.
#![allow(unsafe_code)] // The console page is shared with the root cell, the UART is hardware.

use core::fmt::{self, Write};
use core::sync::atomic::{AtomicU8, AtomicU32, Ordering};

use hypervisor_abi::config::{Console, ConsoleFlags, ConsoleKind};
use spin::Mutex;
use x86_64::instructions::port::Port;

const TEXT: usize = 2048;
/// Tries to find the UART's transmitter empty before a character is given up: a dead UART must not hold up a cell.
const PATIENCE: u32 = 100_000;

#[repr(C, align(4096))]
struct Page {
    busy: AtomicU32,
    tail: AtomicU32,
    text: [AtomicU8; TEXT],
}

#[unsafe(link_section = ".console")]
#[unsafe(no_mangle)]
#[allow(non_upper_case_globals)] // Named by the image header.
static __console_page: Page =
    Page { busy: AtomicU32::new(0), tail: AtomicU32::new(0), text: [const { AtomicU8::new(0) }; TEXT] };

#[derive(Clone, Copy)]
enum Uart {
    None,
    Ports { base: u16, distance: u16 },
    Memory { base: usize, distance: usize },
}

static UART: Mutex<Uart> = Mutex::new(Uart::None);

impl Uart {
    fn read(self, register: u16) -> u8 {
        match self {
            Self::None => 0,
            // SAFETY: the port belongs to the UART that the configuration gives to the hypervisor.
            Self::Ports { base, distance } => unsafe { Port::new(base + register * distance).read() },
            // SAFETY: mapped by the hypervisor for this purpose.
            Self::Memory { base, distance } => unsafe {
                ((base + usize::from(register) * distance) as *const u8).read_volatile()
            },
        }
    }

    fn write(self, register: u16, value: u8) {
        match self {
            Self::None => {}
            // SAFETY: as above.
            Self::Ports { base, distance } => unsafe { Port::new(base + register * distance).write(value) },
            // SAFETY: as above.
            Self::Memory { base, distance } => unsafe {
                ((base + usize::from(register) * distance) as *mut u8).write_volatile(value)
            },
        }
    }

    fn put(self, byte: u8) {
        if matches!(self, Self::None) || !(0..PATIENCE).any(|_| self.read(5) & 0x20 != 0) {
            return;
        }
        self.write(0, byte);
    }
}

/// Takes the UART into use. `mapped` is the address of its registers if they are memory-mapped.
pub fn init(console: &Console, mapped: Option<usize>) {
    let flags = ConsoleFlags::from_bits_truncate(console.flags.get());
    let distance = if flags.contains(ConsoleFlags::REGDIST_4) { 4 } else { 1 };
    let uart = match (console.kind.get() == ConsoleKind::Uart8250 as u16, flags.contains(ConsoleFlags::MMIO), mapped) {
        (true, false, _) => Uart::Ports { base: console.address.get() as u16, distance },
        (true, true, Some(base)) => Uart::Memory { base, distance: distance.into() },
        _ => Uart::None,
    };
    let divider = console.divider.get();
    if divider != 0 {
        uart.write(3, 0x80);
        uart.write(0, divider as u8);
        uart.write(1, (divider >> 8) as u8);
        uart.write(3, 3);
        uart.write(1, 0);
        uart.write(2, 7);
    }
    *UART.lock() = uart;
}

struct Writer(Uart);

impl Writer {
    fn byte(&mut self, byte: u8) {
        let tail = __console_page.tail.load(Ordering::Relaxed);
        __console_page.text[tail as usize % TEXT].store(byte, Ordering::Relaxed);
        __console_page.tail.store(tail.wrapping_add(1), Ordering::Release);
        if byte == b'\n' {
            self.0.put(b'\r');
        }
        self.0.put(byte);
    }
}

impl Write for Writer {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        text.bytes().for_each(|byte| self.byte(byte));
        Ok(())
    }
}

/// Runs `write` with the console held, so that texts of several CPUs do not mix.
fn with(write: impl FnOnce(&mut Writer)) {
    let uart = UART.lock();
    __console_page.busy.store(1, Ordering::Release);
    write(&mut Writer(*uart));
    __console_page.busy.store(0, Ordering::Release);
}

/// Writes formatted text.
pub fn print(text: fmt::Arguments<'_>) {
    with(|writer| {
        // The writer cannot fail.
        let _ = writer.write_fmt(text);
    });
}

/// Writes what a cell says.
pub fn write(text: &[u8]) {
    with(|writer| text.iter().for_each(|byte| writer.byte(*byte)));
}

/// For the panic path: whoever held the console will not come back.
///
/// # Safety
/// No other CPU may be inside [`print`], or its text is garbled.
pub unsafe fn force_unlock() {
    // SAFETY: the caller's.
    unsafe { UART.force_unlock() };
}

/// Offset of the console page in the image.
#[must_use]
pub fn page_address() -> usize {
    (&raw const __console_page).addr()
}

/// Prints a line.
#[macro_export]
macro_rules! say {
    ($($text:tt)*) => {
        $crate::console::print(format_args!("{}\n", format_args!($($text)*)))
    };
}
