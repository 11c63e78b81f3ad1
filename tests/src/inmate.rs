//! Cells for small inmates: configurations with the addresses that `hypervisor/inmates/inmate.inc` expects.

use anyhow::{Context, Result, anyhow};
use hypervisor_abi::config::{
    CellConfig, CellFlags, CellParts, IrqChip, Memory, MemoryFlags, PciCapability, PciDevice, PortRange,
};

/// Where the inmates start.
pub const RESET: u64 = 0x10_0000;
/// Spins to wait for an inmate's answer.
const REPLY_TIMEOUT: u64 = 20_000_000;

/// A cell.
#[derive(Clone, Default)]
pub struct Inmate {
    /// Name.
    pub name: &'static str,
    /// Its CPUs.
    pub cpus: Vec<u32>,
    /// Machine address and size of its memory, which begins at 0 for the cell.
    pub memory: (u64, u64),
    /// Address of its communication region.
    pub comm: u64,
    /// Where its CPUs start.
    pub reset: u64,
    /// Memory besides that.
    pub regions: Vec<Memory>,
    /// PCI functions.
    pub functions: Vec<PciDevice>,
    /// Their capabilities.
    pub capabilities: Vec<PciCapability>,
    /// Ports.
    pub ports: Vec<PortRange>,
    /// Interrupt pins.
    pub chips: Vec<IrqChip>,
    /// Flags.
    pub flags: CellFlags,
    /// Spins to wait for its answers.
    pub reply_timeout: u64,
}

impl Inmate {
    /// A cell with memory and CPUs, and nothing else.
    pub fn new(name: &'static str, cpus: &[u32], memory: (u64, u64)) -> Self {
        Self {
            name,
            cpus: cpus.to_vec(),
            memory,
            comm: 0x0400_0000,
            reset: RESET,
            flags: CellFlags::VIRTUAL_CONSOLE_PERMITTED,
            reply_timeout: REPLY_TIMEOUT,
            ..Self::default()
        }
    }

    /// The same, not asked before it is stopped.
    pub fn passive(mut self) -> Self {
        self.flags |= CellFlags::PASSIVE_COMMREG;
        self
    }

    /// Its configuration.
    pub fn config(&self) -> Result<Vec<u8>> {
        let ram = MemoryFlags::READ | MemoryFlags::WRITE | MemoryFlags::EXECUTE;
        let passive = self.flags.contains(CellFlags::PASSIVE_COMMREG);
        let writable = if passive { MemoryFlags::empty() } else { MemoryFlags::WRITE };
        let comm = MemoryFlags::READ | MemoryFlags::COMM_REGION | writable;
        // The device's regions first: records count from there.
        let mut memory = self.regions.clone();
        memory.push(Memory::new(self.memory.0, 0, self.memory.1, ram | MemoryFlags::LOADABLE | MemoryFlags::DMA));
        memory.push(Memory::new(0, self.comm, 4096, comm));
        let mut cpu_set = [0; 32];
        for cpu in &self.cpus {
            cpu_set[*cpu as usize / 8] |= 1 << (cpu % 8);
        }
        let parts = CellParts {
            name: self.name,
            flags: self.flags,
            cpu_set: &cpu_set,
            memory: &memory,
            irqchips: &self.chips,
            ports: &self.ports,
            pci_devices: &self.functions,
            pci_caps: &self.capabilities,
            cpu_reset_address: self.reset,
            msg_reply_timeout: self.reply_timeout,
            ..CellParts::default()
        };
        let mut bytes = vec![0; parts.size()];
        parts.write(&mut bytes).map_err(|error| anyhow!("{error}"))?;
        Ok(bytes)
    }

    /// With peer `own` of a link between so many cells, at 00:0d.0. The sections are a page each, in memory that Linux owns beside the
    /// cells' own, at the same addresses for all.
    pub fn linked(mut self, own: u8, peers: u8) -> Self {
        const SECTIONS: u64 = 0x5200_0000;
        let shared = MemoryFlags::READ | MemoryFlags::ROOTSHARED;
        let at = |page: u64, flags| Memory::new(SECTIONS + page * 0x1000, SECTIONS + page * 0x1000, 0x1000, flags);
        let output = |peer: u8| if peer == own { shared | MemoryFlags::WRITE } else { shared };
        self.regions = vec![at(0, shared), at(1, shared | MemoryFlags::WRITE)];
        self.regions.extend((0..peers).map(|peer| at(2 + u64::from(peer), output(peer))));
        self.functions.push(PciDevice::ivshmem(0x68, 0, own, peers, 0x4000, 2));
        self
    }

    /// Its link has no section that all write: its region is there, and empty.
    pub fn without_common_section(mut self) -> Self {
        self.regions[1] = Memory::new(0, 0, 0, MemoryFlags::empty());
        for output in &mut self.regions[2..] {
            let at = output.virt_start() - 0x1000;
            *output = Memory::new(at, at, output.size(), output.flags());
        }
        self
    }

    /// Its links show their memory by BAR 2.
    pub fn by_memory_bar(mut self) -> Self {
        let sections: u64 = self.regions.iter().map(Memory::size).sum();
        let mask = sections.next_power_of_two().wrapping_neg();
        for function in &mut self.functions {
            function.bar_mask[2..4].copy_from_slice(&[(mask as u32).into(), ((mask >> 32) as u32).into()]);
        }
        self
    }

    /// Takes over the shared memory device of a composed cell.
    pub fn with_link(mut self, composed: &[u8]) -> Result<Self> {
        let cell = CellConfig::parse(composed).map_err(|error| anyhow!("{error}"))?;
        let device = cell.pci_devices().first().context("the composed cell has a shared memory device")?;
        let start = device.shmem_regions_start.get() as usize;
        let count = 2 + usize::from(device.shmem_peers);
        self.regions = cell.memory().get(start..start + count).context("the device's regions")?.to_vec();
        self.functions.push(PciDevice { shmem_regions_start: 0.into(), ..*device });
        Ok(self)
    }
}
