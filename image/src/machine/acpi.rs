//! The ACPI tables that matter here. A short or strange table gives what it has.

use super::{AmdIommu, IoApic, Iommu};

/// Bytes of the header that every table begins with.
const HEADER: usize = 36;
/// Pins of a controller whose own register cannot be read from here; what nobody uses does no harm.
const PINS: u32 = 24;

fn u16_at(bytes: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_le_bytes(bytes.get(at..at + 2)?.try_into().ok()?))
}

fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_le_bytes(bytes.get(at..at + 4)?.try_into().ok()?))
}

fn u64_at(bytes: &[u8], at: usize) -> Option<u64> {
    Some(u64::from_le_bytes(bytes.get(at..at + 8)?.try_into().ok()?))
}

/// The interrupt controllers ("APIC" table).
pub struct Madt {
    pub ioapics: Vec<IoApic>,
    pub local_apic: u64,
}

impl Madt {
    pub fn parse(table: &[u8]) -> Self {
        let local_apic = u32_at(table, HEADER).map_or(0xfee0_0000, u64::from);
        let mut ioapics = Vec::new();
        let mut bases = Vec::new();
        let mut at = HEADER + 8;
        while let (Some(kind), Some(len)) = (table.get(at), table.get(at + 1)) {
            if *len < 2 {
                break;
            }
            if *kind == 1
                && let (Some(address), Some(base)) = (u32_at(table, at + 4), u32_at(table, at + 8))
            {
                ioapics.push(IoApic { address: address.into(), pins: PINS });
                bases.push(base);
            }
            at += usize::from(*len);
        }
        // A controller has as many pins as there are interrupts before the next one begins.
        for (chip, base) in ioapics.iter_mut().zip(&bases) {
            if let Some(next) = bases.iter().filter(|b| *b > base).min() {
                chip.pins = (next - base).min(120);
            }
        }
        Self { ioapics, local_apic }
    }
}

/// Memory-mapped configuration space of segment 0 ("MCFG" table): base, last bus.
pub fn mmconfig(table: &[u8]) -> Option<(u64, u8)> {
    let mut at = HEADER + 8;
    while let Some(base) = u64_at(table, at) {
        if u16_at(table, at + 8) == Some(0) && table.get(at + 10) == Some(&0) {
            return Some((base, *table.get(at + 11)?));
        }
        at += 16;
    }
    None
}

/// Port of the power management timer ("FACP" table).
pub fn pm_timer(table: &[u8]) -> Option<u16> {
    // The extended address, if it is there and a port, counts more than the old field.
    let extended = (table.get(208) == Some(&1)).then(|| u64_at(table, 212)).flatten().filter(|port| *port != 0);
    let port = extended.or_else(|| u32_at(table, 76).map(u64::from))?;
    u16::try_from(port).ok().filter(|port| *port != 0)
}

/// Where the structures begin in the tables of IOMMU units.
const UNITS: usize = 48;

/// VT-d units ("DMAR" table).
pub fn vtd_units(table: &[u8]) -> Vec<Iommu> {
    const REMAPPING_UNIT: u16 = 0;
    let mut units = Vec::new();
    let mut at = UNITS;
    while let (Some(kind), Some(length)) = (u16_at(table, at), u16_at(table, at + 2)) {
        if length < 4 {
            break;
        }
        if kind == REMAPPING_UNIT
            && let Some(base) = u64_at(table, at + 8)
        {
            units.push(Iommu { amd: None, base, size: 0x1000 });
        }
        at += usize::from(length);
    }
    units
}

/// AMD-Vi units ("IVRS" table). A unit may be described several times, in newer ways: the first one counts.
pub fn amd_units(table: &[u8]) -> Vec<Iommu> {
    /// Bits of the feature word that count performance counters: a unit with some has more registers.
    const COUNTERS: u32 = 0x007f_e000;
    let mut units: Vec<Iommu> = Vec::new();
    let mut at = UNITS;
    while let (Some(kind), Some(length)) = (table.get(at), u16_at(table, at + 2)) {
        if length < 4 {
            break;
        }
        if matches!(kind, 0x10 | 0x11 | 0x40)
            && let (Some(bdf), Some(capability), Some(base), Some(features)) =
                (u16_at(table, at + 4), table.get(at + 6), u64_at(table, at + 8), u32_at(table, at + 20))
            && units.iter().all(|unit| unit.base != base)
        {
            let size = if features & COUNTERS != 0 { 0x8_0000 } else { 0x4000 };
            let amd = AmdIommu { bdf, capability: *capability, msi: 0, features };
            units.push(Iommu { amd: Some(amd), base, size });
        }
        at += usize::from(length);
    }
    units
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn controllers_and_their_pins() {
        let mut table = vec![0; HEADER];
        table.extend_from_slice(&0xfee0_0000u32.to_le_bytes());
        table.extend_from_slice(&[0; 4]);
        table.extend_from_slice(&[0, 8, 0, 0, 1, 0, 0, 0]);
        for (address, base) in [(0xfec0_0000u32, 0u32), (0xfec1_0000, 32)] {
            table.extend_from_slice(&[1, 12, 0, 0]);
            table.extend_from_slice(&address.to_le_bytes());
            table.extend_from_slice(&base.to_le_bytes());
        }
        let madt = Madt::parse(&table);
        assert_eq!(madt.local_apic, 0xfee0_0000);
        assert_eq!(
            madt.ioapics,
            [IoApic { address: 0xfec0_0000, pins: 32 }, IoApic { address: 0xfec1_0000, pins: 24 }]
        );
        for end in 0..table.len() {
            Madt::parse(&table[..end]);
        }
        table[HEADER + 9] = 0;
        assert!(Madt::parse(&table).ioapics.is_empty());
    }

    #[test]
    fn configuration_space_and_timer() {
        let mut mcfg = vec![0; HEADER + 8];
        mcfg.extend_from_slice(&0xb000_0000u64.to_le_bytes());
        mcfg.extend_from_slice(&[0, 0, 0, 255, 0, 0, 0, 0]);
        assert_eq!(mmconfig(&mcfg), Some((0xb000_0000, 255)));
        assert_eq!(mmconfig(&mcfg[..50]), None);
        let mut facp = vec![0; 244];
        facp[76..80].copy_from_slice(&0x608u32.to_le_bytes());
        assert_eq!(pm_timer(&facp), Some(0x608));
        facp[208] = 1;
        facp[212..220].copy_from_slice(&0x408u64.to_le_bytes());
        assert_eq!(pm_timer(&facp), Some(0x408));
        assert_eq!(pm_timer(&facp[..60]), None);
    }

    #[test]
    fn iommu_units() {
        let mut dmar = vec![0; UNITS];
        for base in [0xfbff_d000u64, 0xfbff_c000] {
            dmar.extend_from_slice(&[0, 0, 16, 0, 0, 0, 0, 0]);
            dmar.extend_from_slice(&base.to_le_bytes());
            dmar.extend_from_slice(&[1, 0, 8, 0, 0, 0, 0, 0]); // reserved memory: not a unit
        }
        assert_eq!(vtd_units(&dmar).iter().map(|unit| unit.base).collect::<Vec<_>>(), [0xfbff_d000, 0xfbff_c000]);
        let mut ivrs = vec![0; UNITS];
        for kind in [0x10, 0x11] {
            ivrs.extend_from_slice(&[kind, 0, 24, 0, 2, 0, 0x40, 0]);
            ivrs.extend_from_slice(&0xfeb8_0000u64.to_le_bytes());
            ivrs.extend_from_slice(&[0; 4]);
            ivrs.extend_from_slice(&0x8004_8824u32.to_le_bytes());
        }
        let amd = AmdIommu { bdf: 2, capability: 0x40, msi: 0, features: 0x8004_8824 };
        assert_eq!(amd_units(&ivrs), [Iommu { amd: Some(amd), base: 0xfeb8_0000, size: 0x8_0000 }]);
        for end in 0..ivrs.len() {
            vtd_units(&ivrs[..end]);
            amd_units(&ivrs[..end]);
        }
    }
}
