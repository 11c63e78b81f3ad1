//! `crtos cell why`: what a stopped cell did, and what it would have been allowed to do.

use std::fmt::Write;

use hypervisor_abi::config::{CellConfig, Memory};

use crate::cell_state;
use crate::config::describe;
use crate::hypervisor::Failure;

/// Regions to show around an address.
const NEAREST: usize = 8;

/// The report on a failure of the cell with that configuration.
pub fn report(failure: &Failure, cell: &CellConfig<'_>) -> String {
    let mut text = String::new();
    let mut line = |name: &str, value: &str| {
        // Writing to a string does not fail.
        let _ = writeln!(text, "{name:<12} {value}");
    };
    line("reason", cell_state::failure(failure.reason));
    if failure.reason != cell_state::TIMEOUT {
        line("processor", &failure.cpu.to_string());
        line("instruction", &instruction(failure));
    }
    if let Some(wanted) = wanted(failure) {
        line("wanted", &wanted);
    }
    let mut name = "allowed";
    for allowed in allowed(failure, cell) {
        line(name, &allowed);
        name = "";
    }
    text
}

fn instruction(failure: &Failure) -> String {
    let known = failure.code.iter().rposition(|byte| *byte != 0).map_or(0, |last| last + 1);
    let bytes: Vec<String> = failure.code[..known].iter().map(|byte| format!("{byte:02x}")).collect();
    let bytes = if bytes.is_empty() { "not readable".to_owned() } else { bytes.join(" ") };
    if failure.code_base == 0 {
        format!("{:#x}: {bytes}", failure.ip)
    } else {
        format!("{:#x} in the code segment at {:#x}: {bytes}", failure.ip, failure.code_base)
    }
}

fn wanted(failure: &Failure) -> Option<String> {
    let (address, detail) = (failure.address, failure.detail);
    Some(match failure.reason {
        cell_state::MEMORY if detail & 0x10 != 0 => format!("to execute {address:#x}"),
        cell_state::MEMORY if detail & 1 != 0 => format!("to write {address:#x}"),
        cell_state::MEMORY => format!("to read {address:#x}"),
        cell_state::INSTRUCTION => format!("to access {address:#x}"),
        cell_state::PORT => format!("{detail} bytes at port {address:#x}"),
        cell_state::MSR => format!("model-specific register {address:#x}"),
        cell_state::PCI => format!("PCI configuration {address:#x}, value {detail:#x}"),
        cell_state::INTERRUPT => format!("interrupt command {detail:#x}, target or register {address:#x}"),
        cell_state::EXIT => format!("exit {address:#x}"),
        cell_state::TIMEOUT => format!("nothing: it did not answer message {address}"),
        cell_state::CONTROL_REGISTER => format!("control register {address}, value {detail:#x}"),
        _ => return None,
    })
}

fn allowed(failure: &Failure, cell: &CellConfig<'_>) -> Vec<String> {
    match failure.reason {
        cell_state::MEMORY => nearest(cell.memory(), failure.address),
        cell_state::PORT if cell.ports().is_empty() => vec!["no ports but the PM timer's".to_owned()],
        cell_state::PORT => {
            let range = |first: u16, count: u16| format!("{first:#x}-{:#x}", u32::from(first) + u32::from(count) - 1);
            let ranges = cell.ports().iter().filter(|range| range.length() > 0);
            ranges.map(|ports| range(ports.base(), ports.length())).collect()
        }
        cell_state::INSTRUCTION => {
            vec!["moves and simple arithmetic on emulated memory (docs/reference/hypervisor-interface.md)".to_owned()]
        }
        cell_state::PCI => cell.pci_devices().iter().map(describe::function).collect(),
        cell_state::INTERRUPT => vec![format!(
            "fixed, lowest-priority, NMI, INIT and start-up interrupts to processors {}",
            describe::cpus(cell)
        )],
        cell_state::TIMEOUT => vec![format!("{} spins", cell.msg_reply_timeout())],
        _ => Vec::new(),
    }
}

/// The regions that lie nearest to `address`, in the order of the configuration.
fn nearest(memory: &[Memory], address: u64) -> Vec<String> {
    let distance = |region: &Memory| {
        let end = region.virt_start().saturating_add(region.size());
        region.virt_start().saturating_sub(address).max(address.saturating_add(1).saturating_sub(end))
    };
    let mut order: Vec<usize> = (0..memory.len()).filter(|index| memory[*index].size() > 0).collect();
    order.sort_by_key(|index| distance(&memory[*index]));
    order.truncate(NEAREST);
    order.sort_unstable();
    order.into_iter().map(|index| describe::region(&memory[index])).collect()
}

#[cfg(test)]
mod tests {
    use hypervisor_abi::config::{CellParts, MemoryFlags, PortRange};

    use super::*;

    fn cell(bytes: &mut Vec<u8>) -> CellConfig<'_> {
        let memory = [
            Memory::new(0x5100_0000, 0, 0x40_0000, MemoryFlags::READ | MemoryFlags::EXECUTE),
            Memory::new(0, 0x400_0000, 0x1000, MemoryFlags::READ | MemoryFlags::COMM_REGION),
        ];
        let ports = [PortRange::new(0x3f8, 8)];
        let parts = CellParts { name: "c", cpu_set: &[8], memory: &memory, ports: &ports, ..CellParts::default() };
        bytes.resize(parts.size(), 0);
        parts.write(bytes).unwrap();
        CellConfig::parse(bytes).unwrap()
    }

    #[test]
    fn a_write_outside() {
        let mut bytes = Vec::new();
        let mut code = [0; 16];
        code[..5].copy_from_slice(&[0xa3, 0, 0, 0, 0x30]);
        let failure =
            Failure { reason: 1, cpu: 3, ip: 0x10_0123, address: 0x3000_0000, detail: 1, code, ..Failure::default() };
        assert_eq!(
            report(&failure, &cell(&mut bytes)),
            "reason       access to memory outside of the cell\n\
             processor    3\n\
             instruction  0x100123: a3 00 00 00 30\n\
             wanted       to write 0x30000000\n\
             allowed      0x0-0x3fffff read execute\n             0x4000000-0x4000fff read communication\n"
        );
    }

    #[test]
    fn a_port_in_real_mode() {
        let mut bytes = Vec::new();
        let failure =
            Failure { reason: 2, address: 0x604, detail: 2, ip: 7, code_base: 0x10_0000, ..Failure::default() };
        let text = report(&failure, &cell(&mut bytes));
        assert!(text.contains("0x7 in the code segment at 0x100000: not readable"), "{text}");
        assert!(text.contains("2 bytes at port 0x604") && text.contains("0x3f8-0x3ff"), "{text}");
    }

    #[test]
    fn every_reason_has_words() {
        let mut bytes = Vec::new();
        let cell = cell(&mut bytes);
        for reason in 0..=12 {
            let failure = Failure { reason, address: u64::MAX, detail: u64::MAX, ..Failure::default() };
            assert!(report(&failure, &cell).starts_with("reason       "));
        }
    }
}
