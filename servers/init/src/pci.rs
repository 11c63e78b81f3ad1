//! Setting up a PCI function: find it, place its BARs, enable memory, bus mastering and MSI-X.
//!
//! Everything read from configuration space is the device's, or the hypervisor's, word: the capability walk is bounded and
//! what does not fit is an error in words.

use alloc::format;
use alloc::string::{String, ToString};
use ipc::blob::Device;

const COMMAND: u8 = 0x04;
const COMMAND_IO: u32 = 1;
const COMMAND_MEMORY: u32 = 1 << 1;
const COMMAND_MASTER: u32 = 1 << 2;
const COMMAND_NO_INTX: u32 = 1 << 10;
const STATUS_CAPABILITIES: u32 = 1 << 20;
const BAR0: u8 = 0x10;
const CAPABILITIES: u8 = 0x34;
const MSI: u8 = 0x05;
const MSI_ENABLE: u32 = 1 << 16;
const MSI_WIDE: u32 = 1 << 23;
/// How many vectors the function may use, as a power of two: one.
const MSI_VECTORS: u32 = 7 << 20;
const MSIX: u8 = 0x11;
const MSIX_ENABLE: u32 = 1 << 31;
const MSIX_MASK_ALL: u32 = 1 << 30;

/// Configuration space of functions on bus 0 and beyond.
pub trait ConfigSpace {
    /// Reads 32 bits.
    fn read(&mut self, bdf: u16, offset: u8) -> u32;
    /// Writes 32 bits.
    fn write(&mut self, bdf: u16, offset: u8, value: u32);
}

/// Address word for port 0xcf8.
pub const fn address(bdf: u16, offset: u8) -> u32 {
    1 << 31 | (bdf as u32) << 8 | (offset as u32 & 0xfc)
}

/// Where a function's MSI-X table is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MsixTable {
    /// Guest-physical address.
    pub physical: u64,
    /// Entries.
    pub entries: u16,
    /// Offset of the capability.
    capability: u8,
}

/// Whether the function is there. An error: something else is.
pub fn present(config: &mut impl ConfigSpace, device: &Device) -> Result<bool, String> {
    let id = config.read(device.bdf, 0);
    let wanted = u32::from(device.vendor) | u32::from(device.device) << 16;
    match id {
        u32::MAX | 0 => Ok(false),
        id if id == wanted => Ok(true),
        id => Err(format!(
            "{:04x}:{:04x} is there instead of {:04x}:{:04x}",
            id & 0xffff,
            id >> 16,
            device.vendor,
            device.device
        )),
    }
}

/// Places the BARs, enables memory, and finds the MSI-X table. No interrupt is enabled yet.
pub fn place(config: &mut impl ConfigSpace, device: &Device) -> Result<Option<MsixTable>, String> {
    let bdf = device.bdf;
    let command = config.read(bdf, COMMAND) & 0xffff;
    config.write(bdf, COMMAND, (command & !(COMMAND_MEMORY | COMMAND_MASTER)) | COMMAND_NO_INTX);
    for (index, physical) in &device.bars {
        place_bar(config, bdf, *index, *physical)?;
    }
    // Ports lie where the firmware has put them.
    let ports = (0..6).any(|index| matches!(config.read(bdf, BAR0 + 4 * index), bar if bar & 1 != 0 && bar & !3 != 0));
    let io = if ports { COMMAND_IO } else { 0 };
    config.write(bdf, COMMAND, command | COMMAND_MEMORY | io | COMMAND_NO_INTX);
    if device.vectors == 0 || device.msi {
        return Ok(None);
    }
    let capability = find_capability(config, bdf, MSIX).ok_or("it has no MSI-X capability")?;
    let entries = ((config.read(bdf, capability) >> 16) as u16 & 0x7ff) + 1;
    if entries < device.vectors {
        return Err(format!("it has {entries} MSI-X vectors, {} are wanted", device.vectors));
    }
    let table = config.read(bdf, capability + 4);
    let (bar, offset) = ((table & 7) as u8, u64::from(table & !7));
    let (_, base) = device
        .bars
        .iter()
        .find(|(index, _)| *index == bar)
        .ok_or_else(|| format!("its MSI-X table is in BAR {bar}, that is not placed"))?;
    Ok(Some(MsixTable { physical: base + offset, entries, capability }))
}

fn place_bar(config: &mut impl ConfigSpace, bdf: u16, index: u8, physical: u64) -> Result<(), String> {
    if index > 5 {
        return Err(format!("there is no BAR {index}"));
    }
    let register = BAR0 + 4 * index;
    let old = config.read(bdf, register);
    if old & 1 != 0 {
        return Err(format!("BAR {index} is not a memory BAR"));
    }
    let wide = old & 6 == 4;
    if !wide && physical > u64::from(u32::MAX) {
        return Err(format!("BAR {index} has 32 bits"));
    }
    config.write(bdf, register, physical as u32);
    if wide {
        config.write(bdf, register + 4, (physical >> 32) as u32);
    }
    match config.read(bdf, register) & !0xf == physical as u32 & !0xf {
        true => Ok(()),
        false => Err(format!("BAR {index} did not take the address {physical:#x}")),
    }
}

fn find_capability(config: &mut impl ConfigSpace, bdf: u16, id: u8) -> Option<u8> {
    if config.read(bdf, COMMAND) & STATUS_CAPABILITIES == 0 {
        return None;
    }
    let mut offset = config.read(bdf, CAPABILITIES) as u8 & 0xfc;
    // 48 capabilities fit between 0x40 and 0xff: a longer list is a circle.
    for _ in 0..48 {
        if offset < 0x40 {
            return None;
        }
        let head = config.read(bdf, offset);
        if head as u8 == id {
            return Some(offset);
        }
        offset = (head >> 8) as u8 & 0xfc;
    }
    None
}

/// The four words of an MSI-X table entry: unmasked, with this address and data.
pub fn msix_entry(address: u64, data: u32) -> [u32; 4] {
    [address as u32, (address >> 32) as u32, data, 0]
}

/// Lets the function interrupt by MSI, with one vector, and master the bus.
pub fn enable_msi(config: &mut impl ConfigSpace, device: &Device, address: u64, data: u32) -> Result<(), String> {
    let bdf = device.bdf;
    let capability = find_capability(config, bdf, MSI).ok_or("it has no MSI capability")?;
    let head = config.read(bdf, capability) & !(MSI_ENABLE | MSI_VECTORS);
    config.write(bdf, capability, head);
    config.write(bdf, capability + 4, address as u32);
    let data_at = match head & MSI_WIDE != 0 {
        true => {
            config.write(bdf, capability + 8, (address >> 32) as u32);
            capability + 12
        }
        false => capability + 8,
    };
    // The other half of the word is reserved.
    config.write(bdf, data_at, data & 0xffff);
    config.write(bdf, capability, head | MSI_ENABLE);
    if config.read(bdf, capability) & MSI_ENABLE == 0 {
        return Err("MSI cannot be enabled".to_string());
    }
    let command = config.read(bdf, COMMAND) & 0xffff;
    config.write(bdf, COMMAND, command | COMMAND_MASTER);
    Ok(())
}

/// Lets the function interrupt: MSI-X on, bus mastering on. The table must be programmed.
pub fn enable(config: &mut impl ConfigSpace, device: &Device, table: &MsixTable) -> Result<(), String> {
    let control = config.read(device.bdf, table.capability);
    config.write(device.bdf, table.capability, (control | MSIX_ENABLE) & !MSIX_MASK_ALL);
    if config.read(device.bdf, table.capability) & MSIX_ENABLE == 0 {
        return Err("MSI-X cannot be enabled".to_string());
    }
    let command = config.read(device.bdf, COMMAND) & 0xffff;
    config.write(device.bdf, COMMAND, command | COMMAND_MASTER);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A function with two 4-KiB memory BARs and capabilities 09 at 0x40 and 11 at 0x60.
    struct Function {
        words: [u32; 64],
    }

    impl Function {
        fn new() -> Function {
            let mut words = [0; 64];
            words[0] = 0x4106_110a;
            words[1] = 0x0010_0000;
            words[0x34 / 4] = 0x40;
            words[0x40 / 4] = 0x6009;
            words[0x60 / 4] = 0x0001_0011;
            words[0x64 / 4] = 1;
            Function { words }
        }
    }

    impl ConfigSpace for Function {
        fn read(&mut self, bdf: u16, offset: u8) -> u32 {
            if bdf == 0x70 { self.words[usize::from(offset / 4)] } else { u32::MAX }
        }
        fn write(&mut self, bdf: u16, offset: u8, value: u32) {
            let mask = match offset {
                0x04 => 0x0406,
                0x10 | 0x14 => 0xffff_f000,
                0x60 => 0xc0ff_0000,
                0x64 | 0x68 | 0x6c if self.words[0x60 / 4] & 0xff == 5 => u32::MAX,
                _ => 0,
            };
            if bdf == 0x70 {
                let word = &mut self.words[usize::from(offset / 4)];
                *word = (*word & !mask) | (value & mask);
            }
        }
    }

    fn device() -> Device {
        Device {
            name: "shadow".into(),
            bdf: 0x70,
            vendor: 0x110a,
            device: 0x4106,
            bars: vec![(0, 0xf000_0000), (1, 0xf000_1000)],
            vectors: 2,
            msi: false,
        }
    }

    #[test]
    fn a_function_is_set_up() {
        let mut config = Function::new();
        assert_eq!(present(&mut config, &device()), Ok(true));
        let table = place(&mut config, &device()).unwrap().unwrap();
        assert_eq!((table.physical, table.entries), (0xf000_1000, 2));
        assert_eq!(config.words[1] & 0x406, 0x402);
        enable(&mut config, &device(), &table).unwrap();
        assert_eq!(config.words[1] & 0x406, 0x406);
        assert_eq!(config.words[0x60 / 4], 0x8001_0011);
        assert_eq!(config.words[4], 0xf000_0000);
    }

    #[test]
    fn a_message_is_written_where_the_capability_has_it() {
        for (head, data_at) in [(0x0000_0005, 0x68), (0x0080_0005, 0x6c)] {
            let mut config = Function::new();
            config.words[0x60 / 4] = head;
            let device = Device { vectors: 1, msi: true, ..device() };
            assert_eq!(place(&mut config, &device), Ok(None));
            enable_msi(&mut config, &device, 0xfee0_0000, 0x4041).unwrap();
            assert_eq!((config.words[0x64 / 4], config.words[data_at / 4]), (0xfee0_0000, 0x4041));
            assert_eq!((config.words[0x60 / 4], config.words[1] & 0x406), (head | MSI_ENABLE, 0x406));
        }
        let mut config = Function::new();
        assert!(enable_msi(&mut config, &device(), 0xfee0_0000, 1).unwrap_err().contains("no MSI"));
    }

    #[test]
    fn absence_and_strangers_are_told_apart() {
        let mut config = Function::new();
        assert_eq!(present(&mut config, &Device { bdf: 8, ..device() }), Ok(false));
        assert!(present(&mut config, &Device { device: 1, ..device() }).unwrap_err().contains("110a:4106 is there"));
    }

    #[test]
    fn a_circle_of_capabilities_ends() {
        let mut config = Function::new();
        config.words[0x40 / 4] = 0x4009;
        assert!(place(&mut config, &device()).unwrap_err().contains("no MSI-X"));
    }

    #[test]
    fn too_few_vectors_and_odd_bars_are_errors() {
        let mut config = Function::new();
        assert!(place(&mut config, &Device { vectors: 3, ..device() }).is_err());
        assert!(
            place(&mut config, &Device { bars: vec![(0, 0xf000_0000)], ..device() }).unwrap_err().contains("BAR 1")
        );
        assert!(
            place(&mut config, &Device { bars: vec![(2, 0xf000_0000)], ..device() })
                .unwrap_err()
                .contains("did not take")
        );
        config.words[4] = 1;
        assert!(place(&mut config, &device()).unwrap_err().contains("memory BAR"));
    }
}
