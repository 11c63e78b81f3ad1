//! Hypercalls: decode, check who calls, do.

use core::sync::atomic::Ordering;
use hypervisor_abi::config::CellFlags;
use hypervisor_abi::hypercall::{CPU_FAILED, CPU_INFO_STATE, CPU_RUNNING, CpuStat, Error, Hypercall, InfoType};

use crate::cpu::Cpu;
use crate::decode::CodeSize;
use crate::memory::host;
use crate::vendor::{Vcpu, reg};
use crate::{cell, manage, percpu, teardown};

/// Our own addition: why a cell failed. RDI: cell, RSI: field; the answer fills RAX.
const CELL_FAILURE: u32 = 0x100;

/// Answers the hypercall of this CPU's guest.
pub fn call(cpu: &mut Cpu) {
    let long = cpu.vcpu.code_size() == CodeSize::Bits64;
    let registers = cpu.vcpu.registers();
    let code = registers[reg::RAX] as u32;
    let mask = if long { u64::MAX } else { 0xffff_ffff };
    let (arg1, arg2) = (registers[reg::RDI] & mask, registers[reg::RSI] & mask);
    let result = if code == CELL_FAILURE {
        failure(cpu, arg1 as u32, arg2 as u32)
    } else {
        match Hypercall::from_code(code) {
            None => Err(Error::NoSystemCall),
            Some(call) if call.root_only() && !cpu.cell().is_root() => Err(Error::NotPermitted),
            Some(call) => dispatch(cpu, call, arg1, arg2),
        }
    };
    // 64 bits, sign-extended: a caller that looks at EAX and one that looks at RAX see the same.
    cpu.vcpu.registers()[reg::RAX] = result.unwrap_or_else(|error| i64::from(error.code())) as u64;
}

fn dispatch(cpu: &mut Cpu, call: Hypercall, arg1: u64, arg2: u64) -> Result<i64, Error> {
    match call {
        Hypercall::Disable => Err(teardown::disable(cpu)),
        Hypercall::CellCreate => manage::create(cpu, arg1).map(i64::from),
        Hypercall::CellStart => manage::start(cpu, arg1 as u32).map(|()| 0),
        Hypercall::CellSetLoadable => manage::set_loadable(cpu, arg1 as u32).map(|()| 0),
        Hypercall::CellDestroy => manage::destroy(cpu, arg1 as u32).map(|()| 0),
        Hypercall::HypervisorGetInfo => info(arg1 as u32),
        Hypercall::CellGetState => {
            let _guard = cpu.manage();
            let cell = cell::find(arg1 as u32).ok_or(Error::NoEntry)?;
            Ok(cell.state() as i64)
        }
        Hypercall::CpuGetInfo => cpu_info(cpu, arg1, arg2),
        Hypercall::DebugConsolePutc => {
            let permitted = CellFlags::VIRTUAL_CONSOLE_PERMITTED;
            if !cpu.cell().is_root() && !cpu.cell().config().flags().contains(permitted) {
                return Err(Error::NotPermitted);
            }
            cpu.cell().put(arg1 as u8);
            Ok(0)
        }
    }
}

fn info(kind: u32) -> Result<i64, Error> {
    let (pages, used) = host::pool_figures();
    Ok(match InfoType::from_code(kind).ok_or(Error::Invalid)? {
        InfoType::MemPoolSize => pages as i64,
        InfoType::MemPoolUsed => used as i64,
        // There is no remap pool: guest memory is looked at through one window a CPU.
        InfoType::RemapPoolSize | InfoType::RemapPoolUsed => 0,
        InfoType::NumCells => cell::all().count() as i64,
    })
}

fn cpu_info(cpu: &Cpu, number: u64, kind: u64) -> Result<i64, Error> {
    let number = u32::try_from(number).map_err(|_| Error::Invalid)?;
    let other = percpu::get(number).ok_or(Error::Invalid)?;
    if !cpu.cell().is_root() && !cpu.cell().has_cpu(number) {
        return Err(Error::NotPermitted);
    }
    let kind = u32::try_from(kind).map_err(|_| Error::Invalid)?;
    if kind == CPU_INFO_STATE {
        let failed = other.failed.load(Ordering::Acquire);
        return Ok(i64::from(if failed { CPU_FAILED } else { CPU_RUNNING }));
    }
    let stat = CpuStat::from_code(kind).ok_or(Error::Invalid)?;
    // The result is 31 bits wide; the count goes on from 0 behind them.
    Ok((other.stats[stat as usize].load(Ordering::Relaxed) & 0x7fff_ffff) as i64)
}

fn failure(cpu: &mut Cpu, id: u32, field: u32) -> Result<i64, Error> {
    if !cpu.cell().is_root() {
        return Err(Error::NotPermitted);
    }
    let _guard = cpu.manage();
    let failure = *cell::find(id).ok_or(Error::NoEntry)?.failure.lock();
    let Some(failure) = failure else { return if field == 0 { Ok(0) } else { Err(Error::NoEntry) } };
    let half = |half: usize| {
        let mut word = [0; 8];
        word.copy_from_slice(&failure.code[half * 8..][..8]);
        i64::from_le_bytes(word)
    };
    Ok(match field {
        0 => failure.violation.reason as i64,
        1 => failure.cpu.into(),
        2 => failure.rip as i64,
        3 => failure.violation.address as i64,
        4 => failure.violation.detail as i64,
        5 => failure.code_base as i64,
        6 | 7 => half(field as usize - 6),
        _ => return Err(Error::Invalid),
    })
}
