//! The C library's calls that the checks need and Rust's library has not, without pointers of Rust's in them.

use std::ffi::{c_int, c_void};
use std::io::Error;
use std::ptr;
use std::time::Duration;

/// The error number of the last call that failed.
pub fn errno() -> i32 {
    Error::last_os_error().raw_os_error().unwrap_or(0)
}

/// A new mapping's address; `Err`: the error number.
pub fn mmap(address: usize, bytes: usize, protection: c_int, flags: c_int, fd: c_int) -> Result<usize, i32> {
    let address = ptr::with_exposed_provenance_mut(address);
    // SAFETY: the checks give no address (MAP_FIXED) but those of mappings of their own, in which nothing of Rust's lies.
    let made = unsafe { libc::mmap(address, bytes, protection, flags, fd, 0) };
    if made == libc::MAP_FAILED { Err(errno()) } else { Ok(made.expose_provenance()) }
}

/// Private memory, readable and writable.
pub fn anonymous(bytes: usize) -> usize {
    mmap(0, bytes, libc::PROT_READ | libc::PROT_WRITE, libc::MAP_PRIVATE | libc::MAP_ANONYMOUS, -1).expect("memory")
}

/// What a call on the mapping at an address says: 0, or the error number.
fn on_mapping(address: usize, call: impl FnOnce(*mut c_void) -> c_int) -> i32 {
    if call(ptr::with_exposed_provenance_mut(address)) == 0 { 0 } else { errno() }
}

/// 0, or the error number.
pub fn munmap(address: usize, bytes: usize) -> i32 {
    // SAFETY: a mapping of the checks' own.
    on_mapping(address, |start| unsafe { libc::munmap(start, bytes) })
}

/// 0, or the error number.
pub fn mprotect(address: usize, bytes: usize, protection: c_int) -> i32 {
    // SAFETY: as above.
    on_mapping(address, |start| unsafe { libc::mprotect(start, bytes, protection) })
}

/// 0, or the error number.
pub fn madvise(address: usize, bytes: usize, advice: c_int) -> i32 {
    // SAFETY: as above.
    on_mapping(address, |start| unsafe { libc::madvise(start, bytes, advice) })
}

/// 0, or the error number.
pub fn msync(address: usize, bytes: usize, flags: c_int) -> i32 {
    // SAFETY: as above.
    on_mapping(address, |start| unsafe { libc::msync(start, bytes, flags) })
}

/// The new address; `Err`: the error number.
pub fn mremap(address: usize, old: usize, new: usize, flags: c_int) -> Result<usize, i32> {
    // SAFETY: as above.
    let made = unsafe { libc::mremap(ptr::with_exposed_provenance_mut(address), old, new, flags) };
    if made == libc::MAP_FAILED { Err(errno()) } else { Ok(made.expose_provenance()) }
}

/// Reads or writes through Linux at an address that need not be good: bytes, or the error number.
pub fn transfer(fd: c_int, address: usize, bytes: usize, writes: bool) -> Result<usize, i32> {
    let address = ptr::with_exposed_provenance_mut::<c_void>(address);
    // SAFETY: the kernel checks the address; what is good of it is a mapping of the checks' own.
    let count = unsafe { if writes { libc::write(fd, address, bytes) } else { libc::read(fd, address, bytes) } };
    usize::try_from(count).map_err(|_| errno())
}

/// A raw system call: what it returns, or the error number.
pub fn raw(number: i64, arguments: [i64; 2]) -> Result<i64, i32> {
    // SAFETY: the checks make calls that do not exist, or with addresses that the kernel refuses or that are good.
    let result = unsafe { libc::syscall(number, arguments[0], arguments[1]) };
    if result == -1 { Err(errno()) } else { Ok(result) }
}

/// What a handler of a signal is.
pub enum Handler {
    /// Takes the signal's information.
    Info(extern "C" fn(c_int, *mut libc::siginfo_t, *mut c_void)),
    /// Takes its number.
    Number(extern "C" fn(c_int)),
    /// Nobody is told.
    Ignore,
}

/// Sets a signal's handler.
pub fn handle(signal: c_int, handler: Handler, flags: c_int) {
    // SAFETY: all zero is an action without a mask.
    let mut action: libc::sigaction = unsafe { std::mem::zeroed() };
    (action.sa_sigaction, action.sa_flags) = match handler {
        Handler::Info(function) => (function as *const () as usize, flags | libc::SA_SIGINFO),
        Handler::Number(function) => (function as *const () as usize, flags),
        Handler::Ignore => (libc::SIG_IGN, flags),
    };
    // SAFETY: the handlers touch atomics only.
    assert_eq!(unsafe { libc::sigaction(signal, &action, ptr::null_mut()) }, 0);
}

/// A set of that one signal, or of none.
pub fn set_of(signal: Option<c_int>) -> libc::sigset_t {
    // SAFETY: the set is made before it is used.
    unsafe {
        let mut set = std::mem::zeroed();
        libc::sigemptyset(&mut set);
        if let Some(signal) = signal {
            libc::sigaddset(&mut set, signal);
        }
        set
    }
}

/// Changes the thread's mask; the old one.
pub fn mask(how: c_int, set: Option<&libc::sigset_t>) -> libc::sigset_t {
    let mut old = set_of(None);
    // SAFETY: both are sets.
    assert_eq!(unsafe { libc::pthread_sigmask(how, set.map_or(ptr::null(), ptr::from_ref), &mut old) }, 0);
    old
}

/// Whether a signal is in the set.
pub fn contains(set: &libc::sigset_t, signal: c_int) -> bool {
    // SAFETY: it is a set.
    unsafe { libc::sigismember(set, signal) == 1 }
}

/// Whether the signal is pending.
pub fn is_pending(signal: c_int) -> bool {
    let mut set = set_of(None);
    // SAFETY: it is a set.
    assert_eq!(unsafe { libc::sigpending(&mut set) }, 0);
    contains(&set, signal)
}

/// Raises a signal in this thread.
pub fn raise(signal: c_int) {
    // SAFETY: the handlers touch atomics only.
    assert_eq!(unsafe { libc::raise(signal) }, 0);
}

/// Waits for a signal.
pub fn pause() {
    // SAFETY: no argument.
    unsafe { libc::pause() };
}

/// Sends this process a signal.
pub fn kill_self(signal: c_int) {
    // SAFETY: as `raise`.
    assert_eq!(unsafe { libc::kill(libc::getpid(), signal) }, 0);
}

/// A duration as the kernel takes it.
pub fn timespec(duration: Duration) -> libc::timespec {
    libc::timespec { tv_sec: duration.as_secs() as i64, tv_nsec: duration.subsec_nanos().into() }
}

/// What the kernel gave, as a duration.
pub fn duration(time: libc::timespec) -> Duration {
    Duration::new(time.tv_sec as u64, time.tv_nsec as u32)
}

/// A clock, through the C library and so the vDSO.
pub fn clock(clock: libc::clockid_t) -> Duration {
    let mut time = timespec(Duration::ZERO);
    // SAFETY: it is written to.
    assert_eq!(unsafe { libc::clock_gettime(clock, &mut time) }, 0);
    duration(time)
}

/// Sleeps once: what was left when a signal came.
pub fn sleep(time: Duration) -> Result<(), Duration> {
    let mut left = timespec(Duration::ZERO);
    // SAFETY: one is read, the other written.
    match unsafe { libc::nanosleep(&timespec(time), &mut left) } {
        0 => Ok(()),
        _ => Err(duration(left)),
    }
}
