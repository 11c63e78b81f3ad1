//! What the harness and the agent inside the machine say to each other.
//!
//! Four virtio-serial ports join them. `ctl` carries [`ToAgent`] and [`FromAgent`], one message a
//! frame. `stdin`, `stdout` and `stderr` carry the bytes of the command's streams, also in frames,
//! because a port has no end of file: an empty frame is the end of one command's stream. A frame is
//! a little-endian `u32` length and that many bytes.

use std::ffi::OsString;
use std::io::{self, Read, Write};

use serde::{Deserialize, Serialize, de::DeserializeOwned};

/// Names of the virtio-serial ports, in the order in which the harness makes them.
pub const PORTS: [&str; 4] = ["crtos.ctl", "crtos.stdin", "crtos.stdout", "crtos.stderr"];

/// Mount tag of the machine's root file system.
pub const ROOT_TAG: &str = "root";
/// Mount tag of the writable directory.
pub const WORK_TAG: &str = "work";
/// File in the initramfs that lists the modules to load, one path a line, in order.
pub const MODULE_LIST: &str = "/modules.list";

/// Longest control message: an environment may be large, a garbled length must not be believed.
const MAX_CONTROL: usize = 16 << 20;
/// Longest stream frame.
pub const MAX_CHUNK: usize = 64 << 10;

/// Harness to agent.
#[derive(Debug, Serialize, Deserialize)]
pub enum ToAgent {
    /// Finish the file system; sent once, answered by [`FromAgent::Done`].
    Prepare {
        /// Host name.
        hostname: String,
        /// Where [`WORK_TAG`] is mounted, if it is exported.
        work: Option<OsString>,
        /// Directory that becomes `/lib/modules/<release>`.
        modules: OsString,
        /// Files copied into the machine: from, to, mode.
        files: Vec<(OsString, OsString, u32)>,
    },
    /// Run a command; answered by [`FromAgent::Exit`] or [`FromAgent::Failed`].
    Exec(Command),
    /// Send this signal to the running command's process group.
    Signal(i32),
    /// The terminal has this many rows and columns now.
    Resize(u16, u16),
    /// Write everything back and switch the machine off.
    PowerOff,
}

/// Agent to harness.
#[derive(Debug, Serialize, Deserialize)]
pub enum FromAgent {
    /// The root file system is there.
    Hello,
    /// Done what was asked.
    Done,
    /// The command has ended with this status (128+n for a signal), its output is sent.
    Exit(i32),
    /// It could not be done, and why; for a command, with the status a shell would give.
    Failed(String, i32),
}

/// A command to run in the machine.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Command {
    /// Program and arguments.
    pub argv: Vec<OsString>,
    /// The whole environment.
    pub env: Vec<(OsString, OsString)>,
    /// Working directory.
    pub cwd: OsString,
    /// Rows and columns of the terminal to run it on; pipes if there is none.
    pub terminal: Option<(u16, u16)>,
}

/// Sends one control message.
pub fn send<T: Serialize>(port: &mut impl Write, message: &T) -> io::Result<()> {
    let body = postcard::to_stdvec(message).map_err(io::Error::other)?;
    write_frame(port, &body)
}

/// Receives one control message; `None` if the other side is gone.
pub fn receive<T: DeserializeOwned>(port: &mut impl Read) -> io::Result<Option<T>> {
    match read_frame(port, MAX_CONTROL)? {
        Some(body) => postcard::from_bytes(&body).map(Some).map_err(io::Error::other),
        None => Ok(None),
    }
}

/// Writes one frame.
pub fn write_frame(port: &mut impl Write, body: &[u8]) -> io::Result<()> {
    let length = u32::try_from(body.len()).map_err(io::Error::other)?;
    let mut frame = Vec::with_capacity(4 + body.len());
    frame.extend_from_slice(&length.to_le_bytes());
    frame.extend_from_slice(body);
    port.write_all(&frame)
}

/// Reads one frame of at most `max` bytes; `None` if the other side is gone.
pub fn read_frame(port: &mut impl Read, max: usize) -> io::Result<Option<Vec<u8>>> {
    let mut length = [0; 4];
    if let Err(error) = port.read_exact(&mut length) {
        return if error.kind() == io::ErrorKind::UnexpectedEof { Ok(None) } else { Err(error) };
    }
    let length = u32::from_le_bytes(length) as usize;
    if length > max {
        return Err(io::Error::other(format!("frame of {length} bytes on a virtio-serial port")));
    }
    let mut body = vec![0; length];
    port.read_exact(&mut body)?;
    Ok(Some(body))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_survive_the_wire() {
        let mut wire = Vec::new();
        let command = Command {
            argv: vec!["/bin/echo".into(), "a b".into()],
            env: vec![("PATH".into(), "/bin".into())],
            cwd: "/".into(),
            terminal: Some((24, 80)),
        };
        send(&mut wire, &ToAgent::Exec(command)).unwrap();
        send(&mut wire, &ToAgent::Signal(15)).unwrap();
        let mut reader = wire.as_slice();
        match receive(&mut reader).unwrap() {
            Some(ToAgent::Exec(c)) => assert_eq!(c.argv[1], "a b"),
            other => panic!("{other:?}"),
        }
        assert!(matches!(receive(&mut reader).unwrap(), Some(ToAgent::Signal(15))));
        assert!(receive::<ToAgent>(&mut reader).unwrap().is_none());
    }

    #[test]
    fn a_garbled_length_is_refused() {
        let mut reader: &[u8] = &[0xff, 0xff, 0xff, 0x7f, 0];
        assert!(read_frame(&mut reader, MAX_CHUNK).is_err());
    }

    #[test]
    fn an_empty_frame_is_not_the_end_of_the_port() {
        let mut wire = Vec::new();
        write_frame(&mut wire, b"").unwrap();
        let mut reader = wire.as_slice();
        assert_eq!(read_frame(&mut reader, MAX_CHUNK).unwrap(), Some(Vec::new()));
        assert_eq!(read_frame(&mut reader, MAX_CHUNK).unwrap(), None);
    }
}
