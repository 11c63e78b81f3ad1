//! Starts the servers in order, then hears of their faults, looks whether they spin, and takes orders: reports, takes back, restarts
//! by policy.
//!
//! A server may only call others that are at least as urgent, and faults wait at init's endpoint in the order of urgency: if several
//! servers died, those that others depend on come back first.

use super::board::ORDER_BIT;
use super::crash::{self, Death};
use super::fail;
use super::machine::Machine;
use super::spawn::{self, Place};
use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;
use init::orders::Order;
use init::policy::{History, Verdict};
use init::report::{self, Fault};
use init::watch::Watch;
use ipc::board::{WAYS, cause, outcome, server_state, verdict};
use ipc::message::{LABEL_BUDGET, LABEL_FAULT};
use rt::{Answer, Caller, Message, Replies, Server, log};

/// How often one of the servers is looked at.
const LOOK_MS: u64 = 50;
/// Processor time that a server may use in one turn of its event loop.
const TURN_MS: u64 = 2_000;

/// The servers and how they fare.
pub struct Supervisor {
    machine: Machine,
    places: Vec<Place>,
    states: Vec<State>,
    /// Which one is looked at next, and when.
    look_at: usize,
    look_when: u64,
}

/// One server.
#[derive(Default)]
struct State {
    generation: u64,
    alive: bool,
    history: History,
    watch: Watch,
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
        let mut supervisor = Supervisor { machine, places, states: Vec::new(), look_at: 0, look_when: 0 };
        supervisor.states.resize_with(count, State::default);
        for index in 0..count {
            supervisor.build(index)?;
        }
        for index in 0..count {
            supervisor.run_instance(index)?;
        }
        Ok(supervisor)
    }

    /// Supervises for ever.
    pub fn run(mut self) -> ! {
        let mut replies = Replies::new(1);
        let endpoint = self.machine.endpoint;
        match self.machine.memory.make(0) {
            Ok(reply) => replies.adopt(reply),
            Err(reason) => fail(&reason),
        }
        rt::serve(&mut self, endpoint, replies)
    }

    fn name(&self, index: usize) -> &'static str {
        &self.machine.system.servers[index].name
    }

    fn build(&mut self, index: usize) -> Result<(), String> {
        let generation = self.states[index].generation;
        spawn::build(&mut self.machine, &mut self.places, index, generation, id(index, generation))
            .map_err(|reason| describe(&self.machine, index, &reason))?;
        self.states[index].alive = true;
        Ok(())
    }

    fn run_instance(&mut self, index: usize) -> Result<(), String> {
        if let Some(board) = &self.machine.board {
            board.show(index, server_state::RUNNING, self.states[index].generation);
            board.started(index, rt::time::now());
        }
        self.places[index].run().map_err(|reason| describe(&self.machine, index, &reason))
    }

    fn show(&self, index: usize, state: u32) {
        if let Some(board) = &self.machine.board {
            board.show(index, state, self.states[index].generation);
        }
    }

    /// A server has died, or is taken for dead: what follows is its policy's matter, unless a new instance was ordered.
    fn died(&mut self, index: usize, death: &Death, replace: bool) -> Result<(), String> {
        let now = rt::time::now();
        let policy = &self.machine.system.servers[index].restart;
        let state = &mut self.states[index];
        state.alive = false;
        let generation = state.generation;
        let follows = match replace {
            true => Verdict::Restart,
            false => state.history.died(policy, now, self.machine.tsc_khz),
        };
        // It may still run: what it was ordered to end in, or what it does all the time.
        let stopped = self.places[index].thread().suspend();
        if let Err(error) = stopped {
            log!("stopping {}: {error}", self.name(index));
        }
        if let Some(board) = &self.machine.board {
            board.died(index, now);
        }
        log!("server {} (generation {generation}) {}", self.name(index), death.words);
        self.keep_report(index, generation, death, follows);
        match follows {
            Verdict::Escalate => fail(&format!(
                "server {} died, and the manifest says that nothing goes on without it",
                self.name(index)
            )),
            Verdict::StayDead => {
                log!("server {} stays dead", self.name(index));
                self.show(index, server_state::DEAD);
                self.places[index].bury()
            }
            Verdict::Restart => {
                self.show(index, server_state::RESTARTING);
                let state = &mut self.states[index];
                state.generation += 1;
                state.watch = Watch::default();
                self.places[index].clear()?;
                self.build(index)?;
                let result = self.run_instance(index);
                let ticks = rt::time::now() - now;
                let generation = self.states[index].generation;
                log!("server {} restarted, generation {generation}, {ticks} ticks after its death", self.name(index));
                result
            }
        }
    }

    /// Writes the report on the board, or the registers on the console if there is none.
    fn keep_report(&self, index: usize, generation: u64, death: &Death, follows: Verdict) {
        let mut report = crash::report(&self.machine, &self.places[index], index, generation, death);
        report.verdict = match follows {
            Verdict::Restart => verdict::RESTARTED,
            Verdict::StayDead => verdict::STAYS_DEAD,
            Verdict::Escalate => verdict::ESCALATED,
        };
        match &self.machine.board {
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

    /// The same, where nothing can be done about a failure but to say it.
    fn end(&mut self, index: usize, death: &Death, replace: bool) -> bool {
        match self.died(index, death, replace) {
            Ok(()) => true,
            Err(reason) => {
                log!("{reason}; it stays dead");
                self.show(index, server_state::DEAD);
                false
            }
        }
    }

    fn faulted(&mut self, index: usize, message: &Message) {
        let fault =
            Fault { vector: message.word(0), code: message.word(1), address: message.word(2), rip: message.word(3) };
        let words = format!("crashed: it {}", report::words(&fault));
        self.end(index, &Death { cause: cause::FAULT, fault: [fault.vector, fault.code, fault.address], words }, false);
    }

    fn obey(&mut self, order: Order) -> u32 {
        let may_crash = self.machine.board.as_ref().is_some_and(|board| board.may_crash);
        match order {
            Order::Kill(index) => self.end_on_order(index, "was killed on order", false),
            Order::Restart(index) => self.end_on_order(index, "was replaced on order", true),
            Order::Crash(..) | Order::CrashInit(_) if !may_crash => outcome::FORBIDDEN,
            Order::Crash(index, _) if !self.states[index].alive => outcome::DEAD,
            Order::Crash(index, way) => {
                log!("server {} is made to crash: {}", self.name(index), WAYS[way]);
                match self.places[index].crash(way) {
                    Ok(()) => outcome::DONE,
                    Err(reason) => {
                        log!("{reason}");
                        outcome::FAILED
                    }
                }
            }
            // Done as soon as that was said.
            Order::CrashInit(_) => outcome::DONE,
        }
    }

    fn end_on_order(&mut self, index: usize, words: &str, replace: bool) -> u32 {
        if !self.states[index].alive {
            return outcome::DEAD;
        }
        let death = Death { cause: cause::ORDER, fault: [0; 3], words: words.into() };
        if self.end(index, &death, replace) { outcome::DONE } else { outcome::FAILED }
    }

    /// Looks at one of the servers.
    fn look(&mut self) {
        let index = self.look_at;
        self.look_at = (index + 1) % self.states.len();
        if !self.states[index].alive {
            return;
        }
        let Ok(thread) = self.places[index].thread().state() else { return };
        // Not stopped and not running: it waits for somebody.
        let waits = thread.state >= 2;
        let turns = if waits { 0 } else { crash::trace(&self.places[index]).turns };
        let limit = rt::time::milliseconds(TURN_MS, self.machine.tsc_khz);
        if let Some(used) = self.states[index].watch.look(turns, thread.consumed, waits, limit) {
            let used = used / self.machine.tsc_khz.max(1);
            let words =
                format!("spins: it has run for {used} ms without finishing a turn, and is at {:#x}", thread.rip);
            self.end(index, &Death { cause: cause::SPIN, fault: [0; 3], words }, false);
        }
    }
}

fn describe(machine: &Machine, index: usize, reason: &str) -> String {
    format!("server {}: {reason}", machine.system.servers[index].name)
}

impl Server for Supervisor {
    fn message(&mut self, message: &Message, caller: Caller, _: &mut Replies) -> Option<(Caller, Answer)> {
        let (index, generation) = ((message.badge & 0xffff) as usize, message.badge >> 16);
        let known = self.states.get(index).is_some_and(|state| state.alive && state.generation == generation);
        match message.label() {
            LABEL_FAULT if known => self.faulted(index, message),
            // It goes on when its next period begins.
            LABEL_BUDGET => {}
            label => log!("a message with label {label:#x} from {:#x} makes no sense here", message.badge),
        }
        // A thread that was taken back is not there to be answered; that is no error.
        Some((caller, Answer::new(0, &[])))
    }

    fn signal(&mut self, bits: u64, _: &mut Replies) {
        if bits & ORDER_BIT == 0 {
            return;
        }
        let Some((sequence, order)) = self.machine.board.as_ref().and_then(|board| board.order()) else { return };
        let outcome = order.map_or(outcome::UNKNOWN, |order| self.obey(order));
        if let Some(board) = &self.machine.board {
            board.carried_out(sequence, outcome);
        }
        if let (Some(Order::CrashInit(way)), outcome::DONE) = (order, outcome) {
            log!("init is made to crash: {}", WAYS[way]);
            rt::crash::by(WAYS[way]);
        }
    }

    fn timeout(&mut self, _: &mut Replies) {
        self.look_when = rt::time::now() + rt::time::milliseconds(LOOK_MS, self.machine.tsc_khz);
        if let Some(board) = &self.machine.board {
            board.turn();
        }
        self.look();
    }

    fn deadline(&self) -> Option<u64> {
        Some(self.look_when)
    }
}
