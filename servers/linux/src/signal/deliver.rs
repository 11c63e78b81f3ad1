//! Delivery: from a pending signal to the first instruction of its handler.

use super::frame::{self, CONTEXT_OFFSET, Cause, Delivered, Frame, INFO_OFFSET};
use super::{DEFAULT, IGNORE, Info, UNBLOCKABLE, bit};
use crate::errno::{Errno, Result};
use crate::executor::Shell;
use crate::machine::ReplyId;
use crate::process::Job;
use crate::server::{Outcome, Server};
use crate::thread::{CallRecord, Wait};
use alloc::rc::Rc;
use alloc::vec;
use ipc::message::{Registers, reply_label};
use ipc::shadow::identity_parts;
use linux_raw_sys::general as linux;

/// Largest FPU image.
const MAX_FPU: usize = 4096;
const EINTR: u64 = (-4i64) as u64;
/// Flags that a handler starts without: trap, direction, resume.
const CLEARED_FLAGS: u64 = 1 << 8 | 1 << 10 | 1 << 16;

/// What a delivery came to.
#[derive(PartialEq, Eq)]
enum Delivery {
    /// The thread's registers lead to a handler.
    Handler,
    /// The process ends.
    Ends,
    /// Nothing was to be done.
    Nothing,
}

impl Server {
    /// A call of the thread is about to give `value`. True: the thread was answered otherwise, or its process ends.
    pub fn deliver_on_return(&mut self, slot: u32, value: u64) -> bool {
        let number = self.thread(slot).map_or(0, |thread| thread.call.number);
        let Ok(mut registers) = self.machine.registers(slot) else { return false };
        registers.rax = value;
        match self.deliver(slot, registers, Some(number), Cause::default()) {
            Delivery::Handler => {
                self.answer(slot, reply_label::REGISTERS, 0);
                true
            }
            Delivery::Ends => true,
            Delivery::Nothing => false,
        }
    }

    /// The thread is stopped in user mode (or its registers are as they shall be). True: they lead to a handler now,
    /// or the process ends.
    pub fn deliver_in_place(&mut self, slot: u32) -> bool {
        let Ok(registers) = self.machine.registers(slot) else { return false };
        match self.deliver(slot, registers, None, Cause::default()) {
            Delivery::Handler => {
                self.answer(slot, reply_label::REGISTERS, 0);
                true
            }
            Delivery::Ends => true,
            Delivery::Nothing => false,
        }
    }

    /// The thread is stopped right after a forwarded call.
    pub(super) fn deliver_after_remote(&mut self, slot: u32, number: u64) {
        if let Ok(registers) = self.machine.registers(slot) {
            self.deliver(slot, registers, Some(number), Cause::default());
        }
    }

    fn deliver(&mut self, slot: u32, mut registers: Registers, call: Option<u64>, cause: Cause) -> Delivery {
        while let Some(info) = self.take_due(slot) {
            let Ok(thread) = self.thread(slot) else { return Delivery::Nothing };
            let leader = thread.leader;
            let Ok(process) = self.process(leader) else { return Delivery::Nothing };
            let action = process.signals.action(info.signal);
            if process.signals.ignores(info.signal) {
                continue;
            }
            if action.handler == DEFAULT {
                self.jobs.push(Job::Terminate { leader, status: info.signal.into() });
                return Delivery::Ends;
            }
            if let Some(number) = call
                && registers.rax == EINTR
                && action.flags & u64::from(linux::SA_RESTART) != 0
                && restarts(number)
            {
                // Back to the instruction.
                registers.rax = number;
                registers.rip = registers.rip.wrapping_sub(2);
            }
            if self.enter_handler(slot, &registers, &info, cause).is_err() {
                self.jobs.push(Job::Terminate { leader, status: linux::SIGSEGV });
                return Delivery::Ends;
            }
            return Delivery::Handler;
        }
        Delivery::Nothing
    }

    /// Writes the frame and sets the registers for the handler.
    fn enter_handler(&mut self, slot: u32, registers: &Registers, info: &Info, cause: Cause) -> Result<()> {
        let leader = self.thread(slot)?.leader;
        let action = self.process(leader)?.signals.action(info.signal);
        let mut image = vec![0; MAX_FPU];
        let size = self.machine.fpu_read(slot, &mut image).unwrap_or(0);
        let thread = self.thread(slot)?;
        let alt_stack = thread.alt_stack;
        let wants_alt = action.flags & u64::from(linux::SA_ONSTACK) != 0;
        let switch = wants_alt && alt_stack.flags & linux::SS_DISABLE == 0 && !alt_stack.holds(registers.rsp);
        let old_mask = thread.saved_mask.unwrap_or(thread.blocked);
        let delivered = Delivered { info, mask: old_mask, restorer: action.restorer, alt_stack, switch, cause };
        let placed = frame::place(registers, &image[..size], &delivered).ok_or(Errno::EFAULT)?;
        self.write_user(slot, placed.fpu_at, &placed.fpu)?;
        self.put_user(slot, placed.at, &placed.frame)?;
        let handler = Registers {
            rip: action.handler,
            rsp: placed.at,
            rdi: info.signal.into(),
            rsi: placed.at + INFO_OFFSET,
            rdx: placed.at + CONTEXT_OFFSET,
            rax: 0,
            rflags: registers.rflags & !CLEARED_FLAGS,
            ..*registers
        };
        self.machine.set_registers(slot, &handler)?;
        let thread = self.thread_mut(slot)?;
        thread.saved_mask = None;
        thread.blocked |= action.mask & !UNBLOCKABLE;
        if action.flags & u64::from(linux::SA_NODEFER) == 0 {
            thread.blocked |= bit(info.signal);
        }
        if action.flags & u64::from(linux::SA_RESETHAND) != 0 {
            self.process_mut(leader)?.signals.actions[usize::from(info.signal) - 1].handler = DEFAULT;
        }
        Ok(())
    }
}

/// Calls that never go on after a handler, whatever SA_RESTART says.
fn restarts(number: u64) -> bool {
    !matches!(
        number as u32,
        linux::__NR_pause
            | linux::__NR_nanosleep
            | linux::__NR_clock_nanosleep
            | linux::__NR_poll
            | linux::__NR_ppoll
            | linux::__NR_select
            | linux::__NR_pselect6
            | linux::__NR_epoll_wait
            | linux::__NR_epoll_pwait
            | linux::__NR_epoll_pwait2
            | linux::__NR_rt_sigsuspend
            | linux::__NR_rt_sigtimedwait
            | linux::__NR_semop
            | linux::__NR_semtimedop
            | linux::__NR_msgrcv
            | linux::__NR_msgsnd
            | linux::__NR_io_getevents
    )
}

/// `rt_sigreturn`.
pub fn sigreturn(server: &mut Server, slot: u32, _: [u64; 6]) -> Result<Outcome> {
    let thread = server.thread(slot)?;
    let (leader, pointer) = (thread.leader, thread.call.stack);
    match restore(server, slot, pointer.wrapping_sub(8)) {
        Ok(()) => Ok(Outcome::Registers),
        Err(_) => {
            server.jobs.push(Job::Terminate { leader, status: linux::SIGSEGV });
            Ok(Outcome::Stay)
        }
    }
}

fn restore(server: &mut Server, slot: u32, at: u64) -> Result<()> {
    let mut frame = Frame::zeroed();
    server.read_user(slot, at, zerocopy::IntoBytes::as_mut_bytes(&mut frame))?;
    let current = server.machine.registers(slot)?;
    let registers = frame::restored(&frame, &current);
    if registers.rip >= ipc::shadow::WINDOW_END || registers.rsp >= ipc::shadow::WINDOW_END {
        return Err(Errno::EFAULT);
    }
    if frame.fpu != 0 {
        let mut image = vec![0; MAX_FPU];
        let size = server.machine.fpu_read(slot, &mut image)?;
        server.read_user(slot, frame.fpu, &mut image[..size])?;
        frame::sanitise(&mut image[..size]);
        server.machine.fpu_write(slot, &image[..size])?;
    }
    server.machine.set_registers(slot, &registers)?;
    let [start, flags, size] = frame.stack;
    let thread = server.thread_mut(slot)?;
    thread.blocked = frame.mask & !UNBLOCKABLE;
    if !thread.alt_stack.holds(registers.rsp) && flags as u32 & !(linux::SS_DISABLE | 1 << 31) == 0 {
        thread.alt_stack = super::AltStack { start, size, flags: flags as u32 };
    }
    Ok(())
}

/// A thread faulted. Words: vector, error code, address, rip, rsp, rflags.
pub fn fault(shell: &Rc<Shell>, identity: u64, words: [u64; 6], reply: ReplyId) {
    shell.with(|server| {
        let (slot, generation) = identity_parts(identity);
        let known = server.thread(slot).is_ok_and(|thread| thread.generation == generation && thread.reply.is_none());
        if !known {
            server.machine.reply_abandon(reply);
            return;
        }
        if let Ok(thread) = server.thread_mut(slot) {
            thread.reply = Some(reply);
            thread.call = CallRecord::default();
            thread.wait = Wait::Handling;
        }
        server.handle_fault(slot, words);
    });
    shell.run();
}

impl Server {
    fn handle_fault(&mut self, slot: u32, [vector, error, address, rip, ..]: [u64; 6]) {
        let info = classify(vector, error, address, rip);
        let Ok(thread) = self.thread_mut(slot) else { return };
        let leader = thread.leader;
        let is_blocked = thread.blocked & bit(info.signal) != 0;
        thread.pending.add(info);
        let ignored = self.process(leader).is_ok_and(|process| process.signals.action(info.signal).handler == IGNORE);
        if is_blocked || ignored {
            // It cannot go on: a fault is never ignored.
            self.jobs.push(Job::Terminate { leader, status: info.signal.into() });
            return;
        }
        let Ok(registers) = self.machine.registers(slot) else { return };
        let cause = Cause { error, vector, address };
        match self.deliver(slot, registers, None, cause) {
            Delivery::Handler => self.answer(slot, reply_label::REGISTERS, 0),
            Delivery::Ends => {}
            Delivery::Nothing => self.answer(slot, reply_label::VALUE, 0),
        }
    }
}

fn classify(vector: u64, error: u64, address: u64, rip: u64) -> Info {
    let fault = |signal: u32, code: u32, address: u64| Info::fault(signal as u8, code as i32, address);
    match vector {
        0 => fault(linux::SIGFPE, linux::FPE_INTDIV, rip),
        1 | 3 => fault(linux::SIGTRAP, if vector == 3 { linux::SI_KERNEL } else { linux::TRAP_TRACE }, rip),
        6 => fault(linux::SIGILL, linux::ILL_ILLOPN, rip),
        14 => fault(linux::SIGSEGV, if error & 1 != 0 { linux::SEGV_ACCERR } else { linux::SEGV_MAPERR }, address),
        16 | 19 => fault(linux::SIGFPE, linux::FPE_FLTINV, rip),
        17 => fault(linux::SIGBUS, linux::BUS_ADRALN, 0),
        12 => fault(linux::SIGBUS, linux::SI_KERNEL, 0),
        _ => fault(linux::SIGSEGV, linux::SI_KERNEL, 0),
    }
}
