//! What is kept of a server that died: taken from its thread, its stack and its message buffer before they are taken back.

use super::machine::Machine;
use super::spawn::Place;
use super::window;
use alloc::string::String;
use core::mem::offset_of;
use init::report;
use ipc::MessageBuffer;
use ipc::board::{REPORT_VERSION, Report, STACK_BYTES, cause};
use ipc::message::Trace;
use ipc::slots::layout;
use rt::log;
use zerocopy::{FromZeros, IntoBytes};

/// Why a server is taken for dead, in words.
pub struct Death {
    /// [`cause`].
    pub cause: u32,
    /// Vector, code and address of a fault.
    pub fault: [u64; 3],
    /// In words, as in "server x …".
    pub words: String,
}

/// What an event loop has noted of itself.
pub fn trace(place: &Place) -> Trace {
    let mut trace = Trace::default();
    if let Err(reason) = window::peek(place.buffer(), offset_of!(MessageBuffer, trace) as u64, trace.as_mut_bytes()) {
        log!("{reason}");
    }
    trace
}

/// The report of a death; its thread is stopped.
pub fn report(machine: &Machine, place: &Place, index: usize, generation: u64, death: &Death) -> Report {
    let server = &machine.system.servers[index];
    let trace = trace(place);
    let mut report = Report::new_zeroed();
    report.version = REPORT_VERSION;
    report.size = size_of::<Report>() as u32;
    report.tsc = rt::time::now();
    report.tsc_khz = machine.tsc_khz;
    report.generation = generation;
    report.cause = death.cause;
    report.fault = death.fault;
    report.server = report::padded(&server.name);
    report.build_id = machine.build_id;
    report.manifest_digest = machine.manifest_digest;
    report.program_digest = server.digest;
    // A panic ends in an invalid instruction, so only such a fault has words of its own.
    let panic = report::panic_words(&trace).filter(|_| death.cause == cause::FAULT && death.fault[0] == 6);
    report.reason = match panic {
        Some(words) => report::padded(&alloc::format!("panicked: {words}")),
        None => report::padded(&death.words),
    };
    report.messages = report::last_messages(&trace);
    report.consumed = place.thread().state().map_or(0, |state| state.consumed);
    if let Ok(registers) = place.thread().read_registers() {
        report.registers = registers;
        let bottom = layout::STACK_TOP - server.stack;
        if (bottom..layout::STACK_TOP).contains(&registers.rsp) {
            let bytes = (layout::STACK_TOP - registers.rsp).min(STACK_BYTES as u64);
            let result = window::peek(place.stack(), registers.rsp - bottom, &mut report.stack[..bytes as usize]);
            report.stack_bytes = if result.is_ok() { bytes } else { 0 };
        }
    }
    report
}
