//! Programs come and go.

use super::Simulation;
use crate::memory::PAGE;
use ipc::Protection;
use linux_raw_sys::general as linux;

const ENOENT_STATUS: u64 = 127 << 8;

#[test]
fn a_distribution_program_is_loaded_and_leaves_nothing_behind() {
    let mut simulation = Simulation::new();
    let before = simulation.free_pages();
    simulation.start(3, "/bin/echo", &["echo", "hi"]);
    simulation.check_mappings();
    let registers = {
        let world = simulation.world.borrow();
        assert!(world.running.contains(&3));
        let registers = world.registers[&3];
        let text = world.mapped[&(3, registers.rip & !(PAGE - 1))];
        assert_eq!(text.1, Protection::READ | Protection::EXECUTE);
        registers
    };
    assert!(registers.rsp.is_multiple_of(16));
    assert_eq!(simulation.read(3, registers.rsp), 2);
    // argv[1] is "hi".
    let second = simulation.read(3, registers.rsp + 16);
    let text = simulation.shell.with(|server| server.memory.string(server.space_of(3).unwrap(), second, 100));
    assert_eq!(text.unwrap(), b"hi");
    // The code at the entry point is the interpreter's.
    let loader = std::fs::read("/lib64/ld-linux-x86-64.so.2").unwrap();
    let program = crate::elf::Program::parse(&loader[..4096]).unwrap();
    let segment =
        program.segments.iter().find(|segment| (segment.start()..segment.end()).contains(&program.entry)).unwrap();
    let offset = (segment.offset + (program.entry - segment.address)) as usize;
    assert_eq!(simulation.read(3, registers.rip).to_le_bytes(), loader[offset..offset + 8]);

    assert_eq!(simulation.call(3, linux::__NR_getpid, &[]), Some(1003));
    assert_eq!(simulation.call(3, linux::__NR_exit_group, &[5]), None);
    assert_eq!(simulation.world.borrow().exits, [(3, 5 << 8)]);
    assert_eq!(simulation.free_pages(), before);
    assert_eq!(simulation.shell.with(|server| server.memory.mirror.nodes_used()), 0);
    assert_eq!(simulation.shell.tasks(), 0);
    assert!(simulation.world.borrow().spaces.is_empty() && simulation.world.borrow().registers.is_empty());
}

#[test]
fn what_cannot_run_ends_as_a_shell_would_say() {
    for (path, status) in [("/nonexistent", ENOENT_STATUS), ("/etc/passwd", 126 << 8), ("/", 126 << 8)] {
        let mut simulation = Simulation::new();
        let before = simulation.free_pages();
        simulation.start(3, path, &["x"]);
        assert_eq!(simulation.world.borrow().exits, [(3, status)], "{path}");
        assert_eq!(simulation.free_pages(), before);
        assert_eq!(simulation.shell.with(|server| server.memory.mirror.nodes_used()), 0);
    }
}

#[test]
fn many_programs_at_once_and_a_proxy_that_dies() {
    let mut simulation = Simulation::new();
    let before = simulation.free_pages();
    for slot in 0..8 {
        simulation.start(slot, "/bin/true", &["true"]);
    }
    simulation.check_mappings();
    for slot in 0..8 {
        if slot % 2 == 0 {
            simulation.event([ipc::protocol::vfs::EVENT_GONE, super::identity(slot), 0, 0, 0, 0, 0, 0]);
        } else {
            simulation.call(slot, linux::__NR_exit, &[0]);
        }
    }
    assert_eq!(simulation.free_pages(), before);
    simulation.start(2, "/bin/true", &["true"]);
    assert!(simulation.world.borrow().running.contains(&2));
    simulation.event([ipc::protocol::vfs::EVENT_RESET, 0, 0, 0, 0, 0, 0, 0]);
    assert_eq!(simulation.free_pages(), before);
}

#[test]
fn memory_calls() {
    let mut simulation = Simulation::new();
    simulation.start(3, "/bin/true", &["true"]);
    let anonymous = u64::from(linux::MAP_PRIVATE | linux::MAP_ANONYMOUS);
    let map = |simulation: &mut Simulation, size: u64, protection: u64| {
        simulation.call(3, linux::__NR_mmap, &[0, size, protection, anonymous, u64::MAX, 0]).unwrap()
    };
    let at = map(&mut simulation, 16 * PAGE, 3) as u64;
    simulation.check_mappings();
    simulation.write(3, at + 5 * PAGE, &[42]);
    assert_eq!(simulation.call(3, linux::__NR_mprotect, &[at + 4 * PAGE, 2 * PAGE, 0]), Some(0));
    simulation.check_mappings();
    assert_eq!(simulation.call(3, linux::__NR_nanosleep, &[at + 5 * PAGE, 0]), Some(-14));
    assert_eq!(simulation.call(3, linux::__NR_mprotect, &[at, 16 * PAGE, 1]), Some(0));
    assert_eq!(simulation.read(3, at + 5 * PAGE), 42);
    assert_eq!(simulation.call(3, linux::__NR_mprotect, &[at, PAGE, 7]), Some(-13));
    assert_eq!(simulation.call(3, linux::__NR_munmap, &[at + PAGE, 3 * PAGE]), Some(0));
    simulation.check_mappings();
    assert_eq!(simulation.call(3, linux::__NR_mprotect, &[at, 16 * PAGE, 3]), Some(-12));
    // Too large, and all is as before.
    let free = simulation.free_pages();
    assert_eq!(map(&mut simulation, u64::from(super::POOL_PAGES) * PAGE, 3), -12);
    assert_eq!(simulation.free_pages(), free);
    // A reservation costs nothing.
    let huge = map(&mut simulation, 1 << 40, 0) as u64;
    assert_eq!(simulation.free_pages(), free);
    assert_eq!(simulation.call(3, linux::__NR_mprotect, &[huge + (1 << 39), PAGE, 3]), Some(0));
    assert_eq!(simulation.call(3, linux::__NR_munmap, &[huge, 1 << 40]), Some(0));
    assert_eq!(simulation.free_pages(), free);
    for nonsense in [[0, 0, 3], [1, PAGE, 3], [0, u64::MAX, 3], [u64::MAX - PAGE + 1, PAGE, 3], [0, 1 << 63, 3]] {
        for number in [
            linux::__NR_munmap,
            linux::__NR_mprotect,
            linux::__NR_mremap,
            linux::__NR_madvise,
            linux::__NR_msync,
            linux::__NR_mincore,
            linux::__NR_mlock,
        ] {
            simulation.call(3, number, &nonsense).unwrap();
        }
    }
    let heap = simulation.call(3, linux::__NR_brk, &[0]).unwrap() as u64;
    assert_eq!(simulation.call(3, linux::__NR_brk, &[heap + 100_000]), Some(heap as i64 + 100_000));
    simulation.write(3, heap, &[1]);
    assert_eq!(simulation.call(3, linux::__NR_brk, &[heap]), Some(heap as i64));
    assert_eq!(simulation.free_pages(), free);
    simulation.check_mappings();
}

#[test]
fn no_call_with_wild_arguments_makes_it_panic() {
    let mut simulation = Simulation::new();
    simulation.start(3, "/bin/true", &["true"]);
    let stack = simulation.world.borrow().registers[&3].rsp & !0xfff;
    let wild = [0, 1, 8, stack, stack + 4, 1 << 46, 1 << 47, u64::MAX, u64::MAX - 7, i64::MIN as u64, 0x1_0000_0000];
    let mut seed = 1u64;
    let mut pick = || {
        seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        wild[(seed >> 33) as usize % wild.len()]
    };
    for number in 0..460u32 {
        // Those that end the program are tried elsewhere.
        if matches!(number, linux::__NR_exit | linux::__NR_exit_group | linux::__NR_rt_sigreturn | linux::__NR_clone) {
            continue;
        }
        for _ in 0..30 {
            let arguments = [pick(), pick(), pick(), pick(), pick(), pick()];
            let answered = simulation.call(3, number, &arguments);
            if answered.is_none() {
                // It waits, or it has sent itself something deadly: a new one.
                simulation.event([ipc::protocol::vfs::EVENT_GONE, super::identity(3), 0, 0, 0, 0, 0, 0]);
                simulation.start(3, "/bin/true", &["true"]);
            }
        }
    }
    simulation.check_mappings();
}
