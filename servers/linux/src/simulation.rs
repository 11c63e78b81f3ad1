//! A world for tests: a kernel that only keeps books, and a Linux that is the host. Whole programs are loaded in it from the
//! host's files; their calls are made by the test.

mod programs;
mod recovery;
mod threads;

use crate::errno::{Errno, Result};
use crate::executor::Shell;
use crate::machine::{Activity, Machine, ReplyId};
use crate::memory::pool::testing::{pool, words};
use crate::memory::{Memory, Mirror, PAGE, Pages};
use crate::server::{self, Server, Settings};
use ipc::Protection;
use ipc::message::Registers;
use ipc::protocol::start::{StartHeader, encode};
use ipc::protocol::vfs;
use ipc::shadow::{Counters, MAX_SLOTS, ThreadEntry, request_kind, special, thread_identity};
use linux_raw_sys::general as linux;
use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::rc::Rc;

const POOL_PAGES: u32 = 16384;
const TSC_KHZ: u64 = 1_000_000;

#[derive(Default)]
struct World {
    now: u64,
    spaces: BTreeSet<u32>,
    mapped: BTreeMap<(u32, u64), (u32, Protection)>,
    registers: BTreeMap<u32, Registers>,
    running: BTreeSet<u32>,
    priorities: BTreeMap<u32, u8>,
    answers: VecDeque<(ReplyId, u64, u64)>,
    requests: VecDeque<Vec<u64>>,
    events: VecDeque<[u64; vfs::EVENT_WORDS]>,
    exits: Vec<(u32, u64)>,
    /// Replies that keep nobody any more.
    cut_off: BTreeSet<u32>,
}

struct FakeMachine(Rc<RefCell<World>>);

impl Machine for FakeMachine {
    fn free_capabilities(&self) -> usize {
        let world = self.0.borrow();
        usize::from(u16::MAX) - world.spaces.len() - world.registers.len()
    }

    fn now(&self) -> u64 {
        self.0.borrow().now
    }

    fn random(&mut self) -> u64 {
        0x1234_5678_9abc_def0
    }

    fn space_create(&mut self, space: u32) -> Result<()> {
        assert!(self.0.borrow_mut().spaces.insert(space));
        Ok(())
    }

    fn space_destroy(&mut self, space: u32) {
        let mut world = self.0.borrow_mut();
        assert!(world.spaces.remove(&space));
        world.mapped.retain(|(of, _), _| *of != space);
    }

    fn map(&mut self, space: u32, page: u32, address: u64, count: u64, protection: Protection) -> Result<()> {
        assert!(protection.is_legal());
        for index in 0..count {
            let old =
                self.0.borrow_mut().mapped.insert((space, address + index * PAGE), (page + index as u32, protection));
            assert_eq!(old, None, "mapped twice");
        }
        Ok(())
    }

    fn unmap(&mut self, space: u32, address: u64, count: u64) {
        self.0
            .borrow_mut()
            .mapped
            .retain(|(of, at), _| *of != space || !(address..address + count * PAGE).contains(at));
    }

    fn protect(&mut self, space: u32, address: u64, count: u64, protection: Protection) -> Result<()> {
        assert!(protection.is_legal());
        for ((_, _), (_, old)) in
            self.0.borrow_mut().mapped.range_mut((space, address)..(space, address + count * PAGE))
        {
            *old = protection;
        }
        Ok(())
    }

    fn thread_create(&mut self, thread: u32, space: u32, _: u64) -> Result<()> {
        let mut world = self.0.borrow_mut();
        assert!(world.spaces.contains(&space));
        assert_eq!(world.registers.insert(thread, Registers::default()), None);
        Ok(())
    }

    fn thread_destroy(&mut self, thread: u32) {
        let mut world = self.0.borrow_mut();
        world.running.remove(&thread);
        assert!(world.registers.remove(&thread).is_some());
    }

    fn thread_resume(&mut self, thread: u32) {
        self.0.borrow_mut().running.insert(thread);
    }

    fn thread_suspend(&mut self, thread: u32) {
        self.0.borrow_mut().running.remove(&thread);
    }

    fn thread_activity(&mut self, _: u32) -> Activity {
        Activity::User
    }

    fn registers(&mut self, thread: u32) -> Result<Registers> {
        self.0.borrow().registers.get(&thread).copied().ok_or(Errno::ESRCH)
    }

    fn set_registers(&mut self, thread: u32, registers: &Registers) -> Result<()> {
        self.0.borrow_mut().registers.insert(thread, *registers);
        Ok(())
    }

    fn fpu_read(&mut self, _: u32, out: &mut [u8]) -> Result<usize> {
        out[..832].fill(0);
        Ok(832)
    }

    fn fpu_write(&mut self, _: u32, _: &[u8]) -> Result<()> {
        Ok(())
    }

    fn thread_schedule(&mut self, thread: u32, priority: u8, _: Option<u64>) {
        self.0.borrow_mut().priorities.insert(thread, priority);
    }

    fn thread_consumed(&mut self, _: u32) -> u64 {
        0
    }

    fn reply(&mut self, reply: ReplyId, label: u64, value: u64) {
        self.0.borrow_mut().answers.push_back((reply, label, value));
    }

    fn reply_abandon(&mut self, _: ReplyId) {}

    fn is_waiting(&self, reply: ReplyId) -> bool {
        !self.0.borrow().cut_off.contains(&reply.0)
    }

    fn vfs(&mut self, label: u64, words: &[u64]) -> Result<u64> {
        match label {
            vfs::SUBMIT => self.0.borrow_mut().requests.push_back(words.to_vec()),
            vfs::CANCEL => return Err(Errno::ESRCH),
            _ => {}
        }
        Ok(0)
    }

    fn collect(&mut self) -> Vec<[u64; vfs::EVENT_WORDS]> {
        let mut world = self.0.borrow_mut();
        let count = world.events.len().min(vfs::MAX_EVENTS);
        world.events.drain(..count).collect()
    }
}

struct Simulation {
    shell: Rc<Shell>,
    world: Rc<RefCell<World>>,
    path: Vec<u8>,
    arguments: Vec<Vec<u8>>,
    next_slot: u32,
}

/// Memory of zeroes that lives for ever, as one of the published structures (that are made of atomic integers alone).
fn zeroed<T>() -> &'static T {
    let words: &'static mut [u64] = Vec::leak(vec![0; size_of::<T>().div_ceil(8)]);
    // SAFETY: leaked, aligned to 8 and large enough; zero is valid for atomic integers, and nobody else refers to it.
    #[allow(unsafe_code)]
    unsafe {
        &*words.as_ptr().cast()
    }
}

impl Simulation {
    fn new() -> Simulation {
        let world = Rc::new(RefCell::new(World { now: 1000, ..World::default() }));
        let memory = Memory {
            pool: pool(POOL_PAGES),
            pages: Pages::new(POOL_PAGES, words(POOL_PAGES as usize / 64)),
            mirror: Mirror::new(words(512 * 256)),
        };
        let published = (zeroed(), zeroed::<Counters>(), zeroed::<[ThreadEntry; MAX_SLOTS]>());
        let machine = Box::new(FakeMachine(world.clone()));
        let server = Server::new(machine, memory, TSC_KHZ, Settings { stack: 256 << 10 }, published);
        Simulation { shell: Shell::new(server), world, path: vec![], arguments: vec![], next_slot: 100 }
    }

    fn free_pages(&self) -> u32 {
        self.shell.with(|server| server.memory.pages.free())
    }

    /// A proxy attaches to a slot; everything that Linux has to do for the start is done.
    fn start(&mut self, slot: u32, path: &str, arguments: &[&str]) {
        self.path = path.into();
        self.arguments = arguments.iter().map(|text| text.as_bytes().to_vec()).collect();
        let size = 4096;
        self.event([vfs::EVENT_START, identity(slot), size, 0, u64::from(1000 + slot), 0, 0, 0]);
        self.linux();
    }

    fn event(&self, event: [u64; vfs::EVENT_WORDS]) {
        self.world.borrow_mut().events.push_back(event);
        server::news(&self.shell);
    }

    /// Does what Linux is asked for, until it is asked no more.
    fn linux(&mut self) {
        loop {
            let Some(request) = self.world.borrow_mut().requests.pop_front() else { return };
            let (kind, slot) = (request[0] as u32, request[1] as u32);
            let answer =
                |value: i64, new: u64| [vfs::EVENT_RETURN, request[1], value as u64, request[10], 0, 0, new, 0];
            match kind {
                request_kind::CALL if request[3] == special::CLONE => {
                    self.next_slot += 1;
                    let new = self.next_slot;
                    self.event(answer(i64::from(1000 + new), identity(new)));
                }
                request_kind::CALL => {
                    let value = self.host_call(slot, request[3], &request[4..10]);
                    self.event(answer(value, 0));
                }
                request_kind::UNMAP => self.event(answer(0, 0)),
                request_kind::EXIT => {
                    self.world.borrow_mut().exits.push((slot, request[4]));
                    self.event([vfs::EVENT_GONE, request[1], 0, 0, 0, 0, 0, 0]);
                }
                _ => {}
            }
        }
    }

    /// A system call of the host, with pointers into simulated memory.
    #[allow(unsafe_code)] // Calls of the C library.
    fn host_call(&self, slot: u32, number: u64, arguments: &[u64]) -> i64 {
        let [a, b, c, d] = [arguments[0], arguments[1], arguments[2], arguments[3]];
        let check = |result: i64| {
            if result < 0 { -i64::from(std::io::Error::last_os_error().raw_os_error().unwrap()) } else { result }
        };
        if number == special::ARGUMENTS {
            let arguments: Vec<&[u8]> = self.arguments.iter().map(Vec::as_slice).collect();
            let mut block = vec![0; b as usize];
            let header = StartHeader { uid: 7, clock_ticks: 100, ..StartHeader::default() };
            let size = encode(&header, &self.path, b"x86_64", &arguments, &[b"HOME=/"], &mut block).unwrap();
            return self.shell.with(|server| server.write_user(slot, a, &block[..size])).map_or(-14, |()| size as i64);
        }
        match number as u32 {
            linux::__NR_openat => {
                let path =
                    self.shell.with(|server| server.memory.string(server.space_of(slot).unwrap(), b, 4096)).unwrap();
                let path = std::ffi::CString::new(path).unwrap();
                // SAFETY: a string that ends with NUL.
                check(unsafe { libc::open(path.as_ptr(), c as i32) }.into())
            }
            linux::__NR_access => 0,
            linux::__NR_pread64 => {
                let mut bytes = vec![0; c as usize];
                // SAFETY: the buffer has that many bytes.
                let count =
                    check(unsafe { libc::pread(a as i32, bytes.as_mut_ptr().cast(), c as usize, d as i64) } as i64);
                let written = self.shell.with(|server| server.write_user(slot, b, &bytes[..count.max(0) as usize]));
                written.map_or(-14, |()| count)
            }
            // SAFETY: a descriptor that this simulation has opened.
            linux::__NR_close => check(unsafe { libc::close(a as i32) }.into()),
            _ => -38,
        }
    }

    /// A thread makes a call: its result, if it was answered.
    fn call(&mut self, slot: u32, number: u32, arguments: &[u64]) -> Option<i64> {
        self.begin(slot, number, arguments);
        self.linux();
        self.answer(slot)
    }

    fn begin(&mut self, slot: u32, number: u32, arguments: &[u64]) {
        let mut words = [0; 8];
        words[0] = number.into();
        words[1..=arguments.len()].copy_from_slice(arguments);
        words[7] = self.world.borrow().registers[&slot].rsp;
        server::foreign(&self.shell, identity(slot), words, ReplyId(slot));
    }

    /// The answer that a thread got, if it got one.
    fn answer(&self, slot: u32) -> Option<i64> {
        let mut world = self.world.borrow_mut();
        let index = world.answers.iter().position(|(reply, _, _)| *reply == ReplyId(slot))?;
        world.answers.remove(index).map(|(_, _, value)| value as i64)
    }

    fn advance(&self, ns: u64) {
        self.world.borrow_mut().now += ns;
        server::time_passed(&self.shell);
    }

    fn write(&self, slot: u32, address: u64, words: &[u64]) {
        for (index, word) in words.iter().enumerate() {
            self.shell.with(|server| server.put_user(slot, address + 8 * index as u64, word)).unwrap();
        }
    }

    fn read(&self, slot: u32, address: u64) -> u64 {
        self.shell.with(|server| server.get_user(slot, address)).unwrap()
    }

    /// The kernel's mappings and the published ones agree, and no page is both writable and executable.
    fn check_mappings(&self) {
        let world = self.world.borrow();
        self.shell.with(|server| {
            for process in server.processes.iter().flatten() {
                let space = &process.space;
                let mut published = BTreeMap::new();
                let mut at = 0;
                while let Some((address, entry)) = server.memory.mirror.next(space.root, at, u64::MAX) {
                    if entry.readable {
                        published.insert(address, (entry.page, entry.writable));
                    }
                    assert!(space.areas.find(address).is_some(), "{address:#x} has a page and no area");
                    at = address + PAGE;
                }
                let mapped = world.mapped.range((space.id, 0)..(space.id + 1, 0));
                let mapped: BTreeMap<u64, (u32, bool)> = mapped
                    .map(|((_, address), (page, protection))| {
                        (*address, (*page, protection.contains(Protection::WRITE)))
                    })
                    .collect();
                assert_eq!(published, mapped);
            }
        });
    }
}

/// Generation 1 of a slot.
fn identity(slot: u32) -> u64 {
    thread_identity(slot, 1)
}
