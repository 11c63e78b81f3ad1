//! A process that makes random kernel calls, half of them valid, with a bit of everything in its table; this process, a frame full of
//! known words and the bystander must not notice. How many calls, and the seed, come from QEMU: `-fw_cfg name=opt/crtos/hostile,string=…`.
//!
//! Two threads run the same code in a space of their own. When both are stuck they are nudged, when that does not help either, all that
//! they have is revoked and made anew with another seed.

use crate::bystander;
use crate::program::{Console, call, message, now, ok, raw, retype, set_deadline, set_registers};
use crate::random::Random;
use core::fmt::Write;
use ipc::calls::CALLS;
use ipc::image::ImageHeader;
use ipc::message::Request;
use ipc::slots::{self, boot, layout};
use ipc::{Call, Error, ObjectType, Protection, Tag};

/// Slots of this process: what the others have comes out of `MEMORY`.
const COUNTERS: u32 = 300;
const OTHERS: u32 = 301;
const MEMORY: u32 = 302;
const TABLE: u32 = 303;
const SPACE: u32 = 304;
const IRQ: u32 = 305;
const PORT: u32 = 306;
const WAIT: u32 = 307;
const ALL_MEMORY: u32 = 308;
const PARTS: u32 = 310;
const MEMORY_BYTES: u64 = 6 << 20;

/// Of this thread.
const PRIORITY: u64 = 200;

/// Slots of the hostile table.
const SLOTS: u64 = 64;
const COUNTERS_AT: u64 = 0x6000_0000;
const OTHERS_AT: u64 = 0x6100_0000;
const OTHERS_PAGES: u64 = 16;
const BUFFER_AT: u64 = 0x6200_0000;
const STACK_AT: u64 = 0x6300_0000;
const STACK_BYTES: u64 = 32 << 10;
const THREADS: u64 = 2;
/// After so many calls a process has lost what made it interesting.
const LIFE: u64 = 1500;

impl Random {
    /// A slot that holds, as far as is known, something of that kind (0: nothing).
    fn slot(&mut self, kinds: &[u8; SLOTS as usize], kind: u8) -> u64 {
        let start = self.below(SLOTS);
        let fits = |index: &u64| kinds.get(*index as usize) == Some(&kind) && *index != 0;
        (0..SLOTS).map(|offset| (start + offset) % SLOTS).find(fits).unwrap_or(start)
    }

    /// An argument, by what the call table says of it: sensible most of the time.
    fn argument(&mut self, kinds: &[u8; SLOTS as usize], name: &str) -> u64 {
        if self.below(10) == 0 {
            let any = self.next();
            return self.one_of(&[0, 1, u64::MAX, 1 << 47, 4096, SLOTS, any]);
        }
        if name.contains("slot") {
            if name.contains("empty") || name.contains("destination") {
                return self.slot(kinds, 0);
            }
            if name.contains("0:") && self.below(3) == 0 {
                return 0;
            }
            let typed = [
                ("Frame", ObjectType::Frame),
                ("AddressSpace", ObjectType::AddressSpace),
                ("CapTable", ObjectType::CapTable),
                ("Endpoint", ObjectType::Endpoint),
                ("Notification", ObjectType::Notification),
                ("Thread", ObjectType::Thread),
                ("Untyped", ObjectType::Untyped),
            ];
            let any = 1 + self.below(9) as u8;
            let kind = typed.iter().find(|(word, _)| name.contains(word)).map_or(any, |(_, kind)| *kind as u8);
            return self.slot(kinds, kind);
        }
        match name.split(' ').next().unwrap_or("") {
            "tag" => self.below(3) << 8 | self.below(66) | self.below(9) << 16,
            "object" => self.one_of(&[1, 2, 2, 3, 4, 5, 6, 7, 8, 9]),
            "size" => self.one_of(&[0, 0, 0, 4096, 8192, 3 * 4096, 16, 4096 + 16, 2 << 20]),
            "count" | "pages" => 1 + self.below(3),
            "page" | "first" => self.below(3),
            "virtual" | "address" | "destination" | "source" => {
                self.one_of(&[0x10_0000, 0x10_1000, 0x20_0000, 0x1_4000_0000, BUFFER_AT, OTHERS_AT, BUFFER_AT + 4097])
            }
            "protection" => self.one_of(&[1, 3, 5, 19]),
            "rights" => self.one_of(&[0xff, 0xff, 3, 1]),
            "badge" => self.one_of(&[0, 0, 0, 7, 256]),
            "priority" => self.below(256),
            "policy" | "kind" | "direction" => self.below(2),
            "RR" | "budget" | "period" => self.one_of(&[0, 5_000, 40_000, 100_000]),
            _ => self.below(9),
        }
    }
}

/// What the hostile threads run: only their stack, their buffer and their counter are written.
extern "C" fn attack(seed: u64, index: u64) -> ! {
    let mut random = Random(seed | 1);
    let mut kinds = [0_u8; SLOTS as usize];
    let counter = (COUNTERS_AT + 8 * index) as *mut u64;
    let buffer = (BUFFER_AT + 4096 * index) as *mut u64;
    let (mut made, mut succeeded) = (0_u64, 0_u64);
    let mut look = 0_u64;
    loop {
        // Looks around, a slot at a time: at first at all of them.
        look = (look + 1) % SLOTS;
        if made < SLOTS || made.is_multiple_of(8) {
            let out = call(Call::CapIdentify, 6, &[look]);
            if let (0, Some(kind)) = (out.status, kinds.get_mut(look as usize)) {
                *kind = out.rdi as u8;
            }
        } else if let Some(info) = CALLS.get(random.below(CALLS.len() as u64) as usize) {
            // These end the process sooner or later: they come, but seldom.
            let rare = matches!(
                info.call,
                Call::CapRevoke
                    | Call::CapDelete
                    | Call::CapMove
                    | Call::SchedUnbind
                    | Call::ThreadConfigure
                    | Call::ThreadSuspend
                    | Call::ThreadWriteRegisters
                    | Call::Unmap
                    | Call::Protect
            );
            if rare && random.below(20) != 0 {
                continue;
            }
            // SAFETY: the own message buffer; if it is not mapped any more, this is one more crime.
            unsafe {
                buffer.write_volatile(now() + random.below(20_000));
                if random.below(4) == 0 {
                    for word in 65..69 {
                        buffer.add(word).write_volatile(random.below(SLOTS) | random.below(SLOTS) << 32);
                    }
                }
            }
            let mut arguments = [0; 9];
            for (at, argument) in arguments.iter_mut().enumerate() {
                *argument = random.argument(&kinds, info.arguments.get(at).copied().unwrap_or(""));
            }
            let about = match info.object {
                Some(kind) if random.below(16) != 0 => random.slot(&kinds, kind as u8),
                _ => random.below(SLOTS + 3),
            };
            let second = random.slot(&kinds, ObjectType::Reply as u8);
            let flags = if random.below(8) == 0 { 0 } else { Request::DEADLINE };
            let number = if random.below(100) == 0 { random.below(256) } else { info.call as u64 };
            let [rsi, words @ ..] = arguments;
            let out = raw(number | flags | second << 16, about, rsi, words);
            succeeded += u64::from(out.status == 0);
        }
        made += 1;
        // SAFETY: as for the buffer.
        unsafe {
            counter.write_volatile(made);
            counter.add(THREADS as usize).write_volatile(succeeded);
        }
    }
}

/// Makes a process that holds a bit of everything.
fn build(seed: u64) {
    for (kind, size, slot) in [
        (ObjectType::CapTable, SLOTS, TABLE),
        (ObjectType::AddressSpace, 256 << 10, SPACE),
        (ObjectType::Endpoint, 0, PARTS),
        (ObjectType::Endpoint, 0, PARTS + 1),
        (ObjectType::Reply, 0, PARTS + 2),
        (ObjectType::Reply, 0, PARTS + 3),
        (ObjectType::Notification, 0, PARTS + 4),
        (ObjectType::Notification, 0, PARTS + 5),
        (ObjectType::Frame, THREADS * 4096, PARTS + 6),
        (ObjectType::Frame, THREADS * STACK_BYTES, PARTS + 7),
    ] {
        ok(Call::Retype, MEMORY, &[kind as u64, size, slot.into(), 1]);
    }
    // The program, from the image: what of it cannot be written.
    // SAFETY: the kernel maps the image's header there.
    let header = unsafe { &*(layout::START_INFO as *const ImageHeader) };
    for segment in header.first_segments.iter().take(header.first_segment_count as usize) {
        if u64::from(segment.protection) & u64::from(Protection::WRITE.bits()) == 0 {
            let pages = segment.file_size.div_ceil(4096);
            let arguments = [boot::BLOB.into(), segment.offset / 4096, segment.vaddr, pages, segment.protection.into()];
            map(&arguments);
        }
    }
    map(&[COUNTERS.into(), 0, COUNTERS_AT, 1, 3]);
    map(&[(PARTS + 6).into(), 0, BUFFER_AT, THREADS, 3]);
    map(&[(PARTS + 7).into(), 0, STACK_AT, THREADS * STACK_BYTES / 4096, 3]);
    for index in 0..THREADS {
        let (thread, time) = (PARTS + 10 + 2 * index as u32, PARTS + 11 + 2 * index as u32);
        ok(Call::Retype, MEMORY, &[ObjectType::Thread as u64, 0, thread.into(), 1]);
        ok(Call::Retype, MEMORY, &[ObjectType::SchedContext as u64, 0, time.into(), 1]);
        let (buffer, faults) = ((PARTS + 6).into(), (PARTS + 1).into());
        ok(Call::ThreadConfigure, thread, &[SPACE.into(), TABLE.into(), faults, buffer, index, 0x666]);
        ok(Call::SchedConfigure, time, &[100, index, 50_000, 0, 0]);
        ok(Call::SchedBind, time, &[thread.into()]);
    }
    let copies = [TABLE, SPACE, IRQ, PORT].into_iter().chain(PARTS..PARTS + 8).chain(PARTS + 10..PARTS + 14);
    for (target, source) in (6..).zip(copies) {
        ok(Call::CapCopy, TABLE, &[target, source.into(), 0xff, 0]);
    }
    // The rest of the memory, a copy of the Untyped.
    ok(Call::CapCopy, TABLE, &[40, MEMORY.into(), 0xff, 0]);
    for index in 0..THREADS {
        let (thread, stack) = (PARTS + 10 + 2 * index as u32, STACK_AT + (index + 1) * STACK_BYTES - 8);
        let seed = seed.wrapping_mul(0x2545_f491_4f6c_dd1d).rotate_left(32 * index as u32);
        set_registers(thread, attack as *const () as u64, stack, [seed, index]);
        ok(Call::ThreadResume, thread, &[]);
    }
}

fn map(arguments: &[u64; 5]) {
    let [frame, first, address, pages, protection] = *arguments;
    let mut done = 0;
    while done < pages {
        let out = call(Call::Map, SPACE, &[frame, first + done, address + done * 4096, pages - done, protection]);
        assert!(out.status == 0 || out.status == Error::Partial as u64, "{:?}", Error::from_raw(out.status));
        done += out.rdi;
    }
}

/// What this process holds, apart from what it makes here, in one number.
fn holdings() -> u64 {
    let mut digest = 0xcbf2_9ce4_8422_2325_u64;
    for slot in (1..COUNTERS).chain([MEMORY, OTHERS, IRQ, PORT]) {
        let out = ok(Call::CapIdentify, slots::CAP_TABLE, &[slot.into()]);
        for word in [out.rdi, out.rsi, out.words[0]] {
            digest = (digest ^ word).wrapping_mul(0x100_0000_01b3);
        }
    }
    digest
}

/// What the threads have counted: calls, and of those that were not a look around, the ones that succeeded.
fn counted() -> (u64, u64) {
    // SAFETY: mapped by `run`; the others write it at any time.
    let word = |index: u64| unsafe { ((COUNTERS_AT + 8 * index) as *const u64).read_volatile() };
    ((0..THREADS).map(word).sum(), (THREADS..2 * THREADS).map(word).sum())
}

fn others(visit: impl Fn(*mut u64, u64)) {
    for index in 0..OTHERS_PAGES * 512 {
        visit((OTHERS_AT + 8 * index) as *mut u64, index.wrapping_mul(0x9e37_79b9_7f4a_7c15));
    }
}

/// Lets them make at least so many calls.
pub fn run(calls: u64, seed: u64, tsc_khz: u64) {
    // Above them, below the bystander.
    ok(Call::SchedConfigure, slots::SCHED_CONTEXT, &[PRIORITY, 0, 0, 0, 0]);
    retype(ObjectType::Frame, 4096, COUNTERS);
    retype(ObjectType::Frame, OTHERS_PAGES * 4096, OTHERS);
    retype(ObjectType::Untyped, MEMORY_BYTES, ALL_MEMORY);
    // Whatever priorities they give each other, they stay below this thread, and below the bystander.
    ok(Call::CapCopy, slots::CAP_TABLE, &[MEMORY.into(), ALL_MEMORY.into(), 0xff, PRIORITY]);
    retype(ObjectType::Notification, 0, WAIT);
    ok(Call::IrqDerive, boot::IRQ, &[0, 0, 0, IRQ.into()]);
    ok(Call::PortDerive, boot::IO_PORT, &[0x80, 1, PORT.into()]);
    ok(Call::Map, slots::ADDRESS_SPACE, &[COUNTERS.into(), 0, COUNTERS_AT, 1, 3]);
    ok(Call::Map, slots::ADDRESS_SPACE, &[OTHERS.into(), 0, OTHERS_AT, OTHERS_PAGES, 3]);
    // SAFETY: mapped just now.
    others(|word, value| unsafe { word.write_volatile(value) });
    bystander::start(tsc_khz);
    let held = holdings();

    let (mut total, mut succeeded, mut generations, mut nudges) = (0, 0, 0, 0);
    while total < calls {
        // SAFETY: mapped above, and nobody runs.
        (0..2 * THREADS).for_each(|index| unsafe { ((COUNTERS_AT + 8 * index) as *mut u64).write_volatile(0) });
        build(seed.wrapping_add(generations));
        generations += 1;
        let (mut last, mut stuck) = (0, 0);
        while stuck < 3 && last < LIFE && total + last < calls {
            set_deadline(now() + tsc_khz / 5);
            message(Call::Wait, WAIT, 0, Request::DEADLINE, Tag(0), [0; 8]);
            let made = counted().0;
            stuck = if made == last { stuck + 1 } else { 0 };
            last = made;
            if stuck > 0 {
                nudges += 1;
                for index in 0..THREADS as u32 {
                    let (thread, time) = (PARTS + 10 + 2 * index, PARTS + 11 + 2 * index);
                    ok(Call::ThreadSuspend, thread, &[]);
                    call(Call::SchedBind, time, &[thread.into()]);
                    call(Call::SchedConfigure, time, &[100, index.into(), 50_000, 0, 0]);
                    call(Call::ThreadResume, thread, &[]);
                }
            }
        }
        total += last;
        succeeded += counted().1;
        ok(Call::CapRevoke, slots::CAP_TABLE, &[MEMORY.into()]);
        assert_eq!(ok(Call::UntypedInfo, MEMORY, &[]).words[0], 0, "memory is missing");
    }
    // SAFETY: mapped above.
    others(|word, value| assert!(unsafe { word.read_volatile() } == value, "{word:?} is not what it was"));
    assert_eq!(holdings(), held, "this process does not hold what it held");
    assert!(succeeded > calls / 20, "only {succeeded} of {total} calls did anything, by {generations} processes");
    let beats = bystander::stop();
    let _ = writeln!(
        Console,
        "hostile: all is as it was after {total} calls, {succeeded} of them with success, seed {seed:#x}: {generations} processes, {nudges} nudges, {beats} beats"
    );
}

/// What QEMU was told: number of calls and seed. Without that, there is nothing to do here.
pub fn wanted() -> Option<(u64, u64)> {
    let select = |key: u64| ok(Call::PortOut, boot::IO_PORT, &[0x510, 2, key]);
    let byte = || ok(Call::PortIn, boot::IO_PORT, &[0x511, 1]).rdi as u8;
    select(0x19);
    let number = |bytes: u32| (0..bytes).fold(0_u64, |number, _| number << 8 | u64::from(byte()));
    let files = number(4);
    for _ in 0..files.min(64) {
        let (size, key, _) = (number(4), number(2), number(2));
        let mut name = [0; 56];
        name.fill_with(byte);
        if !name.starts_with(b"opt/crtos/hostile\0") {
            continue;
        }
        select(key);
        let mut text = [0; 64];
        let text = text.get_mut(..size.min(64) as usize)?;
        text.fill_with(byte);
        let mut words = core::str::from_utf8(text).ok()?.split(' ');
        let calls = words.next()?.parse().ok()?;
        let seed = words.next()?.trim();
        let seed = match seed.strip_prefix("0x") {
            Some(hex) => u64::from_str_radix(hex, 16).ok()?,
            None => seed.parse().ok()?,
        };
        return Some((calls, seed));
    }
    None
}
