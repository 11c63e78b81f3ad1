//! One test a promise.

use hypervisor_abi::ivshmem::{cfg, doorbell, msix, reg, vendor_cap};
use proptest::prelude::*;

use super::*;

mod life;

const TABLE: u64 = 0x541f_f000;
const ROOT: u32 = 0;
const RT: u32 = 1;
const BDF: u16 = 0x70;

fn setup(owner: u32, id: u8, peers: u8) -> PeerSetup {
    PeerSetup {
        iommu: 0,
        owner,
        domain: 0,
        bdf: BDF,
        id,
        peers,
        protocol: 0x4372,
        vectors: 2,
        bar_mask: [0xffff_f000; 2],
        table: TABLE,
        table_size: 0x1000,
        rw_size: 0x1000_0000,
        output_size: 0x80_0000,
        base: 0x41f_f000 + 0x5000_0000 * u64::from(owner == ROOT),
        memory_mask: 0,
    }
}

/// Links with the actions that they asked for.
struct Bench {
    links: Links,
    done: Vec<Action>,
}

impl Bench {
    fn new(peers: u8) -> Self {
        let mut bench = Self { links: Links::new(), done: Vec::new() };
        for id in 0..peers {
            bench.attach(&setup(id.into(), id, peers)).unwrap();
        }
        assert_eq!(bench.take(), [Action::ClearStateTable { table: TABLE, size: 0x1000 }]);
        bench
    }

    fn attach(&mut self, setup: &PeerSetup) -> Result<(), AttachError> {
        self.links.attach(setup, &mut |action| self.done.push(action))
    }

    fn take(&mut self) -> Vec<Action> {
        std::mem::take(&mut self.done)
    }

    fn config_read(&mut self, owner: u32, offset: u16, size: u8) -> u32 {
        let (link, id) = self.links.function(owner, BDF).unwrap();
        link.config_read(id, offset, size)
    }

    fn config_write(&mut self, owner: u32, offset: u16, size: u8, value: u32) {
        let (link, id) = self.links.function(owner, BDF).unwrap();
        link.config_write(id, offset, size, value, &mut |action| self.done.push(action));
    }

    fn write(&mut self, owner: u32, register: u32, value: u32) {
        let address = base(owner) + u64::from(register);
        assert!(self.links.write(owner, address, 4, value.into(), &mut |action| self.done.push(action)));
    }

    fn read(&mut self, owner: u32, register: u32) -> u32 {
        self.links.read(owner, base(owner) + u64::from(register), 4).unwrap() as u32
    }

    fn write_table(&mut self, owner: u32, offset: u32, size: u8, value: u64) {
        let address = base(owner) + 0x1000 + u64::from(offset);
        assert!(self.links.write(owner, address, size, value, &mut |action| self.done.push(action)));
    }

    /// What a driver does: BARs, decoding, bus master, MSI-X, both vectors, interrupts on.
    fn start(&mut self, owner: u32) {
        self.config_write(owner, cfg::BAR0, 4, base(owner) as u32);
        self.config_write(owner, cfg::BAR1, 4, base(owner) as u32 + 0x1000);
        self.config_write(owner, cfg::COMMAND, 2, (cfg::COMMAND_MEMORY | cfg::COMMAND_MASTER).into());
        self.config_write(owner, cfg::MSIX_CAP + msix::CONTROL, 2, msix::CONTROL_ENABLE.into());
        for vector in 0..2 {
            self.write_table(owner, vector * 16, 8, message(owner).0);
            self.write_table(owner, vector * 16 + 8, 8, (message(owner).1 + vector).into());
        }
        self.write(owner, reg::INT_CONTROL, 1);
        self.take();
    }

    fn notified(&mut self) -> Vec<(u32, u32)> {
        let mut all = Vec::new();
        for action in self.take() {
            if let Action::Notify { owner, address, data, .. } = action {
                assert_eq!(address, message(owner).0);
                all.push((owner, data));
            }
        }
        all
    }
}

fn base(owner: u32) -> u64 {
    0xf000_0000 + u64::from(owner) * 0x10_0000
}

fn message(owner: u32) -> (u64, u32) {
    (0xfee0_0000 | u64::from(owner) << 12, 0x40 + owner * 0x10)
}

#[test]
fn the_function_looks_as_specified() {
    let mut b = Bench::new(2);
    assert_eq!(b.config_read(RT, 0x00, 4), 0x4106_110a);
    assert_eq!(b.config_read(RT, 0x04, 4), 0x0010_0000);
    assert_eq!(b.config_read(RT, 0x08, 4), 0xff43_7200);
    assert_eq!(b.config_read(RT, 0x0c, 4), 0);
    assert_eq!(b.config_read(RT, 0x2c, 4), 0x4106_110a);
    assert_eq!(b.config_read(RT, 0x34, 1), 0x40);
    assert_eq!(b.config_read(RT, 0x3d, 1), 0);
    assert_eq!(b.config_read(RT, 0x40, 4), 0x0020_6009);
    assert_eq!(b.config_read(RT, 0x44, 4), 0x1000);
    assert_eq!((b.config_read(RT, 0x48, 4), b.config_read(RT, 0x4c, 4)), (0x1000_0000, 0));
    assert_eq!((b.config_read(RT, 0x50, 4), b.config_read(RT, 0x54, 4)), (0x80_0000, 0));
    assert_eq!((b.config_read(RT, 0x58, 4), b.config_read(RT, 0x5c, 4)), (0x41f_f000, 0));
    assert_eq!(b.config_read(ROOT, 0x58, 4), 0x541f_f000);
    assert_eq!(b.config_read(RT, 0x60, 4), 0x0001_0011);
    assert_eq!((b.config_read(RT, 0x64, 4), b.config_read(RT, 0x68, 4)), (1, 0x101));
    assert_eq!(b.config_read(RT, 0x80, 4), u32::MAX);
    assert_eq!(b.config_read(RT, 0x100, 2), 0xffff);
    assert_eq!((b.config_read(RT, 0x01, 1), b.config_read(RT, 0x02, 2)), (0x11, 0x4106));
    assert_eq!(b.config_read(RT, 0x03, 2), 0xffff);
}

#[test]
fn without_vectors_it_has_a_pin() {
    let mut b = Bench { links: Links::new(), done: Vec::new() };
    b.attach(&PeerSetup { vectors: 0, bar_mask: [0xffff_f000, 0], ..setup(RT, 1, 2) }).unwrap();
    assert_eq!(b.config_read(RT, 0x3d, 1), 3);
    assert_eq!(b.config_read(RT, 0x41, 1), 0);
    assert_eq!(b.config_read(RT, 0x60, 4), 0);
    b.config_write(RT, cfg::BAR1, 4, u32::MAX);
    assert_eq!(b.config_read(RT, cfg::BAR1, 4), 0);
}

#[test]
fn bars_can_be_sized_and_moved() {
    let mut b = Bench::new(2);
    for bar in [cfg::BAR0, cfg::BAR1] {
        b.config_write(RT, bar, 4, u32::MAX);
        assert_eq!(b.config_read(RT, bar, 4), 0xffff_f000);
    }
    b.config_write(RT, cfg::BAR2, 4, u32::MAX);
    assert_eq!(b.config_read(RT, cfg::BAR2, 4), 0);
    b.config_write(RT, cfg::COMMAND, 2, 0xffff);
    assert_eq!(b.config_read(RT, cfg::COMMAND, 2), 0x406);
    assert_eq!(b.take(), [], "a sizing value opens no window");

    let map = |address| Action::MapBar { owner: RT, address, size: 0x1000 };
    let unmap = |address| Action::UnmapBar { owner: RT, address, size: 0x1000 };
    b.config_write(RT, cfg::BAR0, 4, 0xf000_0000);
    assert_eq!(b.take(), [map(0xf000_0000)]);
    b.config_write(RT, cfg::BAR1, 4, 0xf000_1000);
    assert_eq!(b.take(), [map(0xf000_1000)]);
    assert_eq!(b.links.read(RT, 0xf000_0000, 4), Some(1));
    assert_eq!(b.links.read(RT, 0xf000_2000, 4), None);
    assert_eq!(b.links.read(ROOT, 0xf000_0000, 4), None, "the other cell's function has its own windows");
    b.config_write(RT, cfg::BAR0, 4, 0xf100_0000);
    assert_eq!(b.take(), [unmap(0xf000_0000), map(0xf100_0000)]);
    b.config_write(RT, cfg::COMMAND, 2, 0);
    assert_eq!(b.take(), [unmap(0xf100_0000), unmap(0xf000_1000)]);
    assert_eq!(b.links.read(RT, 0xf100_0000, 4), None);
    // One byte at a time is fine too.
    b.config_write(RT, cfg::BAR0 + 3, 1, 0xe0);
    assert_eq!(b.config_read(RT, cfg::BAR0, 4), 0xe000_0000);
}

#[test]
fn memory_is_shown_by_bar_2_and_does_not_move() {
    const ROOM: u64 = 1 << 29;
    const ADDRESS: u64 = 0x1_4000_0000;
    let mut b = Bench { links: Links::new(), done: Vec::new() };
    b.attach(&PeerSetup { base: ADDRESS, memory_mask: !(ROOM - 1), ..setup(RT, 1, 2) }).unwrap();
    b.attach(&setup(ROOT, 0, 2)).unwrap();
    b.take();
    assert_eq!((b.config_read(RT, 0x40, 4), b.config_read(ROOT, 0x40, 4)), (0x0018_6009, 0x0020_6009));
    assert_eq!((b.config_read(RT, 0x58, 4), b.config_read(RT, 0x5c, 4)), (0, 0), "no base address");
    assert_eq!((b.config_read(RT, 0x50, 4), b.config_read(RT, 0x60, 1)), (0x80_0000, 0x11), "the rest is as it was");
    let bar = |b: &mut Bench| (b.config_read(RT, cfg::BAR2, 4), b.config_read(RT, cfg::BAR3, 4));
    let set = |b: &mut Bench, low, high| {
        b.config_write(RT, cfg::BAR2, 4, low);
        b.config_write(RT, cfg::BAR3, 4, high);
    };
    assert_eq!(bar(&mut b), (0x4000_000c, 1), "preset");
    b.config_write(RT, cfg::COMMAND, 2, cfg::COMMAND_MEMORY.into());
    set(&mut b, u32::MAX, u32::MAX);
    assert_eq!(bar(&mut b), (0xe000_000c, u32::MAX), "size");
    set(&mut b, 0x7fff_ffff, 5);
    assert_eq!(bar(&mut b), (0x6000_000c, 5), "elsewhere");
    b.config_write(RT, cfg::BAR2 + 3, 1, 0x20);
    assert_eq!(bar(&mut b), (0x2000_000c, 5), "a byte");
    set(&mut b, 0x4000_000c, 1);
    assert_eq!(bar(&mut b), (0x4000_000c, 1), "back");
    set(&mut b, 0, 0);
    b.links.reset_cell(RT, &mut |action| b.done.push(action));
    assert_eq!(bar(&mut b), (0x4000_000c, 1), "preset anew");
    assert_eq!(b.take(), [], "nothing of this is a window");
    assert_eq!(b.links.read(RT, ADDRESS, 4), None, "memory, no registers");
}

#[test]
fn registers_read_as_specified() {
    let mut b = Bench::new(2);
    b.start(RT);
    assert_eq!((b.read(RT, reg::ID), b.read(RT, reg::MAX_PEERS)), (1, 2));
    assert_eq!((b.read(RT, reg::INT_CONTROL), b.read(RT, reg::STATE)), (1, 0));
    b.write(RT, reg::ID, 7);
    b.write(RT, 0x14, 7);
    b.write(RT, 0xffc, 7);
    assert_eq!((b.read(RT, reg::ID), b.read(RT, 0x14), b.read(RT, 0xffc)), (1, 0, 0));
    b.write(RT, reg::INT_CONTROL, 0xffff_fffe);
    assert_eq!(b.read(RT, reg::INT_CONTROL), 0);
    // Odd accesses read 0 and write nothing.
    assert_eq!(b.links.read(RT, base(RT), 8), Some(0));
    assert_eq!(b.links.read(RT, base(RT) + 1, 4), Some(0));
    assert!(b.links.write(RT, base(RT) + 0x10, 1, 9, &mut |_| panic!("nothing to do")));
    assert_eq!(b.read(RT, reg::STATE), 0);
}

#[test]
fn a_new_state_is_published_and_told_to_all_others_once() {
    let mut b = Bench::new(3);
    (0..3).for_each(|owner| b.start(owner));
    b.write(RT, reg::STATE, 5);
    assert_eq!(b.done[0], Action::WriteStateTable { table: TABLE, index: 1, value: 5 }, "table first");
    assert_eq!(b.notified(), [(0, 0x40), (2, 0x60)]);
    assert_eq!(b.read(RT, reg::STATE), 5);
    b.write(RT, reg::STATE, 5);
    assert_eq!(b.take(), []);
    b.write(RT, reg::STATE, 0);
    assert_eq!(b.notified().len(), 2);
}

#[test]
fn a_doorbell_rings_the_vector_of_the_target() {
    let mut b = Bench::new(2);
    b.start(ROOT);
    b.start(RT);
    b.write(RT, reg::DOORBELL, doorbell(0, 1));
    assert_eq!(b.notified(), [(ROOT, 0x41)]);
    b.write(ROOT, reg::DOORBELL, doorbell(1, 0));
    assert_eq!(b.notified(), [(RT, 0x50)]);
    for nobody in
        [doorbell(0, 2), doorbell(0, 16), doorbell(0, 0xffff), doorbell(2, 0), doorbell(12, 0), doorbell(0x101, 0)]
    {
        b.write(RT, reg::DOORBELL, nobody);
        assert_eq!(b.take(), [], "{nobody:#x}");
    }
    assert_eq!(b.read(RT, reg::DOORBELL), 0);
}

#[test]
fn every_switch_can_hold_an_interrupt_back_and_nothing_is_pending() {
    type Step = fn(&mut Bench);
    let cases: [(Step, Step); 5] = [
        (|b| b.write(ROOT, reg::INT_CONTROL, 0), |b| b.write(ROOT, reg::INT_CONTROL, 1)),
        (|b| b.config_write(ROOT, cfg::COMMAND, 2, 2), |b| b.config_write(ROOT, cfg::COMMAND, 2, 6)),
        (|b| b.config_write(ROOT, 0x62, 2, 0), |b| b.config_write(ROOT, 0x62, 2, 0x8000)),
        (|b| b.config_write(ROOT, 0x62, 2, 0xc000), |b| b.config_write(ROOT, 0x62, 2, 0x8000)),
        (|b| b.write_table(ROOT, 0x1c, 4, 1), |b| b.write_table(ROOT, 0x1c, 4, 0)),
    ];
    for (number, (close, open)) in cases.into_iter().enumerate() {
        let mut b = Bench::new(2);
        b.start(ROOT);
        b.start(RT);
        close(&mut b);
        b.write(RT, reg::DOORBELL, doorbell(0, 1));
        assert_eq!(b.take(), [], "case {number}");
        open(&mut b);
        assert_eq!(b.take(), [], "nothing was kept, case {number}");
        b.write(RT, reg::DOORBELL, doorbell(0, 1));
        assert_eq!(b.notified(), [(ROOT, 0x41)], "case {number}");
    }
}

#[test]
fn one_shot_switches_interrupts_off_at_delivery_only() {
    let mut b = Bench::new(2);
    b.start(ROOT);
    b.start(RT);
    b.config_write(ROOT, cfg::VENDOR_CAP + vendor_cap::CONTROL, 1, 0xff);
    assert_eq!(b.config_read(ROOT, 0x43, 1), 1);
    b.write_table(ROOT, 0x1c, 4, 1);
    b.write(RT, reg::DOORBELL, doorbell(0, 1));
    assert_eq!(b.read(ROOT, reg::INT_CONTROL), 1, "not delivered, so not used up");
    b.write(RT, reg::DOORBELL, doorbell(0, 0));
    assert_eq!((b.notified().len(), b.read(ROOT, reg::INT_CONTROL)), (1, 0));
    b.write(RT, reg::DOORBELL, doorbell(0, 0));
    assert_eq!(b.take(), []);
    b.write(ROOT, reg::INT_CONTROL, 1);
    b.write(RT, reg::DOORBELL, doorbell(0, 0));
    assert_eq!(b.notified().len(), 1);
    // The rest of the vendor capability is read-only.
    b.config_write(ROOT, 0x40, 4, 0);
    b.config_write(ROOT, 0x44, 4, 0);
    assert_eq!((b.config_read(ROOT, 0x40, 4), b.config_read(ROOT, 0x44, 4)), (0x0020_6009, 0x1000));
}

#[test]
fn the_msix_table_reads_back_and_has_no_pending_bits() {
    let mut b = Bench::new(2);
    b.config_write(RT, cfg::BAR1, 4, base(RT) as u32 + 0x1000);
    b.config_write(RT, cfg::COMMAND, 2, 2);
    b.take();
    let at = base(RT) + 0x1000;
    assert_eq!(b.links.read(RT, at + 12, 4), Some(1), "masked after reset");
    b.write_table(RT, 0, 4, 0xfee0_0003);
    b.write_table(RT, 4, 4, 0x1);
    b.write_table(RT, 8, 4, 0x4041);
    b.write_table(RT, 12, 4, 0xfffe);
    assert_eq!(b.links.read(RT, at, 8), Some(0x1_fee0_0000));
    assert_eq!(b.links.read(RT, at + 8, 8), Some(0x4041));
    b.write_table(RT, 2, 4, u64::MAX);
    b.write_table(RT, 4, 8, u64::MAX);
    b.write_table(RT, 0, 1, u64::MAX);
    assert_eq!(b.links.read(RT, at, 8), Some(0x1_fee0_0000), "odd accesses write nothing");
    for beyond in [0x20, 0x100, 0x1f8, 0xff8] {
        b.write_table(RT, beyond, 8, u64::MAX);
        assert_eq!(b.links.read(RT, at + u64::from(beyond), 8), Some(0), "{beyond:#x}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2_000))]

    /// Whatever two cells write: no panic, interrupts only to cells that are there, and windows are opened and
    /// closed in turns.
    #[test]
    fn hostile_cells(steps in proptest::collection::vec((0u32..2, 0u8..6, 0u32..0x120, 0u8..9, any::<u32>()), 1..60)) {
        let mut b = Bench { links: Links::new(), done: Vec::new() };
        b.attach(&setup(ROOT, 0, 2)).unwrap();
        b.attach(&PeerSetup { base: 0x4000_0000, memory_mask: !0x3fff_ffff, ..setup(RT, 1, 2) }).unwrap();
        b.start(ROOT);
        b.start(RT);
        let mut open: Vec<_> = [ROOT, RT].iter()
            .flat_map(|&owner| [(owner, base(owner)), (owner, base(owner) + 0x1000)]).collect();
        for (owner, kind, offset, size, value) in steps {
            match kind {
                0 => { b.config_read(owner, offset as u16, size); }
                1 => b.config_write(owner, offset as u16, size, value),
                2 => { b.links.read(owner, base(owner) + u64::from(offset) * 16, size); }
                3 => { b.links.write(owner, base(owner) + u64::from(offset), size, value.into(), &mut |a| b.done.push(a)); }
                4 => { b.links.write(owner, base(owner) + 0x1000 + u64::from(offset), size, value.into(), &mut |a| b.done.push(a)); }
                _ => b.links.reset_cell(owner, &mut |a| b.done.push(a)),
            }
            for action in b.take() {
                match action {
                    Action::Notify { owner, peer, .. } => prop_assert!(owner < 2 && u32::from(peer) == owner),
                    Action::WriteStateTable { index, .. } => prop_assert!(index < 2),
                    Action::ClearStateTable { .. } => prop_assert!(false),
                    Action::MapBar { owner, address, size } => {
                        prop_assert!(size == 0x1000 && address % 0x1000 == 0);
                        open.push((owner, address));
                    }
                    Action::UnmapBar { owner, address, .. } => {
                        let at = open.iter().position(|&window| window == (owner, address));
                        prop_assert!(at.is_some());
                        open.swap_remove(at.unwrap());
                    }
                }
            }
        }
    }
}
