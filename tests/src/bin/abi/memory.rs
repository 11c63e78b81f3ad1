//! Memory: what `mmap` and its kin promise, and that Linux and the program see the same pages.

use std::fs::{self, File};
use std::io::Write;
use std::os::fd::AsRawFd;
use std::os::unix::fs::FileExt;

use libc::{
    MAP_ANONYMOUS, MAP_FIXED, MAP_FIXED_NOREPLACE, MAP_NORESERVE, MAP_PRIVATE, MAP_SHARED, MREMAP_MAYMOVE, PROT_NONE,
    PROT_READ, PROT_WRITE, SIGSEGV,
};

use crate::{check, fault, sys};

const PAGE: usize = 4096;
const RW: i32 = PROT_READ | PROT_WRITE;
const FAULT: Result<u8, i64> = Err(SIGSEGV as i64);

fn fill(address: usize, bytes: usize, value: u8) {
    (address..address + bytes).for_each(|at| fault::write(at, value).expect("it is mapped"));
}

/// All points.
pub fn check_all() {
    fault::catch(SIGSEGV);
    fault::catch(libc::SIGBUS);
    mappings();
    sizes();
    files();
    replaced();
}

fn mappings() {
    let p = sys::anonymous(8 * PAGE);
    check("mmap anonymous is zero", (p..p + 8 * PAGE).all(|at| fault::read(at) == Ok(0)));
    fill(p, 8 * PAGE, 7);
    check("munmap in the middle", sys::munmap(p + PAGE, PAGE) == 0);
    let hole = fault::read(p + PAGE) == FAULT && fault::last() == (fault::SEGV_MAPERR, p + PAGE);
    check("hole faults with SEGV_MAPERR", hole);
    check("neighbours stay", (fault::read(p), fault::read(p + 2 * PAGE)) == (Ok(7), Ok(7)));
    let again = sys::mmap(p + PAGE, PAGE, RW, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1);
    check("mmap fixed into the hole", again == Ok(p + PAGE) && fault::read(p + PAGE) == Ok(0));
    let taken = sys::mmap(p, PAGE, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED_NOREPLACE, -1);
    check("MAP_FIXED_NOREPLACE refuses", taken == Err(libc::EEXIST));
    let read_only = sys::mprotect(p, PAGE, PROT_READ) == 0 && fault::read(p) == Ok(7);
    let refused = fault::write(p, 1) == Err(SIGSEGV.into()) && fault::last().0 == fault::SEGV_ACCERR;
    check("mprotect read only", read_only && refused);
    let nothing = sys::mprotect(p, PAGE, PROT_NONE) == 0 && fault::read(p) == FAULT;
    check("mprotect none and back", nothing && sys::mprotect(p, PAGE, RW) == 0 && fault::read(p) == Ok(7));
    let sleep = sys::raw(libc::SYS_nanosleep, [0x123, 0]);
    check(
        "EFAULT for bad pointers",
        sys::transfer(1, 0x123, 1, true) == Err(libc::EFAULT) && sleep == Err(libc::EFAULT),
    );
    let dropped = sys::madvise(p + 2 * PAGE, PAGE, libc::MADV_DONTNEED) == 0 && fault::read(p + 2 * PAGE) == Ok(0);
    check("madvise DONTNEED zeroes", dropped && fault::read(p + 3 * PAGE) == Ok(7));
}

fn sizes() {
    let q = sys::anonymous(2 * PAGE);
    fill(q + 5000, 1, 42);
    let r = sys::mremap(q, 2 * PAGE, 1 << 20, MREMAP_MAYMOVE);
    let kept = |r| fault::read(r + 5000) == Ok(42) && fault::read(r + 600_000) == Ok(0);
    check("mremap grows and keeps", r.is_ok_and(kept));
    let r = r.unwrap_or(q);
    check("mremap shrinks", sys::mremap(r, 1 << 20, 2 * PAGE, 0) == Ok(r) && fault::read(r + 5000) == Ok(42));
    let big = sys::mmap(0, 1 << 36, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1).unwrap_or(0);
    let usable =
        big != 0 && sys::mprotect(big + (1 << 35), 2 * PAGE, RW) == 0 && fault::write(big + (1 << 35), 1) == Ok(());
    check("a reservation of 64 GiB", usable);
    check("and away again", sys::munmap(big, 1 << 36) == 0);
    // The C library's allocator may hold the break: only its end is moved, up and back.
    // SAFETY: the new bytes are nobody's, and given back before anybody can have asked for more.
    let (start, grown) = unsafe { (libc::sbrk(0).addr(), libc::sbrk(100_000).addr()) };
    (start..start + 100_000).for_each(|at| _ = fault::write(at, 1));
    // SAFETY: as above.
    let (shrunk, end) = unsafe { (libc::sbrk(-100_000).addr(), libc::sbrk(0).addr()) };
    check("brk", (grown, shrunk, end) == (start, start + 100_000, start));
}

/// A file without a name.
fn nameless() -> File {
    let path = std::env::temp_dir().join(format!("abi-{}", std::process::id()));
    let file = File::options().read(true).write(true).create_new(true).open(&path).expect("a file");
    fs::remove_file(path).expect("its name");
    file
}

fn files() {
    let mut file = nameless();
    file.write_all(&[b'x'; PAGE]).and_then(|()| file.write_all(b"tail")).expect("a write");
    let stored = |at: u64| {
        let mut byte = [0];
        file.read_exact_at(&mut byte, at).expect("a read");
        byte[0]
    };
    let private = sys::mmap(0, 2 * PAGE, RW, MAP_PRIVATE, file.as_raw_fd()).unwrap_or(0);
    let tail = (0..5).map(|i| fault::read(private + PAGE + i).unwrap_or(1));
    check("file private", fault::read(private) == Ok(b'x') && tail.eq(*b"tail\0"));
    let _ = fault::write(private, b'y');
    check("private changes stay private", stored(0) == b'x');
    let shared = sys::mmap(0, 2 * PAGE, RW, MAP_SHARED, file.as_raw_fd()).unwrap_or(0);
    let _ = fault::write(shared + 1, b'z');
    check("shared changes reach the file", sys::msync(shared, 2 * PAGE, libc::MS_SYNC) == 0 && stored(1) == b'z');
    let _ = fault::write(shared + 2, b'w');
    sys::munmap(shared, 2 * PAGE);
    let size = file.metadata().map_or(0, |data| data.len());
    check("also at munmap, and the size stays", stored(2) == b'w' && size == PAGE as u64 + 4);
    let directory = File::open("/").expect("the root");
    check(
        "mmap of a directory",
        sys::mmap(0, PAGE, PROT_READ, MAP_PRIVATE, directory.as_raw_fd()) == Err(libc::ENODEV),
    );
    check("mmap of nothing", sys::mmap(0, PAGE, PROT_READ, MAP_PRIVATE, 999) == Err(libc::EBADF));
}

/// The same pages for Linux and for the program, also after they were replaced.
fn replaced() {
    let (reader, writer) = std::io::pipe().expect("a pipe");
    let a = sys::anonymous(PAGE);
    let mut same = true;
    for i in 0..20 {
        let _ = fault::write(a, b'a' + i);
        same &= sys::transfer(writer.as_raw_fd(), a, 1, true) == Ok(1) && sys::munmap(a, PAGE) == 0;
        same &= sys::mmap(a, PAGE, RW, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1) == Ok(a);
        same &= sys::transfer(reader.as_raw_fd(), a + 1, 1, false) == Ok(1);
        same &= (fault::read(a), fault::read(a + 1)) == (Ok(0), Ok(b'a' + i));
    }
    check("replaced pages are not mixed up", same);
}
