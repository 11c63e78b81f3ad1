//! The argument block: what the program finds on its first stack, and what it inherits from this process.

use std::os::unix::ffi::OsStrExt;

use anyhow::{Context, Result, anyhow};
use ipc::protocol::start::{BlockError, MAX_BLOCK, RLIMITS, StartHeader, encode, encoded_size};
use rustix::process;

use super::signals::Inherited;
use crate::program::Program;
use crate::sys;

const AT_HWCAP: u64 = 16;
const AT_CLKTCK: u64 = 17;
const AT_HWCAP2: u64 = 26;
const PLATFORM: &[u8] = b"x86_64";

/// A value of the auxiliary vector; 0 if it is not there.
fn auxiliary(vector: &[u8], key: u64) -> u64 {
    let word = |bytes: &[u8]| bytes.try_into().map_or(0, u64::from_le_bytes);
    vector.chunks_exact(16).find(|pair| word(&pair[..8]) == key).map_or(0, |pair| word(&pair[8..]))
}

fn random() -> Result<[u8; 32]> {
    use std::io::Read;
    let mut bytes = [0; 32];
    std::fs::File::open("/dev/urandom")
        .and_then(|mut file| file.read_exact(&mut bytes))
        .context("cannot read /dev/urandom")?;
    Ok(bytes)
}

/// Builds the block.
pub fn block(program: &Program, policy: u16, priority: u16, inherited: Inherited) -> Result<Vec<u8>> {
    let vector = std::fs::read("/proc/self/auxv").context("cannot read /proc/self/auxv")?;
    let header = StartHeader {
        uid: process::getuid().as_raw(),
        euid: process::geteuid().as_raw(),
        gid: process::getgid().as_raw(),
        egid: process::getegid().as_raw(),
        pid: std::process::id(),
        ppid: process::getppid().map_or(0, |pid| pid.as_raw_nonzero().get() as u32),
        policy: policy.into(),
        priority: priority.into(),
        hwcap: auxiliary(&vector, AT_HWCAP),
        hwcap2: auxiliary(&vector, AT_HWCAP2),
        clock_ticks: auxiliary(&vector, AT_CLKTCK),
        blocked_signals: inherited.blocked,
        ignored_signals: inherited.ignored,
        random: random()?,
        limits: std::array::from_fn::<_, RLIMITS, _>(sys::limit),
        ..StartHeader::default()
    };
    let environment: Vec<Vec<u8>> =
        std::env::vars_os().map(|(name, value)| [name.as_bytes(), b"=", value.as_bytes()].concat()).collect();
    let environment: Vec<&[u8]> = environment.iter().map(Vec::as_slice).collect();
    let arguments: Vec<&[u8]> = program.arguments.iter().map(|argument| argument.as_bytes()).collect();
    let path = program.path.as_os_str().as_bytes();
    let size = encoded_size(path, PLATFORM, &arguments, &environment);
    let mut block = vec![0; size];
    let size = encode(&header, path, PLATFORM, &arguments, &environment, &mut block).map_err(|error| match error {
        BlockError::Size => anyhow!("arguments and environment need {size} bytes; {MAX_BLOCK} is the most"),
        _ => anyhow!("too many arguments and environment variables"),
    })?;
    block.truncate(size);
    Ok(block)
}

#[cfg(test)]
mod tests {
    use super::*;
    use ipc::protocol::start::Block;

    #[test]
    fn the_block_holds_what_was_asked_for() {
        let program = Program { path: "/bin/echo".into(), arguments: vec!["echo".into(), "".into(), "hi".into()] };
        let block = block(&program, 1, 90, Inherited { blocked: 1, ignored: 1 << 12 }).unwrap();
        let parsed = Block::parse(&block).unwrap();
        assert_eq!(parsed.path(), b"/bin/echo");
        assert!(parsed.arguments().eq([&b"echo"[..], b"", b"hi"]));
        assert_eq!((parsed.header.policy, parsed.header.priority), (1, 90));
        assert_eq!((parsed.header.blocked_signals, parsed.header.ignored_signals), (1, 1 << 12));
        assert_eq!(parsed.header.clock_ticks, 100);
        assert_eq!(parsed.environment().count(), std::env::vars_os().count());
    }
}
