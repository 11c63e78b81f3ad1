//! Threads and what they wait for each other by: Rust's library uses futexes of its own, the C library's locks are looked at beside.

use std::cell::{Cell, UnsafeCell};
use std::ffi::c_int;
use std::mem::MaybeUninit;
use std::sync::atomic::{AtomicU32, Ordering::Relaxed};
use std::sync::{Arc, Condvar, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use crate::{check, sys};

thread_local!(static LOCAL: Cell<u32> = const { Cell::new(5) });

/// A mutex of the C library. It stays where it is, because threads wait by its address.
struct Lock(Box<UnsafeCell<libc::pthread_mutex_t>>);

// SAFETY: threads share it by the C library's calls only, which are made for that.
unsafe impl Sync for Lock {}
// SAFETY: as above.
unsafe impl Send for Lock {}

/// What kind of lock.
type Attribute = fn(*mut libc::pthread_mutexattr_t) -> c_int;

impl Lock {
    /// A lock of that kind, if there is such.
    fn new(kind: Attribute) -> Option<Arc<Lock>> {
        let mut attributes = MaybeUninit::uninit();
        let lock = Lock(Box::new(UnsafeCell::new(libc::PTHREAD_MUTEX_INITIALIZER)));
        // SAFETY: the attributes are made before they are used.
        let made = unsafe {
            libc::pthread_mutexattr_init(attributes.as_mut_ptr());
            kind(attributes.as_mut_ptr()) == 0 && libc::pthread_mutex_init(lock.0.get(), attributes.as_ptr()) == 0
        };
        made.then(|| Arc::new(lock))
    }

    /// 0, or the error number.
    fn lock(&self) -> c_int {
        // SAFETY: it was made.
        unsafe { libc::pthread_mutex_lock(self.0.get()) }
    }

    /// 0, or the error number.
    fn unlock(&self) -> c_int {
        // SAFETY: it was made.
        unsafe { libc::pthread_mutex_unlock(self.0.get()) }
    }
}

fn normal(_: *mut libc::pthread_mutexattr_t) -> c_int {
    0
}

fn robust(attributes: *mut libc::pthread_mutexattr_t) -> c_int {
    // SAFETY: they were made.
    unsafe { libc::pthread_mutexattr_setrobust(attributes, libc::PTHREAD_MUTEX_ROBUST) }
}

fn inheriting(attributes: *mut libc::pthread_mutexattr_t) -> c_int {
    // SAFETY: they were made.
    unsafe { libc::pthread_mutexattr_setprotocol(attributes, libc::PTHREAD_PRIO_INHERIT) }
}

/// Many threads count under a lock; what they come to. The counter is read and written apart, so that a lock that is none shows.
fn count(lock: &Arc<Lock>, threads: u32, rounds: u32) -> u32 {
    let counter = AtomicU32::new(0);
    thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                for round in 0..rounds {
                    lock.lock();
                    let before = counter.load(Relaxed);
                    if round % 10 == 0 {
                        thread::yield_now();
                    }
                    counter.store(before + 1, Relaxed);
                    lock.unlock();
                }
            });
        }
    });
    counter.into_inner()
}

/// All points.
pub fn check_all() {
    let locals = (0..8).map(|i| thread::spawn(move || LOCAL.with(|local| local.replace(5 + i) + i)));
    let locals: Vec<_> = locals.collect();
    let right = locals.into_iter().zip(5..).all(|(thread, value)| thread.join().is_ok_and(|found| found == value));
    check("threads and thread-local storage", right && LOCAL.get() == 5);
    check("mutexes", Lock::new(normal).is_some_and(|lock| count(&lock, 8, 1000) == 8000));
    check("condition variables", ping_pong());
    semaphores();

    let lock = Lock::new(robust);
    check(
        "a robust mutex tells of its owner's death",
        lock.is_some_and(|lock| {
            let other = lock.clone();
            let taken = thread::spawn(move || other.lock()).join().is_ok_and(|result| result == 0);
            // SAFETY: it was made, and this thread holds it.
            let mended = || unsafe { libc::pthread_mutex_consistent(lock.0.get()) } == 0;
            taken && lock.lock() == libc::EOWNERDEAD && mended() && lock.unlock() == 0
        }),
    );
    let lock = Lock::new(inheriting);
    check("priority inheritance is there", lock.is_some());
    check("priority-inheriting mutexes", lock.is_some_and(|lock| count(&lock, 4, 300) == 1200));
    detached();
    let me = sys::raw(libc::SYS_gettid, [0, 0]);
    check("gettid of the leader is getpid", me == Ok(std::process::id().into()));
    let mut name = [0_u8; 16];
    // SAFETY: a string, and room for one.
    let kept = unsafe {
        libc::prctl(libc::PR_SET_NAME, c"abi-test".as_ptr()) == 0
            && libc::prctl(libc::PR_GET_NAME, name.as_mut_ptr()) == 0
    };
    check("names", kept && name.starts_with(b"abi-test\0"));
}

/// Two threads take turns.
fn ping_pong() -> bool {
    let (turn, changed) = (Mutex::new(0), Condvar::new());
    thread::scope(|scope| {
        for me in 0..2 {
            let (turn, changed) = (&turn, &changed);
            scope.spawn(move || {
                for _ in 0..200 {
                    let held = turn.lock().expect("nobody panics");
                    *changed.wait_while(held, |turn| *turn % 2 != me).expect("nobody panics") += 1;
                    changed.notify_all();
                }
            });
        }
    });
    turn.into_inner().is_ok_and(|turn| turn == 400)
}

fn semaphores() {
    let mut semaphore = MaybeUninit::<libc::sem_t>::uninit();
    let semaphore = semaphore.as_mut_ptr();
    let until = sys::clock(libc::CLOCK_REALTIME) + Duration::from_millis(30);
    let before = Instant::now();
    // SAFETY: it is made first, and stays where it is.
    let timed_out = unsafe {
        libc::sem_init(semaphore, 0, 0);
        libc::sem_timedwait(semaphore, &sys::timespec(until)) == -1 && sys::errno() == libc::ETIMEDOUT
    };
    check("timed wait times out", timed_out);
    check("not early", (29..2000).contains(&before.elapsed().as_millis()));
    // SAFETY: it was made.
    check("and takes what is there", unsafe { libc::sem_post(semaphore) == 0 && libc::sem_wait(semaphore) == 0 });
}

/// More threads than there are slots for, over time: each ends without anybody who waits for it.
fn detached() {
    let ended = Arc::new((Mutex::new(0), Condvar::new()));
    for _ in 0..40 {
        let ended = ended.clone();
        drop(thread::spawn(move || {
            *ended.0.lock().expect("nobody panics") += 1;
            ended.1.notify_all();
        }));
    }
    let all = ended
        .1
        .wait_timeout_while(ended.0.lock().expect("nobody panics"), Duration::from_secs(60), |count| *count < 40);
    check("detached threads come and go", all.is_ok_and(|(count, _)| *count == 40));
}

/// The first thread ends before the process.
pub fn outlived() {
    thread::spawn(|| {
        thread::sleep(Duration::from_millis(300));
        println!("outlived");
        std::process::exit(9);
    });
    // The C library's own end of a thread would unwind through Rust's frames.
    let _ = sys::raw(libc::SYS_exit, [0, 0]);
}
