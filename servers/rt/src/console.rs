//! Text on the kernel's console: `log!` and what it writes through.

use crate::calls::irq::CONSOLE_CHUNK;
use crate::calls::{Cap, Console};
use core::fmt::{self, Write};
use ipc::slots;

/// Collects text and writes it in pieces of the size that a kernel call takes.
struct Writer {
    bytes: [u8; CONSOLE_CHUNK],
    used: usize,
}

impl Writer {
    fn flush(&mut self) {
        // A server without the console, or with a full one, goes on without text.
        let _ = Cap::<Console>::new(slots::CONSOLE).write(&self.bytes[..self.used]);
        self.used = 0;
    }
}

impl Write for Writer {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        for byte in text.bytes() {
            self.bytes[self.used] = byte;
            self.used += 1;
            if self.used == CONSOLE_CHUNK {
                self.flush();
            }
        }
        Ok(())
    }
}

/// Writes a line: the server's name, a colon, the text. Use [`log!`](crate::log).
pub fn line(text: fmt::Arguments<'_>) {
    let mut writer = Writer { bytes: [0; CONSOLE_CHUNK], used: 0 };
    // Writing into the collector cannot fail; a failing Display only cuts the line.
    let _ = write!(writer, "{}: {text}", crate::start::name());
    let _ = writer.write_str("\n");
    writer.flush();
}

/// Writes a line on the kernel's console, with the server's name before it.
#[macro_export]
macro_rules! log {
    ($($argument:tt)*) => { $crate::console::line(core::format_args!($($argument)*)) };
}
