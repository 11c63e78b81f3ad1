//! Runs one command at a time, its streams joined to the ports byte by byte.
//!
//! The streams are pipes (or one pseudo-terminal). When the command has ended, what its pipes still
//! hold is sent and no more: a process that it left behind cannot keep the harness waiting.

use std::fs::File;
use std::io::Write;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::process::Stdio;
use std::sync::Arc;
use std::sync::mpsc::Sender;
use std::thread::{self, JoinHandle};

use rustix::event::{EventfdFlags, PollFd, PollFlags, eventfd, poll};
use rustix::process::{Pid, Signal, kill_process_group};
use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};
use rustix::termios::{Winsize, tcsetwinsize};
use tests::wire::{Command, MAX_CHUNK, read_frame, write_frame};

use crate::Event;
use crate::ports::Ports;
use crate::reaper::Reaper;

/// Starts commands and keeps the books of the one that runs.
pub struct Runner {
    ports: Ports,
    reaper: Reaper,
    events: Sender<Event>,
    running: Option<Running>,
    feeder: Option<JoinHandle<()>>,
}

struct Running {
    pid: Pid,
    status: Option<i32>,
    undrained: usize,
    ended: Arc<OwnedFd>,
    terminal: Option<OwnedFd>,
}

/// A message for people, and the status a shell would give.
type Failure = (String, i32);

impl Runner {
    /// A runner with nothing running.
    pub fn new(ports: Ports, reaper: Reaper, events: Sender<Event>) -> Self {
        Self { ports, reaper, events, running: None, feeder: None }
    }

    /// Starts `command`.
    pub fn start(&mut self, command: Command) -> Result<(), Failure> {
        if self.running.is_some() {
            return Err(("another command is still running".into(), 125));
        }
        // The previous command's input ends with an empty frame, which the harness always sends.
        if let Some(feeder) = self.feeder.take() {
            let _ = feeder.join();
        }
        let result = self.try_start(&command);
        if result.is_err() {
            // Keep the streams in step: the harness has an input to end and two outputs to see end.
            for mut port in [&self.ports.stdout, &self.ports.stderr] {
                let _ = write_frame(&mut port, &[]);
            }
            if let Ok(port) = self.ports.stdin.try_clone() {
                self.feeder = Some(thread::spawn(move || feed(port, None)));
            }
        }
        result
    }

    /// Passes a signal on.
    pub fn signal(&self, number: i32) {
        let signal = Signal::from_named_raw(number);
        if let (Some(running), Some(signal)) = (&self.running, signal) {
            // It may have ended meanwhile.
            let _ = kill_process_group(running.pid, signal);
        }
    }

    /// Gives the terminal a new size.
    pub fn resize(&self, rows: u16, columns: u16) {
        if let Some(terminal) = self.running.as_ref().and_then(|r| r.terminal.as_ref()) {
            let _ = tcsetwinsize(terminal, size(rows, columns));
        }
    }

    /// A process has ended; the command's status if that was the last thing to wait for.
    pub fn ended(&mut self, pid: Pid, status: i32) -> Option<i32> {
        let running = self.running.as_mut().filter(|running| running.pid == pid)?;
        running.status = Some(status);
        let _ = rustix::io::write(&running.ended, &1u64.to_ne_bytes());
        self.finished()
    }

    /// An output stream is sent; the command's status if that was the last thing to wait for.
    pub fn drained(&mut self) -> Option<i32> {
        self.running.as_mut()?.undrained -= 1;
        self.finished()
    }

    fn finished(&mut self) -> Option<i32> {
        let status = self.running.as_ref().filter(|r| r.undrained == 0)?.status?;
        self.running = None;
        Some(status)
    }

    fn try_start(&mut self, command: &Command) -> Result<(), Failure> {
        let broken = |what: &str, error: &dyn std::fmt::Display| (format!("{what}: {error}"), 125);
        let (program, arguments) = command.argv.split_first().ok_or_else(|| ("no command".to_owned(), 125))?;
        let mut child = if command.terminal.is_some() {
            // A session of its own, with the terminal as its controlling terminal.
            let mut child = std::process::Command::new("setsid");
            child.arg("--ctty").arg(program);
            child
        } else {
            let mut child = std::process::Command::new(program);
            child.process_group(0);
            child
        };
        child.args(arguments).env_clear().envs(command.env.iter().cloned()).current_dir(&command.cwd);
        let terminal = match command.terminal {
            Some((rows, columns)) => {
                let (near, far) = pseudo_terminal(rows, columns).map_err(|e| broken("pty", &e))?;
                let far = || far.try_clone().map(Stdio::from).map_err(|e| broken("pty", &e));
                child.stdin(far()?).stdout(far()?).stderr(far()?);
                Some(near)
            }
            None => {
                child.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
                None
            }
        };
        let mut spawned = self.reaper.starting(|| child.spawn()).map_err(|error| {
            let status = if error.kind() == std::io::ErrorKind::NotFound { 127 } else { 126 };
            (format!("{}: {error}", program.display()), status)
        })?;
        drop(child);

        let ended = eventfd(0, EventfdFlags::CLOEXEC).map_err(|e| broken("eventfd", &e))?;
        let ended = Arc::new(ended);
        let clone = |port: &File| port.try_clone().map_err(|e| broken("port", &e));
        let near = |t: &OwnedFd| t.try_clone().map_err(|e| broken("pty", &e));
        let (input, outputs): (Option<OwnedFd>, Vec<_>) = match &terminal {
            Some(terminal) => {
                let mut port = &self.ports.stderr;
                let _ = write_frame(&mut port, &[]);
                (Some(near(terminal)?), vec![(near(terminal)?, clone(&self.ports.stdout)?)])
            }
            None => {
                let out = spawned.stdout.take().map(OwnedFd::from);
                let err = spawned.stderr.take().map(OwnedFd::from);
                let pipes = out.zip(err).ok_or_else(|| ("no pipes".to_owned(), 125))?;
                let outputs = vec![(pipes.0, clone(&self.ports.stdout)?), (pipes.1, clone(&self.ports.stderr)?)];
                (spawned.stdin.take().map(OwnedFd::from), outputs)
            }
        };
        let pid = Pid::from_raw(spawned.id() as i32).ok_or_else(|| ("no pid".to_owned(), 125))?;
        self.running = Some(Running { pid, status: None, undrained: outputs.len(), ended: ended.clone(), terminal });
        for (pipe, port) in outputs {
            let (ended, events) = (ended.clone(), self.events.clone());
            thread::spawn(move || {
                drain(&pipe, port, ended.as_fd());
                let _ = events.send(Event::Drained);
            });
        }
        let port = clone(&self.ports.stdin)?;
        self.feeder = Some(thread::spawn(move || feed(port, input.map(File::from))));
        Ok(())
    }
}

/// Port to pipe, until the empty frame. What nobody reads any more is thrown away.
fn feed(mut port: File, mut pipe: Option<File>) {
    while let Ok(Some(chunk)) = read_frame(&mut port, MAX_CHUNK) {
        if chunk.is_empty() {
            return;
        }
        if pipe.as_mut().is_some_and(|pipe| pipe.write_all(&chunk).is_err()) {
            pipe = None;
        }
    }
}

/// Pipe to port, until its end, or until it is empty after the command has ended.
fn drain(pipe: &OwnedFd, mut port: File, ended: BorrowedFd<'_>) {
    let mut chunk = vec![0; MAX_CHUNK];
    loop {
        let mut ready = [PollFd::new(pipe, PollFlags::IN), PollFd::from_borrowed_fd(ended, PollFlags::IN)];
        if poll(&mut ready, None).is_err() {
            continue; // interrupted
        }
        if ready[0].revents().is_empty() {
            break; // nothing more in it, and the command has ended
        }
        match rustix::io::read(pipe, &mut chunk) {
            Ok(0) => break,
            Ok(length) => {
                if write_frame(&mut port, &chunk[..length]).is_err() {
                    break;
                }
            }
            Err(rustix::io::Errno::INTR) => {}
            Err(_) => break, // EIO: the terminal's other side is closed
        }
    }
    let _ = write_frame(&mut port, &[]);
}

fn pseudo_terminal(rows: u16, columns: u16) -> rustix::io::Result<(OwnedFd, OwnedFd)> {
    let near = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC)?;
    grantpt(&near)?;
    unlockpt(&near)?;
    let name = ptsname(&near, Vec::new())?;
    let flags = rustix::fs::OFlags::RDWR | rustix::fs::OFlags::NOCTTY | rustix::fs::OFlags::CLOEXEC;
    let far = rustix::fs::open(name.as_c_str(), flags, rustix::fs::Mode::empty())?;
    tcsetwinsize(&near, size(rows, columns))?;
    Ok((near, far))
}

fn size(rows: u16, columns: u16) -> Winsize {
    Winsize { ws_row: rows, ws_col: columns, ws_xpixel: 0, ws_ypixel: 0 }
}
