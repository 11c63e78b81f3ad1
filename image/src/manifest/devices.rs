//! Devices: shared memory that the hypervisor makes up, and PCI functions of the machine.

use serde::Deserialize;
use toml::Spanned;

use super::Spanned0;
use crate::units::{Bdf, PciId, Size};

/// A shared memory device that the hypervisor makes up, with one function in the root cell and one in ours.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Ivshmem {
    /// PCI address, the same in both cells.
    pub bdf: Spanned<Bdf>,
    /// Protocol number.
    pub protocol: Spanned<u16>,
    /// Machine address of the state table; the other sections follow it.
    pub physical: Spanned<u64>,
    /// Guest-physical address of the same.
    pub guest: Spanned<u64>,
    /// Bytes of the section that both sides write.
    #[serde(default)]
    pub rw_size: Spanned0<Size>,
    /// Bytes of each section that one side writes.
    pub output_size: Spanned<Size>,
    /// MSI-X vectors.
    #[serde(default = "two")]
    pub vectors: Spanned<u16>,
    /// Guest-physical addresses for BAR 0 (registers) and BAR 1 (MSI-X table).
    pub bars: Spanned<[u64; 2]>,
}

fn two() -> Spanned<u16> {
    Spanned::new(0..0, 2)
}

/// A PCI function of the machine, which goes from Linux to the cell.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Pci {
    /// Vendor and device number.
    pub id: Spanned<PciId>,
    /// PCI address; absent: where the machine has the only function with this id.
    pub bdf: Option<Spanned<Bdf>>,
    /// Its memory, where the machine's firmware has put it.
    #[serde(default)]
    pub bars: Vec<Spanned<PciBar>>,
    /// Its I/O ports.
    #[serde(default)]
    pub ports: Vec<Spanned<PciPorts>>,
    /// It interrupts by MSI, with one vector.
    #[serde(default)]
    pub msi: Spanned0<bool>,
    /// It interrupts by MSI-X.
    pub msix: Option<Spanned<PciMsix>>,
}

impl Pci {
    /// Interrupts that it has.
    pub fn vectors(&self) -> u16 {
        self.msix.as_ref().map_or(u16::from(*self.msi.0.get_ref()), |msix| msix.get_ref().vectors)
    }
}

/// Memory of a PCI function.
#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PciBar {
    /// Number of its base address register.
    pub bar: u8,
    /// Machine address, and address in the cell.
    pub address: u64,
    /// Bytes.
    pub size: Size,
}

/// I/O ports of a PCI function.
#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PciPorts {
    /// Number of its base address register.
    pub bar: u8,
    /// First port.
    pub first: u16,
    /// How many.
    pub count: u16,
}

/// Where a PCI function has its MSI-X table.
#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PciMsix {
    /// Vectors that are used.
    pub vectors: u16,
    /// Which memory it lies in.
    pub bar: u8,
    /// First byte of it there.
    #[serde(default)]
    pub offset: Size,
}
