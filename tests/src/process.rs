//! Processes that must not outlive this one.
#![allow(unsafe_code)] // `pre_exec`, to bind a child's life to ours

use std::io;
use std::os::unix::process::CommandExt;
use std::process::Command;

use rustix::process::{Signal, set_parent_process_death_signal};

/// Makes the child be killed when the thread that starts it ends, however it ends. So start it from
/// a thread that lives as long as the child shall: the main thread.
///
/// It also gets a process group of its own: a Ctrl-C in the terminal is ours to pass on.
pub fn bind_to_parent(command: &mut Command) -> &mut Command {
    let parent = rustix::process::getpid();
    command.process_group(0);
    // SAFETY: the closure runs between fork and exec. It makes two system calls and touches no
    // memory that another thread may hold locked: no allocation, no lock.
    unsafe {
        command.pre_exec(move || {
            set_parent_process_death_signal(Some(Signal::KILL))?;
            // The parent may have ended before the line above.
            if rustix::process::getppid() != Some(parent) {
                return Err(io::ErrorKind::BrokenPipe.into());
            }
            Ok(())
        })
    }
}
