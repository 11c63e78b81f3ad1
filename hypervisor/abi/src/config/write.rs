//! Writing configurations: the counterpart of the readers, without an allocator.

use zerocopy::little_endian::{U16, U32, U64};
use zerocopy::{Immutable, IntoBytes};

use super::pci::{PciCapability, PciDevice};
use super::records::{Cache, CellDescriptor, CellFlags, Console, IrqChip, Memory, PortRange};
use super::system::SystemHeader;
use super::{ARCH_X86, CELL_SIGNATURE, ConfigError, MAX_CPU_SET, NAME_LEN, REVISION, SYSTEM_SIGNATURE};

/// The name field for `text`: 1 to 31 printable ASCII characters.
pub fn name(text: &str) -> Result<[u8; NAME_LEN], ConfigError> {
    let bytes = text.as_bytes();
    if bytes.is_empty() || bytes.len() >= NAME_LEN || !bytes.iter().all(|byte| (0x20..0x7f).contains(byte)) {
        return Err(ConfigError::Name);
    }
    let mut field = [0; NAME_LEN];
    field[..bytes.len()].copy_from_slice(bytes);
    Ok(field)
}

/// The `bar_mask` word of a 32-bit memory BAR of `size` bytes (a power of two of at least 16), 0 for an absent one.
#[must_use]
pub const fn bar_mask(size: u32) -> u32 {
    if size < 16 || !size.is_power_of_two() { 0 } else { !(size - 1) }
}

/// A cell configuration to write.
#[derive(Clone, Copy, Debug, Default)]
pub struct CellParts<'a> {
    /// Name.
    pub name: &'a str,
    /// Id.
    pub id: u32,
    /// Flags.
    pub flags: CellFlags,
    /// CPU bitmap, CPU 0 is bit 0 of the first byte; a multiple of 8 bytes.
    pub cpu_set: &'a [u8],
    /// Memory regions.
    pub memory: &'a [Memory],
    /// Cache regions.
    pub cache: &'a [Cache],
    /// Interrupt controllers.
    pub irqchips: &'a [IrqChip],
    /// I/O port ranges.
    pub ports: &'a [PortRange],
    /// PCI functions.
    pub pci_devices: &'a [PciDevice],
    /// PCI capabilities.
    pub pci_caps: &'a [PciCapability],
    /// Where the CPUs start.
    pub cpu_reset_address: u64,
    /// Spins to wait for an answer; 0 waits for ever.
    pub msg_reply_timeout: u64,
    /// Console that is told to the cell.
    pub console: Console,
}

/// Appends to a buffer.
struct Sink<'a> {
    out: &'a mut [u8],
    len: usize,
    need: usize,
}

impl Sink<'_> {
    fn put(&mut self, part: &(impl IntoBytes + Immutable + ?Sized)) -> Result<(), ConfigError> {
        let bytes = part.as_bytes();
        let room = self.out.get_mut(self.len..self.len + bytes.len());
        room.ok_or(ConfigError::NoSpace { need: self.need })?.copy_from_slice(bytes);
        self.len += bytes.len();
        Ok(())
    }
}

fn count(records: usize, field: &'static str) -> Result<U32, ConfigError> {
    u32::try_from(records).map(U32::new).map_err(|_| ConfigError::TooMany(field))
}

impl CellParts<'_> {
    fn header(&self) -> Result<CellDescriptor, ConfigError> {
        let cpu_set_size = u32::try_from(self.cpu_set.len()).unwrap_or(u32::MAX);
        if self.cpu_set.is_empty() || self.cpu_set.len() > MAX_CPU_SET {
            return Err(ConfigError::CpuSetSize(cpu_set_size));
        }
        Ok(CellDescriptor {
            signature: CELL_SIGNATURE,
            architecture: ARCH_X86,
            revision: U16::new(REVISION),
            name: name(self.name)?,
            id: U32::new(self.id),
            flags: U32::new(self.flags.bits()),
            cpu_set_size: U32::new(cpu_set_size),
            num_memory_regions: count(self.memory.len(), "mem_regions")?,
            num_cache_regions: count(self.cache.len(), "cache_regions")?,
            num_irqchips: count(self.irqchips.len(), "irqchips")?,
            num_pio_regions: count(self.ports.len(), "pio_regions")?,
            num_pci_devices: count(self.pci_devices.len(), "pci_devices")?,
            num_pci_caps: count(self.pci_caps.len(), "pci_caps")?,
            num_stream_ids: U32::new(0),
            vpci_irq_base: U32::new(0),
            cpu_reset_address: U64::new(self.cpu_reset_address),
            msg_reply_timeout: U64::new(self.msg_reply_timeout),
            console: self.console,
        })
    }

    /// Bytes of the configuration.
    #[must_use]
    pub fn size(&self) -> usize {
        size_of::<CellDescriptor>()
            + self.cpu_set.len()
            + size_of_val(self.memory)
            + size_of_val(self.cache)
            + size_of_val(self.irqchips)
            + size_of_val(self.ports)
            + size_of_val(self.pci_devices)
            + size_of_val(self.pci_caps)
    }

    /// Writes the configuration to the front of `out`; the number of bytes written is [`CellParts::size`].
    pub fn write(&self, out: &mut [u8]) -> Result<usize, ConfigError> {
        let mut sink = Sink { out, len: 0, need: self.size() };
        self.write_to(&mut sink)?;
        Ok(sink.len)
    }

    fn write_to(&self, sink: &mut Sink<'_>) -> Result<(), ConfigError> {
        sink.put(&self.header()?)?;
        sink.put(self.cpu_set)?;
        sink.put(self.memory)?;
        sink.put(self.cache)?;
        sink.put(self.irqchips)?;
        sink.put(self.ports)?;
        sink.put(self.pci_devices)?;
        sink.put(self.pci_caps)
    }
}

/// A system configuration to write. Signature, architecture and revision of the header are set when writing.
#[derive(Clone, Copy, Debug, Default)]
pub struct SystemParts<'a> {
    /// Header.
    pub header: SystemHeader,
    /// Root cell.
    pub root: CellParts<'a>,
}

impl SystemParts<'_> {
    /// Bytes of the configuration.
    #[must_use]
    pub fn size(&self) -> usize {
        size_of::<SystemHeader>() + self.root.size()
    }

    /// Writes the configuration to the front of `out`; the number of bytes written is [`SystemParts::size`].
    pub fn write(&self, out: &mut [u8]) -> Result<usize, ConfigError> {
        let header = SystemHeader {
            signature: SYSTEM_SIGNATURE,
            architecture: ARCH_X86,
            revision: U16::new(REVISION),
            ..self.header
        };
        let mut sink = Sink { out, len: 0, need: self.size() };
        sink.put(&header)?;
        self.root.write_to(&mut sink)?;
        Ok(sink.len)
    }
}
