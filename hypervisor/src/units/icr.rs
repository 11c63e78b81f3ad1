//! Who an inter-processor interrupt or a message-signalled interrupt may reach.
//!
//! A cell names targets by APIC id, logical id or shorthand; what leaves is always one physical destination at a time,
//! and only CPUs of the cell. INIT and start-up never leave at all: they are emulated, because a physical INIT would reset
//! a CPU out of the hypervisor.

/// ICR delivery modes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Delivery {
    /// Interrupt with a vector.
    Fixed,
    /// Interrupt with a vector, to any one of the targets.
    Lowest,
    /// Non-maskable interrupt.
    Nmi,
    /// Reset and wait for start-up.
    Init,
    /// Start in real mode at vector << 12.
    StartUp,
}

/// Where an interrupt goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Destination {
    /// One APIC id, or 0xff (0xffff_ffff in x2APIC mode) for all.
    Physical(u32),
    /// Logical id bits, flat model.
    Flat(u8),
    /// Logical id: cluster in the high, bits in the low half of the byte.
    Cluster(u8),
    /// Logical id of x2APIC: cluster in the high, bits in the low 16 bits.
    X2Logical(u32),
    /// The sender.
    Own,
    /// All CPUs, the sender included.
    All,
    /// All CPUs but the sender.
    Others,
}

/// A decoded command.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Command {
    /// What is delivered.
    pub delivery: Delivery,
    /// To whom.
    pub destination: Destination,
    /// Vector.
    pub vector: u8,
}

/// How the APICs of a cell interpret logical destinations.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogicalModel {
    /// xAPIC, flat.
    Flat,
    /// xAPIC, clusters.
    Cluster,
    /// x2APIC.
    X2,
}

/// Why a command is not carried out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// Nothing to do, and nothing wrong: INIT level de-assert.
    Ignored,
    /// Reserved or dangerous delivery mode (SMI, reserved).
    Delivery(u8),
    /// A vector below 16.
    Vector(u8),
}

const fn logical(model: LogicalModel, destination: u32) -> Destination {
    match model {
        LogicalModel::Flat => Destination::Flat(destination as u8),
        LogicalModel::Cluster => Destination::Cluster(destination as u8),
        LogicalModel::X2 => Destination::X2Logical(destination),
    }
}

/// Whether a write to this register of the local APIC (its offset divided by 16) concerns nobody but the CPU itself, with
/// whatever value: task priority, end of interrupt, spurious vector, error status, the timer's count and divider.
#[must_use]
pub const fn is_plain(register: u32) -> bool {
    matches!(register, 0x08 | 0x0b | 0x0f | 0x28 | 0x38 | 0x3e)
}

impl Command {
    /// Decodes an ICR write: low word, and the destination (bits 24..32 of the high word in xAPIC mode, all of it in x2APIC mode).
    pub const fn decode(low: u32, destination: u32, model: LogicalModel) -> Result<Self, Refusal> {
        let vector = low as u8;
        let level_assert = low & (1 << 14) != 0;
        let level_trigger = low & (1 << 15) != 0;
        let delivery = match (low >> 8) & 7 {
            0 => Delivery::Fixed,
            1 => Delivery::Lowest,
            4 => Delivery::Nmi,
            5 if level_trigger && !level_assert => return Err(Refusal::Ignored),
            5 => Delivery::Init,
            6 => Delivery::StartUp,
            mode => return Err(Refusal::Delivery(mode as u8)),
        };
        if matches!(delivery, Delivery::Fixed | Delivery::Lowest) && vector < 16 {
            return Err(Refusal::Vector(vector));
        }
        let destination = match (low >> 18) & 3 {
            1 => Destination::Own,
            2 => Destination::All,
            3 => Destination::Others,
            _ if low & (1 << 11) != 0 => logical(model, destination),
            _ => Destination::Physical(destination),
        };
        Ok(Self { delivery, destination, vector })
    }

    /// Decodes a message-signalled interrupt in the native format.
    pub const fn from_msi(address: u64, data: u32, model: LogicalModel) -> Result<Self, Refusal> {
        // Bit 4: the number of an entry of a remapping table, and not a target.
        if address >> 20 != 0xfee || address & 1 << 4 != 0 {
            return Err(Refusal::Delivery(0xff));
        }
        let vector = data as u8;
        let delivery = match (data >> 8) & 7 {
            0 => Delivery::Fixed,
            1 => Delivery::Lowest,
            mode => return Err(Refusal::Delivery(mode as u8)),
        };
        if vector < 16 {
            return Err(Refusal::Vector(vector));
        }
        let target = (address >> 12) as u32 & 0xff;
        let destination = if address & (1 << 2) != 0 { logical(model, target) } else { Destination::Physical(target) };
        Ok(Self { delivery, destination, vector })
    }

    /// Whether a CPU with these ids is meant. `own`: it is the sender. `logical` is the content of its LDR: in xAPIC modes the
    /// byte, in x2APIC mode all of it.
    #[must_use]
    pub const fn hits(&self, apic_id: u32, logical: u32, own: bool) -> bool {
        match self.destination {
            Destination::Physical(id) => id == apic_id || id == 0xff || id == u32::MAX,
            Destination::Flat(bits) => bits as u32 & logical != 0,
            Destination::Cluster(wanted) => {
                (wanted >> 4 == 0xf || wanted as u32 >> 4 == logical >> 4) && wanted as u32 & logical & 0xf != 0
            }
            Destination::X2Logical(wanted) => wanted >> 16 == logical >> 16 && wanted & logical & 0xffff != 0,
            Destination::Own => own,
            Destination::All => true,
            Destination::Others => !own,
        }
    }

    /// Whether only the first CPU that is hit gets it.
    #[must_use]
    pub const fn single(&self) -> bool {
        matches!(self.delivery, Delivery::Lowest)
    }
}

/// Whether a guest may put this value in a local vector table entry: fixed and NMI delivery only (and the external
/// interrupt mode that Linux leaves in LINT0 of the boot CPU, which is harmless when masked). `root`: root cell.
#[must_use]
pub const fn lvt_allowed(value: u32, root: bool) -> bool {
    let masked = value & (1 << 16) != 0;
    match (value >> 8) & 7 {
        0 | 4 => true,
        7 => masked || root,
        _ => masked,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_cpus_own_registers_are_plain() {
        // 0 is none at all (a message, where registers and messages share addresses), 2 the id, 0x0d and 0x0e the logical id,
        // 0x2f to 0x37 send interrupts.
        let plain: Vec<u32> = (0..0x100).filter(|register| is_plain(*register)).collect();
        assert_eq!(plain, [0x08, 0x0b, 0x0f, 0x28, 0x38, 0x3e]);
    }

    #[test]
    fn linux_wakes_a_cpu() {
        let init = Command::decode(0xc500, 3, LogicalModel::Flat).unwrap();
        assert_eq!(init, Command { delivery: Delivery::Init, destination: Destination::Physical(3), vector: 0 });
        assert_eq!(Command::decode(0x8500, 3, LogicalModel::Flat), Err(Refusal::Ignored));
        let sipi = Command::decode(0x69a, 3, LogicalModel::Flat).unwrap();
        assert_eq!((sipi.delivery, sipi.vector), (Delivery::StartUp, 0x9a));
        assert!(sipi.hits(3, 8, false) && !sipi.hits(2, 4, false));
    }

    #[test]
    fn logical_targets() {
        let flat = Command::decode(0x8fd, 0b1010, LogicalModel::Flat).unwrap();
        assert!(flat.hits(1, 0b10, false) && flat.hits(3, 0b1000, true) && !flat.hits(0, 1, false));
        let cluster = Command::decode(0x8fd, 0x23, LogicalModel::Cluster).unwrap();
        assert!(cluster.hits(9, 0x22, false) && !cluster.hits(9, 0x12, false));
        let x2 = Command::decode(0x8fd, 0x1_0002, LogicalModel::X2).unwrap();
        assert!(x2.hits(0, 0x1_0002, false) && !x2.hits(0, 2, false));
        assert!(!flat.single());
        assert!(Command::decode(0x9fd, 0b1010, LogicalModel::Flat).unwrap().single());
    }

    #[test]
    fn shorthands_and_refusals() {
        let others = Command::decode(0xc_08fd, 0, LogicalModel::Flat).unwrap();
        assert!(!others.hits(0, 1, true) && others.hits(1, 2, false));
        assert!(Command::decode(0x4_00fd, 9, LogicalModel::Flat).unwrap().hits(0, 1, true));
        assert_eq!(Command::decode(0x200, 0, LogicalModel::Flat), Err(Refusal::Delivery(2)));
        assert_eq!(Command::decode(0x005, 0, LogicalModel::Flat), Err(Refusal::Vector(5)));
        assert!(Command::decode(0x400, 0, LogicalModel::Flat).is_ok(), "NMI needs no vector");
    }

    #[test]
    fn messages() {
        let msi = Command::from_msi(0xfee0_300c, 0x4031, LogicalModel::Flat).unwrap();
        assert_eq!(msi, Command { delivery: Delivery::Fixed, destination: Destination::Flat(3), vector: 0x31 });
        assert!(Command::from_msi(0xfed0_0000, 0x31, LogicalModel::Flat).is_err());
        assert!(Command::from_msi(0xfee0_3010, 0x31, LogicalModel::Flat).is_err(), "remappable");
        assert!(Command::from_msi(0xfee0_0000, 0x531, LogicalModel::Flat).is_err(), "no INIT by message");
    }

    #[test]
    fn lvt_modes() {
        assert!(lvt_allowed(0x2_00ec, false) && lvt_allowed(0x400, false));
        assert!(!lvt_allowed(0x700, false) && lvt_allowed(0x700, true) && lvt_allowed(0x1_0700, false));
        assert!(!lvt_allowed(0x500, true) && !lvt_allowed(0x200, true));
    }
}
