//! What a Linux program may rely on, each point a line `ok NAME` or `FAILED NAME`: the same natively and in the real-time realm.
//!
//! `abi` checks all, with status 0 if all is well. `abi abort|segv|leader|wait` ends, or waits, in the way that it names.
#![allow(unsafe_code)] // the C library's interface is what is looked at

mod fault;
mod memory;
mod signals;
mod sys;
mod threads;
mod timing;

use std::process::ExitCode;
use std::sync::atomic::{AtomicU32, Ordering};

static FAILURES: AtomicU32 = AtomicU32::new(0);

/// Says whether a point holds.
fn check(name: &str, holds: bool) {
    println!("{} {name}", if holds { "ok" } else { "FAILED" });
    FAILURES.fetch_add(u32::from(!holds), Ordering::Relaxed);
}

fn main() -> ExitCode {
    match std::env::args().nth(1).as_deref() {
        Some("abort") => std::process::abort(),
        Some("segv") => {
            // No handler is there yet: this ends the program.
            let _ = fault::read(8);
        }
        Some("leader") => threads::outlived(),
        Some("wait") => {
            println!("ready");
            loop {
                sys::pause();
            }
        }
        _ => {}
    }
    memory::check_all();
    threads::check_all();
    signals::check_all();
    timing::check_all();
    let failures = FAILURES.load(Ordering::Relaxed);
    println!("{failures} failed");
    ExitCode::from(u8::from(failures != 0))
}
