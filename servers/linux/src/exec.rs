//! Loading a program: the file and its interpreter through Linux, segments, stack, vDSO, first registers.

use crate::auxv::{self, Contents, at};
use crate::elf::{HEAD, Program, script};
use crate::errno::{Errno, Result};
use crate::executor::Shell;
use crate::memory::vma::{Area, area, prot};
use crate::memory::{PAGE, page_down, page_up};
use alloc::rc::Rc;
use alloc::vec;
use alloc::vec::Vec;
use ipc::message::Registers;
use ipc::protocol::start::{StartHeader, start_flags};
use ipc::shadow::WINDOW_END;
use linux_raw_sys::general as linux;

/// Scripts whose interpreter is a script …: how deep.
const MAX_SCRIPTS: usize = 4;
/// Between the heap and the program at most so much.
const HEAP_GAP: u64 = 32 << 20;
/// Relocatable programs go here, and up to a TiB further.
const PROGRAM_BASE: u64 = 0x1555_5555_0000;
/// The stack's top is at most so far below the window's end.
const STACK_SPREAD: u64 = 1 << 34;
/// Mappings begin at most so far below the stack.
const MAP_SPREAD: u64 = 1 << 30;

/// What to run.
pub struct Request {
    /// Path of the program.
    pub path: Vec<u8>,
    /// Arguments.
    pub arguments: Vec<Vec<u8>>,
    /// Environment.
    pub environment: Vec<Vec<u8>>,
    /// `AT_PLATFORM`.
    pub platform: Vec<u8>,
}

/// An open program file.
struct File {
    fd: u64,
    head: Vec<u8>,
}

/// Loads the program into the (empty) address space of the thread's process and sets the thread's registers. `scratch` is
/// the range of scratch memory, taken away at the end.
pub async fn load(
    shell: &Rc<Shell>,
    slot: u32,
    mut request: Request,
    header: &StartHeader,
    scratch: (u64, u64),
) -> Result<()> {
    let path = request.path.clone();
    let (file, program) = resolve(shell, slot, scratch.0, &mut request).await?;
    let interpreter = match program.interpreter {
        None => None,
        Some((offset, size)) => {
            let start = usize::try_from(offset).unwrap_or(usize::MAX);
            let bytes = match file.head.get(start..start.saturating_add(size)) {
                Some(bytes) => bytes.to_vec(),
                None => read_at(shell, slot, scratch.0, file.fd, offset, size).await?,
            };
            let path = bytes.split(|byte| *byte == 0).next().unwrap_or(&[]);
            let file = open(shell, slot, scratch.0, path, false).await.map_err(|error| match error {
                Errno::ENOENT => Errno::ELIBBAD,
                other => other,
            })?;
            let program = Program::parse(&file.head).map_err(|_| Errno::ELIBBAD)?;
            Some((file, program))
        }
    };

    let random = shell.with(|server| core::array::from_fn::<u64, 6, _>(|_| server.machine.random()));
    let pages = |random: u64, span: u64| page_down(random % span);
    let bias = if program.relocatable { PROGRAM_BASE + pages(random[0], 1 << 40) - program.extent().0 } else { 0 };
    map_program(shell, slot, &program, file.fd, bias).await?;
    close(shell, slot, file.fd).await;
    let program_end = bias + program.extent().0 + program.extent().1;

    let stack_top = WINDOW_END - PAGE - pages(random[1], STACK_SPREAD);
    let (stack_start, interpreter_bias, vdso) = shell.with(|server| {
        let vdso_size = server.vdso.size();
        let (data, image) = server.vdso.pages();
        let (data, image) = (data, image.to_vec());
        let (machine, memory, process) = server.memory_of(slot)?;
        let stack_start = stack_top - page_down(process.stack_limit[0]);
        let space = &mut process.space;
        space.heap_start = page_up(program_end).unwrap_or(program_end) + pages(random[2], HEAP_GAP);
        space.heap_end = space.heap_start;
        // A guard gap lies below the stack.
        space.map_top = stack_start - (1 << 20) - pages(random[3], MAP_SPREAD);
        let vdso = space.areas.place_below(space.map_top, vdso_size).ok_or(Errno::ENOMEM)?;
        memory.attach_shared(machine, space, vdso, &[data], prot::READ)?;
        memory.attach_shared(machine, space, vdso + PAGE, &image, prot::READ | prot::EXEC)?;
        for (start, end, protection) in
            [(vdso, vdso + PAGE, prot::READ), (vdso + PAGE, vdso + vdso_size, prot::READ | prot::EXEC)]
        {
            space.areas.insert(Area { flags: area::SYSTEM, ..Area::anonymous(start, end, protection) });
        }
        let bias = match &interpreter {
            Some((_, program)) if program.relocatable => {
                let (start, size) = program.extent();
                space.areas.place_below(space.map_top, size).ok_or(Errno::ENOMEM)? - start
            }
            _ => 0,
        };
        Ok((stack_start, bias, vdso + PAGE))
    })?;
    if let Some((file, program)) = &interpreter {
        map_program(shell, slot, program, file.fd, interpreter_bias).await?;
        close(shell, slot, file.fd).await;
    }

    let entry = interpreter.as_ref().map_or(bias + program.entry, |(_, program)| interpreter_bias + program.entry);
    let secure = u64::from(header.flags & start_flags::SECURE);
    let auxiliary = [
        (at::SYSINFO_EHDR, vdso),
        (at::HWCAP, if header.hwcap != 0 { header.hwcap } else { hwcap() }),
        (at::PAGESZ, PAGE),
        (at::CLKTCK, if header.clock_ticks != 0 { header.clock_ticks } else { 100 }),
        (at::PHDR, bias + program.headers),
        (at::PHENT, 56),
        (at::PHNUM, program.header_count.into()),
        (at::BASE, interpreter_bias),
        (at::FLAGS, 0),
        (at::ENTRY, bias + program.entry),
        (at::UID, header.uid.into()),
        (at::EUID, header.euid.into()),
        (at::GID, header.gid.into()),
        (at::EGID, header.egid.into()),
        (at::SECURE, secure),
        (at::HWCAP2, header.hwcap2),
    ];
    let mut seed = [0; 16];
    seed[..8].copy_from_slice(&random[4].to_le_bytes());
    seed[8..].copy_from_slice(&random[5].to_le_bytes());
    seed.iter_mut().zip(header.random).for_each(|(byte, other)| *byte ^= other);
    let arguments: Vec<&[u8]> = request.arguments.iter().map(Vec::as_slice).collect();
    let environment: Vec<&[u8]> = request.environment.iter().map(Vec::as_slice).collect();
    let contents = Contents {
        arguments: &arguments,
        environment: &environment,
        path: &path,
        platform: &request.platform,
        random: seed,
        auxiliary: &auxiliary,
    };
    let (pointer, bytes) = auxv::build(&contents, stack_top, (stack_top - stack_start) / 4)?;

    discard_scratch(shell, slot, scratch).await;
    shell.with(|server| {
        let (machine, memory, process) = server.memory_of(slot)?;
        let rw = prot::READ | prot::WRITE;
        memory.back(machine, &mut process.space, stack_start, stack_top, rw)?;
        process.space.areas.insert(Area { flags: area::GROWS_DOWN, ..Area::anonymous(stack_start, stack_top, rw) });
        memory.poke(&process.space, pointer, &bytes)?;
        let registers = Registers { rip: entry, rsp: pointer, rflags: 0x202, ..Registers::default() };
        machine.set_registers(slot, &registers)?;
        server.name_thread(slot, path.rsplit(|byte| *byte == b'/').next().unwrap_or(&path));
        Ok(())
    })
}

async fn discard_scratch(shell: &Rc<Shell>, slot: u32, scratch: (u64, u64)) {
    // Other pages never appear at these addresses before Linux has let go of the old ones.
    let _ = crate::memory::mmap::discard(shell, slot, scratch.0, scratch.1, true).await;
}

/// Opens the program; follows `#!` lines.
async fn resolve(shell: &Rc<Shell>, slot: u32, scratch: u64, request: &mut Request) -> Result<(File, Program)> {
    let mut path = request.path.clone();
    for depth in 0..=MAX_SCRIPTS {
        // The loader in Linux has seen to it that the program itself may be executed.
        let file = open(shell, slot, scratch, &path, depth > 0).await?;
        let Some((interpreter, argument)) = script(&file.head) else {
            let program = Program::parse(&file.head)?;
            return Ok((file, program));
        };
        close(shell, slot, file.fd).await;
        let mut front = vec![interpreter.to_vec()];
        front.extend(argument.map(<[u8]>::to_vec));
        front.push(path);
        let replaced = request.arguments.len().min(1);
        request.arguments.splice(..replaced, front);
        path = interpreter.to_vec();
    }
    Err(Errno::ELOOP)
}

/// Opens a program file and reads its head. `check`: it must be executable.
async fn open(shell: &Rc<Shell>, slot: u32, scratch: u64, path: &[u8], check: bool) -> Result<File> {
    if path.is_empty() || path.len() >= PAGE as usize {
        return Err(if path.is_empty() { Errno::ENOENT } else { Errno::ENAMETOOLONG });
    }
    shell.with(|server| {
        server.write_user(slot, scratch, path)?;
        server.write_user(slot, scratch + path.len() as u64, &[0])
    })?;
    if check {
        let executable = 1;
        shell.remote(slot, linux::__NR_access, &[scratch, executable]).await?;
    }
    let flags = u64::from(linux::O_RDONLY | linux::O_CLOEXEC);
    let fd = shell.remote(slot, linux::__NR_openat, &[linux::AT_FDCWD as i64 as u64, scratch, flags, 0]).await?;
    let head = read_at(shell, slot, scratch, fd, 0, HEAD).await.map_err(|error| match error {
        Errno::EISDIR => Errno::EACCES,
        other => other,
    })?;
    Ok(File { fd, head })
}

async fn close(shell: &Rc<Shell>, slot: u32, fd: u64) {
    // Nothing was written: there is no error to lose.
    let _ = shell.remote(slot, linux::__NR_close, &[fd]).await;
}

/// Reads at most a page of a file, through scratch memory.
async fn read_at(shell: &Rc<Shell>, slot: u32, scratch: u64, fd: u64, offset: u64, size: usize) -> Result<Vec<u8>> {
    let count = shell.remote(slot, linux::__NR_pread64, &[fd, scratch, size as u64, offset]).await?;
    shell.with(|server| {
        let mut bytes = vec![0; size.min(count as usize)];
        server.read_user(slot, scratch, &mut bytes)?;
        Ok(bytes)
    })
}

/// Maps the segments of a program.
async fn map_program(shell: &Rc<Shell>, slot: u32, program: &Program, fd: u64, bias: u64) -> Result<()> {
    for segment in &program.segments {
        let (start, end) = (bias + segment.start(), bias + segment.end());
        shell.with(|server| {
            let (machine, memory, process) = server.memory_of(slot)?;
            if !crate::memory::vma::in_window(start, end - start) || !process.space.areas.is_free(start, end) {
                return Err(Errno::ENOEXEC);
            }
            // Writable until filled.
            memory.back(machine, &mut process.space, start, end, prot::READ | prot::WRITE)?;
            process.space.areas.insert(Area::anonymous(start, end, segment.protection));
            Ok(())
        })?;
        let filled =
            crate::memory::file::fill(shell, slot, fd, bias + segment.address, segment.file_size, segment.offset)
                .await?;
        if filled < segment.file_size {
            return Err(Errno::ENOEXEC);
        }
        shell.with(|server| {
            let (machine, memory, process) = server.memory_of(slot)?;
            memory.reprotect(machine, &mut process.space, start, end, segment.protection)
        })?;
    }
    Ok(())
}

/// `AT_HWCAP` as Linux gives it: CPUID leaf 1, EDX.
fn hwcap() -> u64 {
    core::arch::x86_64::__cpuid(1).edx.into()
}
