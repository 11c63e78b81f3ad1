//! Makes one system call many times: what the benchmarks run in the real-time realm.
//!
//! `repeat getppid|clock_gettime|sched_yield N`. Two runs with different N, subtracted, leave the
//! calls alone.

use std::hint::black_box;
use std::process::ExitCode;

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [call, times] = &arguments[..] else {
        return usage();
    };
    let Ok(times) = times.parse::<u32>() else {
        return usage();
    };
    let call: fn() = match call.as_str() {
        "getppid" => || _ = black_box(std::os::unix::process::parent_id()),
        "clock_gettime" => || _ = black_box(std::time::Instant::now()),
        "sched_yield" => std::thread::yield_now,
        _ => return usage(),
    };
    for _ in 0..times {
        call();
    }
    ExitCode::SUCCESS
}

fn usage() -> ExitCode {
    eprintln!("usage: repeat getppid|clock_gettime|sched_yield N");
    ExitCode::FAILURE
}
