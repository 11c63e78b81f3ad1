//! Interrupts, ports and the console.

use super::{Cap, Console, IoPort, Irq, Notification, Result};
use ipc::Call;

/// Bytes that one console call takes.
pub const CONSOLE_CHUNK: usize = 56;

/// Width of a port access.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u64)]
pub enum Width {
    /// One byte.
    Byte = 1,
    /// Two bytes.
    Word = 2,
    /// Four bytes.
    Long = 4,
}

impl Cap<Irq> {
    /// Makes a capability to one message-signalled interrupt.
    pub fn derive_message(self, slot: u32) -> Result<Cap<Irq>> {
        self.invoke(Call::IrqDerive, [0, 0, 0, slot.into()])?;
        Ok(Cap::new(slot))
    }

    /// Makes a capability to an IOAPIC pin.
    pub fn derive_pin(self, pin: u8, level: bool, active_low: bool, slot: u32) -> Result<Cap<Irq>> {
        self.invoke(Call::IrqDerive, [1, pin.into(), u64::from(level) | u64::from(active_low) << 1, slot.into()])?;
        Ok(Cap::new(slot))
    }

    /// Each interrupt signals the notification with that capability's badge.
    pub fn bind(self, notification: Option<Cap<Notification>>) -> Result {
        self.invoke(Call::IrqBind, [notification.map_or(0, Cap::slot).into()]).map(drop)
    }

    /// Lets the next interrupt come.
    pub fn ack(self) -> Result {
        self.invoke(Call::IrqAck, []).map(drop)
    }

    /// Address and data to program into an MSI or MSI-X entry.
    pub fn message(self) -> Result<(u64, u32)> {
        self.invoke(Call::IrqMessage, []).map(|[address, data, ..]| (address, data as u32))
    }
}

impl Cap<IoPort> {
    /// Makes a capability to a part of the range.
    pub fn derive(self, first: u16, count: u16, slot: u32) -> Result<Cap<IoPort>> {
        self.invoke(Call::PortDerive, [first.into(), count.into(), slot.into()])?;
        Ok(Cap::new(slot))
    }

    /// Reads a port.
    pub fn read(self, port: u16, width: Width) -> Result<u32> {
        self.invoke(Call::PortIn, [port.into(), width as u64]).map(|[value, ..]| value as u32)
    }

    /// Writes a port.
    pub fn write(self, port: u16, width: Width, value: u32) -> Result {
        self.invoke(Call::PortOut, [port.into(), width as u64, value.into()]).map(drop)
    }
}

impl Cap<Console> {
    /// Appends at most [`CONSOLE_CHUNK`] bytes to the console.
    pub fn write(self, bytes: &[u8]) -> Result {
        let bytes = &bytes[..bytes.len().min(CONSOLE_CHUNK)];
        let mut rest = bytes;
        while !rest.is_empty() {
            let done = super::invoke_partial(Call::ConsoleWrite, self.slot, pack(rest))?;
            rest = &rest[rest.len().min(done.max(1) as usize)..];
        }
        Ok(())
    }

    /// Ends this system.
    pub fn halt(self, failed: bool) -> Result {
        self.invoke(Call::SystemHalt, [failed.into()]).map(drop)
    }
}

/// The number of bytes, and the bytes in seven words.
fn pack(bytes: &[u8]) -> [u64; 8] {
    let mut arguments = [bytes.len() as u64, 0, 0, 0, 0, 0, 0, 0];
    for (index, byte) in bytes.iter().enumerate() {
        arguments[1 + index / 8] |= u64::from(*byte) << (8 * (index % 8));
    }
    arguments
}

#[cfg(test)]
mod tests {
    #[test]
    fn bytes_are_packed_little_endian() {
        let words = super::pack(b"0123456789");
        assert_eq!(words[0], 10);
        assert_eq!(words[1].to_le_bytes(), *b"01234567");
        assert_eq!(words[2].to_le_bytes(), *b"89\0\0\0\0\0\0");
    }
}
