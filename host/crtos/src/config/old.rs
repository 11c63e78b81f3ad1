//! Configurations of revision 12, as Jailhouse 0.12 and cRTOS's fork of it wrote them, made into revision 14.
//!
//! The records are the same. What differs: signatures of six bytes and no architecture; in the system header the IOMMU units
//! lie behind the x86 fields, whose order is another; the MSI-X BAR of a shared memory device has 512 bytes instead of a page.

use anyhow::{Context, Result, bail};
use hypervisor_abi::config::{
    ARCH_X86, CELL_SIGNATURE, CellConfig, CellDescriptor, MAX_IOMMU_UNITS, OLD_CELL_SIGNATURE, OLD_SYSTEM_SIGNATURE,
    PciDevice, PciKind, REVISION, SYSTEM_SIGNATURE, SystemConfig, SystemHeader,
};
use zerocopy::little_endian::{U16, U32};
use zerocopy::{FromBytes, IntoBytes};

/// The revision that can be converted.
pub const OLD_REVISION: u16 = 12;
/// Offset where the platform's own part begins, in both revisions.
const PLATFORM: usize = 0x58;
/// Bytes of an IOMMU unit's record, in both revisions.
const UNIT: usize = 28;
const UNITS: usize = UNIT * MAX_IOMMU_UNITS;
/// Fields of the old x86 part, from [`PLATFORM`] on.
mod x86 {
    pub const PM_TIMER: usize = 0;
    pub const INTERRUPT_LIMIT: usize = 2;
    pub const APIC_MODE: usize = 6;
    pub const TSC_KHZ: usize = 10;
    pub const APIC_KHZ: usize = 14;
    pub const UNITS: usize = 18;
}
/// Where the root cell may begin: behind the biggest of the architectures' parts (ARM's: two bytes, five addresses, the
/// units), which some compilers' headers padded.
const ROOT: [usize; 2] = [PLATFORM + 2 + 5 * 8 + UNITS, PLATFORM + 4 + 5 * 8 + UNITS];
const OLD_MSIX_MASK: u32 = 0xffff_fe00;
const MSIX_MASK: u32 = 0xffff_f000;

/// Makes a configuration of revision 14 of one of revision 12.
pub fn convert(old: &[u8]) -> Result<Vec<u8>> {
    let (head, _) = <[u8; 8]>::read_from_prefix(old).ok().context("the file ends inside the signature")?;
    let revision = u16::from_le_bytes([head[6], head[7]]);
    let is_cell = head[..6] == OLD_CELL_SIGNATURE;
    if !is_cell && head[..6] != OLD_SYSTEM_SIGNATURE {
        bail!("not a configuration of revision {OLD_REVISION}: nothing to convert");
    }
    if revision != OLD_REVISION {
        bail!("revision {revision}: only revision {OLD_REVISION} can be converted; rebuild it with newer headers");
    }
    let mut new = if is_cell { cell(old)? } else { system(old)? };
    widen_msix(&mut new, is_cell)?;
    Ok(new)
}

/// Signature, architecture and revision.
fn head(new: &mut [u8], signature: [u8; 5]) {
    new[..5].copy_from_slice(&signature);
    new[5] = ARCH_X86;
    new[6..8].copy_from_slice(&REVISION.to_le_bytes());
}

fn cell(old: &[u8]) -> Result<Vec<u8>> {
    let mut new = old.to_vec();
    head(&mut new, CELL_SIGNATURE);
    Ok(new)
}

fn system(old: &[u8]) -> Result<Vec<u8>> {
    let fits = |start: &usize| {
        let root = old.get(*start..).and_then(|rest| CellDescriptor::ref_from_prefix(rest).ok());
        root.is_some_and(|(root, _)| root.total_size() == (old.len() - *start) as u64)
    };
    let root = ROOT.into_iter().find(fits).context("the root cell's records do not fill the file: it was cut")?;
    let platform = &old[PLATFORM..root];
    let word = |offset: usize| U32::read_from_prefix(&platform[offset..]).map_or(U32::new(0), |(word, _)| word);
    let (mut header, _) = SystemHeader::read_from_prefix(old).ok().context("the file ends inside the header")?;
    header.iommu_units.as_mut_bytes().copy_from_slice(&platform[x86::UNITS..x86::UNITS + UNITS]);
    header.pm_timer_address = U16::new(word(x86::PM_TIMER).get() as u16);
    header.apic_mode = platform[x86::APIC_MODE];
    header.padding = 0;
    header.vtd_interrupt_limit = word(x86::INTERRUPT_LIMIT);
    header.tsc_khz = word(x86::TSC_KHZ);
    header.apic_khz = word(x86::APIC_KHZ);
    header.reserved = [0; 28];
    let mut new = header.as_bytes().to_vec();
    head(&mut new, SYSTEM_SIGNATURE);
    new.extend_from_slice(&old[root..]);
    Ok(new)
}

/// Gives the MSI-X BARs of shared memory devices a whole page.
fn widen_msix(new: &mut [u8], is_cell: bool) -> Result<()> {
    let error = |error| anyhow::anyhow!("{error}");
    let (start, count) = {
        let system;
        let config = if is_cell {
            CellConfig::parse(new).map_err(error)?
        } else {
            system = SystemConfig::parse(new).map_err(error)?;
            *system.root_cell()
        };
        let devices = config.pci_devices();
        (devices.as_ptr() as usize - new.as_ptr() as usize, devices.len())
    };
    let bytes = &mut new[start..start + count * size_of::<PciDevice>()];
    let devices = <[PciDevice]>::mut_from_bytes(bytes).ok().context("whole records")?;
    for device in devices.iter_mut().filter(|device| device.kind() == Some(PciKind::Ivshmem)) {
        for mask in device.bar_mask.iter_mut().filter(|mask| mask.get() == OLD_MSIX_MASK) {
            *mask = U32::new(MSIX_MASK);
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::super::fixtures;
    use super::*;

    #[test]
    fn the_installation_guides_configurations_convert_and_check() {
        let (system, cell) = (convert(&fixtures::sysconfig_12()).unwrap(), convert(&fixtures::nuttx_12()).unwrap());
        assert_eq!(system, fixtures::sysconfig());
        assert_eq!(cell, fixtures::nuttx());
        let parsed = SystemConfig::parse(&system).unwrap();
        assert_eq!(parsed.header().pm_timer_address.get(), 0x408);
        assert_eq!(parsed.iommu_units().map(|unit| unit.base.get()).collect::<Vec<_>>(), [0xfbff_d000, 0xfbff_c000]);
        assert_eq!(parsed.root_cell().name(), "RootCell");
    }

    #[test]
    fn padded_headers_are_recognised() {
        let mut padded = fixtures::sysconfig_12();
        padded.splice(ROOT[0]..ROOT[0], [0, 0]);
        assert_eq!(convert(&padded).unwrap(), fixtures::sysconfig());
    }

    #[test]
    fn what_is_cut_or_of_another_revision_is_refused() {
        let (system, cell) = (fixtures::sysconfig_12(), fixtures::nuttx_12());
        for end in 0..system.len() {
            assert!(convert(&system[..end]).is_err(), "{end}");
        }
        for end in 0..cell.len() {
            assert!(convert(&cell[..end]).is_err(), "{end}");
        }
        let mut other = cell;
        other[6] = 10;
        assert!(convert(&other).unwrap_err().to_string().contains("revision 10"));
        assert!(convert(&fixtures::nuttx()).unwrap_err().to_string().contains("nothing to convert"));
    }
}
