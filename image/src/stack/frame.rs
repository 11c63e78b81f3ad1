//! One function: how deep its stack pointer goes, and where it calls.

use std::collections::BTreeMap;

use iced_x86::{Code, Decoder, DecoderOptions, FlowControl, Instruction, Mnemonic, OpKind, Register};

/// What a function does to the stack.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Frame {
    /// Bytes below the return address, at most.
    pub deepest: u64,
    /// Direct calls, and jumps to other functions: depth, target.
    pub calls: Vec<(u64, u64)>,
    /// The deepest call through a pointer.
    pub through_pointers: Option<u64>,
    /// Addresses that the code names: perhaps functions.
    pub addresses: Vec<u64>,
    /// It moves the stack pointer by an amount that is not in the code.
    pub dynamic: bool,
}

/// What is known before an instruction.
#[derive(Clone, Copy, Debug, Default)]
struct State {
    /// Bytes below the return address.
    depth: i64,
    /// The depth that a register stands for: a frame pointer, or the end of a loop that touches page after page.
    registers: [Option<i64>; 16],
}

fn index(register: Register) -> Option<usize> {
    let full = register.full_register();
    (full.is_gpr64()).then(|| full.number())
}

impl State {
    fn get(&self, register: Register) -> Option<i64> {
        if register == Register::RSP { Some(self.depth) } else { self.registers[index(register)?] }
    }

    fn set(&mut self, register: Register, depth: Option<i64>) {
        if let Some(index) = index(register) {
            self.registers[index] = depth;
        }
    }
}

/// An immediate second operand.
fn immediate(instruction: &Instruction) -> Option<i64> {
    (instruction.op_count() == 2).then(|| instruction.try_immediate(1).ok()).flatten().map(|value| value as i64)
}

/// Does what an instruction does to the depths.
fn step(state: &mut State, instruction: &Instruction, frame: &mut Frame) {
    let first = if instruction.op0_kind() == OpKind::Register { instruction.op0_register() } else { Register::None };
    let second = if instruction.op_count() > 1 && instruction.op1_kind() == OpKind::Register {
        instruction.op1_register()
    } else {
        Register::None
    };
    let moved = match instruction.mnemonic() {
        Mnemonic::Mov if instruction.op1_kind() == OpKind::Register => state.get(second),
        Mnemonic::Lea if instruction.memory_index() == Register::None => {
            let base = instruction.memory_base();
            state.get(base).map(|depth| depth.wrapping_sub(instruction.memory_displacement64() as i64))
        }
        Mnemonic::Sub => state.get(first).zip(immediate(instruction)).map(|(depth, by)| depth.wrapping_add(by)),
        Mnemonic::Add => state.get(first).zip(immediate(instruction)).map(|(depth, by)| depth.wrapping_sub(by)),
        // To a multiple of -mask: so much less at the worst.
        Mnemonic::And => state
            .get(first)
            .zip(immediate(instruction).filter(|mask| *mask < 0))
            .map(|(d, m)| d.wrapping_sub(m).wrapping_sub(1)),
        _ => None,
    };
    let writes = !matches!(instruction.mnemonic(), Mnemonic::Cmp | Mnemonic::Test | Mnemonic::Push);
    if instruction.mnemonic() == Mnemonic::Leave {
        match state.registers[Register::RBP.number()] {
            Some(depth) => state.depth = depth.wrapping_sub(8),
            None => frame.dynamic = true,
        }
    } else if first == Register::RSP && writes {
        match moved {
            Some(depth) => state.depth = depth,
            None => frame.dynamic = true,
        }
    } else {
        state.depth = state.depth.wrapping_sub(instruction.stack_pointer_increment().into());
        if first != Register::None && writes {
            state.set(first, moved);
        }
    }
    // A loop that touches page after page ends at a depth that a register holds.
    if instruction.mnemonic() == Mnemonic::Cmp
        && first == Register::RSP
        && let Some(end) = state.get(second)
    {
        state.depth = state.depth.max(end);
    }
    frame.deepest = frame.deepest.max(u64::try_from(state.depth).unwrap_or(0));
}

/// Follows the function with this code at this address.
pub fn follow(code: &[u8], start: u64) -> Frame {
    let mut frame = Frame::default();
    let instructions: BTreeMap<u64, Instruction> =
        Decoder::with_ip(64, code, start, DecoderOptions::NONE).into_iter().map(|i| (i.ip(), i)).collect();
    let end = start.saturating_add(code.len() as u64);
    let mut seen: BTreeMap<u64, ()> = BTreeMap::new();
    let mut open = vec![(start, State::default())];
    // Behind a jump through a table, cases begin that nothing else leads to: at the depth of the jump.
    let mut at_table: Option<State> = None;
    loop {
        let Some((address, mut state)) = open.pop() else {
            let left = instructions.iter().find(|(address, i)| {
                !seen.contains_key(address) && !matches!(i.mnemonic(), Mnemonic::Nop | Mnemonic::Int3 | Mnemonic::Ud2)
            });
            match left.zip(at_table) {
                Some(((address, _), state)) => open.push((*address, state)),
                None => return frame,
            }
            continue;
        };
        let Some(instruction) = instructions.get(&address).filter(|_| seen.insert(address, ()).is_none()) else {
            continue;
        };
        if instruction.code() == Code::INVALID {
            continue;
        }
        let depth = u64::try_from(state.depth).unwrap_or(0);
        let is_branch = matches!(instruction.op0_kind(), OpKind::NearBranch64);
        let flow = instruction.flow_control();
        if instruction.is_ip_rel_memory_operand() {
            frame.addresses.push(instruction.ip_rel_memory_address());
        }
        if let Some(value) = immediate(instruction).filter(|_| instruction.mnemonic() == Mnemonic::Mov) {
            frame.addresses.push(value as u64);
        }
        match flow {
            FlowControl::Call if is_branch => frame.calls.push((depth, instruction.near_branch_target())),
            FlowControl::IndirectCall => frame.through_pointers = frame.through_pointers.max(Some(depth)),
            // What is not a call takes its part of the stack here.
            FlowControl::Next => step(&mut state, instruction, &mut frame),
            _ => {}
        }
        if matches!(flow, FlowControl::UnconditionalBranch | FlowControl::ConditionalBranch) && is_branch {
            let target = instruction.near_branch_target();
            if (start..end).contains(&target) {
                open.push((target, state));
            } else {
                // The other function finds our return address: its frame begins where ours ends.
                frame.calls.push((depth.saturating_sub(8), target));
            }
        }
        if flow == FlowControl::IndirectBranch {
            at_table = Some(at_table.filter(|old| old.depth > state.depth).unwrap_or(state));
            // Perhaps it is no table but a call at the end: then the frame is gone.
            if state.depth <= 0 {
                frame.through_pointers = frame.through_pointers.max(Some(0));
            }
        }
        if matches!(
            flow,
            FlowControl::Next | FlowControl::Call | FlowControl::IndirectCall | FlowControl::ConditionalBranch
        ) || instruction.mnemonic() == Mnemonic::Syscall
        {
            open.push((instruction.next_ip(), state));
        }
    }
}
