//! A running machine.

use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::os::unix::fs::DirBuilderExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError, Sender};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, bail};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::process::{Pid, test_kill_process};

use crate::machine::Machine;
use crate::process::bind_to_parent;
use crate::wire::{self, Command, FromAgent, MAX_CHUNK, PORTS, ToAgent};

/// Number of SIGPIPE, which a command gets when nobody reads its output any more.
const SIGPIPE: i32 = 13;
/// What QEMU says at each start, once for each CPU and each feature of the model that it does not emulate.
const NOISE: &str = "warning: TCG doesn't support requested feature";
/// How often a machine that says nothing is looked at.
const LOOK: Duration = Duration::from_secs(2);

/// What can happen while a command runs.
pub enum Event {
    /// The agent says something; `None` if the machine is gone.
    Agent(Option<FromAgent>),
    /// Pass this signal to the command.
    Signal(i32),
    /// The terminal has a new size (rows, columns).
    Resize(u16, u16),
}

/// A booted machine. Dropping it kills it; [`Vm::power_off`] ends it well.
pub struct Vm {
    qemu: Child,
    sockets: PathBuf,
    logs: PathBuf,
    control: UnixStream,
    streams: [UnixStream; 3],
    feeder: Feeder,
    events: Receiver<Event>,
    sender: Sender<Event>,
}

/// What a command said, and how it ended.
#[derive(Debug)]
pub struct Output {
    /// Exit status, 128+n for a signal.
    pub status: i32,
    /// Standard output.
    pub stdout: Vec<u8>,
    /// Standard error.
    pub stderr: Vec<u8>,
}

/// Where a command's streams go.
pub struct Streams {
    /// Read for its standard input.
    pub stdin: Box<dyn Read + Send>,
    /// Gets its standard output.
    pub stdout: Box<dyn Write + Send>,
    /// Gets its standard error.
    pub stderr: Box<dyn Write + Send>,
}

/// The command could not be started; the status is what a shell would give.
#[derive(Debug)]
pub struct NotStarted(pub String, pub i32);

impl std::fmt::Display for NotStarted {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for NotStarted {}

impl Vm {
    /// Boots `machine` and prepares its file system. Call it from the main thread (see
    /// [`bind_to_parent`]).
    pub fn boot(machine: &Machine, limit: Duration) -> Result<Self> {
        let deadline = Instant::now() + limit;
        let sockets = socket_directory()?;
        let listeners: Vec<UnixListener> = PORTS
            .iter()
            .map(|port| UnixListener::bind(sockets.join(port)))
            .collect::<io::Result<_>>()
            .context("making the sockets of the virtio-serial ports")?;

        let mut command = std::process::Command::new(&machine.qemu);
        command.args(machine.qemu_arguments(&sockets)).env("LD_PRELOAD", &machine.mend);
        fs::write(machine.logs.join("qemu.command"), format!("{command:?}\n"))?;
        let log = File::create(machine.logs.join("qemu.log"))?;
        command.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log);
        let mut qemu =
            bind_to_parent(&mut command).spawn().with_context(|| format!("starting {}", machine.qemu.display()))?;

        let mut ports = Vec::new();
        for listener in &listeners {
            match accept(listener, &mut qemu, deadline) {
                Ok(port) => ports.push(port),
                Err(error) => {
                    let _ = qemu.kill();
                    let _ = qemu.wait();
                    let _ = fs::remove_dir_all(&sockets);
                    let said = fs::read_to_string(machine.logs.join("qemu.log")).unwrap_or_default();
                    return Err(error.context(format!("QEMU did not start: {}", said.trim())));
                }
            }
        }
        let [control, stdin, stdout, stderr]: [UnixStream; 4] =
            ports.try_into().map_err(|_| anyhow!("as many sockets as ports"))?;
        let (sender, events) = mpsc::channel();
        let mut vm = Self {
            qemu,
            sockets,
            logs: machine.logs.clone(),
            control,
            streams: [stdin, stdout, stderr],
            feeder: Feeder::default(),
            events,
            sender,
        };
        vm.listen()?;
        vm.expect(deadline, "booting", |m| matches!(m, FromAgent::Hello))?;
        wire::send(
            &mut vm.control,
            &ToAgent::Prepare {
                hostname: rustix::system::uname().nodename().to_string_lossy().into_owned(),
                work: machine.work.clone().map(Into::into),
                modules: machine.kernel.modules.clone().into(),
                files: machine
                    .files
                    .iter()
                    .map(|(from, to, mode)| (from.clone().into(), to.clone().into(), *mode))
                    .collect(),
            },
        )?;
        vm.expect(deadline, "preparing the machine", |m| matches!(m, FromAgent::Done))?;
        Ok(vm)
    }

    /// Where the logs are.
    pub fn logs(&self) -> &Path {
        &self.logs
    }

    /// QEMU's control socket (QMP).
    pub fn qmp(&self) -> PathBuf {
        self.sockets.join("qmp")
    }

    /// Plugs into the other end of the machine's network cable. QEMU puts the length (32 bits, most significant byte first)
    /// before each packet.
    pub fn lan(&self) -> io::Result<UnixStream> {
        UnixStream::connect(self.sockets.join("lan"))
    }

    /// For signals and terminal sizes that shall reach the running command.
    pub fn events(&self) -> Sender<Event> {
        self.sender.clone()
    }

    /// Runs a command to its end; its status.
    pub fn exec(&mut self, command: &Command, streams: Streams, limit: Option<Duration>) -> Result<i32> {
        let deadline = limit.map(|limit| Instant::now() + limit);
        let name = command.argv.first().map(|p| p.display().to_string()).unwrap_or_default();
        wire::send(&mut self.control, &ToAgent::Exec(command.clone())).context("the machine is gone")?;
        let [stdin, stdout, stderr] = &self.streams;
        let (input, output, error) = (stdin.try_clone()?, stdout.try_clone()?, stderr.try_clone()?);
        self.feeder.start(streams.stdin, input);
        let (broken, signals) = (self.sender.clone(), self.sender.clone());
        let out = thread::spawn(move || drain(output, streams.stdout, &broken));
        let err = thread::spawn(move || drain(error, streams.stderr, &signals));
        let result = loop {
            match self.next(deadline) {
                Ok(Event::Signal(number)) => {
                    wire::send(&mut self.control, &ToAgent::Signal(number))?;
                }
                Ok(Event::Resize(rows, columns)) => {
                    wire::send(&mut self.control, &ToAgent::Resize(rows, columns))?;
                }
                Ok(Event::Agent(Some(FromAgent::Exit(status)))) => break Ok(status),
                Ok(Event::Agent(Some(FromAgent::Failed(what, status)))) => {
                    break Err(NotStarted(what, status).into());
                }
                Ok(Event::Agent(Some(other))) => bail!("unexpected answer: {other:?}"),
                Ok(Event::Agent(None)) => return Err(self.gone(&format!("running {name}"))),
                Err(error) => return Err(error.context(format!("running {name}"))),
            }
        };
        for pump in [out, err] {
            pump.join().map_err(|_| anyhow!("a stream's thread has panicked"))?;
        }
        result
    }

    /// Runs a command with the given input and returns what it wrote.
    pub fn capture(&mut self, command: &Command, input: &[u8], limit: Duration) -> Result<Output> {
        let (out, stdout) = Capture::new();
        let (err, stderr) = Capture::new();
        let streams =
            Streams { stdin: Box::new(io::Cursor::new(input.to_vec())), stdout: Box::new(out), stderr: Box::new(err) };
        let status = self.exec(command, streams, Some(limit))?;
        Ok(Output { status, stdout: stdout.iter().flatten().collect(), stderr: stderr.iter().flatten().collect() })
    }

    /// Switches the machine off and waits for its end.
    pub fn power_off(mut self, limit: Duration) -> Result<()> {
        wire::send(&mut self.control, &ToAgent::PowerOff).context("the machine is gone")?;
        let deadline = Instant::now() + limit;
        loop {
            match self.next(Some(deadline)).context("switching the machine off")? {
                Event::Agent(None) => break,
                _ => continue,
            }
        }
        self.qemu.wait()?;
        Ok(())
    }

    fn listen(&self) -> Result<()> {
        let mut control = self.control.try_clone()?;
        let sender = self.sender.clone();
        thread::spawn(move || {
            loop {
                let message = wire::receive(&mut control).unwrap_or(None);
                let gone = message.is_none();
                if sender.send(Event::Agent(message)).is_err() || gone {
                    return;
                }
            }
        });
        Ok(())
    }

    fn next(&self, deadline: Option<Instant>) -> Result<Event> {
        loop {
            let left = deadline.map(|deadline| deadline.saturating_duration_since(Instant::now()));
            match self.events.recv_timeout(left.unwrap_or(LOOK).min(LOOK)) {
                Ok(event) => return Ok(event),
                Err(RecvTimeoutError::Disconnected) => bail!("no more events"),
                Err(RecvTimeoutError::Timeout) if self.linux_is_stopped() => {
                    return Err(self.gone("the hypervisor has stopped Linux"));
                }
                Err(RecvTimeoutError::Timeout) if left.is_some_and(|left| left.is_zero()) => {
                    bail!("time limit exceeded; logs in {}", self.logs.display())
                }
                Err(RecvTimeoutError::Timeout) => {}
            }
        }
    }

    /// What the hypervisor and its cells have printed up to now.
    pub fn console(&self) -> Result<String> {
        Ok(String::from_utf8_lossy(&fs::read(self.logs.join("hypervisor.log"))?).into_owned())
    }

    /// A Linux that the hypervisor has stopped does not answer any more, and the machine goes on without it.
    fn linux_is_stopped(&self) -> bool {
        self.console().is_ok_and(|log| log.contains("cell 0 \"root\" stopped"))
    }

    fn expect(&self, deadline: Instant, what: &str, wanted: impl Fn(&FromAgent) -> bool) -> Result<()> {
        loop {
            match self.next(Some(deadline)).with_context(|| what.to_owned())? {
                Event::Agent(Some(message)) if wanted(&message) => return Ok(()),
                Event::Agent(Some(FromAgent::Failed(why, _))) => bail!("{what}: {why}"),
                Event::Agent(Some(other)) => bail!("{what}: unexpected answer {other:?}"),
                Event::Agent(None) => return Err(self.gone(what)),
                Event::Signal(_) => bail!("{what}: interrupted"),
                Event::Resize(..) => {}
            }
        }
    }

    /// The error for a machine that has ended or stopped by itself, with the end of its consoles.
    fn gone(&self, what: &str) -> anyhow::Error {
        let mut text = format!("{what}: the machine is gone; logs in {}", self.logs.display());
        for log in ["linux.log", "hypervisor.log", "qemu.log"] {
            let bytes = fs::read(self.logs.join(log)).unwrap_or_default();
            let said = String::from_utf8_lossy(&bytes).into_owned();
            let lines: Vec<&str> = said.lines().filter(|l| !l.trim().is_empty() && !l.contains(NOISE)).collect();
            if !lines.is_empty() {
                text.push_str(&format!("\n  end of {log}:"));
            }
            for line in &lines[lines.len().saturating_sub(12)..] {
                text.push_str(&format!("\n    {}", line.trim_end()));
            }
        }
        anyhow!(text)
    }
}

impl Drop for Vm {
    fn drop(&mut self) {
        let _ = self.qemu.kill();
        let _ = self.qemu.wait();
        let _ = fs::remove_dir_all(&self.sockets);
    }
}

/// A directory that only we can enter, with a path short enough for a socket address.
fn socket_directory() -> Result<PathBuf> {
    static NUMBER: AtomicU32 = AtomicU32::new(0);
    let parent = std::env::temp_dir();
    remove_left_behind(&parent);
    let number = NUMBER.fetch_add(1, Ordering::Relaxed);
    let path = parent.join(format!("{SOCKETS}{}-{number}", std::process::id()));
    fs::DirBuilder::new().mode(0o700).create(&path).with_context(|| path.display().to_string())?;
    Ok(path)
}

const SOCKETS: &str = "crtos-x-";

/// Removes the socket directories of processes that were killed.
fn remove_left_behind(parent: &Path) {
    for entry in fs::read_dir(parent).into_iter().flatten().flatten() {
        let name = entry.file_name();
        let pid = name.to_str().and_then(|name| name.strip_prefix(SOCKETS)?.split('-').next()?.parse().ok());
        let Some(pid) = pid.and_then(Pid::from_raw) else { continue };
        let gone = test_kill_process(pid) == Err(Errno::SRCH);
        if gone {
            let _ = fs::remove_dir_all(entry.path());
        }
    }
}

fn accept(listener: &UnixListener, qemu: &mut Child, deadline: Instant) -> Result<UnixStream> {
    loop {
        let tick = Timespec { tv_sec: 0, tv_nsec: 100_000_000 };
        let mut ready = [PollFd::new(listener, PollFlags::IN)];
        if poll(&mut ready, Some(&tick)).unwrap_or(0) > 0 {
            return Ok(listener.accept()?.0);
        }
        if let Some(status) = qemu.try_wait()? {
            bail!("it ended with {status}");
        }
        if Instant::now() > deadline {
            bail!("it did not connect in time");
        }
    }
}

/// Feeds the commands' inputs to the port, one after the other: a command may end before its input is through.
#[derive(Default)]
struct Feeder(Option<JoinHandle<()>>);

impl Feeder {
    /// Feeds `from` when the input before is through. Nobody waits for the last one: it may sit in a read of our own standard
    /// input for ever.
    fn start(&mut self, from: Box<dyn Read + Send>, port: UnixStream) {
        let before = self.0.take();
        self.0 = Some(thread::spawn(move || {
            // A panic of that one has said itself what it was.
            let _ = before.map(JoinHandle::join);
            feed(from, port);
        }));
    }
}

/// Our input to the port, ended by an empty frame.
fn feed(mut from: Box<dyn Read + Send>, mut port: UnixStream) {
    let mut chunk = vec![0; MAX_CHUNK];
    loop {
        match from.read(&mut chunk) {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Ok(length) if length > 0 => {
                if wire::write_frame(&mut port, &chunk[..length]).is_err() {
                    return;
                }
            }
            // The end, or an error: the command sees the end of its input.
            _ => break,
        }
    }
    let _ = wire::write_frame(&mut port, &[]);
}

/// The port to our output, until the empty frame. If nobody reads our output any more, the command
/// gets the signal that it would have got without us in between.
fn drain(mut port: UnixStream, to: Box<dyn Write + Send>, events: &Sender<Event>) {
    let mut to = Some(to);
    while let Ok(Some(chunk)) = wire::read_frame(&mut port, MAX_CHUNK) {
        if chunk.is_empty() {
            return;
        }
        if let Some(out) = &mut to
            && out.write_all(&chunk).and_then(|()| out.flush()).is_err()
        {
            to = None;
            let _ = events.send(Event::Signal(SIGPIPE));
        }
    }
}

/// A writer whose bytes come out of a channel.
struct Capture(Sender<Vec<u8>>);

impl Capture {
    fn new() -> (Self, Receiver<Vec<u8>>) {
        let (sender, receiver) = mpsc::channel();
        (Self(sender), receiver)
    }
}

impl Write for Capture {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.send(bytes.to_vec()).map_err(io::Error::other)?;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The next command's input, up to its end.
    fn input(port: &mut UnixStream) -> Vec<u8> {
        let frames = std::iter::from_fn(|| wire::read_frame(port, MAX_CHUNK).unwrap());
        frames.take_while(|frame| !frame.is_empty()).flatten().collect()
    }

    #[test]
    fn inputs_do_not_mix() {
        let (near, mut far) = UnixStream::pair().unwrap();
        let mut feeder = Feeder::default();
        // More than the socket holds: the first is not through when the second comes.
        let long = vec![1; 4 << 20];
        feeder.start(Box::new(io::Cursor::new(long.clone())), near.try_clone().unwrap());
        feeder.start(Box::new(io::Cursor::new(b"next".to_vec())), near);
        assert!(input(&mut far) == long);
        assert_eq!(input(&mut far), b"next");
    }
}
