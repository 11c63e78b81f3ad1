//! Interrupt remapping as VT-d does it, for emulated devices of the root cell: Linux writes the number of an entry of its table into
//! their messages, and nobody but us is there to look it up.
//!
//! Intel Virtualization Technology for Directed I/O, "Interrupt Remapping": remappable format, IRTE, IRTA_REG.

use super::icr::{Command, Delivery, Destination, LogicalModel};

/// Bytes of an entry.
const ENTRY: u64 = 16;

/// Whether a message names an entry instead of a target.
#[must_use]
pub const fn is_remappable(address: u64) -> bool {
    address >> 20 == 0xfee && address & 1 << 4 != 0
}

/// The entry that a remappable message names.
#[must_use]
pub const fn index(address: u64, data: u32) -> u32 {
    let handle = (address >> 5 & 0x7fff) as u32 | ((address >> 2 & 1) as u32) << 15;
    let subhandle = if address & 1 << 3 != 0 { data & 0xffff } else { 0 };
    handle + subhandle
}

/// A unit's table, as the register says that holds its address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Table(u64);

impl Table {
    /// From IRTA_REG.
    #[must_use]
    pub const fn new(register: u64) -> Self {
        Self(register)
    }

    /// Address of an entry, if the table has it.
    #[must_use]
    pub const fn entry(self, index: u32) -> Option<u64> {
        let count = 2u32 << (self.0 & 0xf);
        if index < count { Some((self.0 & !0xfff) + index as u64 * ENTRY) } else { None }
    }

    /// What an entry (its low half) stands for.
    #[must_use]
    pub const fn command(self, entry: u64, model: LogicalModel) -> Option<Command> {
        let present = entry & 1 != 0;
        let posted = entry & 1 << 15 != 0;
        let delivery = match entry >> 5 & 7 {
            0 => Delivery::Fixed,
            1 => Delivery::Lowest,
            _ => return None,
        };
        let vector = (entry >> 16) as u8;
        if !present || posted || vector < 16 {
            return None;
        }
        let extended = self.0 & 1 << 11 != 0;
        let target = if extended { (entry >> 32) as u32 } else { (entry >> 40) as u32 & 0xff };
        let destination = match (entry & 1 << 2 != 0, model) {
            (false, _) => Destination::Physical(target),
            (true, LogicalModel::Flat) => Destination::Flat(target as u8),
            (true, LogicalModel::Cluster) => Destination::Cluster(target as u8),
            (true, LogicalModel::X2) => Destination::X2Logical(target),
        };
        Some(Command { delivery, destination, vector })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_name_entries() {
        assert!(is_remappable(0xfee0_0010) && !is_remappable(0xfee0_0000) && !is_remappable(0xfed0_0010));
        // Handle 0x8003: bits 5.. and bit 2; the second message of a device that was given several.
        assert_eq!(index(0xfee0_0010 | 3 << 5 | 1 << 2, 7), 0x8003);
        assert_eq!(index(0xfee0_0010 | 3 << 5 | 1 << 3, 7), 10);
    }

    #[test]
    fn entries_are_looked_up_inside_the_table() {
        let table = Table::new(0x1_2345_6000 | 1 << 11 | 3);
        assert_eq!(table.entry(0), Some(0x1_2345_6000));
        assert_eq!(table.entry(15), Some(0x1_2345_60f0));
        assert_eq!(table.entry(16), None);
        assert_eq!(Table::new(0xf).entry(0xffff), Some(0xf_fff0));
    }

    #[test]
    fn entries_say_vector_and_target() {
        let wide = Table::new(1 << 11);
        let fixed = |destination| Some(Command { delivery: Delivery::Fixed, destination, vector: 0x31 });
        assert_eq!(wide.command(0x0001_0002_0031_0005, LogicalModel::X2), fixed(Destination::X2Logical(0x1_0002)));
        assert_eq!(wide.command(0x0000_0103_0031_0001, LogicalModel::X2), fixed(Destination::Physical(0x103)));
        assert_eq!(Table::new(0).command(0x0000_0300_0031_0001, LogicalModel::Flat), fixed(Destination::Physical(3)));
        for refused in [0x0031_0000, 0x0031_8001, 0x000f_0001, 0x0031_0081, 0x0031_00a1] {
            assert_eq!(wide.command(refused, LogicalModel::X2), None, "{refused:#x}");
        }
    }
}
