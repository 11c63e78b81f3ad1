//! Threads, futexes, time and signals.

use super::Simulation;
use crate::clock::SECOND;
use linux_raw_sys::general as linux;

const EINTR: i64 = -4;
const EAGAIN: i64 = -11;
const ETIMEDOUT: i64 = -110;
const PRIVATE: u64 = linux::FUTEX_PRIVATE_FLAG as u64;

/// A program, and the address of some memory that it can write.
fn program() -> (Simulation, u64) {
    let mut simulation = Simulation::new();
    simulation.start(3, "/bin/true", &["true"]);
    let stack = simulation.world.borrow().registers[&3].rsp;
    (simulation, (stack - 8192) & !0xfff)
}

fn clone(simulation: &mut Simulation, memory: u64) -> u32 {
    let flags = linux::CLONE_VM
        | linux::CLONE_SIGHAND
        | linux::CLONE_THREAD
        | linux::CLONE_PARENT_SETTID
        | linux::CLONE_CHILD_CLEARTID;
    let tid =
        simulation.call(3, linux::__NR_clone, &[flags.into(), memory + 4096, memory + 64, memory + 64, 0]).unwrap();
    assert_eq!(simulation.read(3, memory + 64) as i64, tid);
    tid as u32 - 1000
}

#[test]
fn threads_wait_and_wake() {
    let (mut simulation, memory) = program();
    let slots = [clone(&mut simulation, memory), clone(&mut simulation, memory)];
    let registers = simulation.world.borrow().registers[&slots[0]];
    assert_eq!((registers.rax, registers.rsp), (0, memory + 4096));
    simulation.write(3, memory, &[7]);
    assert_eq!(simulation.call(3, linux::__NR_futex, &[memory, PRIVATE, 8, 0]), Some(EAGAIN));
    for slot in slots {
        assert_eq!(simulation.call(slot, linux::__NR_futex, &[memory, PRIVATE, 7, 0]), None);
    }
    assert_eq!(simulation.call(3, linux::__NR_futex, &[memory, 1 | PRIVATE, 1]), Some(1));
    assert_eq!((simulation.answer(slots[0]), simulation.answer(slots[1])), (Some(0), None));
    assert_eq!(simulation.call(3, linux::__NR_futex, &[memory, 1 | PRIVATE, 9]), Some(1));
    assert_eq!(simulation.answer(slots[1]), Some(0));
    // Joining: the tid word is cleared and its waiters are woken.
    let tid = simulation.read(3, memory + 64);
    assert_eq!(simulation.call(3, linux::__NR_futex, &[memory + 64, 0, tid, 0]), None);
    simulation.call(slots[1], linux::__NR_exit, &[0]);
    assert_eq!(simulation.answer(3), Some(0));
    assert_eq!(simulation.read(3, memory + 64), 0);
    // The process ends with all its threads.
    simulation.call(slots[0], linux::__NR_exit_group, &[1]);
    assert_eq!(simulation.world.borrow().exits, [(3, 256)]);
    assert!(simulation.world.borrow().registers.is_empty());
}

#[test]
fn the_urgent_goes_first_and_lends_its_urgency() {
    let (mut simulation, memory) = program();
    let slots = [clone(&mut simulation, memory), clone(&mut simulation, memory)];
    simulation.write(3, memory + 8, &[40]);
    let policy = u64::from(linux::SCHED_FIFO);
    let tid = u64::from(1000 + slots[1]);
    assert_eq!(simulation.call(3, linux::__NR_sched_setscheduler, &[tid, policy, memory + 8]), Some(0));
    assert_eq!(simulation.world.borrow().priorities[&slots[1]], 140);
    simulation.write(3, memory, &[0]);
    let lock = u64::from(linux::FUTEX_LOCK_PI) | PRIVATE;
    let unlock = u64::from(linux::FUTEX_UNLOCK_PI) | PRIVATE;
    assert_eq!(simulation.call(3, linux::__NR_futex, &[memory, lock, 0, 0]), Some(0));
    for slot in slots {
        assert_eq!(simulation.call(slot, linux::__NR_futex, &[memory, lock, 0, 0]), None);
    }
    assert_eq!(simulation.world.borrow().priorities[&3], 140);
    assert_eq!(simulation.call(3, linux::__NR_futex, &[memory, unlock, 0, 0]), Some(0));
    assert_eq!(simulation.world.borrow().priorities[&3], 50);
    assert_eq!((simulation.answer(slots[0]), simulation.answer(slots[1])), (None, Some(0)));
    assert_eq!(simulation.read(3, memory) as u32, linux::FUTEX_WAITERS | tid as u32);
    assert_eq!(simulation.call(slots[1], linux::__NR_futex, &[memory, unlock, 0, 0]), Some(0));
    assert_eq!(simulation.answer(slots[0]), Some(0));
}

#[test]
fn sleeps_end_in_time() {
    let (mut simulation, memory) = program();
    simulation.write(3, memory, &[1, 500]);
    assert_eq!(simulation.call(3, linux::__NR_nanosleep, &[memory, 0]), None);
    simulation.advance(SECOND);
    assert_eq!(simulation.answer(3), None);
    simulation.advance(501);
    assert_eq!(simulation.answer(3), Some(0));
    simulation.write(3, memory, &[0, 1_000_000_000]);
    assert_eq!(simulation.call(3, linux::__NR_nanosleep, &[memory, 0]), Some(-22));
    // A wait with a time limit.
    simulation.write(3, memory, &[0, 1000, 5]);
    assert_eq!(simulation.call(3, linux::__NR_futex, &[memory + 16, PRIVATE, 5, memory]), None);
    simulation.advance(1001);
    assert_eq!(simulation.answer(3), Some(ETIMEDOUT));
}

#[test]
fn a_signal_runs_its_handler_and_returns() {
    let (mut simulation, memory) = program();
    let (handler, restorer) = (0x1234_5000, 0x1234_6000);
    let signal = u64::from(linux::SIGUSR1);
    simulation.write(3, memory, &[handler, (linux::SA_RESTORER | linux::SA_SIGINFO).into(), restorer, 0]);
    assert_eq!(simulation.call(3, linux::__NR_rt_sigaction, &[signal, memory, 0, 8]), Some(0));
    // A sleep is interrupted.
    simulation.write(3, memory + 64, &[10, 0]);
    assert_eq!(simulation.call(3, linux::__NR_nanosleep, &[memory + 64, memory + 64]), None);
    let before = simulation.world.borrow().registers[&3];
    simulation.event([ipc::protocol::vfs::EVENT_SIGNAL, super::identity(3), signal, 0, 77, 0, 0, 0]);
    assert!(simulation.answer(3).is_some());
    let inside = simulation.world.borrow().registers[&3];
    assert_eq!((inside.rip, inside.rdi), (handler, signal));
    assert_eq!((simulation.read(3, inside.rsp), simulation.read(3, memory + 64)), (restorer, 10));
    assert_eq!(simulation.read(3, inside.rsi) as u32, linux::SIGUSR1);
    // The handler returns to the restorer, which makes the call.
    simulation.world.borrow_mut().registers.get_mut(&3).unwrap().rsp += 8;
    assert!(simulation.call(3, linux::__NR_rt_sigreturn, &[]).is_some());
    let after = simulation.world.borrow().registers[&3];
    assert_eq!((after.rip, after.rsp, after.rax as i64), (before.rip, before.rsp, EINTR));
    // Ignored and default actions.
    simulation.event([ipc::protocol::vfs::EVENT_SIGNAL, super::identity(3), linux::SIGCHLD.into(), 0, 1, 0, 0, 0]);
    assert!(simulation.world.borrow().registers.contains_key(&3));
    simulation.event([ipc::protocol::vfs::EVENT_SIGNAL, super::identity(3), linux::SIGTERM.into(), 0, 1, 0, 0, 0]);
    simulation.linux();
    assert_eq!(simulation.world.borrow().exits, [(3, linux::SIGTERM.into())]);
}

#[test]
fn faults_become_signals() {
    let (mut simulation, memory) = program();
    crate::signal::fault(
        &simulation.shell,
        super::identity(3),
        [14, 6, memory + (1 << 40), 1, 2, 0x202],
        crate::machine::ReplyId(3),
    );
    simulation.linux();
    assert_eq!(simulation.world.borrow().exits, [(3, linux::SIGSEGV.into())]);
}
