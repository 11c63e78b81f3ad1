//! The builder: starts the servers in order, then sees to those that the warden has condemned: reports, takes back, restarts by policy.
//!
//! It works at the priority that the dead server's manifest entry names for that, the most urgent first. A server may only call others that
//! are at least as urgent, so if several died, those that others depend on come back first.

use super::crash::{self, Death};
use super::machine::Machine;
use super::spawn::{self, Place};
use super::ward::{Charge, Shared, Ward, state};
use super::{Say, fail, warden, window};
use alloc::boxed::Box;
use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;
use core::sync::atomic::{AtomicBool, AtomicU8, AtomicU32, AtomicU64, Ordering};
use init::policy::{History, Verdict};
use init::report::{self, Fault};
use ipc::board::{WAYS, cause, outcome, server_state, verdict};
use rt::{Cap, Endpoint, Notification, Rights, Start, log};

/// The servers and how they fare.
pub struct Supervisor {
    machine: Machine,
    places: Vec<Place>,
    histories: Vec<History>,
    generations: Vec<u64>,
    shared: &'static Shared,
    /// Where it hears of the warden's end.
    faults: Cap<Endpoint>,
}

/// What a server's faults are reported under: which server, and which of its instances.
fn id(index: usize, generation: u64) -> u64 {
    index as u64 | generation << 16
}

impl Supervisor {
    /// Makes all servers and lets them run.
    pub fn start(mut machine: Machine) -> Result<Supervisor, String> {
        let count = machine.system.servers.len();
        let mut places = Vec::with_capacity(count);
        for index in 0..count {
            let place = Place::new(&mut machine, index).map_err(|reason| describe(&machine, index, &reason))?;
            spawn::wire(&mut machine, &place, index).map_err(|reason| describe(&machine, index, &reason))?;
            places.push(place);
        }
        let notification: Cap<Notification> = machine.memory.make(0)?;
        let bell = Start::CAP_TABLE
            .copy(machine.memory.slot()?, notification, Rights::WRITE, 1)
            .say("badging the builder's notification")?;
        let faults = machine.memory.make(0)?;
        Start::THREAD.bind_notification(Some(notification)).say("binding the builder's notification")?;
        let servers = machine.system.servers.iter();
        let shared = Box::leak(Box::new(Shared {
            wards: servers.zip(&places).map(|(server, place)| Ward::new(server, place.thread())).collect(),
            board: machine.board.take(),
            bell,
            busy: AtomicBool::new(true),
            done: AtomicU64::new(0),
            pace: AtomicU8::new(machine.priority),
            crash: AtomicU32::new(0),
            tsc_khz: machine.tsc_khz,
        }));
        let mut histories = Vec::new();
        histories.resize_with(count, History::default);
        let generations = alloc::vec![0; count];
        let mut supervisor = Supervisor { machine, places, histories, generations, shared, faults };
        for index in 0..count {
            supervisor.build(index)?;
        }
        warden::start(&mut supervisor.machine, shared, faults)?;
        for index in 0..count {
            supervisor.run_instance(index)?;
        }
        Ok(supervisor)
    }

    /// Builds for ever.
    pub fn run(mut self) -> ! {
        loop {
            while let Some(index) = self.next() {
                self.slow_down();
                self.see_to(index);
                self.shared.done.fetch_add(1, Ordering::Relaxed);
            }
            if let Some(way) = self.shared.crash.swap(0, Ordering::Relaxed).checked_sub(1) {
                let way = WAYS[way as usize % WAYS.len()];
                log!("init is made to crash: {way}");
                rt::crash::by(way);
            }
            self.shared.set_pace(self.shared.idle_pace());
            self.shared.busy.store(false, Ordering::SeqCst);
            if self.next().is_none()
                && let Ok(message) = self.faults.receive(None, None)
                && message.signal().is_none()
            {
                panic!(
                    "the warden has crashed: it {}",
                    report::words(&fault(core::array::from_fn(|i| message.word(i))))
                );
            }
            self.shared.busy.store(true, Ordering::SeqCst);
        }
    }

    /// The most urgent server that is condemned.
    fn next(&self) -> Option<usize> {
        let wards = self.shared.wards.iter().enumerate();
        wards
            .filter(|(_, ward)| ward.is(state::CONDEMNED))
            .max_by_key(|(_, ward)| ward.priority)
            .map(|(index, _)| index)
    }

    /// Goes down to the priority that the work at hand wants. The warden may raise it at any time, so it is looked at again.
    fn slow_down(&self) {
        loop {
            let wanted = self.shared.wanted();
            self.shared.set_pace(wanted);
            if self.shared.wanted() <= wanted {
                return;
            }
        }
    }

    fn name(&self, index: usize) -> &'static str {
        &self.machine.system.servers[index].name
    }

    fn build(&mut self, index: usize) -> Result<(), String> {
        let generation = self.generations[index];
        spawn::build(&mut self.machine, &mut self.places, index, generation, id(index, generation))
            .map_err(|reason| describe(&self.machine, index, &reason))?;
        window::show_notes(index, self.places[index].buffer())
    }

    fn run_instance(&mut self, index: usize) -> Result<(), String> {
        if let Some(board) = &self.shared.board {
            board.show(index, server_state::RUNNING, self.generations[index]);
            board.started(index, rt::time::now());
            board.free_capabilities(self.machine.memory.slots.free());
        }
        let ward = &self.shared.wards[index];
        ward.id.store(id(index, self.generations[index]), Ordering::Relaxed);
        ward.state.store(state::ALIVE, Ordering::Release);
        self.places[index].run().map_err(|reason| describe(&self.machine, index, &reason))
    }

    fn show(&self, index: usize, state: u32) {
        if let Some(board) = &self.shared.board {
            board.show(index, state, self.generations[index]);
        }
    }

    /// All that follows from a charge.
    fn see_to(&mut self, index: usize) {
        let shared = self.shared;
        let ward = &shared.wards[index];
        let order = ward.order();
        let (charge, words) = ward.charge();
        // If it stays dead, that is so from now on; `run_instance` says otherwise.
        let done = match self.follow(index, charge, words, ward.died.load(Ordering::Relaxed)) {
            Ok(done) => done,
            Err(reason) => {
                log!("{reason}; it stays dead");
                false
            }
        };
        if !done {
            self.show(index, server_state::DEAD);
            ward.state.store(state::DEAD, Ordering::Release);
        }
        if let (Some(sequence), Some(board)) = (order, &shared.board) {
            let killed = charge == Charge::Kill;
            board.carried_out(sequence, if done || killed { outcome::DONE } else { outcome::FAILED });
        }
    }

    /// Whether there is a new instance.
    fn follow(&mut self, index: usize, charge: Charge, words: [u64; 4], died: u64) -> Result<bool, String> {
        let was_dead = self.places[index].is_buried();
        if !was_dead {
            let death = self.death(charge, words);
            let policy = &self.machine.system.servers[index].restart;
            let follows = match charge {
                Charge::Replace => Verdict::Restart,
                _ => self.histories[index].died(policy, died, self.machine.tsc_khz),
            };
            if let Some(board) = &self.shared.board {
                board.died(index, died);
            }
            log!("server {} (generation {}) {}", self.name(index), self.generations[index], death.words);
            self.keep_report(index, &death, follows);
            match follows {
                Verdict::Escalate => fail(&format!(
                    "server {} died, and the manifest says that nothing goes on without it",
                    self.name(index)
                )),
                Verdict::StayDead => {
                    log!("server {} stays dead", self.name(index));
                    self.places[index].bury()?;
                    return Ok(false);
                }
                Verdict::Restart => self.show(index, server_state::RESTARTING),
            }
        }
        self.generations[index] += 1;
        self.places[index].clear()?;
        if was_dead {
            spawn::exhume(&mut self.machine, &mut self.places, index)?;
        }
        self.build(index)?;
        self.run_instance(index)?;
        let ticks = rt::time::now() - died;
        let generation = self.generations[index];
        log!("server {} restarted, generation {generation}, {ticks} ticks after its death", self.name(index));
        Ok(true)
    }

    fn death(&self, charge: Charge, words: [u64; 4]) -> Death {
        match charge {
            Charge::Fault => {
                let fault = fault(words);
                let words = format!("crashed: it {}", report::words(&fault));
                Death { cause: cause::FAULT, fault: [fault.vector, fault.code, fault.address], words }
            }
            Charge::Spin => {
                let used = words[0] / self.machine.tsc_khz.max(1);
                let words =
                    format!("spins: it has run for {used} ms without finishing a turn, and is at {:#x}", words[1]);
                Death { cause: cause::SPIN, fault: [0; 3], words }
            }
            Charge::Kill => Death { cause: cause::ORDER, fault: [0; 3], words: "was killed on order".into() },
            Charge::Replace => Death { cause: cause::ORDER, fault: [0; 3], words: "was replaced on order".into() },
        }
    }

    /// Writes the report on the board, or the registers on the console if there is none.
    fn keep_report(&self, index: usize, death: &Death, follows: Verdict) {
        let mut report = crash::report(&self.machine, &self.places[index], index, self.generations[index], death);
        report.verdict = match follows {
            Verdict::Restart => verdict::RESTARTED,
            Verdict::StayDead => verdict::STAYS_DEAD,
            Verdict::Escalate => verdict::ESCALATED,
        };
        match &self.shared.board {
            Some(board) => board.report(&mut report),
            None => {
                let r = &report.registers;
                log!("  rax {:016x} rbx {:016x} rcx {:016x} rdx {:016x}", r.rax, r.rbx, r.rcx, r.rdx);
                log!("  rsi {:016x} rdi {:016x} rbp {:016x} rsp {:016x}", r.rsi, r.rdi, r.rbp, r.rsp);
                log!("  r8  {:016x} r9  {:016x} r10 {:016x} r11 {:016x}", r.r8, r.r9, r.r10, r.r11);
                log!("  r12 {:016x} r13 {:016x} r14 {:016x} r15 {:016x}", r.r12, r.r13, r.r14, r.r15);
            }
        }
    }
}

fn fault(words: [u64; 4]) -> Fault {
    Fault { vector: words[0], code: words[1], address: words[2], rip: words[3] }
}

fn describe(machine: &Machine, index: usize, reason: &str) -> String {
    format!("server {}: {reason}", machine.system.servers[index].name)
}
