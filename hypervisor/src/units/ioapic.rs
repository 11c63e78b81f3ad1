//! I/O interrupt controllers: each pin belongs to one cell.
//!
//! Pure logic. Accesses of a cell to the register page come in; out comes a value, or the register access to make
//! on the machine. An index register exists for each cell: an access to the machine sets its own index first.
//!
//! Rules
//! * A pin belongs to the non-root cell whose configuration names it, and otherwise to the root cell, if that one's
//!   does. It is masked whenever it changes hands, and when its cell is reset.
//! * A pin of another cell reads as masked, and writes to it are refused.
//! * An entry is followed while it is masked, and checked by the caller whenever it would deliver: vector and target
//!   must be the cell's own.

#[cfg(test)]
mod tests;

use arrayvec::ArrayVec;
use hypervisor_abi::config::CellConfig;

use super::pci::ROOT_CELL;

/// Most controllers.
pub const MAX_CHIPS: usize = 8;
/// Most cells with pins of one controller.
pub const MAX_CELLS: usize = 16;
/// Most pins of one controller: as many as the index register can reach.
pub const MAX_PINS: u8 = 120;

const PAGE: u64 = 0x1000;
const SELECT: u64 = 0x00;
const WINDOW: u64 = 0x10;
const EOI: u64 = 0x40;

const INDEX_VERSION: u8 = 0x01;
const INDEX_ARBITRATION: u8 = 0x02;
const INDEX_ENTRIES: u8 = 0x10;

const MASKED: u64 = 1 << 16;
/// Delivery status and remote IRR: the machine's to say.
const READ_ONLY: u64 = 1 << 12 | 1 << 14;

/// A register of a controller of the machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Register {
    /// Machine address of the controller.
    pub chip: u64,
    /// Index.
    pub index: u8,
}

/// A redirection table entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Entry(pub u64);

impl Entry {
    /// Vector.
    #[must_use]
    pub const fn vector(self) -> u8 {
        self.0 as u8
    }

    /// Delivery mode: 0 fixed, 1 lowest priority, 2 SMI, 4 NMI, 5 INIT, 7 external controller.
    #[must_use]
    pub const fn delivery_mode(self) -> u8 {
        (self.0 >> 8 & 7) as u8
    }

    /// Whether the destination is logical.
    #[must_use]
    pub const fn is_logical(self) -> bool {
        self.0 & 1 << 11 != 0
    }

    /// Whether the line is active low.
    #[must_use]
    pub const fn is_low_active(self) -> bool {
        self.0 & 1 << 13 != 0
    }

    /// Whether the line is level-triggered.
    #[must_use]
    pub const fn is_level(self) -> bool {
        self.0 & 1 << 15 != 0
    }

    /// Whether the entry does not deliver.
    #[must_use]
    pub const fn is_masked(self) -> bool {
        self.0 & MASKED != 0
    }

    /// Whether it names an entry of a remapping table instead of a target.
    #[must_use]
    pub const fn is_remappable(self) -> bool {
        self.0 & 1 << 48 != 0
    }

    /// Destination.
    #[must_use]
    pub const fn destination(self) -> u8 {
        (self.0 >> 56) as u8
    }
}

/// What a read gives.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Read {
    /// This value.
    Value(u32),
    /// What the register of the machine gives.
    Register(Register),
}

/// What becomes of a write.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Write {
    /// All is done.
    Done,
    /// Write the register.
    Register {
        /// Register.
        register: Register,
        /// Value.
        value: u32,
    },
    /// If the cell may have interrupts so (vector and targets), write the register; otherwise it is a violation.
    Checked {
        /// Register.
        register: Register,
        /// Value.
        value: u32,
        /// The entry as it will be.
        entry: Entry,
    },
    /// Write the vector to the end-of-interrupt register of the controller.
    Eoi {
        /// Machine address of the controller.
        chip: u64,
        /// Vector.
        vector: u8,
    },
    /// The cell may not do this.
    Deny,
}

/// Why a cell's pins cannot be given to it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AssignError {
    /// Too many controllers, or cells at one.
    NoSpace,
    /// Another non-root cell has one of the pins.
    Busy,
}

/// Access to the registers of the machine.
pub trait Machine {
    /// Reads a register.
    fn read(&mut self, register: Register) -> u32;
    /// Writes a register.
    fn write(&mut self, register: Register, value: u32);
}

#[derive(Clone, Copy, Debug)]
struct Share {
    cell: u32,
    pins: u128,
    index: u8,
}

#[derive(Debug)]
struct Chip {
    address: u64,
    pins: u8,
    /// Entries as their owners wrote them.
    entries: [u64; MAX_PINS as usize],
    shares: ArrayVec<Share, MAX_CELLS>,
}

const fn entry_index(pin: u8) -> u8 {
    INDEX_ENTRIES + 2 * pin
}

impl Chip {
    fn new(address: u64, machine: &mut impl Machine) -> Self {
        let version = machine.read(Register { chip: address, index: INDEX_VERSION });
        let pins = ((version >> 16) as u8).saturating_add(1).min(MAX_PINS);
        let mut chip = Self { address, pins, entries: [MASKED; MAX_PINS as usize], shares: ArrayVec::new() };
        for pin in 0..pins {
            let mut half = |n| u64::from(machine.read(chip.register(entry_index(pin) + n)));
            chip.entries[usize::from(pin)] = half(0) | half(1) << 32;
        }
        chip
    }

    fn register(&self, index: u8) -> Register {
        Register { chip: self.address, index }
    }

    /// Pins of a cell at this moment.
    fn pins_of(&self, cell: u32) -> u128 {
        let own = self.shares.iter().find(|share| share.cell == cell).map_or(0, |share| share.pins);
        let given_away = |share: &&Share| cell == ROOT_CELL && share.cell != ROOT_CELL;
        self.shares.iter().filter(given_away).fold(own, |pins, share| pins & !share.pins)
    }

    fn mask(&mut self, pins: u128, machine: &mut impl Machine) {
        for pin in (0..self.pins).filter(|&pin| pins >> pin & 1 != 0) {
            self.entries[usize::from(pin)] = MASKED;
            machine.write(self.register(entry_index(pin)), MASKED as u32);
            machine.write(self.register(entry_index(pin) + 1), 0);
        }
    }

    /// The pin behind an index, and which half of its entry, if the controller has it.
    fn pin(&self, index: u8) -> Option<(u8, u32)> {
        let n = index.checked_sub(INDEX_ENTRIES)?;
        (n / 2 < self.pins).then_some((n / 2, u32::from(n & 1) * 32))
    }

    fn read_window(&self, cell: u32, index: u8) -> Read {
        match self.pin(index) {
            Some((pin, _)) if self.pins_of(cell) >> pin & 1 != 0 => Read::Register(self.register(index)),
            Some((_, half)) => Read::Value((MASKED >> half) as u32),
            None if index <= INDEX_ARBITRATION => Read::Register(self.register(index)),
            None => Read::Value(u32::MAX),
        }
    }

    fn write_window(&mut self, cell: u32, index: u8, value: u32) -> Write {
        let register = self.register(index);
        let Some((pin, half)) = self.pin(index) else {
            // Its id is the only other register that can be written.
            let allowed = index == 0 && cell == ROOT_CELL;
            return if allowed { Write::Register { register, value } } else { Write::Deny };
        };
        if self.pins_of(cell) >> pin & 1 == 0 {
            // Masking what is masked for this cell anyway is what a driver does that masks all pins.
            let harmless = half != 0 || value & MASKED as u32 != 0;
            return if harmless { Write::Done } else { Write::Deny };
        }
        let entry = &mut self.entries[usize::from(pin)];
        *entry = *entry & !(0xffff_ffff << half) | u64::from(value) << half;
        let entry = Entry(*entry & !READ_ONLY);
        if entry.is_masked() { Write::Register { register, value } } else { Write::Checked { register, value, entry } }
    }

    fn eoi(&self, cell: u32, vector: u8) -> Write {
        let pins = self.pins_of(cell);
        let mine = (0..self.pins).filter(|&pin| pins >> pin & 1 != 0);
        let has = mine.map(|pin| Entry(self.entries[usize::from(pin)])).any(|entry| entry.vector() == vector);
        if has { Write::Eoi { chip: self.address, vector } } else { Write::Done }
    }
}

/// All controllers.
#[derive(Debug, Default)]
pub struct Ioapics {
    chips: ArrayVec<Chip, MAX_CHIPS>,
}

impl Ioapics {
    /// Without any.
    #[must_use]
    pub const fn new() -> Self {
        Self { chips: ArrayVec::new_const() }
    }

    /// Gives a new cell its pins, masked; those of the root cell go on as they are. On an error it has none.
    pub fn attach_cell(
        &mut self,
        cell_id: u32,
        cell: &CellConfig<'_>,
        machine: &mut impl Machine,
    ) -> Result<(), AssignError> {
        let result = self.try_attach(cell_id, cell, machine);
        if result.is_err() {
            self.detach_cell(cell_id, machine);
        }
        result
    }

    fn try_attach(
        &mut self,
        cell_id: u32,
        cell: &CellConfig<'_>,
        machine: &mut impl Machine,
    ) -> Result<(), AssignError> {
        for config in cell.irqchips() {
            let address = config.address.get();
            let chip = match self.chips.iter().position(|chip| chip.address == address) {
                Some(at) => &mut self.chips[at],
                None => {
                    let chip = Chip::new(address, machine);
                    self.chips.try_push(chip).map_err(|_| AssignError::NoSpace)?;
                    let last = self.chips.len() - 1;
                    &mut self.chips[last]
                }
            };
            let pins =
                (0..chip.pins).filter(|&pin| config.owns_pin(pin.into())).fold(0, |pins, pin| pins | 1u128 << pin);
            if cell_id != ROOT_CELL {
                let others = |share: &&Share| share.cell != ROOT_CELL && share.cell != cell_id;
                if chip.shares.iter().filter(others).any(|share| share.pins & pins != 0) {
                    return Err(AssignError::Busy);
                }
                chip.mask(pins, machine);
            }
            // Two records of one controller add up: one has at most 128 pins.
            match chip.shares.iter_mut().find(|share| share.cell == cell_id) {
                Some(share) => share.pins |= pins,
                None => {
                    let share = Share { cell: cell_id, pins, index: 0 };
                    chip.shares.try_push(share).map_err(|_| AssignError::NoSpace)?;
                }
            }
        }
        Ok(())
    }

    /// Takes a cell's pins away: masked, they go back to the root cell.
    pub fn detach_cell(&mut self, cell_id: u32, machine: &mut impl Machine) {
        for chip in &mut self.chips {
            if cell_id != ROOT_CELL {
                chip.mask(chip.pins_of(cell_id), machine);
            }
            chip.shares.retain(|share| share.cell != cell_id);
        }
        self.chips.retain(|chip| !chip.shares.is_empty());
    }

    /// Masks all pins of a cell before it starts; the root cell never does.
    pub fn reset_cell(&mut self, cell_id: u32, machine: &mut impl Machine) {
        if cell_id == ROOT_CELL {
            return;
        }
        for chip in &mut self.chips {
            chip.mask(chip.pins_of(cell_id), machine);
        }
    }

    fn locate(&mut self, cell_id: u32, address: u64) -> Option<(&mut Chip, usize, u64)> {
        let chip = self.chips.iter_mut().find(|chip| address & !(PAGE - 1) == chip.address)?;
        let share = chip.shares.iter().position(|share| share.cell == cell_id)?;
        let offset = address - chip.address;
        Some((chip, share, offset))
    }

    /// A cell reads at guest-physical `address`; `None` if it has no controller there.
    pub fn read(&mut self, cell_id: u32, address: u64, size: u8) -> Option<Read> {
        let (chip, share, offset) = self.locate(cell_id, address)?;
        let index = chip.shares[share].index;
        Some(match (offset, size) {
            (SELECT, 1 | 4) => Read::Value(index.into()),
            (WINDOW, 4) => chip.read_window(cell_id, index),
            _ => Read::Value(0),
        })
    }

    /// A cell writes at guest-physical `address`; `None` if it has no controller there.
    pub fn write(&mut self, cell_id: u32, address: u64, size: u8, value: u32) -> Option<Write> {
        let (chip, share, offset) = self.locate(cell_id, address)?;
        Some(match (offset, size) {
            (SELECT, 1 | 4) => {
                chip.shares[share].index = value as u8;
                Write::Done
            }
            (WINDOW, 4) => chip.write_window(cell_id, chip.shares[share].index, value),
            (EOI, 1 | 4) => chip.eoi(cell_id, value as u8),
            _ => Write::Deny,
        })
    }
}
