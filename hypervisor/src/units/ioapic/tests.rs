//! Who has which pin.

use hypervisor_abi::config::{CellParts, IrqChip};
use proptest::prelude::*;
use std::collections::HashMap;

use super::*;

const CHIP: u64 = 0xfec0_0000;
const RT: u32 = 1;

/// A controller with 24 pins.
#[derive(Default)]
struct Fake {
    registers: HashMap<u8, u32>,
}

impl Machine for Fake {
    fn read(&mut self, register: Register) -> u32 {
        assert_eq!(register.chip, CHIP);
        match register.index {
            INDEX_VERSION => 0x0017_0020,
            index => self.registers.get(&index).copied().unwrap_or(0),
        }
    }

    fn write(&mut self, register: Register, value: u32) {
        self.registers.insert(register.index, value);
    }
}

fn config(pins: u128) -> Vec<u8> {
    let chips = [IrqChip::new(CHIP, 0, pins)];
    let parts = CellParts { name: "cell", cpu_set: &[1], irqchips: &chips, ..CellParts::default() };
    let mut out = vec![0; parts.size()];
    parts.write(&mut out).unwrap();
    out
}

struct Bench {
    chips: Ioapics,
    machine: Fake,
}

impl Bench {
    fn new() -> Self {
        let mut machine = Fake::default();
        // Linux uses pins 4, 9 and 10.
        for (pin, entry) in [(4, 0x21), (9, 0xa022), (10, 0xa023)] {
            machine.registers.insert(entry_index(pin), entry);
        }
        let mut bench = Self { chips: Ioapics::new(), machine };
        bench.attach(ROOT_CELL, 0xff_ffff).unwrap();
        bench
    }

    fn attach(&mut self, cell: u32, pins: u128) -> Result<(), AssignError> {
        let bytes = config(pins);
        self.chips.attach_cell(cell, &CellConfig::parse(&bytes).unwrap(), &mut self.machine)
    }

    fn put(&mut self, cell: u32, index: u8, value: u32) -> Write {
        assert_eq!(self.chips.write(cell, CHIP, 4, index.into()), Some(Write::Done));
        self.chips.write(cell, CHIP + 0x10, 4, value).unwrap()
    }

    fn get(&mut self, cell: u32, index: u8) -> Read {
        assert_eq!(self.chips.write(cell, CHIP, 4, index.into()), Some(Write::Done));
        self.chips.read(cell, CHIP + 0x10, 4).unwrap()
    }
}

fn register(index: u8) -> Register {
    Register { chip: CHIP, index }
}

#[test]
fn the_root_cell_goes_on_as_before() {
    let mut b = Bench::new();
    assert_eq!(b.machine.registers[&entry_index(4)], 0x21, "untouched");
    assert_eq!(b.get(ROOT_CELL, entry_index(4)), Read::Register(register(0x18)));
    assert_eq!(b.get(ROOT_CELL, 1), Read::Register(register(1)));
    assert_eq!(b.put(ROOT_CELL, 0, 5 << 24), Write::Register { register: register(0), value: 5 << 24 });
    let unmasked = Write::Checked { register: register(0x18), value: 0x31, entry: Entry(0x31) };
    assert_eq!(b.put(ROOT_CELL, 0x18, 0x31), unmasked);
    assert_eq!(b.put(ROOT_CELL, 0x18, 0x1_0031), Write::Register { register: register(0x18), value: 0x1_0031 });
    assert_eq!(b.chips.write(ROOT_CELL, CHIP + 0x40, 4, 0x22), Some(Write::Eoi { chip: CHIP, vector: 0x22 }));
}

#[test]
fn an_entry_is_checked_as_a_whole_when_it_would_deliver() {
    let mut b = Bench::new();
    b.attach(RT, 1 << 10).unwrap();
    assert_eq!(b.put(RT, 0x25, 3 << 24), Write::Register { register: register(0x25), value: 3 << 24 });
    let entry = Entry(3 << 56 | 0xa02a);
    assert_eq!(b.put(RT, 0x24, 0xa02a), Write::Checked { register: register(0x24), value: 0xa02a, entry });
    assert_eq!((entry.vector(), entry.destination(), entry.delivery_mode()), (0x2a, 3, 0));
    assert!(entry.is_level() && entry.is_low_active() && !entry.is_logical() && !entry.is_masked());
    let moved = Entry(0xa02a);
    assert_eq!(b.put(RT, 0x25, 0), Write::Checked { register: register(0x25), value: 0, entry: moved });
}

#[test]
fn pins_change_hands_masked() {
    let mut b = Bench::new();
    b.attach(RT, 1 << 10).unwrap();
    assert_eq!(b.machine.registers[&entry_index(10)], 0x1_0000);
    assert_eq!(b.machine.registers[&entry_index(9)], 0xa022);
    assert_eq!(b.attach(2, 3 << 9), Err(AssignError::Busy));
    assert_eq!(b.machine.registers[&entry_index(9)], 0xa022, "nothing was taken");
    // The root cell sees the pin as masked and may mask it, no more.
    assert_eq!(b.get(ROOT_CELL, 0x24), Read::Value(0x1_0000));
    assert_eq!(b.get(ROOT_CELL, 0x25), Read::Value(0));
    assert_eq!(b.put(ROOT_CELL, 0x24, 0x1_0000), Write::Done);
    assert_eq!(b.put(ROOT_CELL, 0x24, 0x23), Write::Deny);
    // And the cell sees only its own.
    assert_eq!(b.get(RT, 0x24), Read::Register(register(0x24)));
    assert_eq!(b.get(RT, 0x22), Read::Value(0x1_0000));
    assert_eq!(b.put(RT, 0x22, 0x23), Write::Deny);
    assert_eq!(b.put(RT, 0, 0), Write::Deny);
    b.machine.registers.insert(0x24, 0x2a);
    b.chips.reset_cell(RT, &mut b.machine);
    assert_eq!(b.machine.registers[&0x24], 0x1_0000);
    b.machine.registers.insert(0x24, 0x2a);
    b.chips.detach_cell(RT, &mut b.machine);
    assert_eq!(b.machine.registers[&0x24], 0x1_0000);
    assert_eq!(b.get(ROOT_CELL, 0x24), Read::Register(register(0x24)));
    assert!(matches!(b.put(ROOT_CELL, 0x24, 0xa023), Write::Checked { .. }));
}

#[test]
fn each_cell_has_its_own_index() {
    let mut b = Bench::new();
    b.attach(RT, 1 << 10).unwrap();
    b.chips.write(ROOT_CELL, CHIP, 4, 0x18);
    b.chips.write(RT, CHIP, 4, 0x24);
    assert_eq!(b.chips.read(ROOT_CELL, CHIP, 4), Some(Read::Value(0x18)));
    assert_eq!(b.chips.read(ROOT_CELL, CHIP + 0x10, 4), Some(Read::Register(register(0x18))));
    assert_eq!(b.chips.read(RT, CHIP + 0x10, 4), Some(Read::Register(register(0x24))));
}

#[test]
fn who_has_no_pins_has_no_controller() {
    let mut b = Bench::new();
    assert_eq!(b.chips.read(RT, CHIP, 4), None);
    assert_eq!(b.chips.read(ROOT_CELL, CHIP + 0x1000, 4), None);
    assert_eq!(b.chips.write(RT, CHIP, 4, 0), None);
    b.chips.detach_cell(ROOT_CELL, &mut b.machine);
    assert_eq!(b.chips.read(ROOT_CELL, CHIP, 4), None);
}

#[test]
fn an_eoi_is_for_own_vectors() {
    let mut b = Bench::new();
    b.attach(RT, 1 << 10).unwrap();
    b.put(RT, 0x24, 0xa02a);
    assert_eq!(b.chips.write(RT, CHIP + 0x40, 4, 0x2a), Some(Write::Eoi { chip: CHIP, vector: 0x2a }));
    assert_eq!(b.chips.write(RT, CHIP + 0x40, 4, 0x22), Some(Write::Done));
}

proptest! {
    /// No write of one cell reaches a pin of the other.
    #[test]
    fn cells_stay_apart(pins in 0u128..1 << 24, steps in proptest::collection::vec((any::<bool>(), 0u64..0x60, 0u8..9, any::<u32>()), 1..80)) {
        let mut b = Bench::new();
        b.attach(RT, pins).unwrap();
        for (root, offset, size, value) in steps {
            let cell = if root { ROOT_CELL } else { RT };
            let Some(Read::Register(_) | Read::Value(_)) = b.chips.read(cell, CHIP + offset, size) else {
                prop_assert!(false);
                continue;
            };
            match b.chips.write(cell, CHIP + offset, size, value).unwrap() {
                Write::Register { register, .. } | Write::Checked { register, .. } if register.index >= 0x10 => {
                    let pin = (register.index - 0x10) / 2;
                    prop_assert!(pin < 24);
                    prop_assert_eq!(pins >> pin & 1 != 0, cell == RT);
                }
                Write::Register { register, .. } => prop_assert!(register.index == 0 && cell == ROOT_CELL),
                _ => {}
            }
        }
    }
}
