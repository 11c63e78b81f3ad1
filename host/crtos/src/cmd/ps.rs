//! `crtos ps`: the real-time processes and threads.

use anyhow::{Result, bail};
use ipc::shadow::thread_state;

use crate::realm::{self, Realm};

fn state(state: u32) -> &'static str {
    match state {
        thread_state::STARTING => "start",
        thread_state::RUNNING => "run",
        thread_state::REMOTE => "linux",
        thread_state::WAITING => "wait",
        thread_state::ENDING => "end",
        _ => "?",
    }
}

fn policy(policy: u16) -> &'static str {
    match policy {
        0 => "other",
        1 => "fifo",
        2 => "rr",
        _ => "?",
    }
}

pub fn ps() -> Result<()> {
    let realm = Realm::open()?;
    if realm.status()?.state != realm::UP {
        bail!("the real-time side is not running: start it with `crtos cell start`");
    }
    let khz = realm.counters()?.tsc_khz.max(1);
    let mut threads = realm.threads()?;
    threads.sort_by_key(|thread| (thread.pid, thread.tid));
    println!(
        "{:>7} {:>7} {:<6} {:>4} {:<6} {:>10} {:>9} {:>9} {:>9}  NAME",
        "PID", "TID", "POLICY", "PRIO", "STATE", "CPU-MS", "REMOTE", "LOCAL", "MEM-KB"
    );
    for thread in threads {
        let memory = if thread.slot == thread.leader { (thread.pages * 4).to_string() } else { "-".to_owned() };
        println!(
            "{:>7} {:>7} {:<6} {:>4} {:<6} {:>10} {:>9} {:>9} {:>9}  {}",
            thread.pid,
            thread.tid,
            policy(thread.policy),
            thread.priority,
            state(thread.state),
            thread.consumed / khz,
            thread.remote_calls,
            thread.local_calls,
            memory,
            thread.name
        );
    }
    Ok(())
}
