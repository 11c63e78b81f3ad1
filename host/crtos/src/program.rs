//! Finding the program to run: along PATH as a shell does, through `#!` lines, and only if this machine can run it.

use std::ffi::{OsStr, OsString};
use std::fmt;
use std::fs::File;
use std::io::Read;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use rustix::fs::{Access, AtFlags, CWD, accessat};

/// Why there is nothing to run.
#[derive(Debug, PartialEq, Eq)]
pub enum ProgramError {
    /// Exit status 127.
    NotFound(String),
    /// Exit status 126.
    NotExecutable(String),
}

impl fmt::Display for ProgramError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (ProgramError::NotFound(text) | ProgramError::NotExecutable(text)) = self;
        f.write_str(text)
    }
}

/// A program and its arguments, the first being its name.
#[derive(Debug, PartialEq, Eq)]
pub struct Program {
    /// Its file.
    pub path: PathBuf,
    /// `argv`.
    pub arguments: Vec<OsString>,
}

/// As many `#!` lines may follow each other (Linux's limit).
const MAX_INTERPRETERS: usize = 4;
/// Bytes of a `#!` line that count (Linux's limit).
const MAX_LINE: usize = 256;

/// Finds what a command line means.
pub fn find(command: &[OsString], path: Option<&OsStr>) -> Result<Program, ProgramError> {
    let name = command.first().ok_or_else(|| ProgramError::NotFound("no program named".to_owned()))?;
    let mut program = Program { path: search(name, path)?, arguments: command.to_vec() };
    for _ in 0..=MAX_INTERPRETERS {
        let start = read_start(&program.path)?;
        if !start.starts_with(b"#!") {
            check_elf(&program.path, &start)?;
            return Ok(program);
        }
        let (interpreter, argument) = parse_interpreter(&start)
            .ok_or_else(|| not_executable(&program.path, "its #! line names no interpreter"))?;
        let interpreter = PathBuf::from(interpreter);
        check_executable(&interpreter).map_err(|error| match error {
            ProgramError::NotFound(_) => {
                not_executable(&program.path, &format!("its interpreter {} does not exist", interpreter.display()))
            }
            other => other,
        })?;
        let mut arguments = vec![interpreter.clone().into_os_string()];
        arguments.extend(argument);
        arguments.push(program.path.clone().into_os_string());
        arguments.extend(program.arguments.into_iter().skip(1));
        program = Program { path: interpreter, arguments };
    }
    Err(not_executable(&program.path, "too many interpreters"))
}

fn not_executable(path: &Path, why: &str) -> ProgramError {
    ProgramError::NotExecutable(format!("cannot run {}: {why}", path.display()))
}

fn check_executable(path: &Path) -> Result<(), ProgramError> {
    match std::fs::metadata(path) {
        Ok(metadata) if metadata.is_dir() => Err(not_executable(path, "it is a directory")),
        Ok(_) => accessat(CWD, path, Access::EXEC_OK, AtFlags::EACCESS)
            .map_err(|_| not_executable(path, "it is not executable for you")),
        Err(error) if error.kind() == std::io::ErrorKind::PermissionDenied => {
            Err(not_executable(path, "no permission to reach it"))
        }
        Err(_) => Err(ProgramError::NotFound(format!("no such program: {}", path.display()))),
    }
}

fn search(name: &OsStr, path: Option<&OsStr>) -> Result<PathBuf, ProgramError> {
    if name.as_bytes().contains(&b'/') {
        check_executable(Path::new(name))?;
        return Ok(name.into());
    }
    let missing = || ProgramError::NotFound(format!("no such program: {}", name.display()));
    let mut best = missing();
    if name.is_empty() {
        return Err(best);
    }
    for directory in std::env::split_paths(path.unwrap_or(OsStr::new("/usr/bin:/bin"))) {
        let directory = if directory.as_os_str().is_empty() { PathBuf::from(".") } else { directory };
        let candidate = directory.join(name);
        match check_executable(&candidate) {
            Ok(()) => return Ok(candidate),
            Err(error @ ProgramError::NotExecutable(_)) if !candidate.is_dir() => best = error,
            Err(_) => {}
        }
    }
    Err(best)
}

fn read_start(path: &Path) -> Result<Vec<u8>, ProgramError> {
    let fail = |error: std::io::Error| not_executable(path, &format!("it cannot be read: {error}"));
    let mut start = Vec::new();
    File::open(path).map_err(fail)?.take(MAX_LINE as u64).read_to_end(&mut start).map_err(fail)?;
    Ok(start)
}

/// Interpreter and its one argument.
fn parse_interpreter(start: &[u8]) -> Option<(OsString, Option<OsString>)> {
    let line = start[2..].split(|byte| *byte == b'\n').next()?.trim_ascii();
    let end = line.iter().position(u8::is_ascii_whitespace).unwrap_or(line.len());
    let (interpreter, rest) = line.split_at(end);
    let rest = rest.trim_ascii();
    let argument = (!rest.is_empty()).then(|| OsString::from_vec(rest.to_vec()));
    (!interpreter.is_empty()).then(|| (OsString::from_vec(interpreter.to_vec()), argument))
}

fn check_elf(path: &Path, start: &[u8]) -> Result<(), ProgramError> {
    const CLASS_64: u8 = 2;
    const LITTLE_ENDIAN: u8 = 1;
    const X86_64: u16 = 62;
    const EXECUTABLE: u16 = 2;
    const SHARED: u16 = 3;
    const INTERPRETER: u32 = 3;
    if !start.starts_with(b"\x7fELF") || start.len() < 64 {
        return Err(not_executable(path, "it is neither an ELF executable nor a script with a #! line"));
    }
    let half = |at: usize| u16::from_le_bytes([start[at], start[at + 1]]);
    if start[4] != CLASS_64 || start[5] != LITTLE_ENDIAN || half(18) != X86_64 {
        return Err(not_executable(path, "it is an ELF file for another machine than x86-64"));
    }
    match half(16) {
        EXECUTABLE => Ok(()),
        // A position-independent executable and a library have the same type: only the entry tells, or an interpreter.
        SHARED if start[24..32] != [0; 8] || has_segment(path, start, INTERPRETER) => Ok(()),
        _ => Err(not_executable(path, "it is an ELF file, but not an executable")),
    }
}

fn has_segment(path: &Path, start: &[u8], kind: u32) -> bool {
    let offset = u64::from_le_bytes(start[32..40].try_into().unwrap_or_default());
    let (size, count) = (u16::from_le_bytes([start[54], start[55]]), u16::from_le_bytes([start[56], start[57]]));
    let Ok(file) = File::open(path) else { return false };
    (0..u64::from(count)).any(|index| {
        let mut word = [0; 4];
        let at = offset.saturating_add(index * u64::from(size));
        file.read_exact_at(&mut word, at).is_ok() && u32::from_le_bytes(word) == kind
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    fn command(words: &[&str]) -> Vec<OsString> {
        words.iter().map(OsString::from).collect()
    }

    struct Scratch(PathBuf);
    impl Scratch {
        fn new(name: &str) -> Scratch {
            let path = std::env::temp_dir().join(format!("crtos-program-{}-{name}", std::process::id()));
            std::fs::create_dir_all(&path).unwrap();
            Scratch(path)
        }
        fn file(&self, name: &str, contents: &[u8], mode: u32) -> String {
            let path = self.0.join(name);
            std::fs::write(&path, contents).unwrap();
            std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode)).unwrap();
            path.to_str().unwrap().to_owned()
        }
    }
    impl Drop for Scratch {
        fn drop(&mut self) {
            let _ = std::fs::remove_dir_all(&self.0);
        }
    }

    #[test]
    fn programs_are_found_along_the_path() {
        let found = find(&command(&["echo", "hi"]), Some(OsStr::new("/nowhere:/bin"))).unwrap();
        assert_eq!((found.path, found.arguments), (PathBuf::from("/bin/echo"), command(&["echo", "hi"])));
        assert!(matches!(find(&command(&["echo"]), Some(OsStr::new("/nowhere"))), Err(ProgramError::NotFound(_))));
        assert!(matches!(find(&command(&["/no/such"]), None), Err(ProgramError::NotFound(_))));
        assert!(matches!(find(&command(&[""]), None), Err(ProgramError::NotFound(_))));
    }

    #[test]
    fn what_is_no_program_is_said() {
        let scratch = Scratch::new("no");
        for (name, contents, mode) in [
            ("text", &b"just text"[..], 0o755),
            ("arm", &[&b"\x7fELF\x02\x01\x01"[..], &[0; 9], &[2, 0, 183, 0], &[0; 60]].concat(), 0o755),
            ("short", b"\x7fELF", 0o755),
            ("empty", b"", 0o755),
            ("lost", b"#!/no/such/interpreter\n", 0o755),
            ("none", b"#!\n", 0o755),
        ] {
            let path = scratch.file(name, contents, mode);
            assert!(matches!(find(&command(&[&path]), None), Err(ProgramError::NotExecutable(_))), "{name}");
        }
        assert!(matches!(find(&command(&["/tmp"]), None), Err(ProgramError::NotExecutable(_))));
        let itself = scratch.file("itself", b"", 0o755);
        scratch.file("itself", format!("#!{itself}\n").as_bytes(), 0o755);
        assert!(matches!(find(&command(&[&itself]), None), Err(ProgramError::NotExecutable(_))));
    }

    #[test]
    fn scripts_are_run_by_their_interpreter() {
        let scratch = Scratch::new("script");
        let path = scratch.file("script", b"#! /bin/sh  -e \necho\n", 0o755);
        let found = find(&command(&[&path, "a"]), None).unwrap();
        assert_eq!(found.path, PathBuf::from("/bin/sh"));
        assert_eq!(found.arguments, command(&["/bin/sh", "-e", &path, "a"]));
    }
}
