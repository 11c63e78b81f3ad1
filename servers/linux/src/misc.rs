//! Small calls that belong nowhere else.

use crate::errno::{Errno, Result};
use crate::server::{Outcome, Server};
use core::sync::atomic::Ordering;
use linux_raw_sys::general as linux;

/// RLIMIT_STACK.
const STACK: u64 = 3;

/// `arch_prctl`.
pub fn arch_prctl(server: &mut Server, slot: u32, arguments: [u64; 6]) -> Result<Outcome> {
    const SET_GS: u64 = 0x1001;
    const SET_FS: u64 = 0x1002;
    const GET_FS: u64 = 0x1003;
    const GET_GS: u64 = 0x1004;
    let [code, address, ..] = arguments;
    let mut registers = server.machine.registers(slot)?;
    match code {
        SET_FS | SET_GS => {
            if address >= ipc::shadow::WINDOW_END {
                return Err(Errno::EPERM);
            }
            *(if code == SET_FS { &mut registers.fs_base } else { &mut registers.gs_base }) = address;
            registers.rax = 0;
            server.machine.set_registers(slot, &registers)?;
        }
        GET_FS => server.put_user(slot, address, &registers.fs_base)?,
        GET_GS => server.put_user(slot, address, &registers.gs_base)?,
        _ => return Err(Errno::EINVAL),
    }
    Ok(Outcome::Value(0))
}

impl Server {
    /// Sets the name of a thread and publishes it.
    pub fn name_thread(&mut self, slot: u32, name: &[u8]) {
        let Ok(thread) = self.thread_mut(slot) else { return };
        thread.name = [0; 16];
        let length = name.len().min(15);
        thread.name[..length].copy_from_slice(&name[..length]);
        let words = [0, 8].map(|at| u64::from_le_bytes(thread.name[at..at + 8].try_into().unwrap_or_default()));
        for (word, value) in self.entries[slot as usize].name.iter().zip(words) {
            word.store(value, Ordering::Relaxed);
        }
    }
}

/// `prctl`. What concerns this process's own memory and threads is answered here, what concerns its credentials by Linux.
pub fn prctl(server: &mut Server, slot: u32, arguments: [u64; 6]) -> Result<Outcome> {
    const SET_PDEATHSIG: u64 = 1;
    const GET_PDEATHSIG: u64 = 2;
    const GET_DUMPABLE: u64 = 3;
    const SET_DUMPABLE: u64 = 4;
    const GET_KEEPCAPS: u64 = 7;
    const SET_KEEPCAPS: u64 = 8;
    const SET_NAME: u64 = 15;
    const GET_NAME: u64 = 16;
    const CAPBSET_READ: u64 = 23;
    const CAPBSET_DROP: u64 = 24;
    const GET_SECUREBITS: u64 = 27;
    const SET_SECUREBITS: u64 = 28;
    const SET_TIMERSLACK: u64 = 29;
    const GET_TIMERSLACK: u64 = 30;
    const SET_CHILD_SUBREAPER: u64 = 36;
    const GET_CHILD_SUBREAPER: u64 = 37;
    const SET_NO_NEW_PRIVS: u64 = 38;
    const GET_NO_NEW_PRIVS: u64 = 39;
    const CAP_AMBIENT: u64 = 47;
    let [option, argument, ..] = arguments;
    match option {
        SET_NAME => {
            let mut name = [0; 15];
            for (index, byte) in name.iter_mut().enumerate() {
                *byte = server.get_user(slot, argument.wrapping_add(index as u64))?;
                if *byte == 0 {
                    break;
                }
            }
            let length = name.iter().position(|byte| *byte == 0).unwrap_or(name.len());
            server.name_thread(slot, &name[..length]);
            Ok(Outcome::Value(0))
        }
        GET_NAME => {
            let name = server.thread(slot)?.name;
            server.write_user(slot, argument, &name)?;
            Ok(Outcome::Value(0))
        }
        // Timers are exact here.
        SET_TIMERSLACK => Ok(Outcome::Value(0)),
        GET_TIMERSLACK => Ok(Outcome::Value(1)),
        SET_PDEATHSIG | GET_PDEATHSIG | GET_DUMPABLE | SET_DUMPABLE | GET_KEEPCAPS | SET_KEEPCAPS | CAPBSET_READ
        | CAPBSET_DROP | GET_SECUREBITS | SET_SECUREBITS | SET_CHILD_SUBREAPER | GET_CHILD_SUBREAPER
        | SET_NO_NEW_PRIVS | GET_NO_NEW_PRIVS | CAP_AMBIENT => server.forward(slot),
        _ => Err(Errno::EINVAL),
    }
}

/// `getrlimit`: the stack is ours, all else Linux's.
pub fn getrlimit(server: &mut Server, slot: u32, arguments: [u64; 6]) -> Result<Outcome> {
    let [resource, address, ..] = arguments;
    if resource != STACK {
        return server.forward(slot);
    }
    let limit = server.process_of(slot)?.stack_limit;
    server.put_user(slot, address, &limit)?;
    Ok(Outcome::Value(0))
}

fn set_stack_limit(server: &mut Server, slot: u32, [soft, hard]: [u64; 2]) -> Result<()> {
    let limit = &mut server.process_of(slot)?.stack_limit;
    if soft > hard {
        return Err(Errno::EINVAL);
    }
    if hard > limit[1] {
        return Err(Errno::EPERM);
    }
    *limit = [soft, hard];
    Ok(())
}

/// `setrlimit`.
pub fn setrlimit(server: &mut Server, slot: u32, arguments: [u64; 6]) -> Result<Outcome> {
    let [resource, address, ..] = arguments;
    if resource != STACK {
        return server.forward(slot);
    }
    let limit = server.get_user(slot, address)?;
    set_stack_limit(server, slot, limit)?;
    Ok(Outcome::Value(0))
}

/// `prlimit64`.
pub fn prlimit(server: &mut Server, slot: u32, arguments: [u64; 6]) -> Result<Outcome> {
    let [pid, resource, new, old, ..] = arguments;
    let own = pid == 0 || pid as u32 == server.process_of(slot)?.pid;
    if resource != STACK || !own {
        return server.forward(slot);
    }
    let limit = server.process_of(slot)?.stack_limit;
    if new != 0 {
        let limit = server.get_user(slot, new)?;
        set_stack_limit(server, slot, limit)?;
    }
    if old != 0 {
        server.put_user(slot, old, &limit)?;
    }
    Ok(Outcome::Value(0))
}

/// `membarrier`: there is one processor, so every switch of threads is a barrier.
pub fn membarrier(_: &mut Server, _: u32, arguments: [u64; 6]) -> Result<Outcome> {
    let supported = u64::from(
        linux::membarrier_cmd::MEMBARRIER_CMD_GLOBAL as u32
            | linux::membarrier_cmd::MEMBARRIER_CMD_PRIVATE_EXPEDITED as u32
            | linux::membarrier_cmd::MEMBARRIER_CMD_REGISTER_PRIVATE_EXPEDITED as u32,
    );
    match arguments[0] {
        0 => Ok(Outcome::Value(supported)),
        command if command & !supported == 0 && command.is_power_of_two() => Ok(Outcome::Value(0)),
        _ => Err(Errno::EINVAL),
    }
}

/// `restart_syscall`: nothing here needs it.
pub fn restart(_: &mut Server, _: u32, _: [u64; 6]) -> Result<Outcome> {
    Err(Errno::EINTR)
}

/// `mbind`: there is one node, and memory is there already.
pub fn mbind(_: &mut Server, _: u32, _: [u64; 6]) -> Result<Outcome> {
    Ok(Outcome::Value(0))
}
