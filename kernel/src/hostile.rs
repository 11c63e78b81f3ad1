//! Random kernel calls by threads that hold a bit of everything: nothing panics, and when all of it is revoked, nothing is left.

use crate::arch;
use crate::cap::Slot;
use crate::cap::delete::{Progress, reap_step, revoke_step};
use crate::message::fastpath;
use crate::object::Thread;
use crate::object::irq::FIRST_VECTOR;
use crate::object::thread::State;
use crate::random::Random;
use crate::rig::{MEMORY, Rig};
use crate::{call, fault, sched};
use ipc::calls::CALLS;
use ipc::{Call, ObjectType};

/// Slots of the hostile threads' own table.
const SLOTS: u64 = 48;
const HOSTILE_TABLE: u32 = 20;

impl Random {
    /// An argument, by what the call table says of it: sensible most of the time.
    fn argument(&mut self, thread: &Thread, name: &str) -> u64 {
        if self.below(12) == 0 {
            return self.one_of(&[0, 1, u64::MAX, 1 << 47, 4096, SLOTS, 511]);
        }
        let typed = [
            ("Frame", ObjectType::Frame),
            ("AddressSpace", ObjectType::AddressSpace),
            ("CapTable", ObjectType::CapTable),
            ("Endpoint", ObjectType::Endpoint),
            ("Notification", ObjectType::Notification),
            ("Thread", ObjectType::Thread),
            ("Untyped", ObjectType::Untyped),
        ];
        if name.contains("slot") {
            if name.contains("empty") || name.contains("destination") {
                return self.slot(thread, |slot| slot.is_empty());
            }
            if name.contains("0:") && self.below(3) == 0 {
                return 0;
            }
            return match typed.iter().find(|(word, _)| name.contains(word)) {
                Some((_, kind)) => self.slot(thread, |slot| slot.is(*kind)),
                None => self.slot(thread, |slot| !slot.is_empty()),
            };
        }
        match name.split(' ').next().unwrap_or("") {
            "tag" => (self.below(3) << 8) | self.below(12) | (self.below(9) << 16),
            "object" => self.one_of(&[1, 2, 2, 3, 4, 5, 6, 7, 8, 9]),
            "size" => self.one_of(&[0, 0, 0, 4096, 8192, 3 * 4096, 16]),
            "count" | "pages" => 1 + self.below(3),
            "page" | "first" => self.below(3),
            "virtual" | "address" | "destination" | "source" => {
                self.one_of(&[0x10_0000, 0x10_1000, 0x20_0000, 0x4000_0000])
            }
            "protection" => self.one_of(&[1, 3, 5]),
            "rights" => self.one_of(&[0xff, 0xff, 3, 1]),
            "badge" => self.one_of(&[0, 0, 7]),
            "priority" => 90 + self.below(20),
            "policy" | "kind" | "direction" => self.below(2),
            "RR" | "budget" | "period" => self.one_of(&[0, 50, 400, 1000]),
            _ => self.below(9),
        }
    }

    /// A slot of a kind, if the table has one; else any.
    fn slot(&mut self, thread: &Thread, fits: impl Fn(&Slot) -> bool) -> u64 {
        let start = self.below(SLOTS);
        (0..SLOTS)
            .map(|offset| (start + offset) % SLOTS)
            .find(|index| thread.slot(*index).is_ok_and(|slot| fits(&slot)))
            .unwrap_or(start)
    }
}

std::thread_local! {
    /// Calls that succeeded at once, by number: shows that the test reaches them.
    static SUCCESSES: core::cell::RefCell<[u32; 256]> = const { core::cell::RefCell::new([0; 256]) };
}

fn set_up() -> Rig {
    let rig = Rig::new(160);
    rig.ok(Call::SchedConfigure, crate::rig::TIME, &[0, 0, 0, 0, 0]);
    rig.retype(ObjectType::CapTable, SLOTS, HOSTILE_TABLE);
    rig.retype(ObjectType::AddressSpace, 8 * 4096, 21);
    for index in 0..3_u32 {
        let slot = 30 + index * 4;
        rig.retype(ObjectType::Thread, 0, slot);
        rig.retype(ObjectType::SchedContext, 0, slot + 1);
        rig.retype(ObjectType::Frame, 4096, slot + 2);
        let table = if index == 2 { 0 } else { HOSTILE_TABLE };
        rig.ok(Call::ThreadConfigure, slot, &[21, table.into(), 0, (slot + 2).into(), 0, index.into()]);
        rig.ok(Call::SchedConfigure, slot + 1, &[100, u64::from(index % 2), 50, 0, 0]);
        rig.ok(Call::SchedBind, slot + 1, &[slot.into()]);
        rig.ok(Call::ThreadResume, slot, &[]);
        for part in 0..3 {
            rig.ok(Call::CapCopy, HOSTILE_TABLE, &[(10 + index * 3 + part).into(), (slot + part).into(), 0xff, 0]);
        }
    }
    for (kind, slot) in [
        (ObjectType::Endpoint, 1),
        (ObjectType::Endpoint, 2),
        (ObjectType::Reply, 3),
        (ObjectType::Reply, 4),
        (ObjectType::Notification, 5),
    ] {
        rig.retype(kind, 0, 100 + slot);
        rig.ok(Call::CapMove, HOSTILE_TABLE, &[slot.into(), (100 + slot).into()]);
    }
    rig.ok(Call::CapCopy, HOSTILE_TABLE, &[6, HOSTILE_TABLE.into(), 0xff, 0]);
    rig.ok(Call::CapCopy, HOSTILE_TABLE, &[7, 21, 0xff, 0]);
    rig.retype(ObjectType::Untyped, 64 * 4096, 110);
    rig.ok(Call::CapCopy, HOSTILE_TABLE, &[8, 110, 0xff, 0]);
    rig.slot(111).fill(&crate::cap::Cap::new(ObjectType::Irq, 0, 0));
    rig.slot(112).fill(&crate::cap::Cap::new(ObjectType::IoPort, 0, 16));
    rig.slot(113)
        .fill(&crate::cap::Cap { rights: ipc::Rights::WRITE, ..crate::cap::Cap::new(ObjectType::Console, 0, 0) });
    for (target, source) in [(9, 111), (22, 112), (23, 113)] {
        rig.ok(Call::CapCopy, HOSTILE_TABLE, &[target, source, 0xff, 0]);
    }
    rig
}

fn step(rig: &Rig, random: &mut Random, root: u64) {
    let thread = rig.settle();
    let number;
    match random.below(20) {
        0 => {
            arch::set_now(arch::now() + random.below(200));
            sched::interrupt(&rig.k, arch::TIMER_VECTOR);
        }
        1 => rig.k.cpu.note_interrupt(FIRST_VECTOR + random.below(4) as u8),
        2 if thread.address() != root => fault::fault(&rig.k, thread, random.below(20), 0, random.next()),
        _ if thread.address() == root => {
            // The bystander goes on; now and then it lets stopped ones run again.
            arch::set_now(arch::now() + 50);
            sched::interrupt(&rig.k, arch::TIMER_VECTOR);
            let slot = 30 + 4 * random.below(3) as u32;
            rig.call(Call::SchedBind, slot + 1, &[slot.into()]);
            rig.call(Call::ThreadResume, slot, &[]);
            if random.below(8) == 0 {
                rig.call(Call::ThreadSuspend, slot, &[]);
            }
        }
        _ if thread.is_foreign() => {
            thread.frame.rax.set(random.below(600));
            if fastpath::any(&rig.k, thread).is_none() {
                fault::foreign_call(&rig.k, thread);
            }
        }
        _ => {
            let info = loop {
                let info = random.one_of(CALLS);
                // These take away what the others need; they come, but seldom.
                let rare =
                    matches!(info.call, Call::CapRevoke | Call::ThreadSuspend | Call::SchedUnbind | Call::CapDelete);
                if info.call != Call::SystemHalt && (!rare || random.below(12) == 0) {
                    break info;
                }
            };
            let second = random.slot(&thread, |slot| slot.is(ObjectType::Reply));
            let frame = &thread.frame;
            let flags = if random.below(3) == 0 { 0x100 } else { 0 };
            frame.rax.set(info.call as u64 | flags | second << 16);
            number = info.call as usize;
            let about = match info.object {
                Some(kind) if random.below(20) != 0 => random.slot(&thread, |slot| slot.is(kind)),
                _ => random.below(SLOTS + 3),
            };
            frame.rdi.set(about);
            for index in 0..9 {
                let value = random.argument(&thread, info.arguments.get(index).copied().unwrap_or(""));
                if index == 0 { frame.rsi.set(value) } else { frame.word(index - 1).set(value) }
            }
            if let Some(buffer) = thread.message_buffer()
                && random.below(4) == 0
            {
                for word in 65..69 {
                    buffer.write(word, random.below(SLOTS) | random.below(SLOTS) << 32);
                }
                buffer.write(0, arch::now() + random.below(300));
            }
            if fastpath::any(&rig.k, thread).is_none() {
                call::kernel_call(&rig.k, thread);
            }
            if thread.frame.rax.get() == 0 {
                SUCCESSES.with_borrow_mut(|counts| counts[number] += 1);
            }
        }
    }
    let current = rig.k.cpu.current.get();
    if let Some(current) = current {
        assert!(!current.queued.get(), "the current thread is in a ready queue");
    }
}

/// Everything that the hostile threads made goes, and the kernel is as before.
fn tear_down(rig: &Rig, root: u64) {
    let memory = loop {
        let thread = rig.settle();
        if thread.address() == root {
            break thread.slot(MEMORY.into()).unwrap();
        }
        thread.suspend(&rig.k);
    };
    while revoke_step(&rig.k, memory, |_| false) == Progress::More {}
    while reap_step(&rig.k) == Progress::More {}
    let irqs = rig.slot(111);
    while revoke_step(&rig.k, irqs, |_| false) == Progress::More {}
    let cpu = &rig.k.cpu;
    assert!(rig.settle().address() == root && rig.settle().state.get() == State::Ready);
    assert!(cpu.ready.highest().is_none(), "somebody is still ready");
    assert!(cpu.timeouts.is_empty() && cpu.exhausted.is_empty());
    assert!(rig.k.dying.threads.is_empty() && rig.k.dying.spaces.is_empty() && rig.k.dying.tables.is_empty());
    let spaces = core::iter::successors(rig.k.spaces.first(), |space| rig.k.spaces.after(*space)).count();
    assert_eq!(spaces, 1);
    rig.retype(ObjectType::Frame, 160 * 4096, 20);
}

fn run(seed: u64, steps: u64) {
    let mut random = Random(seed | 1);
    let rig = set_up();
    let root = rig.current().address();
    let table = rig.current().table().unwrap();
    for made in 0..steps {
        step(&rig, &mut random, root);
        if made % 64 == 0 {
            while reap_step(&rig.k) == Progress::More {}
            crate::invariants::check(&rig.k, table);
        }
    }
    tear_down(&rig, root);
}

#[test]
fn random_calls_leave_nothing_behind() {
    let (rounds, steps) = if cfg!(miri) { (1, 100) } else { (400, 3000) };
    for round in 0..rounds {
        let seed = 0x9e37_79b9_7f4a_7c15_u64.wrapping_mul(round + 1);
        if let Err(panic) = std::panic::catch_unwind(|| run(seed, steps)) {
            std::println!("seed {seed:#x}");
            std::panic::resume_unwind(panic);
        }
    } // Calls that wait are not counted, and the others are only reached often enough in the long run.
    let unreached = CALLS.iter().filter(|info| SUCCESSES.with_borrow(|counts| counts[info.call as usize]) == 0);
    let unreached: Vec<&str> = unreached.map(|info| info.name).collect();
    assert!(cfg!(miri) || unreached == ["call", "system_halt"], "{unreached:?}");
}
