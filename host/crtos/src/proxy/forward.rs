//! Making a call of the program, so that it can be interrupted without a gap.
//!
//! The driver interrupts a worker by a signal that carries the low half of the call's id. If the signal comes while the worker
//! is in the kernel, the call returns EINTR by itself. If it comes before, the handler finds the worker between the last look
//! at the cancel word and the `syscall` instruction and moves it past; or even before that, and the look at the cancel word
//! finds it. If it comes after, the id fits no further call. So no cancellation is lost, and none hits another call.
#![allow(unsafe_code)] // Assembly, a signal handler, and calls whose effects are the program's own business.

use std::arch::global_asm;
use std::cell::Cell;
use std::io;
use std::sync::atomic::{AtomicU32, Ordering};

use crate::sys;

/// glibc keeps it for `pthread_cancel`, which nobody uses here; the C library of no program uses it across processes.
pub const CANCEL_SIGNAL: u32 = 32;

/// What the stub reads.
#[repr(C)]
struct Frame {
    number: u64,
    args: [u64; 6],
}

global_asm!(
    ".globl crtos_forward, crtos_forward_start, crtos_forward_syscall, crtos_forward_cancelled, crtos_restorer",
    // (frame in rdi, cancel word in rsi, low half of the id in edx)
    "crtos_forward:",
    "mov rcx, rsi",
    "mov r11d, edx",
    "crtos_forward_start:",
    "cmp dword ptr [rcx], r11d",
    "je crtos_forward_cancelled",
    "mov rax, [rdi]",
    "mov rsi, [rdi + 16]",
    "mov rdx, [rdi + 24]",
    "mov r10, [rdi + 32]",
    "mov r8, [rdi + 40]",
    "mov r9, [rdi + 48]",
    "mov rdi, [rdi + 8]",
    "crtos_forward_syscall:",
    "syscall",
    "ret",
    "crtos_forward_cancelled:",
    "mov rax, -4", // EINTR
    "ret",
    "crtos_restorer:",
    "mov eax, 15", // rt_sigreturn
    "syscall",
    "ud2",
);

unsafe extern "C" {
    fn crtos_forward(frame: *const Frame, cancel: *const AtomicU32, id: u32) -> i64;
    fn crtos_forward_start();
    fn crtos_forward_syscall();
    fn crtos_forward_cancelled();
    fn crtos_restorer();
}

thread_local! {
    /// Low half of the id of the call that is to be given up.
    static CANCEL: AtomicU32 = const { AtomicU32::new(0) };
    /// Low half of the id of the call being made; 0: none.
    static CURRENT: Cell<u32> = const { Cell::new(0) };
}

/// Makes system call `number` for the call with this id.
pub fn forward(id: u64, number: u64, args: [u64; 6]) -> i64 {
    let frame = Frame { number, args };
    // An id whose low half is 0 looks like no cancel word at all, so it could not be told from an idle one.
    let id = match id as u32 {
        0 => u32::MAX,
        low => low,
    };
    CURRENT.set(id);
    // SAFETY: the pointers are valid during the call. What the call does is what the program asked for: it works on the program's
    // window, which no reference of ours points into, and on descriptors that are not ours (`special` sees to both).
    let result = CANCEL.with(|cancel| unsafe { crtos_forward(&raw const frame, cancel, id) });
    CURRENT.set(0);
    result
}

const SI_QUEUE: i32 = -1;
/// Offsets in `siginfo_t` and in `ucontext_t`.
const SI_CODE: usize = 8;
const SI_VALUE: usize = 24;
const UC_RIP: usize = 168;

/// Runs on the worker's stack. Touches nothing but thread-local words and the saved instruction pointer.
extern "C" fn on_cancel(_signal: i32, info: *const u8, context: *mut u8) {
    // SAFETY: the kernel passes a whole siginfo_t and ucontext_t; both fields are aligned in them.
    let (code, value) = unsafe { (*info.add(SI_CODE).cast::<i32>(), *info.add(SI_VALUE).cast::<u32>()) };
    let current = CURRENT.get();
    // Without room for a value the kernel sends the bare signal: then it means the call being made.
    let id = match (code, value) {
        (SI_QUEUE, 0) => u32::MAX,
        (SI_QUEUE, value) => value,
        _ => current,
    };
    if id == 0 {
        return;
    }
    CANCEL.with(|cancel| cancel.store(id, Ordering::Relaxed));
    // SAFETY: as above.
    let rip = unsafe { &mut *context.add(UC_RIP).cast::<u64>() };
    let waiting = crtos_forward_start as *const () as u64..=crtos_forward_syscall as *const () as u64;
    if id == current && waiting.contains(rip) {
        *rip = crtos_forward_cancelled as *const () as u64;
    }
}

/// What `rt_sigaction` takes.
#[repr(C)]
struct Action {
    handler: u64,
    flags: u64,
    restorer: u64,
    mask: u64,
}

/// Installs the handler of [`CANCEL_SIGNAL`]. (glibc's wrapper refuses this number.)
pub fn install_cancel_handler() -> io::Result<()> {
    const SA_SIGINFO: u64 = 4;
    const SA_RESTORER: u64 = 0x0400_0000;
    let action = Action {
        handler: on_cancel as *const () as u64,
        flags: SA_SIGINFO | SA_RESTORER, // not SA_RESTART: the call is to end
        restorer: crtos_restorer as *const () as u64,
        mask: u64::MAX,
    };
    // SAFETY: reads `action`; the handler is sound at any point of any thread.
    let result = unsafe { sys::syscall(13, [CANCEL_SIGNAL.into(), &raw const action as u64, 0, 8, 0, 0]) };
    if result < 0 { Err(io::Error::from_raw_os_error(-result as i32)) } else { Ok(()) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::{Duration, Instant};

    const READ: u64 = 0;
    const GETPID: u64 = 39;
    const EINTR: i64 = -4;

    /// Queues the cancel signal with a value to a thread of this process.
    fn queue(tid: i64, value: u32) {
        let mut info = [0u32; 32];
        info[0] = CANCEL_SIGNAL;
        info[2] = SI_QUEUE as u32;
        info[6] = value;
        let pid = u64::from(std::process::id());
        // SAFETY: reads `info`.
        let result = unsafe { sys::syscall(297, [pid, tid as u64, CANCEL_SIGNAL.into(), info.as_ptr() as u64, 0, 0]) };
        assert_eq!(result, 0);
    }

    fn unblocked<T: Send + 'static>(body: impl FnOnce() -> T + Send + 'static) -> std::thread::JoinHandle<T> {
        install_cancel_handler().unwrap();
        std::thread::spawn(|| {
            super::super::signals::block_all_but_cancel();
            body()
        })
    }

    #[test]
    fn calls_are_made() {
        assert_eq!(forward(7, GETPID, [0; 6]), i64::from(std::process::id()));
        assert_eq!(forward(1 << 32, GETPID, [0; 6]), i64::from(std::process::id()));
    }

    #[test]
    fn a_cancellation_that_came_first_is_seen_and_hits_no_other() {
        unblocked(|| {
            queue(sys::thread_id(), 9);
            assert_eq!(forward(8, GETPID, [0; 6]), i64::from(std::process::id()));
            assert_eq!(forward(9, GETPID, [0; 6]), EINTR);
            assert_eq!(forward(10, GETPID, [0; 6]), i64::from(std::process::id()));
        })
        .join()
        .unwrap();
    }

    #[test]
    fn a_waiting_call_ends_whenever_the_cancellation_comes() {
        let (ours, theirs) = std::sync::mpsc::channel();
        let (read_end, _write_end) = rustix::pipe::pipe().unwrap();
        const ROUNDS: u32 = 200;
        let worker = unblocked(move || {
            ours.send(sys::thread_id()).unwrap();
            use std::os::fd::AsRawFd;
            let mut byte = 0u8;
            for id in 1..=ROUNDS {
                let args = [read_end.as_raw_fd() as u64, &raw mut byte as u64, 1, 0, 0, 0];
                assert_eq!(forward(id.into(), READ, args), EINTR);
                ours.send(id.into()).unwrap();
            }
        });
        let tid = theirs.recv().unwrap();
        let started = Instant::now();
        for id in 1..=ROUNDS {
            // At different moments of the worker's way into the call.
            for _ in 0..id % 50 * 20 {
                std::hint::spin_loop();
            }
            queue(tid, id);
            assert_eq!(theirs.recv_timeout(Duration::from_secs(20)).unwrap(), i64::from(id));
        }
        worker.join().unwrap();
        assert!(started.elapsed() < Duration::from_secs(60));
    }
}
