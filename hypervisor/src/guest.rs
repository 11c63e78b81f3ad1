//! The life of a CPU: run the guest, see why it stopped, go on.
//!
//! Whatever a handler refuses is a [`Violation`]. It stops the cell; in the root cell, which is the machine's Linux, the
//! access is answered as an empty bus would, or the instruction faults, and a line is printed.

use core::sync::atomic::Ordering;

use hypervisor_abi::cpuid;
use hypervisor_abi::hypercall::{CpuStat, INSTRUCTION_LEN};

use crate::cell::{Failure, Reason, Violation};
use crate::cpu::Cpu;
use crate::decode::{Access, CodeSize, Instruction, MAX_LENGTH, Source, decode, truncate};
use crate::devices;
use crate::memory::host;
use crate::memory::nested::APIC_PAGE;
use crate::units::msr::{number, write_ignored};
use crate::vendor::{Event, Exit, IoAccess, MemoryAccess, Vcpu, reg};
use crate::{apic, hypercall, say, x86};

const PAGE: u64 = 4096;

/// Runs this CPU's guest for good.
pub fn run(cpu: &mut Cpu) -> ! {
    loop {
        cpu.attend();
        let exit = cpu.vcpu.run();
        cpu.shared.count(CpuStat::Total);
        if let Err(violation) = handle(cpu, exit) {
            refuse(cpu, exit, violation);
        }
    }
}

fn handle(cpu: &mut Cpu, exit: Exit) -> Result<(), Violation> {
    match exit {
        // It was taken; what it was about is seen to before the next entry.
        Exit::Nmi => Ok(()),
        Exit::Cpuid => {
            cpu.shared.count(CpuStat::Cpuid);
            emulate_cpuid(cpu);
            Ok(())
        }
        Exit::Hypercall => {
            cpu.shared.count(CpuStat::Hypercall);
            if cpu.vcpu.privilege() != 0 || cpu.vcpu.virtual_8086() {
                cpu.vcpu.inject(Event::UndefinedOpcode);
                return Ok(());
            }
            skip(cpu, INSTRUCTION_LEN);
            hypercall::call(cpu);
            Ok(())
        }
        Exit::MsrRead => {
            cpu.shared.count(CpuStat::MsrOther);
            read_msr(cpu)
        }
        Exit::MsrWrite => write_msr(cpu),
        Exit::Io(access) => {
            cpu.shared.count(CpuStat::Pio);
            port(cpu, &access)
        }
        Exit::Memory(access) => memory(cpu, &access),
        Exit::SetXcr => {
            cpu.shared.count(CpuStat::Xsetbv);
            set_xcr(cpu);
            Ok(())
        }
        Exit::Undefined => {
            cpu.vcpu.inject(Event::UndefinedOpcode);
            Ok(())
        }
        Exit::TripleFault => Err(Violation::new(Reason::TripleFault, 0, 0)),
        Exit::InvalidState => Err(Violation::new(Reason::InvalidState, 0, 0)),
        Exit::Unexpected(code) => Err(Violation::new(Reason::Exit, code, 0)),
    }
}

/// A violation: the cell stops; the root cell gets what an access into nothing gets.
fn refuse(cpu: &mut Cpu, exit: Exit, violation: Violation) {
    let cell = cpu.cell();
    let rip = cpu.vcpu.rip();
    let survivable = matches!(exit, Exit::Memory(MemoryAccess { walk: false, .. }) | Exit::MsrRead | Exit::MsrWrite);
    if cell.is_root() && survivable {
        say!("root cell: {violation:x?} on CPU {} at {rip:#x}", cpu.number);
        cpu.vcpu.inject(Event::GeneralProtection);
        return;
    }
    let mut bytes = [0; MAX_LENGTH];
    fetch(cpu, &mut bytes);
    let mut code = [0; 16];
    code[..MAX_LENGTH].copy_from_slice(&bytes);
    cell.fail(Failure { violation, cpu: cpu.number, rip, code_base: cpu.vcpu.code_base(), code });
    for other in cell.shared_cpus().filter(|other| other.cpu.load(Ordering::Relaxed) != cpu.number) {
        other.failed.store(true, Ordering::Release);
        other.park.store(true, Ordering::Release);
        crate::cpu::kick(other);
    }
    cpu.stop();
}

fn skip(cpu: &mut Cpu, length: u64) {
    let next = cpu.vcpu.rip().wrapping_add(length);
    cpu.vcpu.set_rip(if cpu.vcpu.code_size() == CodeSize::Bits64 { next } else { next & 0xffff_ffff });
}

// ---- instruction fetch ----

/// Reads the bytes of the guest's current instruction; how many could be read.
fn fetch(cpu: &mut Cpu, bytes: &mut [u8; MAX_LENGTH]) -> usize {
    let code_size = cpu.vcpu.code_size();
    let base = if code_size == CodeSize::Bits64 { 0 } else { cpu.vcpu.code_base() };
    let start = base.wrapping_add(cpu.vcpu.rip());
    let start = if code_size == CodeSize::Bits64 { start } else { start & 0xffff_ffff };
    let paging = cpu.vcpu.paging();
    let (number, cell) = (cpu.number, cpu.cell());
    let read = |address: u64| {
        let mut entry = [0; 8];
        host::read_physical(number, cell.memory.translate(address)?, &mut entry);
        Some(u64::from_le_bytes(entry))
    };
    let mut done = 0;
    while done < MAX_LENGTH {
        let linear = start.wrapping_add(done as u64);
        let Some(phys) = paging.translate(linear, read).and_then(|at| cell.memory.translate(at)) else { break };
        let count = (MAX_LENGTH - done).min((PAGE - (linear & (PAGE - 1))) as usize);
        host::read_physical(number, phys, &mut bytes[done..done + count]);
        done += count;
    }
    done
}

fn current_instruction(cpu: &mut Cpu, address: u64) -> Result<Instruction, Violation> {
    let mut bytes = [0; MAX_LENGTH];
    let count = fetch(cpu, &mut bytes);
    decode(&bytes[..count], cpu.vcpu.code_size()).map_err(|_| {
        let mut first = [0; 8];
        first.copy_from_slice(&bytes[..8]);
        Violation::new(Reason::Instruction, address, u64::from_le_bytes(first))
    })
}

// ---- memory ----

fn memory(cpu: &mut Cpu, access: &MemoryAccess) -> Result<(), Violation> {
    let address = access.address;
    let violation = Violation::new(Reason::Memory, address, u64::from(access.write) | u64::from(access.fetch) << 4);
    if access.fetch || access.walk {
        cpu.shared.count(CpuStat::Mmio);
        return Err(violation);
    }
    if address & !(PAGE - 1) == APIC_PAGE && access.write && !apic::x2apic() {
        cpu.shared.count(CpuStat::Xapic);
        return apic_page(cpu, address);
    }
    cpu.shared.count(CpuStat::Mmio);
    let instruction = current_instruction(cpu, address)?;
    emulate(cpu, &instruction, |cpu, access| {
        match devices::memory(cpu, address, instruction.size, access) {
            Some(result) => result,
            // Nothing there: Linux finds an empty bus, as it would without us.
            None if cpu.cell().is_root() => Ok(u64::MAX),
            None => Err(violation),
        }
    })
}

fn apic_page(cpu: &mut Cpu, address: u64) -> Result<(), Violation> {
    let instruction = current_instruction(cpu, address)?;
    let offset = (address & (PAGE - 1)) as u32;
    if !offset.is_multiple_of(16) || instruction.size != 4 {
        return Err(Violation::new(Reason::Memory, address, instruction.size.into()));
    }
    let register = offset / 16;
    emulate(cpu, &instruction, |cpu, access| match access {
        devices::Access::Read if register <= apic::register::LAST => Ok(apic::read(register).into()),
        devices::Access::Write(value) if register <= apic::register::LAST => {
            apic::guest_write(cpu, register, value as u32).map(|()| 0)
        }
        _ => Ok(0),
    })
}

/// Carries out a memory instruction with `bus` in the place of memory.
fn emulate(
    cpu: &mut Cpu,
    instruction: &Instruction,
    mut bus: impl FnMut(&mut Cpu, devices::Access) -> Result<u64, Violation>,
) -> Result<(), Violation> {
    let size = instruction.size;
    let whole = |cpu: &mut Cpu, index: u8| cpu.vcpu.registers()[usize::from(index)];
    let operand = |cpu: &mut Cpu, source: Source| match source {
        Source::Register(register) => register.read(whole(cpu, register.index)),
        Source::Immediate(value) => value,
    };
    let old = if instruction.reads() { truncate(bus(cpu, devices::Access::Read)?, size) } else { 0 };
    match instruction.access {
        Access::Load { to, extend } => {
            let index = usize::from(to.index);
            let registers = cpu.vcpu.registers();
            registers[index] = to.load(registers[index], old, size, extend);
        }
        Access::Store(source) => {
            let value = truncate(operand(cpu, source), size);
            bus(cpu, devices::Access::Write(value))?;
        }
        Access::Exchange(register) => {
            let value = register.read(whole(cpu, register.index));
            bus(cpu, devices::Access::Write(value))?;
            let index = usize::from(register.index);
            let registers = cpu.vcpu.registers();
            registers[index] = register.write(registers[index], old);
        }
        Access::Modify { op, operand: source } => {
            let second = operand(cpu, source);
            let (value, flags) = op.apply(old, second, size, *cpu.vcpu.flags());
            if op.has_result() {
                bus(cpu, devices::Access::Write(value))?;
            }
            *cpu.vcpu.flags() = flags;
        }
        Access::Combine { op, to } => {
            let index = usize::from(to.index);
            let first = to.read(cpu.vcpu.registers()[index]);
            let (value, flags) = op.apply(first, old, size, *cpu.vcpu.flags());
            if op.has_result() {
                let registers = cpu.vcpu.registers();
                registers[index] = to.write(registers[index], value);
            }
            *cpu.vcpu.flags() = flags;
        }
        Access::StoreString { from, repeat, address_size } => {
            return store_string(cpu, instruction, from, repeat, address_size, bus);
        }
    }
    skip(cpu, instruction.length.into());
    Ok(())
}

fn store_string(
    cpu: &mut Cpu,
    instruction: &Instruction,
    from: crate::decode::Register,
    repeat: bool,
    address_size: u8,
    mut bus: impl FnMut(&mut Cpu, devices::Access) -> Result<u64, Violation>,
) -> Result<(), Violation> {
    use crate::decode::Register;
    const DIRECTION: u64 = 1 << 10;
    let part = |index: usize| Register { index: index as u8, size: address_size, high: false };
    let count = part(reg::RCX).read(cpu.vcpu.registers()[reg::RCX]);
    if !repeat || count != 0 {
        let value = from.read(cpu.vcpu.registers()[usize::from(from.index)]);
        bus(cpu, devices::Access::Write(value))?;
        let down = *cpu.vcpu.flags() & DIRECTION != 0;
        let step = u64::from(instruction.size);
        let registers = cpu.vcpu.registers();
        let at = part(reg::RDI).read(registers[reg::RDI]);
        let next = if down { at.wrapping_sub(step) } else { at.wrapping_add(step) };
        registers[reg::RDI] = part(reg::RDI).write(registers[reg::RDI], next);
        if repeat {
            registers[reg::RCX] = part(reg::RCX).write(registers[reg::RCX], count - 1);
        }
    }
    if !repeat || count <= 1 {
        skip(cpu, instruction.length.into());
    }
    Ok(())
}

// ---- ports ----

fn port(cpu: &mut Cpu, access: &IoAccess) -> Result<(), Violation> {
    const BOOT_PROGRESS: u16 = 0x80;
    let violation = Violation::new(Reason::Port, access.port.into(), access.size.into());
    if access.string {
        return Err(violation);
    }
    let mask = match access.size {
        1 => 0xff,
        2 => 0xffff,
        _ => 0xffff_ffff,
    };
    let rax = cpu.vcpu.registers()[reg::RAX];
    let request = if access.input { devices::Access::Read } else { devices::Access::Write(rax & mask) };
    let value = match devices::port(cpu, access.port, access.size, request) {
        Some(result) => result?,
        None if cpu.cell().is_root() || access.port == BOOT_PROGRESS => u64::MAX,
        None => return Err(violation),
    };
    if access.input {
        // 32-bit results clear the upper half, narrower ones leave it.
        let kept = if access.size == 4 { 0 } else { rax & !mask };
        cpu.vcpu.registers()[reg::RAX] = kept | value & mask;
    }
    cpu.vcpu.set_rip(access.next_rip);
    Ok(())
}

// ---- MSRs, CPUID, XCR0 ----

const MSR_LENGTH: u64 = 2;

fn read_msr(cpu: &mut Cpu) -> Result<(), Violation> {
    let msr = cpu.vcpu.registers()[reg::RCX] as u32;
    let value = match cpu.vcpu.read_msr(msr) {
        Some(value) => Some(value),
        None if msr == number::APIC_BASE => Some(x86::read_msr(msr)),
        // Only cells come here: no banks.
        None if msr == number::MCG_CAP => Some(0),
        None if (number::X2APIC_FIRST..=number::X2APIC_FIRST + apic::register::LAST).contains(&msr) => {
            if cpu.cell().is_root() { None } else { apic::guest_read_x2(cpu, msr - number::X2APIC_FIRST) }
        }
        None => None,
    };
    match value {
        Some(value) => {
            let registers = cpu.vcpu.registers();
            registers[reg::RAX] = value & 0xffff_ffff;
            registers[reg::RDX] = value >> 32;
            skip(cpu, MSR_LENGTH);
        }
        None => cpu.vcpu.inject(Event::GeneralProtection),
    }
    Ok(())
}

fn write_msr(cpu: &mut Cpu) -> Result<(), Violation> {
    let registers = cpu.vcpu.registers();
    let msr = registers[reg::RCX] as u32;
    let value = registers[reg::RDX] << 32 | registers[reg::RAX] & 0xffff_ffff;
    let x2apic = number::X2APIC_FIRST..=number::X2APIC_FIRST + apic::register::LAST;
    let stat = if msr == number::X2APIC_ICR { CpuStat::MsrX2apicIcr } else { CpuStat::MsrOther };
    cpu.shared.count(stat);
    let accepted = match cpu.vcpu.write_msr(msr, value) {
        Some(accepted) => accepted,
        None if msr == number::X2APIC_ICR && apic::x2apic() => {
            cpu.icr_high = (value >> 32) as u32;
            apic::guest_command(cpu, value as u32, (value >> 32) as u32)?;
            true
        }
        None if x2apic.contains(&msr) && !cpu.cell().is_root() => {
            match apic::guest_write_x2(cpu, msr - number::X2APIC_FIRST, value) {
                Some(result) => {
                    result?;
                    true
                }
                None => false,
            }
        }
        // The base does not move; a cell that has its x2APIC registers emulated may say that it uses them.
        None if msr == number::APIC_BASE => {
            const EXTD: u64 = 1 << 10;
            let current = x86::read_msr(msr);
            value == current || !cpu.cell().is_root() && value == current | EXTD
        }
        None => write_ignored(msr, cpu.cell().is_root()),
    };
    if accepted {
        skip(cpu, MSR_LENGTH);
    } else {
        cpu.vcpu.inject(Event::GeneralProtection);
    }
    Ok(())
}

fn emulate_cpuid(cpu: &mut Cpu) {
    const CR4_OSXSAVE: u64 = 1 << 18;
    const FEATURE_OSXSAVE: u32 = 1 << 27;
    let registers = cpu.vcpu.registers();
    let (leaf, subleaf) = (registers[reg::RAX] as u32, registers[reg::RCX] as u32);
    let [eax, ebx, mut ecx, edx] = cpuid::leaf(leaf).unwrap_or_else(|| x86::cpuid(leaf, subleaf));
    if leaf == 1 {
        let osxsave = if cpu.vcpu.paging().cr4 & CR4_OSXSAVE != 0 { FEATURE_OSXSAVE } else { 0 };
        ecx = ecx & !(FEATURE_OSXSAVE | cpuid::FEATURE_VMX) | cpuid::HYPERVISOR_PRESENT | osxsave;
    } else if leaf == 0x8000_0001 {
        ecx &= !cpuid::FEATURE_SVM;
    }
    let registers = cpu.vcpu.registers();
    registers[reg::RAX] = eax.into();
    registers[reg::RBX] = ebx.into();
    registers[reg::RCX] = ecx.into();
    registers[reg::RDX] = edx.into();
    skip(cpu, 2);
}

fn set_xcr(cpu: &mut Cpu) {
    const LENGTH: u64 = 3;
    let registers = cpu.vcpu.registers();
    let index = registers[reg::RCX] as u32;
    let value = registers[reg::RDX] << 32 | registers[reg::RAX] & 0xffff_ffff;
    if index == 0 && cpu.vcpu.privilege() == 0 && x86::set_xcr0(value) {
        skip(cpu, LENGTH);
    } else {
        cpu.vcpu.inject(Event::GeneralProtection);
    }
}
