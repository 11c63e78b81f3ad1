//! Signals: blocked everywhere, taken by one thread, told to the program; and the proxy's own end by the program's signal.
#![allow(unsafe_code)] // Signal calls with their own structures, and a hook before `main`.

use std::sync::atomic::{AtomicU64, Ordering};

use rustix::process::{Resource, Rlimit, setrlimit};

use super::channel::Channel;
use super::forward::CANCEL_SIGNAL;
use crate::sys;

const RT_SIGACTION: u64 = 13;
const RT_SIGPROCMASK: u64 = 14;
const RT_SIGTIMEDWAIT: u64 = 128;
const KILL: u64 = 62;
const SETMASK: u64 = 2;
const SIGNALS: u64 = 64;
const SIGHUP: i32 = 1;
const SIGINT: i32 = 2;
const SIGQUIT: i32 = 3;
const SIGPIPE: i32 = 13;
const SIGTERM: i32 = 15;
const SIGXFSZ: i32 = 25;

const fn bit(signal: i32) -> u64 {
    1 << (signal - 1)
}

/// Signal state that a program inherits. Bit n−1 stands for signal n.
#[derive(Clone, Copy, Debug)]
pub struct Inherited {
    /// Blocked signals.
    pub blocked: u64,
    /// Ignored signals.
    pub ignored: u64,
}

static BLOCKED: AtomicU64 = AtomicU64::new(0);
static IGNORED: AtomicU64 = AtomicU64::new(0);

/// Runs before Rust's runtime, which sets SIGPIPE to ignored: afterwards nobody could tell whether it was before.
extern "C" fn capture() {
    let mut ignored = 0;
    for signal in 1..=SIGNALS {
        let mut action = [0u64; 4];
        // SAFETY: writes `action`, which is as large as the kernel's structure.
        let result = unsafe { sys::syscall(RT_SIGACTION, [signal, 0, action.as_mut_ptr() as u64, 8, 0, 0]) };
        if result == 0 && action[0] == 1 {
            ignored |= 1 << (signal - 1);
        }
    }
    IGNORED.store(ignored, Ordering::Relaxed);
    BLOCKED.store(set_mask(None), Ordering::Relaxed);
}

// SAFETY: the section holds pointers to functions that the C library calls before main; `capture` needs nothing initialised.
#[used]
#[unsafe(link_section = ".init_array")]
static CAPTURE: extern "C" fn() = capture;

/// The signal state that this process was started with.
pub fn inherited() -> Inherited {
    Inherited { blocked: BLOCKED.load(Ordering::Relaxed), ignored: IGNORED.load(Ordering::Relaxed) }
}

/// Sets this thread's mask; gives the last one.
fn set_mask(mask: Option<u64>) -> u64 {
    let mut old = 0u64;
    let new = mask.as_ref().map_or(0, |mask| std::ptr::from_ref(mask) as u64);
    // SAFETY: reads `mask`, writes `old`; both have the kernel's eight bytes.
    unsafe { sys::syscall(RT_SIGPROCMASK, [SETMASK, new, &raw mut old as u64, 8, 0, 0]) };
    old
}

/// Blocks all signals in this thread and those that it starts.
pub fn block_all() {
    set_mask(Some(u64::MAX));
}

/// For workers: the driver's signal gets through.
pub fn block_all_but_cancel() {
    set_mask(Some(!bit(CANCEL_SIGNAL as i32)));
}

/// Back to how it was.
pub fn restore(inherited: Inherited) {
    set_mask(Some(inherited.blocked));
}

/// The start of `siginfo_t`.
#[repr(C, align(8))]
struct Info {
    signo: i32,
    errno: i32,
    code: i32,
    padding: i32,
    pid: u32,
    rest: [u32; 27],
}

/// Takes one pending signal of `set`; waits for it unless `now`.
fn take(set: u64, now: bool) -> Option<Info> {
    let mut info = Info { signo: 0, errno: 0, code: 0, padding: 0, pid: 0, rest: [0; 27] };
    let zero = [0i64; 2];
    let timeout = if now { zero.as_ptr() as u64 } else { 0 };
    // SAFETY: reads `set` and `zero`, writes the 128 bytes of `info`.
    let result =
        unsafe { sys::syscall(RT_SIGTIMEDWAIT, [&raw const set as u64, &raw mut info as u64, timeout, 8, 0, 0]) };
    (result > 0).then_some(info)
}

/// The signal thread.
pub fn forward(channel: &'static Channel) {
    loop {
        let Some(info) = take(!bit(CANCEL_SIGNAL as i32), false) else { continue };
        // A program that cannot answer any more is not waited for.
        if [SIGHUP, SIGINT, SIGQUIT, SIGTERM].contains(&info.signo) && !channel.is_alive() {
            end_with(info.signo);
        }
        // It fails only when the realm has gone, and then the other thread ends all this.
        let _ = channel.signal(info.signo, info.pid, info.code);
    }
}

/// Tells the program of signals that its last call brought upon the calling thread.
pub fn forward_own(channel: &Channel) {
    while let Some(info) = take(bit(SIGPIPE) | bit(SIGXFSZ), true) {
        let _ = channel.signal(info.signo, info.pid, info.code);
    }
}

/// Ends this process as the program ended: `status` is a wait status.
pub fn end_with(status: i32) -> ! {
    let signal = status & 0x7f;
    if signal == 0 {
        sys::exit_group(status >> 8 & 0xff);
    }
    // A core of the proxy would show nothing of the program.
    let _ = setrlimit(Resource::Core, Rlimit { current: Some(0), maximum: Some(0) });
    let default = [0u64; 4];
    // SAFETY: reads `default`.
    unsafe { sys::syscall(RT_SIGACTION, [signal as u64, default.as_ptr() as u64, 0, 8, 0, 0]) };
    // SAFETY: touches no memory.
    unsafe { sys::syscall(KILL, [std::process::id().into(), signal as u64, 0, 0, 0, 0]) };
    set_mask(Some(!bit(signal)));
    sys::exit_group(128 + signal);
}
