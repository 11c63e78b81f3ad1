//! Signals: handlers, masks, what they interrupt, and timers that send them.

use std::ffi::{c_int, c_void};
use std::os::fd::AsRawFd;
use std::sync::atomic::{AtomicI32, AtomicUsize, Ordering::Relaxed};
use std::thread::{self, JoinHandle};
use std::time::Duration;
use std::{mem, ptr};

use libc::{CLOCK_MONOTONIC, CLOCK_REALTIME, SA_RESTART, SIGALRM, SIGUSR1, SIGUSR2};

use crate::{check, fault, sys};

static CAUGHT: AtomicI32 = AtomicI32::new(0);
static VALUE: AtomicI32 = AtomicI32::new(0);
static DEPTH: AtomicI32 = AtomicI32::new(0);
static DEEPEST: AtomicI32 = AtomicI32::new(0);
static STACK: AtomicUsize = AtomicUsize::new(0);

extern "C" fn on_signal(signal: c_int, info: *mut libc::siginfo_t, _: *mut c_void) {
    // SAFETY: the kernel's, and all bytes of it are there whatever the signal.
    VALUE.store(unsafe { (*info).si_value() }.sival_ptr.addr() as i32, Relaxed);
    CAUGHT.store(signal, Relaxed);
}

extern "C" fn on_nested(_: c_int) {
    let depth = DEPTH.fetch_add(1, Relaxed) + 1;
    DEEPEST.fetch_max(depth, Relaxed);
    if depth < 5 {
        sys::raise(SIGUSR2);
    }
    DEPTH.fetch_sub(1, Relaxed);
}

extern "C" fn on_alternate(_: c_int) {
    let here = 0_u8;
    STACK.store(ptr::from_ref(&here).addr(), Relaxed);
}

/// The signal that was caught since the last time; none: 0.
fn caught() -> c_int {
    CAUGHT.swap(0, Relaxed)
}

/// All points.
pub fn check_all() {
    let real_time = libc::SIGRTMIN();
    for signal in [SIGUSR1, SIGALRM, real_time] {
        sys::handle(signal, sys::Handler::Info(on_signal), 0);
    }
    sys::raise(SIGUSR1);
    check("raise", caught() == SIGUSR1);
    sys::kill_self(SIGUSR1);
    check("kill of oneself", caught() == SIGUSR1);
    sys::handle(SIGUSR2, sys::Handler::Number(on_nested), libc::SA_NODEFER);
    let x = std::hint::black_box(1.5_f64);
    sys::raise(SIGUSR2);
    check(
        "nested handlers, registers kept",
        (DEEPEST.load(Relaxed), DEPTH.load(Relaxed), (x * x).sqrt()) == (5, 0, 1.5),
    );
    alternate_stack();
    masks();
    interruptions();
    timers(real_time);

    fault::catch(libc::SIGFPE);
    check("division by zero", fault::divide() == libc::SIGFPE.into() && fault::last().0 == fault::FPE_INTDIV);
    sys::handle(libc::SIGPIPE, sys::Handler::Ignore, 0);
    let (reader, writer) = std::io::pipe().expect("a pipe");
    drop(reader);
    let byte = 0_u8;
    let written = sys::transfer(writer.as_raw_fd(), ptr::from_ref(&byte).expose_provenance(), 1, true);
    check("EPIPE", written == Err(libc::EPIPE));
}

fn alternate_stack() {
    const BYTES: usize = 65536;
    let start = sys::anonymous(BYTES);
    let stack = libc::stack_t { ss_sp: ptr::with_exposed_provenance_mut(start), ss_flags: 0, ss_size: BYTES };
    // SAFETY: the memory stays for the life of the program.
    check("sigaltstack", unsafe { libc::sigaltstack(&stack, ptr::null_mut()) } == 0);
    sys::handle(SIGUSR2, sys::Handler::Number(on_alternate), libc::SA_ONSTACK);
    sys::raise(SIGUSR2);
    check("handler on the alternate stack", (start..start + BYTES).contains(&STACK.load(Relaxed)));
}

fn masks() {
    let old = sys::mask(libc::SIG_BLOCK, Some(&sys::set_of(Some(SIGUSR1))));
    sys::raise(SIGUSR1);
    check("blocked signals wait", caught() == 0 && sys::is_pending(SIGUSR1));
    sys::mask(libc::SIG_SETMASK, Some(&old));
    check("until unblocked", caught() == SIGUSR1);

    let set = sys::set_of(Some(SIGUSR1));
    let old = sys::mask(libc::SIG_BLOCK, Some(&set));
    let waiter = thread::spawn(move || {
        let mut signal = 0;
        // SAFETY: one is read, the other written.
        unsafe { libc::sigwait(&set, &mut signal) };
        signal
    });
    sys::kill_self(SIGUSR1);
    check("sigwait", waiter.join().is_ok_and(|signal| signal == SIGUSR1));
    let short = sys::timespec(Duration::from_millis(20));
    // SAFETY: they are read.
    let waited = unsafe { libc::sigtimedwait(&set, ptr::null_mut(), &short) };
    check("sigtimedwait times out", waited == -1 && sys::errno() == libc::EAGAIN);
    sys::raise(SIGUSR1);
    // SAFETY: it is read.
    let suspended = unsafe { libc::sigsuspend(&sys::set_of(None)) };
    check("sigsuspend", suspended == -1 && sys::errno() == libc::EINTR && caught() == SIGUSR1);
    check("and the mask is back", sys::contains(&sys::mask(libc::SIG_BLOCK, None), SIGUSR1));
    sys::mask(libc::SIG_SETMASK, Some(&old));
}

/// Signals this thread after 50 ms, and writes a byte after as much again.
fn disturb(writer: c_int) -> JoinHandle<()> {
    // SAFETY: no argument.
    let me = unsafe { libc::pthread_self() };
    thread::spawn(move || {
        thread::sleep(Duration::from_millis(50));
        // SAFETY: the thread waits for this one's end.
        unsafe { libc::pthread_kill(me, SIGUSR1) };
        thread::sleep(Duration::from_millis(50));
        let byte = 0_u8;
        let _ = sys::transfer(writer, ptr::from_ref(&byte).expose_provenance(), 1, true);
    })
}

fn interruptions() {
    let (reader, writer) = std::io::pipe().expect("a pipe");
    let (from, to) = (reader.as_raw_fd(), writer.as_raw_fd());
    let room = sys::anonymous(4096);
    let read = || sys::transfer(from, room, 1, false);
    // What the other thread writes in the end is taken, so that the next point begins with nothing.
    let with = |point: &dyn Fn() -> bool, takes: bool| {
        let other = disturb(to);
        caught();
        let holds = point() && caught() == SIGUSR1;
        holds && other.join().is_ok() && (takes || read() == Ok(1))
    };
    let long = Duration::from_secs(5);
    let sleep = || sys::sleep(long).is_err_and(|left| left < long && left > Duration::from_secs(3));
    check("a sleep is interrupted", with(&sleep, false));
    check("a read is interrupted", with(&|| read() == Err(libc::EINTR), false));
    sys::handle(SIGUSR1, sys::Handler::Info(on_signal), SA_RESTART);
    check("and goes on with SA_RESTART", with(&|| read() == Ok(1), true));
    let poll = || {
        let mut entry = libc::pollfd { fd: from, events: libc::POLLIN, revents: 0 };
        // SAFETY: one entry.
        unsafe { libc::poll(&mut entry, 1, 5000) == -1 && sys::errno() == libc::EINTR }
    };
    check("a poll never does", with(&poll, false));
}

/// `struct sigevent` as the kernel has it, with the C library's function to be called.
#[repr(C)]
struct Event {
    value: usize,
    signal: c_int,
    notify: c_int,
    function: usize,
    attributes: usize,
    rest: [u64; 4],
}

unsafe extern "C" {
    fn sigqueue(process: libc::pid_t, signal: c_int, value: libc::sigval) -> c_int;
}

extern "C" fn notified(value: libc::sigval) {
    VALUE.store(value.sival_ptr.addr() as i32, Relaxed);
    CAUGHT.store(1, Relaxed);
}

/// A timer that expires once, 10 ms from now; whether it came, with which value, and could be deleted.
fn timer(clock: libc::clockid_t, mut event: Event) -> (bool, c_int, i32, bool) {
    let soon = sys::timespec(Duration::from_millis(10));
    let never = sys::timespec(Duration::ZERO);
    let spec = libc::itimerspec { it_interval: never, it_value: soon };
    let mut timer: libc::timer_t = ptr::null_mut();
    // SAFETY: `Event` is laid out as the library's, and all else is read or written as it is.
    let made = unsafe {
        libc::timer_create(clock, (&raw mut event).cast(), &mut timer) == 0
            && libc::timer_settime(timer, 0, &spec, ptr::null_mut()) == 0
    };
    for _ in 0..1000 {
        if CAUGHT.load(Relaxed) != 0 {
            break;
        }
        thread::sleep(Duration::from_millis(10));
    }
    // SAFETY: it was made.
    (made, caught(), VALUE.load(Relaxed), unsafe { libc::timer_delete(timer) } == 0)
}

fn timers(real_time: c_int) {
    caught();
    let interval = libc::timeval { tv_sec: 0, tv_usec: 10_000 };
    let spec = libc::itimerval { it_interval: interval, it_value: interval };
    // SAFETY: all zero is a timer that is off.
    let off: libc::itimerval = unsafe { mem::zeroed() };
    // SAFETY: it is read.
    let set = |spec: &libc::itimerval| unsafe { libc::setitimer(libc::ITIMER_REAL, spec, ptr::null_mut()) } == 0;
    let started = set(&spec);
    sys::pause();
    check("setitimer", started && caught() == SIGALRM && set(&off));
    caught();
    let event =
        |value, notify, signal, function| Event { value, signal, notify, function, attributes: 0, rest: [0; 4] };
    let found = timer(CLOCK_MONOTONIC, event(77, libc::SIGEV_SIGNAL, real_time, 0));
    check("a timer's signal and value", found == (true, real_time, 77, true));
    let function = notified as extern "C" fn(libc::sigval) as usize;
    let found = timer(CLOCK_REALTIME, event(78, libc::SIGEV_THREAD, 0, function));
    check("SIGEV_THREAD", found == (true, 1, 78, true));
    let value = libc::sigval { sival_ptr: ptr::without_provenance_mut(5) };
    // SAFETY: the handler touches atomics only.
    let queued = unsafe { sigqueue(libc::getpid(), real_time, value) } == 0;
    check("sigqueue", queued && caught() == real_time && VALUE.load(Relaxed) == 5);
}
