//! The vDSO: a small shared object in every process, that reads the clock without a system call, and the page of time data
//! right before it. Both are pages of the pool that all processes share; programs can read them only.
//!
//! The code is position independent and finds the data by its distance. The data is guarded by a sequence number: odd while
//! it changes.

mod image;

use crate::clock::Clock;
use crate::memory::{Memory, PAGE};
use alloc::vec::Vec;
use core::sync::atomic::{Ordering, fence};

/// Offsets in the data page. The assembly in `image` knows them too.
mod data {
    pub const SEQUENCE: usize = 0;
    pub const BASE_TSC: usize = 8;
    pub const MULTIPLIER: usize = 16;
    pub const BASE_NS: usize = 24;
    pub const WALL_OFFSET: usize = 32;
}

/// The shared pages.
pub struct Vdso {
    data: u32,
    image: Vec<u32>,
}

impl Vdso {
    /// Takes pages of the pool and fills them. Panics if the pool is too small for that: then it is for everything.
    pub fn new(memory: &mut Memory, clock: &Clock) -> Vdso {
        let mut take = || memory.pages.take().expect("the pool has room for the vDSO");
        let bytes = image::build();
        let data = take();
        let image: Vec<u32> = bytes.chunks(PAGE as usize).map(|_| take()).collect();
        for page in image.iter().chain([&data]) {
            memory.pool.zero(*page, 0, PAGE as usize);
        }
        for (page, chunk) in image.iter().zip(bytes.chunks(PAGE as usize)) {
            memory.pool.write(*page, 0, chunk);
        }
        let vdso = Vdso { data, image };
        vdso.update(memory, clock);
        vdso
    }

    /// Publishes a changed clock.
    pub fn update(&self, memory: &Memory, clock: &Clock) {
        let word = |offset| memory.long(self.data, offset);
        let sequence = word(data::SEQUENCE).load(Ordering::Relaxed) | 1;
        word(data::SEQUENCE).store(sequence, Ordering::SeqCst);
        fence(Ordering::SeqCst);
        word(data::BASE_TSC).store(clock.base_tsc, Ordering::Relaxed);
        word(data::MULTIPLIER).store(clock.multiplier, Ordering::Relaxed);
        word(data::BASE_NS).store(clock.base_ns, Ordering::Relaxed);
        word(data::WALL_OFFSET).store(clock.wall_offset, Ordering::Relaxed);
        word(data::SEQUENCE).store(sequence.wrapping_add(1), Ordering::SeqCst);
    }

    /// The page of data, then the pages of the image.
    pub fn pages(&self) -> (u32, &[u32]) {
        (self.data, &self.image)
    }

    /// Bytes of both together.
    pub fn size(&self) -> u64 {
        (1 + self.image.len() as u64) * PAGE
    }
}

#[cfg(test)]
#[allow(unsafe_code)] // Runs the code of the image.
mod tests {
    use super::*;
    use crate::clock::SECOND;
    use elf::ElfBytes;
    use elf::endian::LittleEndian;

    /// Data page and image, executable, as a process sees them. Gives the address of the image.
    fn mapped(clock: &Clock) -> (u64, Vec<u8>) {
        let bytes = image::build();
        let size = PAGE as usize + bytes.len();
        // SAFETY: a new anonymous mapping; nothing else refers to it.
        let base = unsafe {
            let prot = libc::PROT_READ | libc::PROT_WRITE | libc::PROT_EXEC;
            libc::mmap(core::ptr::null_mut(), size, prot, libc::MAP_PRIVATE | libc::MAP_ANONYMOUS, -1, 0)
        };
        assert_ne!(base, libc::MAP_FAILED);
        let base = base as u64;
        let words = [2, clock.base_tsc, clock.multiplier, clock.base_ns, clock.wall_offset];
        // SAFETY: both targets lie in the new mapping.
        unsafe {
            core::ptr::copy_nonoverlapping(words.as_ptr(), base as *mut u64, words.len());
            core::ptr::copy_nonoverlapping(bytes.as_ptr(), (base + PAGE) as *mut u8, bytes.len());
        }
        (base + PAGE, bytes)
    }

    fn symbol(bytes: &[u8], name: &str) -> u64 {
        let file = ElfBytes::<LittleEndian>::minimal_parse(bytes).unwrap();
        let common = file.dynamic_symbol_table().unwrap().unwrap();
        let (symbols, names) = common;
        symbols
            .iter()
            .find(|symbol| names.get(symbol.st_name as usize).is_ok_and(|text| text == name))
            .unwrap()
            .st_value
    }

    fn now() -> u64 {
        // SAFETY: reads the counter.
        unsafe { core::arch::x86_64::_rdtsc() }
    }

    #[test]
    fn symbols_are_found_and_tell_the_time() {
        let mut clock = Clock::new(2_000_000, now());
        clock.base_ns = 100 * SECOND;
        clock.wall_offset = 1_000_000 * SECOND;
        let (base, bytes) = mapped(&clock);
        type ClockGettime = extern "C" fn(i32, *mut [i64; 2]) -> i32;
        type Gettimeofday = extern "C" fn(*mut [i64; 2], *mut [i32; 2]) -> i32;
        type Time = extern "C" fn(*mut i64) -> i64;
        type Getcpu = extern "C" fn(*mut u32, *mut u32) -> i32;
        let address = |name| (base + symbol(&bytes, name)) as *const ();
        // SAFETY: the symbols of the image have these signatures.
        let (gettime, getres, timeofday, time, getcpu) = unsafe {
            (
                core::mem::transmute::<*const (), ClockGettime>(address("__vdso_clock_gettime")),
                core::mem::transmute::<*const (), ClockGettime>(address("__vdso_clock_getres")),
                core::mem::transmute::<*const (), Gettimeofday>(address("__vdso_gettimeofday")),
                core::mem::transmute::<*const (), Time>(address("__vdso_time")),
                core::mem::transmute::<*const (), Getcpu>(address("__vdso_getcpu")),
            )
        };
        let mut last = 0;
        for _ in 0..1000 {
            let mut at = [0; 2];
            let before = clock.monotonic(now());
            assert_eq!(gettime(1, &mut at), 0);
            let after = clock.monotonic(now());
            let ns = at[0] as u64 * SECOND + at[1] as u64;
            assert!(before <= ns && ns <= after && ns >= last, "{before} {ns} {after}");
            last = ns;
        }
        let mut at = [0; 2];
        assert_eq!(gettime(0, &mut at), 0);
        assert!((1_000_100..1_000_200).contains(&at[0]));
        let mut zone = [7; 2];
        assert_eq!(timeofday(&mut at, &mut zone), 0);
        assert!((1_000_100..1_000_200).contains(&at[0]) && at[1] < 1_000_000 && zone == [0, 0]);
        let mut seconds = 0;
        assert_eq!(time(&mut seconds), seconds);
        assert!((1_000_100..1_000_200).contains(&seconds) && time(core::ptr::null_mut()) >= seconds);
        assert_eq!(getres(1, &mut at), 0);
        assert_eq!(at, [0, 1]);
        let mut cpu = 9;
        assert_eq!((getcpu(&mut cpu, core::ptr::null_mut()), cpu), (0, 0));
        // Other clocks: a real system call, here of the host.
        assert_eq!(gettime(2, &mut at), 0);
    }

    #[test]
    fn the_version_is_the_one_that_the_c_library_asks_for() {
        let bytes = image::build();
        let file = ElfBytes::<LittleEndian>::minimal_parse(&bytes).unwrap();
        let table = file.symbol_version_table().unwrap().unwrap();
        let mut definition = table.get_definition(1).unwrap().unwrap();
        assert_eq!(definition.names.next().unwrap().unwrap(), "LINUX_2.6");
        assert_eq!(definition.hash, 61_765_110);
        assert!(bytes.len() <= 2 * PAGE as usize);
    }
}
