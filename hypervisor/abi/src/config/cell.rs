//! Reading a cell configuration.

use core::mem::size_of;

use zerocopy::little_endian::U32;
use zerocopy::{FromBytes, Immutable, KnownLayout};

use super::pci::{PciCapability, PciDevice};
use super::records::{Cache, CellDescriptor, CellFlags, IrqChip, Memory, PortRange};
use super::{
    ARCH_X86, CELL_SIGNATURE, ConfigError, MAX_CPU_SET, OLD_CELL_SIGNATURE, OLD_SYSTEM_SIGNATURE, REVISION,
    SYSTEM_SIGNATURE,
};

/// Distance of the test device's register from the start of the communication region.
const TEST_REGISTER: u64 = 2 * crate::PAGE_SIZE - 8;

/// A cell configuration, read in place.
#[derive(Clone, Copy, Debug)]
pub struct CellConfig<'a> {
    header: &'a CellDescriptor,
    name: &'a str,
    cpu_set: &'a [u8],
    memory: &'a [Memory],
    cache: &'a [Cache],
    irqchips: &'a [IrqChip],
    ports: &'a [PortRange],
    pci_devices: &'a [PciDevice],
    pci_caps: &'a [PciCapability],
    stream_ids: &'a [U32],
}

/// Signature, architecture and revision, which cell and system configurations share.
pub(super) fn check_signature(
    bytes: &[u8],
    expected: &[u8; 5],
    expected_text: &'static str,
    wanted: &'static str,
) -> Result<(), ConfigError> {
    let (head, _) = <[u8; 8]>::ref_from_prefix(bytes)
        .map_err(|_| ConfigError::Truncated { part: "the signature", have: bytes.len() })?;
    if head[..6] == OLD_CELL_SIGNATURE || head[..6] == OLD_SYSTEM_SIGNATURE {
        return Err(ConfigError::OldFormat { revision: u16::from_le_bytes([head[6], head[7]]) });
    }
    if head[..5] != expected[..] {
        return Err(match () {
            () if head[..5] == CELL_SIGNATURE => ConfigError::WrongKind { found: "cell", wanted },
            () if head[..5] == SYSTEM_SIGNATURE => ConfigError::WrongKind { found: "system", wanted },
            () => ConfigError::Signature { expected: expected_text },
        });
    }
    if head[5] != ARCH_X86 {
        return Err(ConfigError::Architecture(head[5]));
    }
    let revision = u16::from_le_bytes([head[6], head[7]]);
    if revision != REVISION {
        return Err(ConfigError::Revision(revision));
    }
    Ok(())
}

/// Takes `count` records of type `T` from the front of `rest`.
fn take<'a, T: FromBytes + Immutable + KnownLayout>(
    rest: &mut &'a [u8],
    count: u32,
    part: &'static str,
) -> Result<&'a [T], ConfigError> {
    let cut = ConfigError::Truncated { part, have: rest.len() };
    let count = usize::try_from(count).map_err(|_| cut)?;
    let (records, behind) = <[T]>::ref_from_prefix_with_elems(rest, count).map_err(|_| cut)?;
    *rest = behind;
    Ok(records)
}

fn read_name(header: &CellDescriptor) -> Result<&str, ConfigError> {
    let end = header.name.iter().position(|&byte| byte == 0).ok_or(ConfigError::Name)?;
    let name = &header.name[..end];
    if name.is_empty() || !name.iter().all(|byte| (0x20..0x7f).contains(byte)) {
        return Err(ConfigError::Name);
    }
    core::str::from_utf8(name).map_err(|_| ConfigError::Name)
}

impl CellDescriptor {
    /// Bytes of the whole configuration that this descriptor is the head of.
    #[must_use]
    pub fn total_size(&self) -> u64 {
        // 2^32 records of 56 bytes, eight times over, are far from 2^64.
        let array = |count: U32, size: usize| u64::from(count.get()) * size as u64;
        size_of::<Self>() as u64
            + array(self.cpu_set_size, 1)
            + array(self.num_memory_regions, size_of::<Memory>())
            + array(self.num_cache_regions, size_of::<Cache>())
            + array(self.num_irqchips, size_of::<IrqChip>())
            + array(self.num_pio_regions, size_of::<PortRange>())
            + array(self.num_pci_devices, size_of::<PciDevice>())
            + array(self.num_pci_caps, size_of::<PciCapability>())
            + array(self.num_stream_ids, size_of::<U32>())
    }
}

impl<'a> CellConfig<'a> {
    /// Reads a cell configuration. Bytes behind it are ignored.
    pub fn parse(bytes: &'a [u8]) -> Result<Self, ConfigError> {
        check_signature(bytes, &CELL_SIGNATURE, "JHCLL", "cell")?;
        Self::parse_body(bytes)
    }

    /// Checks only the head, and tells how many bytes the whole configuration has: for a reader that maps the
    /// head first.
    pub fn probe_size(bytes: &[u8]) -> Result<u64, ConfigError> {
        check_signature(bytes, &CELL_SIGNATURE, "JHCLL", "cell")?;
        let (header, _) = CellDescriptor::ref_from_prefix(bytes)
            .map_err(|_| ConfigError::Truncated { part: "the cell descriptor", have: bytes.len() })?;
        Ok(header.total_size())
    }

    /// Reads a cell configuration without looking at signature, architecture and revision: those of the root
    /// cell are given by the system configuration around it.
    pub(super) fn parse_body(bytes: &'a [u8]) -> Result<Self, ConfigError> {
        let (header, mut rest) = CellDescriptor::ref_from_prefix(bytes)
            .map_err(|_| ConfigError::Truncated { part: "the cell descriptor", have: bytes.len() })?;
        let name = read_name(header)?;
        if CellFlags::from_bits(header.flags.get()).is_none() {
            let value = u64::from(header.flags.get() & !CellFlags::all().bits());
            return Err(ConfigError::Value { field: "flags (cell)", index: 0, value });
        }
        let cpu_set_size = header.cpu_set_size.get();
        if cpu_set_size == 0 || cpu_set_size as usize > MAX_CPU_SET {
            return Err(ConfigError::CpuSetSize(cpu_set_size));
        }
        let config = Self {
            header,
            name,
            cpu_set: take(&mut rest, cpu_set_size, "the CPU bitmap (cpu_set_size)")?,
            memory: take(&mut rest, header.num_memory_regions.get(), "mem_regions (num_memory_regions)")?,
            cache: take(&mut rest, header.num_cache_regions.get(), "cache_regions (num_cache_regions)")?,
            irqchips: take(&mut rest, header.num_irqchips.get(), "irqchips (num_irqchips)")?,
            ports: take(&mut rest, header.num_pio_regions.get(), "pio_regions (num_pio_regions)")?,
            pci_devices: take(&mut rest, header.num_pci_devices.get(), "pci_devices (num_pci_devices)")?,
            pci_caps: take(&mut rest, header.num_pci_caps.get(), "pci_caps (num_pci_caps)")?,
            stream_ids: take(&mut rest, header.num_stream_ids.get(), "stream_ids (num_stream_ids)")?,
        };
        config.check_values()?;
        Ok(config)
    }

    fn check_values(&self) -> Result<(), ConfigError> {
        for (index, region) in self.memory.iter().enumerate() {
            if region.unknown_flags() != 0 {
                return Err(ConfigError::Value { field: "flags (mem_regions)", index, value: region.unknown_flags() });
            }
        }
        for (index, device) in self.pci_devices.iter().enumerate() {
            if device.kind().is_none() {
                return Err(ConfigError::Value { field: "type (pci_devices)", index, value: device.kind.into() });
            }
        }
        for (index, region) in self.cache.iter().enumerate() {
            if !(1..=3).contains(&region.kind) {
                return Err(ConfigError::Value { field: "type (cache_regions)", index, value: region.kind.into() });
            }
        }
        Ok(())
    }

    /// The descriptor.
    #[must_use]
    pub const fn header(&self) -> &'a CellDescriptor {
        self.header
    }

    /// Name of the cell.
    #[must_use]
    pub const fn name(&self) -> &'a str {
        self.name
    }

    /// Id of the cell.
    #[must_use]
    pub const fn id(&self) -> u32 {
        self.header.id.get()
    }

    /// Flags of the cell.
    #[must_use]
    pub const fn flags(&self) -> CellFlags {
        CellFlags::from_bits_truncate(self.header.flags.get())
    }

    /// Where the cell's CPUs start.
    #[must_use]
    pub const fn cpu_reset_address(&self) -> u64 {
        self.header.cpu_reset_address.get()
    }

    /// Spins to wait for an answer of the cell; 0 waits for ever.
    #[must_use]
    pub const fn msg_reply_timeout(&self) -> u64 {
        self.header.msg_reply_timeout.get()
    }

    /// Numbers of the cell's CPUs, ascending.
    #[must_use]
    pub const fn cpus(&self) -> Cpus<'a> {
        Cpus { set: self.cpu_set, next: 0 }
    }

    /// Whether the cell owns this CPU.
    #[must_use]
    pub fn has_cpu(&self, cpu: u32) -> bool {
        self.cpu_set.get(cpu as usize / 8).is_some_and(|byte| byte & (1 << (cpu % 8)) != 0)
    }

    /// Memory regions.
    #[must_use]
    pub const fn memory(&self) -> &'a [Memory] {
        self.memory
    }

    /// Cache regions.
    #[must_use]
    pub const fn cache(&self) -> &'a [Cache] {
        self.cache
    }

    /// Interrupt controllers.
    #[must_use]
    pub const fn irqchips(&self) -> &'a [IrqChip] {
        self.irqchips
    }

    /// I/O port ranges.
    #[must_use]
    pub const fn ports(&self) -> &'a [PortRange] {
        self.ports
    }

    /// PCI functions.
    #[must_use]
    pub const fn pci_devices(&self) -> &'a [PciDevice] {
        self.pci_devices
    }

    /// Capabilities of all PCI functions.
    #[must_use]
    pub const fn pci_caps(&self) -> &'a [PciCapability] {
        self.pci_caps
    }

    /// Capabilities of one function; those that its record promises and the array has.
    #[must_use]
    pub fn caps_of(&self, device: &PciDevice) -> &'a [PciCapability] {
        self.pci_caps.get(device.caps_range()).unwrap_or(&[])
    }

    /// Stream ids (not on x86).
    #[must_use]
    pub const fn stream_ids(&self) -> &'a [U32] {
        self.stream_ids
    }

    /// The communication region, if the cell has one.
    #[must_use]
    pub fn comm_region(&self) -> Option<&'a Memory> {
        self.memory.iter().find(|region| region.flags().contains(super::MemoryFlags::COMM_REGION))
    }

    /// Where the register of the test device begins, if the cell has one: the last 8 bytes of the page behind the communication region
    /// are emulated, and lead to the last 8 of that region. A cell sees in the one what it wrote to the other.
    #[must_use]
    pub fn test_register(&self) -> Option<u64> {
        let comm = self.comm_region().filter(|_| self.flags().contains(CellFlags::TEST_DEVICE))?;
        comm.virt_start().checked_add(TEST_REGISTER)
    }

    /// Bytes of the configuration.
    #[must_use]
    pub fn total_size(&self) -> u64 {
        self.header.total_size()
    }
}

/// The CPUs of a cell.
#[derive(Clone, Copy, Debug)]
pub struct Cpus<'a> {
    set: &'a [u8],
    next: u32,
}

impl Iterator for Cpus<'_> {
    type Item = u32;

    fn next(&mut self) -> Option<u32> {
        loop {
            let byte = self.set.get(self.next as usize / 8)?;
            let cpu = self.next;
            self.next += 1;
            if byte & (1 << (cpu % 8)) != 0 {
                return Some(cpu);
            }
        }
    }
}
