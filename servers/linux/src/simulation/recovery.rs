//! After a turn that was undone: what it had done to the world is put right.

use super::{Simulation, identity};
use crate::memory::PAGE;
use ipc::Protection;
use ipc::protocol::vfs;
use linux_raw_sys::general as linux;
use std::sync::atomic::Ordering;

fn anonymous(simulation: &mut Simulation, pages: u64, protection: u64) -> u64 {
    let flags = u64::from(linux::MAP_PRIVATE | linux::MAP_ANONYMOUS);
    simulation.call(3, linux::__NR_mmap, &[0, pages * PAGE, protection, flags, u64::MAX, 0]).unwrap() as u64
}

#[test]
fn mappings_are_what_the_books_say() {
    let mut simulation = Simulation::new();
    simulation.start(3, "/bin/true", &["true"]);
    let at = anonymous(&mut simulation, 16, 3);
    assert_eq!(simulation.call(3, linux::__NR_mprotect, &[at + 4 * PAGE, 4 * PAGE, 0]), Some(0));
    assert_eq!(simulation.call(3, linux::__NR_mprotect, &[at + 8 * PAGE, 2 * PAGE, 1]), Some(0));
    simulation.check_mappings();
    {
        // A turn has unmapped some, protected some, mapped what should have no access, and something behind all that.
        let mapped = &mut simulation.world.borrow_mut().mapped;
        for page in 0..3 {
            mapped.remove(&(3, at + page * PAGE));
        }
        mapped.get_mut(&(3, at + 9 * PAGE)).unwrap().1 = Protection::READ | Protection::WRITE;
        mapped.insert((3, at + 5 * PAGE), (7, Protection::READ));
        mapped.insert((3, at + 16 * PAGE), (8, Protection::READ));
    }
    // Of a process that is no more, nothing is to be put right.
    simulation.shell.with(|server| server.recover(&[(3, at, 17), (9, at, 17)]));
    simulation.check_mappings();
    assert!(simulation.world.borrow().running.contains(&3));
}

#[test]
fn threads_go_on_and_whoever_has_its_answer_waits_no_longer() {
    let mut simulation = Simulation::new();
    simulation.start(3, "/bin/true", &["true"]);
    simulation.start(4, "/bin/true", &["true"]);
    let word = anonymous(&mut simulation, 1, 3);
    let futex = |simulation: &mut Simulation, operation: u32| {
        simulation.call(3, linux::__NR_futex, &[word, u64::from(operation | linux::FUTEX_PRIVATE_FLAG), 0, 0])
    };
    assert_eq!(futex(&mut simulation, linux::FUTEX_WAIT), None);
    {
        // That turn had woken it and looked at it, and had stopped the other one.
        let mut world = simulation.world.borrow_mut();
        world.cut_off.insert(3);
        world.running.remove(&4);
    }
    simulation.shell.with(|server| server.recover(&[]));
    assert!(simulation.world.borrow().running.contains(&4));
    simulation.world.borrow_mut().cut_off.clear();
    // Its next call is a call like any other, and nobody else waits for the word.
    assert_eq!(futex(&mut simulation, linux::FUTEX_WAKE), Some(0));
    let state = |slot: usize| simulation.shell.with(|server| server.entries[slot].state.load(Ordering::Relaxed));
    assert_eq!([state(3), state(5)], [ipc::shadow::thread_state::RUNNING, ipc::shadow::thread_state::FREE]);
}

#[test]
fn a_request_that_cannot_be_made_ends_the_call() {
    let mut simulation = Simulation::new();
    simulation.start(3, "/bin/true", &["true"]);
    simulation.begin(3, linux::__NR_clone, &[0x0005_0f00, 0x1000]);
    let request = simulation.world.borrow_mut().requests.pop_front().unwrap();
    crate::recovery::failed(&simulation.shell, vec![(request[10], -5), (99, -5)]);
    assert_eq!((simulation.answer(3), simulation.shell.tasks()), (Some(-5), 0));
}

#[test]
fn an_interruption_that_is_heard_of_late_does_not_make_the_call_again() {
    let mut simulation = Simulation::new();
    simulation.start(3, "/bin/true", &["true"]);
    simulation.shell.with(|server| {
        server.thread_mut(3).unwrap().interrupting = true;
        server.is_late = true;
    });
    let before = simulation.world.borrow().registers[&3];
    simulation.event([vfs::EVENT_INTERRUPTED, identity(3), 0, 0, 0, 0, 0, 0]);
    assert_eq!(simulation.world.borrow().registers[&3], before);
    assert!(simulation.world.borrow().running.contains(&3));
}
