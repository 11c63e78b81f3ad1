//! Starts the servers in order, then hears of their faults: reports, takes back, restarts by policy.

use super::fail;
use super::machine::Machine;
use super::spawn::{self, Place};
use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;
use init::policy::{History, Verdict};
use init::report::{self, Fault};
use ipc::message::{LABEL_BUDGET, LABEL_FAULT};
use rt::{Answer, Caller, Message, Replies, Server, log};

/// The servers and how they fare.
pub struct Supervisor {
    machine: Machine,
    places: Vec<Place>,
    states: Vec<State>,
}

/// One server.
#[derive(Default)]
struct State {
    generation: u64,
    alive: bool,
    history: History,
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
        let mut supervisor = Supervisor { machine, places, states: Vec::new() };
        supervisor.states.resize_with(count, State::default);
        for index in 0..count {
            supervisor.build(index)?;
        }
        for index in 0..count {
            supervisor.places[index].run().map_err(|reason| describe(&supervisor.machine, index, &reason))?;
        }
        Ok(supervisor)
    }

    /// Hears of faults for ever.
    pub fn run(mut self) -> ! {
        let mut replies = Replies::new(1);
        let endpoint = self.machine.endpoint;
        match self.machine.memory.make(0) {
            Ok(reply) => replies.adopt(reply),
            Err(reason) => fail(&reason),
        }
        rt::serve(&mut self, endpoint, replies)
    }

    fn build(&mut self, index: usize) -> Result<(), String> {
        let generation = self.states[index].generation;
        spawn::build(&mut self.machine, &mut self.places, index, generation, id(index, generation))
            .map_err(|reason| describe(&self.machine, index, &reason))?;
        self.states[index].alive = true;
        Ok(())
    }

    fn died(&mut self, index: usize) -> Result<(), String> {
        let server = &self.machine.system.servers[index];
        let state = &mut self.states[index];
        state.alive = false;
        match state.history.died(&server.restart, rt::time::now(), self.machine.tsc_khz) {
            Verdict::Escalate => {
                fail(&format!("server {} died, and the manifest says that nothing goes on without it", server.name))
            }
            Verdict::StayDead => {
                log!("server {} stays dead", server.name);
                self.places[index].bury()
            }
            Verdict::Restart => {
                state.generation += 1;
                self.places[index].clear()?;
                self.build(index)?;
                log!(
                    "server {} restarted, generation {}",
                    self.machine.system.servers[index].name,
                    self.states[index].generation
                );
                self.places[index].run()
            }
        }
    }

    fn report(&self, index: usize, message: &Message) {
        let fault =
            Fault { vector: message.word(0), code: message.word(1), address: message.word(2), rip: message.word(3) };
        let server = &self.machine.system.servers[index];
        log!(
            "server {} (generation {}) crashed: it {}",
            server.name,
            self.states[index].generation,
            report::words(&fault)
        );
        if let Ok(r) = self.places[index].thread().read_registers() {
            log!("  rax {:016x} rbx {:016x} rcx {:016x} rdx {:016x}", r.rax, r.rbx, r.rcx, r.rdx);
            log!("  rsi {:016x} rdi {:016x} rbp {:016x} rsp {:016x}", r.rsi, r.rdi, r.rbp, r.rsp);
            log!("  r8  {:016x} r9  {:016x} r10 {:016x} r11 {:016x}", r.r8, r.r9, r.r10, r.r11);
            log!("  r12 {:016x} r13 {:016x} r14 {:016x} r15 {:016x}", r.r12, r.r13, r.r14, r.r15);
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
            LABEL_FAULT if known => {
                self.report(index, message);
                if let Err(reason) = self.died(index) {
                    log!("{reason}; it stays dead");
                }
            }
            // It goes on when its next period begins.
            LABEL_BUDGET => {}
            label => log!("a message with label {label:#x} from {:#x} makes no sense here", message.badge),
        }
        // A thread that was taken back is not there to be answered; that is no error.
        Some((caller, Answer::new(0, &[])))
    }
}
