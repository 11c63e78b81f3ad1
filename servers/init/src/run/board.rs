//! The board: what Linux sees of the servers, the crash reports, and the orders that come from there.
//!
//! Only init writes the board, the builder all but the answers to orders that the warden carries out by itself, and it reads nothing back but the reports' counter of a former life. The orders are Linux's, and
//! hostile: each word is read once and checked.

use super::devices::Function;
use super::memory::Memory;
use super::{Say, window};
use alloc::string::String;
use core::sync::atomic::Ordering;
use init::layout::Piece;
use init::orders::Order;
use ipc::blob::System;
use ipc::board::{
    BOARD_MAGIC, Board as Head, Entry, MAX_ENTRIES, Orders, REPORT_SLOT, REPORTS, Report, VECTOR_ORDER, VERSION, place,
};
use ipc::image::range_kind;
use ipc::shadow::rt_section::BOARD_SIZE;
use ipc::slots;
use rt::shared::Mapping;
use rt::{Cap, Notification, Rights, Start};
use zerocopy::IntoBytes;

const PAGE: u64 = 4096;
/// Bits of the warden's notification: an order is there.
pub const ORDER_BIT: u64 = 1;

/// The board and the orders, mapped.
pub struct Board {
    memory: Mapping,
    head: &'static Head,
    entries: &'static [Entry],
    orders: &'static Orders,
    /// Signalled when an order is there.
    pub notification: Cap<Notification>,
    /// Linux may make servers crash.
    pub may_crash: bool,
}

/// The memory that init itself must reach.
pub fn pieces(system: &System) -> impl Iterator<Item = Piece> {
    let piece = |physical, size| Piece { physical, size, kind: range_kind::SHARED };
    system.supervision.iter().flat_map(move |s| [piece(s.board, BOARD_SIZE as u64), piece(s.orders, PAGE)])
}

impl Board {
    /// Maps it, and lets orders interrupt. `None`: the manifest has none, or its device is absent.
    pub fn open(system: &System, memory: &mut Memory, functions: &[Option<Function>]) -> Result<Option<Board>, String> {
        let Some(places) = &system.supervision else { return Ok(None) };
        let Some(function) = functions.get(places.device as usize).and_then(Option::as_ref) else { return Ok(None) };
        let map = |physical: u64, bytes: u64, writable| {
            let (frame, page) = memory.fixed(physical).ok_or("no frame for the board")?;
            window::keep(frame, page, bytes, writable)
        };
        let board = map(places.board, BOARD_SIZE as u64, true)?;
        let orders = map(places.orders, PAGE, false)?;
        let interrupt = *function.interrupts.get(usize::from(VECTOR_ORDER)).ok_or("the device has no third vector")?;
        let notification: Cap<Notification> = memory.make_at(slots::NOTIFICATION)?;
        let badged = Cap::new(memory.slot()?);
        Start::CAP_TABLE
            .copy(badged.slot(), notification, Rights::WRITE, ORDER_BIT)
            .say("badging init's notification")?;
        interrupt.bind(Some(badged)).say("binding the interrupt of orders")?;
        let count = system.servers.len().min(MAX_ENTRIES);
        let fits = "the board has room for its parts";
        let opened = Board {
            memory: board,
            head: board.atomics(place::HEAD).ok_or(fits)?,
            entries: board.atomics_slice(place::ENTRIES, count).ok_or(fits)?,
            orders: orders.atomics(0).ok_or(fits)?,
            notification,
            may_crash: places.may_crash,
        };
        opened.fill(system);
        Ok(Some(opened))
    }

    fn fill(&self, system: &System) {
        let head = self.head;
        let is_ours =
            head.magic.load(Ordering::Relaxed) == BOARD_MAGIC && head.version.load(Ordering::Relaxed) == VERSION;
        if !is_ours {
            head.reports.store(0, Ordering::Relaxed);
        }
        head.magic.store(0, Ordering::Release);
        head.version.store(VERSION, Ordering::Relaxed);
        head.servers.store(self.entries.len() as u32, Ordering::Relaxed);
        head.may_crash.store(self.may_crash.into(), Ordering::Relaxed);
        // What was ordered of a former life is not carried out in this one.
        head.order_done.store(self.orders.sequence.load(Ordering::Relaxed), Ordering::Relaxed);
        for (entry, server) in self.entries.iter().zip(&system.servers) {
            let mut name = [0; 32];
            let length = server.name.len().min(name.len());
            name[..length].copy_from_slice(&server.name.as_bytes()[..length]);
            for (word, bytes) in entry.name.iter().zip(name.chunks_exact(8)) {
                word.store(u64::from_le_bytes(bytes.try_into().unwrap_or_default()), Ordering::Relaxed);
            }
            entry.priority.store(server.priority.into(), Ordering::Relaxed);
            entry.state.store(0, Ordering::Relaxed);
            for counter in [&entry.generation, &entry.crashes, &entry.died, &entry.started] {
                counter.store(0, Ordering::Relaxed);
            }
        }
        head.magic.store(BOARD_MAGIC, Ordering::Release);
    }

    /// Shows a server's state.
    pub fn show(&self, index: usize, state: u32, generation: u64) {
        if let Some(entry) = self.entries.get(index) {
            entry.generation.store(generation, Ordering::Relaxed);
            entry.state.store(state, Ordering::Release);
        }
    }

    /// Shows that a server has died now.
    pub fn died(&self, index: usize, now: u64) {
        if let Some(entry) = self.entries.get(index) {
            entry.crashes.fetch_add(1, Ordering::Relaxed);
            entry.died.store(now, Ordering::Relaxed);
        }
    }

    /// Shows that a server's instance was ready to run now.
    pub fn started(&self, index: usize, now: u64) {
        if let Some(entry) = self.entries.get(index) {
            entry.started.store(now, Ordering::Relaxed);
        }
    }

    /// Shows how many slots of init's capability table are free.
    pub fn free_capabilities(&self, slots: usize) {
        self.head.free_capabilities.store(slots as u32, Ordering::Relaxed);
    }

    /// Shows that init itself is alive.
    pub fn turn(&self) {
        self.head.turns.fetch_add(1, Ordering::Relaxed);
    }

    /// Adds a crash report; its number and checksum are filled in.
    pub fn report(&self, report: &mut Report) {
        let number = self.head.reports.load(Ordering::Relaxed);
        report.number = number;
        report.checksum = init::report::checksum(report);
        let slot = place::REPORTS + (number % REPORTS as u64) as usize * REPORT_SLOT;
        self.memory.copy_in(slot, report.as_bytes());
        self.head.reports.store(number + 1, Ordering::Release);
    }

    /// The order that waits: its sequence number, and what it is if that can be told.
    pub fn order(&self) -> Option<(u32, Option<Order>)> {
        let sequence = self.orders.sequence.load(Ordering::Acquire);
        if sequence == self.head.order_done.load(Ordering::Relaxed) {
            return None;
        }
        let [verb, server, argument] =
            [&self.orders.verb, &self.orders.server, &self.orders.argument].map(|word| word.load(Ordering::Relaxed));
        Some((sequence, Order::parse(verb, server, argument, self.entries.len())))
    }

    /// Says how an order went.
    pub fn carried_out(&self, sequence: u32, outcome: u32) {
        self.head.order_outcome.store(outcome, Ordering::Relaxed);
        self.head.order_done.store(sequence, Ordering::Release);
    }
}
