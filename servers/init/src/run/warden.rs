//! The warden: init's more urgent thread. It hears of faults, looks whether servers spin, and takes orders; it stops who is condemned, and
//! leaves all the rest to the builder, at a priority that disturbs nobody who has nothing to do with it.
//!
//! It receives without a Reply: so a thread that faulted stays where it is, and one whose budget is used up goes on with its next period.
//!
//! Rules: every turn is a handful of kernel calls. It does not allocate, write to the console, or wait for anybody: the builder may have been
//! interrupted in the middle of either.
#![allow(unsafe_code)] // A thread's entry.

use super::machine::Machine;
use super::ward::{Charge, Shared, state};
use super::{Say, window};
use alloc::boxed::Box;
use alloc::string::String;
use alloc::vec::Vec;
use core::mem::offset_of;
use core::sync::atomic::Ordering;
use init::orders::Order;
use init::watch::Watch;
use ipc::MessageBuffer;
use ipc::board::outcome;
use ipc::message::{LABEL_FAULT, Registers, Trace};
use ipc::slots::{boot, layout};
use rt::calls::time::Policy;
use rt::{Cap, Endpoint, Error, Frame, Message, Protection, SchedContext, Start, Thread};

/// How often somebody is looked at: one of the servers and the builder by turns, for a look at both would take too long.
const LOOK_MS: u64 = 25;
/// So much later it may be while programs keep the processor busy, where that saves interrupts.
const SLACK_MS: u64 = 100;
/// Processor time that a server may use in one turn of its event loop, and the builder for one piece of its work.
const TURN_MS: u64 = 2_000;
/// So long a rebuild may be kept waiting by more urgent programs; then it goes on at the server's own priority.
const PATIENCE_MS: u64 = 50;

/// Its stack, and where it lies.
const STACK: u64 = 16 << 10;
const STACK_TOP: u64 = 0x50_0000_0000;
/// Bytes below the stack's top where a function expects the stack pointer at its entry.
const ENTRY: u64 = 8;
/// Interrupts enabled, and the bit that is always set.
const FLAGS: u64 = 0x202;

/// A thread's state that it does not leave by itself.
const FAULTED: u64 = 6;

/// The thread's state.
struct Warden {
    shared: &'static Shared,
    watches: Vec<Looked>,
    builder: Watch,
    /// The builder's turn to be looked at.
    builder_next: bool,
    /// Which server is looked at next, and when.
    look_at: usize,
    look_when: u64,
}

/// What is known of an instance's event loop.
#[derive(Default)]
struct Looked {
    id: u64,
    watch: Watch,
}

/// What the thread is started with.
struct Luggage {
    warden: Warden,
    endpoint: Cap<Endpoint>,
}

/// Starts it. Its own faults go to `faults`.
pub fn start(machine: &mut Machine, shared: &'static Shared, faults: Cap<Endpoint>) -> Result<(), String> {
    let memory = &mut machine.memory;
    let stack: Cap<Frame> = memory.make(STACK)?;
    let thread: Cap<Thread> = memory.make(0)?;
    let time: Cap<SchedContext> = memory.make(0)?;
    let data = Protection::READ | Protection::WRITE;
    Start::ADDRESS_SPACE.map(stack, 0, STACK_TOP - STACK, STACK / 4096, data).say("the warden's stack")?;
    let mut watches = Vec::new();
    watches.resize_with(shared.wards.len(), Looked::default);
    let warden = Warden { shared, watches, builder: Watch::default(), builder_next: false, look_at: 0, look_when: 0 };
    let luggage = Box::leak(Box::new(Luggage { warden, endpoint: machine.endpoint }));
    // The page is the builder's too: the two use different parts of it.
    let buffer = Some((Cap::new(boot::BUFFER), 0));
    thread
        .configure(Start::ADDRESS_SPACE, Some(Start::CAP_TABLE), Some(faults), buffer, 0)
        .say("configuring the warden")?;
    let entry: extern "C" fn(&'static mut Luggage) -> ! = run;
    let registers = Registers {
        rip: entry as usize as u64,
        rsp: STACK_TOP - ENTRY,
        rdi: (luggage as *mut Luggage).expose_provenance() as u64,
        rflags: FLAGS,
        ..Registers::default()
    };
    thread.write_registers(&registers).say("the warden's registers")?;
    if let Some(board) = &shared.board {
        thread.bind_notification(Some(board.notification)).say("binding the notification of orders")?;
    }
    time.configure(machine.priority, Policy::Fifo, 0, 0, 0).say("the warden's priority")?;
    time.bind(thread).say("giving the warden time")?;
    thread.resume().say("starting the warden")
}

extern "C" fn run(luggage: &'static mut Luggage) -> ! {
    let Luggage { warden, endpoint } = luggage;
    rt::buffer::set_slack(rt::time::milliseconds(SLACK_MS, warden.shared.tsc_khz));
    loop {
        match endpoint.receive(None, Some(warden.look_when)) {
            Ok(message) => match message.signal() {
                Some(_) => warden.orders(),
                None => warden.message(&message),
            },
            Err(Error::TimedOut) => warden.looks(),
            // The endpoint is init's own, and nobody stops this thread.
            Err(error) => panic!("receive: {error}"),
        }
    }
}

/// Where the builder is sent if its work does not come to an end.
extern "C" fn endless() -> ! {
    panic!("the supervisor has worked for {TURN_MS} ms on one thing without an end")
}

impl Warden {
    /// The builder has work of this priority.
    fn summon(&self, priority: u8) {
        let shared = self.shared;
        shared.set_pace(shared.pace.load(Ordering::Relaxed).max(priority));
        // The notification is there as long as init is.
        let _ = shared.bell.signal();
    }

    fn condemn(&self, index: usize, charge: Charge, words: [u64; 4], order: Option<u32>) {
        let ward = &self.shared.wards[index];
        if charge != Charge::Fault {
            // It may still run. If its memory has gone by itself, it does not.
            let _ = ward.thread.suspend();
        }
        ward.condemn(charge, words, order);
        self.summon(ward.rebuild);
    }

    /// Takes the order that waits, if it can be taken now; else a look later tries again.
    fn orders(&self) {
        let Some(board) = &self.shared.board else { return };
        let Some((sequence, order)) = board.order() else { return };
        if !self.builder_lives() {
            return;
        }
        let outcome = match order {
            None => outcome::UNKNOWN,
            Some(Order::Crash(..) | Order::CrashInit(_)) if !board.may_crash => outcome::FORBIDDEN,
            Some(Order::Kill(index)) => match self.end(index, Charge::Kill, sequence) {
                Some(outcome) => outcome,
                None => return,
            },
            Some(Order::Restart(index)) => match self.end(index, Charge::Replace, sequence) {
                Some(outcome) => outcome,
                None => return,
            },
            Some(Order::Crash(index, way)) => match self.crash(index, way) {
                Some(outcome) => outcome,
                None => return,
            },
            Some(Order::CrashInit(way)) => {
                self.shared.crash.store(way as u32 + 1, Ordering::Relaxed);
                outcome::DONE
            }
        };
        board.carried_out(sequence, outcome);
        if let (Some(Order::CrashInit(_)), outcome::DONE) = (order, outcome) {
            // Below everybody: what it does then disturbs nobody.
            self.summon(0);
        }
    }

    /// `None`: the builder will say how it went, or it cannot be begun yet.
    fn end(&self, index: usize, charge: Charge, sequence: u32) -> Option<u32> {
        let ward = &self.shared.wards[index];
        match ward.state.load(Ordering::Acquire) {
            state::CONDEMNED => None,
            state::DEAD if charge == Charge::Kill => Some(outcome::DEAD),
            _ if ward.order() == Some(sequence) => None,
            _ => {
                self.condemn(index, charge, [0; 4], Some(sequence));
                None
            }
        }
    }

    /// Lets a server go on where it crashes on purpose.
    fn crash(&self, index: usize, way: usize) -> Option<u32> {
        let ward = &self.shared.wards[index];
        if ward.is(state::DEAD) {
            return Some(outcome::DEAD);
        }
        // Registers go through the page that the builder may be using.
        if !ward.is(state::ALIVE) || self.shared.busy.load(Ordering::Relaxed) {
            return None;
        }
        let sent = || {
            ward.thread.suspend()?;
            let registers = ward.thread.read_registers()?;
            ward.thread.write_registers(&Registers { rip: layout::CRASH, rdi: way as u64, ..registers })?;
            ward.thread.resume()
        };
        Some(if sent().is_ok() { outcome::DONE } else { outcome::FAILED })
    }

    /// Looks at one of the servers.
    fn look(&mut self) {
        let index = self.look_at;
        self.look_at = (index + 1) % self.shared.wards.len().max(1);
        let Some(ward) = self.shared.wards.get(index).filter(|ward| ward.is(state::ALIVE)) else { return };
        let Ok(thread) = ward.thread.state() else { return };
        let limit = rt::time::milliseconds(TURN_MS, self.shared.tsc_khz);
        // Not stopped and not running: it waits for somebody.
        let waits = thread.state >= 2;
        let turns = if waits { 0 } else { turns(index) };
        let looked = &mut self.watches[index];
        let id = ward.id.load(Ordering::Relaxed);
        if looked.id != id {
            *looked = Looked { id, watch: Watch::default() };
        }
        if let Some(used) = looked.watch.look(turns, thread.consumed, waits, limit) {
            self.condemn(index, Charge::Spin, [used, thread.rip, 0, 0], None);
        }
    }

    fn builder_lives(&self) -> bool {
        Start::THREAD.state().is_ok_and(|thread| thread.state != FAULTED)
    }

    /// Looks at the builder: who waits for too long is served at its own priority, and endless work ends.
    fn look_at_builder(&mut self) {
        let shared = self.shared;
        let Ok(thread) = Start::THREAD.state() else { return };
        if thread.state == FAULTED {
            return;
        }
        if let Some(board) = &shared.board {
            board.turn();
        }
        let limit = rt::time::milliseconds(TURN_MS, shared.tsc_khz);
        let done = shared.done.load(Ordering::Relaxed);
        if self.builder.look(done, thread.consumed, thread.state >= 2, limit).is_some() {
            let _ = Start::THREAD.suspend();
            let entry: extern "C" fn() -> ! = endless;
            let end = Registers {
                rip: entry as usize as u64,
                rsp: layout::STACK_TOP - ENTRY,
                rflags: FLAGS,
                ..Registers::default()
            };
            let _ = Start::THREAD.write_registers(&end);
            let _ = Start::THREAD.resume();
            return;
        }
        let patience = rt::time::milliseconds(PATIENCE_MS, shared.tsc_khz);
        let now = rt::time::now();
        let is_late = |died: u64| now.saturating_sub(died) > patience;
        let late = shared
            .wards
            .iter()
            .filter(|ward| ward.is(state::CONDEMNED) && is_late(ward.died.load(Ordering::Relaxed)))
            .map(|ward| ward.priority)
            .max();
        if let Some(priority) = late {
            shared.set_pace(shared.pace.load(Ordering::Relaxed).max(priority));
        }
    }

    /// A thread has faulted, or has used up its budget.
    fn message(&self, message: &Message) {
        let index = (message.badge & 0xffff) as usize;
        let known = self.shared.wards.get(index);
        let known = known.is_some_and(|ward| ward.is(state::ALIVE) && ward.id.load(Ordering::Relaxed) == message.badge);
        // Otherwise it is of an instance that is condemned already.
        if known && message.label() == LABEL_FAULT {
            self.condemn(index, Charge::Fault, core::array::from_fn(|index| message.word(index)), None);
        }
    }

    /// What is done every now and then.
    fn looks(&mut self) {
        self.look_when = rt::time::now() + rt::time::milliseconds(LOOK_MS, self.shared.tsc_khz);
        self.builder_next = !self.builder_next;
        if self.builder_next {
            self.look_at_builder()
        } else {
            self.look()
        }
        self.orders();
    }
}

/// Turns that a server's event loop has noted.
fn turns(index: usize) -> u64 {
    const TURNS: usize = offset_of!(MessageBuffer, trace) + offset_of!(Trace, turns);
    let mut turns = [0; 8];
    window::note(index).copy_out(TURNS, &mut turns);
    u64::from_ne_bytes(turns)
}
