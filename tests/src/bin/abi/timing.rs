//! Clocks, scheduling, and what a program is told when it starts.

use std::fs::File;
use std::io::Write;
use std::ptr;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use libc::{CLOCK_MONOTONIC, CLOCK_REALTIME, SCHED_FIFO, SCHED_OTHER};

use crate::{check, sys};

/// Of this thread: 0, or the error number.
fn set_scheduler(policy: i32, priority: i32) -> i32 {
    let parameters = libc::sched_param { sched_priority: priority };
    // SAFETY: it is read.
    if unsafe { libc::sched_setscheduler(0, policy, &parameters) } == 0 { 0 } else { sys::errno() }
}

/// Policy and priority of this thread.
fn scheduler() -> (i32, i32) {
    let mut parameters = libc::sched_param { sched_priority: 0 };
    // SAFETY: it is written.
    unsafe {
        libc::sched_getparam(0, &mut parameters);
        (libc::sched_getscheduler(0), parameters.sched_priority)
    }
}

fn auxiliary(kind: u64) -> u64 {
    // SAFETY: a lookup.
    unsafe { libc::getauxval(kind) }
}

/// All points.
pub fn check_all() {
    let mut last = Duration::ZERO;
    let forward = (0..10_000).all(|_| {
        let before = std::mem::replace(&mut last, sys::clock(CLOCK_MONOTONIC));
        last >= before
    });
    check("the clock never goes back", forward);
    let vdso = sys::clock(CLOCK_REALTIME);
    let mut time = sys::timespec(Duration::ZERO);
    let made =
        sys::raw(libc::SYS_clock_gettime, [CLOCK_REALTIME.into(), ptr::from_mut(&mut time).expose_provenance() as i64]);
    let later = sys::duration(time).checked_sub(vdso);
    let agree = made.is_ok() && later.is_some_and(|later| later < Duration::from_secs(1));
    check("vDSO and call agree", agree && auxiliary(libc::AT_SYSINFO_EHDR) != 0);
    same_day(vdso);

    let until = sys::clock(CLOCK_MONOTONIC) + Duration::from_millis(20);
    // SAFETY: it is read.
    let slept =
        unsafe { libc::clock_nanosleep(CLOCK_MONOTONIC, libc::TIMER_ABSTIME, &sys::timespec(until), ptr::null_mut()) };
    check("clock_nanosleep", slept == 0 && sys::clock(CLOCK_MONOTONIC) >= until);
    check("sched_setscheduler", set_scheduler(SCHED_FIFO, 42) == 0 && scheduler() == (SCHED_FIFO, 42));
    check("priorities are checked", set_scheduler(SCHED_FIFO, 100) == libc::EINVAL);
    set_scheduler(SCHED_OTHER, 0);
    check("affinity", std::thread::available_parallelism().is_ok_and(|count| count.get() >= 1));
    let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: it is written.
    let known = unsafe { libc::getrlimit(libc::RLIMIT_STACK, &mut limit) } == 0;
    check("stack limit", known && limit.rlim_cur >= 65536);
    // SAFETY: no argument.
    let user = unsafe { libc::getuid() };
    let there = [libc::AT_RANDOM, libc::AT_ENTRY].into_iter().all(|kind| auxiliary(kind) != 0);
    let equal = (auxiliary(libc::AT_PAGESZ), auxiliary(libc::AT_CLKTCK), auxiliary(libc::AT_UID));
    check("auxiliary vector", there && equal == (4096, 100, user.into()));
    let unknown = |number| sys::raw(number, [0, 0]) == Err(libc::ENOSYS);
    check("unknown calls are ENOSYS", unknown(9999) && unknown(-1));
}

/// A file that is written to now has a time near to it: both realms tell the same.
fn same_day(now: Duration) {
    let path = std::env::temp_dir().join(format!("abi-time-{}", std::process::id()));
    let written = File::create(&path).and_then(|mut file| {
        file.write_all(b"x")?;
        file.metadata()?.modified()
    });
    let _ = std::fs::remove_file(path);
    let written = written.unwrap_or(SystemTime::UNIX_EPOCH).duration_since(UNIX_EPOCH).unwrap_or_default();
    check("the same time of day as Linux", written.abs_diff(now) <= Duration::from_secs(2));
}
