//! What the kernel is told: the boot parameters (Linux, `Documentation/x86/zero-page.rst`) and, linked from them, what it wants to know about its cell
//! (`struct jailhouse_setup_data` in its `asm/bootparam.h`). The loader fills in what the hypervisor says at the start.

use anyhow::{Result, bail};
use hypervisor_abi::config::{CellConfig, Memory, MemoryFlags};

use super::is_ram;
use super::kernel::{HEADER, Kernel};

/// Offset of the record about the cell: behind the boot parameters.
pub const RECORD: usize = 0x1000;
/// Offset of its contents in the record: link, type and length come first.
pub const CONTENTS: usize = 16;
/// Its length: version, clocks, 255 processors, flags.
const LENGTH: usize = 25 + 255 + 4;
/// Offset of the command line.
const COMMAND_LINE: usize = 0x1200;
/// Of all together.
const SIZE: usize = 0x2000;
/// Most memory ranges.
const MAX_RANGES: usize = 128;

/// What the parameters are made from.
pub struct Parameters<'a> {
    /// The cell.
    pub cell: &'a CellConfig<'a>,
    /// The kernel.
    pub kernel: &'a Kernel<'a>,
    /// Their own address.
    pub address: u64,
    /// Address and size of the initial file system.
    pub initrd: Option<(u32, u32)>,
    /// The command line.
    pub command_line: &'a str,
}

fn put(bytes: &mut [u8], at: usize, value: &[u8]) {
    bytes[at..at + value.len()].copy_from_slice(value);
}

impl Parameters<'_> {
    /// Parameters, record and command line.
    pub fn bytes(&self) -> Result<Vec<u8>> {
        const OTHER_LOADER: u8 = 0xff;
        let mut bytes = vec![0; SIZE];
        let longest = self.kernel.command_line.min(SIZE - COMMAND_LINE - 1);
        if self.command_line.len() > longest || self.command_line.contains('\0') {
            bail!("the command line has more than {longest} bytes, or a zero among them");
        }
        put(&mut bytes, HEADER, self.kernel.header);
        put(&mut bytes, 0x210, &[OTHER_LOADER]);
        let (at, size) = self.initrd.unwrap_or_default();
        put(&mut bytes, 0x218, &at.to_le_bytes());
        put(&mut bytes, 0x21c, &size.to_le_bytes());
        put(&mut bytes, 0x228, &(self.address as u32 + COMMAND_LINE as u32).to_le_bytes());
        put(&mut bytes, 0x250, &(self.address + RECORD as u64).to_le_bytes());
        self.memory(&mut bytes)?;
        self.record(&mut bytes[RECORD..]);
        put(&mut bytes, COMMAND_LINE, self.command_line.as_bytes());
        Ok(bytes)
    }

    /// The memory map: its own, and the communication region, which is there and not to be used.
    fn memory(&self, bytes: &mut [u8]) -> Result<()> {
        const COUNT: usize = 0x1e8;
        const TABLE: usize = 0x2d0;
        const RAM: u32 = 1;
        const RESERVED: u32 = 2;
        let is_comm = |region: &Memory| region.flags().contains(MemoryFlags::COMM_REGION);
        let ranges: Vec<_> = self.cell.memory().iter().filter(|region| is_ram(region) || is_comm(region)).collect();
        if ranges.len() > MAX_RANGES {
            bail!("the cell has more than {MAX_RANGES} memory regions");
        }
        bytes[COUNT] = ranges.len() as u8;
        for (region, at) in ranges.into_iter().zip((TABLE..).step_by(20)) {
            put(bytes, at, &region.virt_start().to_le_bytes());
            put(bytes, at + 8, &region.size().to_le_bytes());
            put(bytes, at + 16, &(if is_ram(region) { RAM } else { RESERVED }).to_le_bytes());
        }
        Ok(())
    }

    /// The record about the cell.
    fn record(&self, record: &mut [u8]) {
        const TYPE: u32 = 6;
        const VERSION: u16 = 2;
        const COMPATIBLE: u16 = 1;
        const IOAPIC: u64 = 0xfec0_0000;
        const UARTS: [u16; 4] = [0x3f8, 0x2f8, 0x3e8, 0x2e8];
        put(record, 8, &TYPE.to_le_bytes());
        put(record, 12, &(LENGTH as u32).to_le_bytes());
        let contents = &mut record[CONTENTS..];
        put(contents, 0, &VERSION.to_le_bytes());
        put(contents, 2, &COMPATIBLE.to_le_bytes());
        contents[24] = u8::from(self.cell.irqchips().iter().any(|chip| chip.address.get() == IOAPIC));
        let owned = |base: u16| {
            let end = u32::from(base) + 8;
            self.cell.ports().iter().any(|range| range.base() <= base && end <= range.end())
        };
        let flags = (0..).zip(UARTS).filter(|&(_, base)| owned(base)).fold(0, |flags, (bit, _)| flags | 1u32 << bit);
        put(contents, LENGTH - 4, &flags.to_le_bytes());
    }
}
