//! The `futex` call.

use crate::errno::{Errno, Result};
use crate::server::{Outcome, Server};
use crate::sleep::{Clockid, read_timespec};
use crate::thread::Wait;
use core::sync::atomic::Ordering;
use linux_raw_sys::general as linux;
use rt::journal;

/// `futex`.
pub fn futex(server: &mut Server, slot: u32, arguments: [u64; 6]) -> Result<Outcome> {
    let [address, operation, value, timeout, other, last] = arguments;
    let operation = operation as u32;
    let private = operation & linux::FUTEX_PRIVATE_FLAG != 0;
    let real_time = operation & linux::FUTEX_CLOCK_REALTIME != 0;
    let command = operation & !(linux::FUTEX_PRIVATE_FLAG | linux::FUTEX_CLOCK_REALTIME);
    let (value32, second) = (value as u32, timeout & 0xffff_ffff);
    let count = u64::from(value32 & 0x7fff_ffff);
    let takes_clock = [linux::FUTEX_WAIT, linux::FUTEX_WAIT_BITSET, linux::FUTEX_LOCK_PI2];
    if real_time && !takes_clock.contains(&command) {
        return Err(Errno::ENOSYS);
    }
    let clock = if real_time { Clockid::Real } else { Clockid::Monotonic };
    match command {
        linux::FUTEX_WAIT => {
            let until = if timeout == 0 { None } else { Some(relative(server, slot, timeout)?) };
            wait(server, slot, address, value32, until, u32::MAX, private)
        }
        linux::FUTEX_WAIT_BITSET => {
            let until = if timeout == 0 { None } else { Some(absolute(server, slot, timeout, clock)?) };
            wait(server, slot, address, value32, until, last as u32, private)
        }
        linux::FUTEX_WAKE => server.futex_wake(slot, address, count.max(1), u32::MAX, private).map(Outcome::Value),
        linux::FUTEX_WAKE_BITSET => {
            if last as u32 == 0 {
                return Err(Errno::EINVAL);
            }
            server.futex_wake(slot, address, count.max(1), last as u32, private).map(Outcome::Value)
        }
        linux::FUTEX_REQUEUE => requeue(server, slot, address, other, private, count, second, None),
        linux::FUTEX_CMP_REQUEUE => requeue(server, slot, address, other, private, count, second, Some(last as u32)),
        linux::FUTEX_WAKE_OP => wake_op(server, slot, address, other, private, count, second, last as u32),
        linux::FUTEX_LOCK_PI => {
            let until = if timeout == 0 { None } else { Some(absolute(server, slot, timeout, Clockid::Real)?) };
            server.lock_pi(slot, address, private, until)
        }
        linux::FUTEX_LOCK_PI2 => {
            let until = if timeout == 0 { None } else { Some(absolute(server, slot, timeout, clock)?) };
            server.lock_pi(slot, address, private, until)
        }
        linux::FUTEX_TRYLOCK_PI => server.trylock_pi(slot, address),
        linux::FUTEX_UNLOCK_PI => server.unlock_pi(slot, address, private),
        _ => Err(Errno::ENOSYS),
    }
}

fn relative(server: &Server, slot: u32, address: u64) -> Result<u64> {
    let time = read_timespec(server, slot, address)?;
    Ok(server.monotonic().saturating_add(time))
}

fn absolute(server: &Server, slot: u32, address: u64, clock: Clockid) -> Result<u64> {
    let time = read_timespec(server, slot, address)?;
    Ok(clock.to_monotonic(&server.clock, time))
}

fn wait(
    server: &mut Server,
    slot: u32,
    address: u64,
    expected: u32,
    until: Option<u64>,
    bitset: u32,
    private: bool,
) -> Result<Outcome> {
    if bitset == 0 {
        return Err(Errno::EINVAL);
    }
    let key = server.futex_key(slot, address, private)?;
    let word = server.memory.word(server.space_of(slot)?, address, false)?;
    if word.load(Ordering::SeqCst) != expected {
        return Err(Errno::EAGAIN);
    }
    if server.signal_is_due(slot) {
        return Err(Errno::EINTR);
    }
    if let Some(until) = until {
        if until <= server.monotonic() {
            return Err(Errno::ETIMEDOUT);
        }
        server.set_deadline(slot, until);
    }
    server.futexes.add(slot, key, bitset, false);
    server.thread_mut(slot)?.wait = Wait::Futex;
    Ok(Outcome::Wait)
}

#[allow(clippy::too_many_arguments)] // The call's own.
fn requeue(
    server: &mut Server,
    slot: u32,
    address: u64,
    target: u64,
    private: bool,
    wake: u64,
    requeue: u64,
    expected: Option<u32>,
) -> Result<Outcome> {
    let from = server.futex_key(slot, address, private)?;
    let to = server.futex_key(slot, target, private)?;
    if let Some(expected) = expected {
        let word = server.memory.word(server.space_of(slot)?, address, false)?;
        if word.load(Ordering::SeqCst) != expected {
            return Err(Errno::EAGAIN);
        }
    }
    let woken = server.wake_key(from, wake, u32::MAX);
    let mut moved = 0;
    while moved < requeue && from != to {
        let Some(waiter) = server.first_waiter(from, u32::MAX) else { break };
        if let Some(entry) = server.futexes.waiters.iter_mut().find(|entry| entry.slot == waiter.slot) {
            entry.key = to;
        }
        moved += 1;
    }
    // FUTEX_REQUEUE counts the woken ones only; FUTEX_CMP_REQUEUE both.
    Ok(Outcome::Value(if expected.is_some() { woken + moved } else { woken }))
}

#[allow(clippy::too_many_arguments)] // The call's own.
fn wake_op(
    server: &mut Server,
    slot: u32,
    address: u64,
    target: u64,
    private: bool,
    wake: u64,
    wake_second: u64,
    encoded: u32,
) -> Result<Outcome> {
    let first = server.futex_key(slot, address, private)?;
    let second = server.futex_key(slot, target, private)?;
    // Operand and comparand are signed 12-bit numbers.
    let signed = |bits: u32| ((bits << 20) as i32) >> 20;
    let (operation, comparison) = (encoded >> 28, (encoded >> 24) & 0xf);
    let (mut operand, comparand) = (signed(encoded >> 12 & 0xfff), signed(encoded & 0xfff));
    if operation & linux::FUTEX_OP_OPARG_SHIFT != 0 {
        operand = 1i32.wrapping_shl(operand as u32);
    }
    let change: fn(u32, u32) -> u32 = match operation & !linux::FUTEX_OP_OPARG_SHIFT {
        linux::FUTEX_OP_SET => |_, operand| operand,
        linux::FUTEX_OP_ADD => u32::wrapping_add,
        linux::FUTEX_OP_OR => |old, operand| old | operand,
        linux::FUTEX_OP_ANDN => |old, operand| old & !operand,
        linux::FUTEX_OP_XOR => |old, operand| old ^ operand,
        _ => return Err(Errno::ENOSYS),
    };
    let holds: fn(&i32, &i32) -> bool = match comparison {
        linux::FUTEX_OP_CMP_EQ => i32::eq,
        linux::FUTEX_OP_CMP_NE => i32::ne,
        linux::FUTEX_OP_CMP_LT => i32::lt,
        linux::FUTEX_OP_CMP_LE => i32::le,
        linux::FUTEX_OP_CMP_GT => i32::gt,
        linux::FUTEX_OP_CMP_GE => i32::ge,
        _ => return Err(Errno::ENOSYS),
    };
    let word = server.memory.word(server.space_of(slot)?, target, true)?;
    let old = loop {
        let old = word.load(Ordering::SeqCst);
        if journal::exchange(word, old, change(old, operand as u32)) {
            break old as i32;
        }
    };
    let mut woken = server.wake_key(first, wake, u32::MAX);
    if holds(&old, &comparand) {
        woken += server.wake_key(second, wake_second, u32::MAX);
    }
    Ok(Outcome::Value(woken))
}
