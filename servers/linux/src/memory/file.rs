//! Memory with files behind it. Pages are read when the mapping is made; a shared, writable mapping is written back by
//! `msync`, `munmap` and the end of the process. (So two programs see each other's changes then, not at once.)

use super::vma::{Area, NO_FILE, area, prot};
use crate::errno::{Errno, Result};
use crate::executor::Shell;
use alloc::rc::Rc;
use alloc::vec::Vec;
use linux_raw_sys::general as linux;

/// Bytes that one request reads or writes: what else waits for the worker gets its turn in between.
const CHUNK: u64 = 1 << 20;

/// A file that shared mappings are written back to.
#[derive(Clone, Copy, Debug)]
pub struct Backing {
    /// A descriptor of its own in the proxy: the program may close the one it had.
    pub fd: u64,
}

/// Reads the file into memory that is backed and writable. Gives the bytes read: fewer at the end of the file.
pub async fn fill(shell: &Rc<Shell>, slot: u32, fd: u64, address: u64, size: u64, offset: u64) -> Result<u64> {
    let mut done = 0;
    while done < size {
        let count = (size - done).min(CHUNK);
        match shell.remote(slot, linux::__NR_pread64, &[fd, address + done, count, offset + done]).await {
            Ok(0) => break,
            Ok(count) => done += count.min(size - done),
            Err(Errno::EINTR) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(done)
}

/// Makes a descriptor of the system's own for the file, if the mapping must be written back.
pub async fn keep(shell: &Rc<Shell>, slot: u32, fd: u64) -> Result<u32> {
    let lowest = 512;
    let own = shell.remote(slot, linux::__NR_fcntl, &[fd, linux::F_DUPFD_CLOEXEC.into(), lowest]).await?;
    shell.with(|server| {
        let files = &mut server.process_of(slot)?.files;
        let free = files.iter().position(Option::is_none).unwrap_or_else(|| {
            files.push(None);
            files.len() - 1
        });
        files[free] = Some(Backing { fd: own });
        Ok(free as u32)
    })
}

/// Writes back those of the areas that are shared, writable and of a file.
pub async fn write_back(shell: &Rc<Shell>, slot: u32, leader: u32, areas: &[Area]) -> Result<()> {
    let mut first_error = Ok(());
    for piece in areas {
        if piece.file == NO_FILE || piece.flags & area::SHARED == 0 {
            continue;
        }
        let backing =
            shell.with(|server| server.process(leader).ok()?.files.get(piece.file as usize).copied().flatten());
        let Some(Backing { fd }) = backing else { continue };
        if let Err(error) = write_area(shell, slot, fd, piece).await {
            first_error = first_error.and(Err(error));
        }
    }
    first_error
}

async fn write_area(shell: &Rc<Shell>, slot: u32, fd: u64, piece: &Area) -> Result<()> {
    // Not beyond the end of the file: writing must not make it longer.
    let end = shell.remote(slot, linux::__NR_lseek, &[fd, 0, linux::SEEK_END.into()]).await?;
    let size = (piece.end - piece.start).min(end.saturating_sub(piece.offset));
    let mut done = 0;
    while done < size {
        let count = (size - done).min(CHUNK);
        let arguments = [fd, piece.start + done, count, piece.offset + done];
        match shell.remote(slot, linux::__NR_pwrite64, &arguments).await {
            Ok(0) => return Err(Errno::EIO),
            Ok(count) => done += count.min(size - done),
            Err(Errno::EINTR) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

/// Closes files that no area refers to any more.
pub async fn drop_unused(shell: &Rc<Shell>, slot: u32) {
    let unused: Vec<u64> = shell.with(|server| {
        let Ok(process) = server.process_of(slot) else { return Vec::new() };
        let mut unused = Vec::new();
        for (index, file) in process.files.iter_mut().enumerate() {
            if !process.space.areas.iter().any(|area| area.file == index as u32) {
                unused.extend(file.take().map(|file| file.fd));
            }
        }
        unused
    });
    for fd in unused {
        // The data is written; there is nobody to tell of an error.
        let _ = shell.remote(slot, linux::__NR_close, &[fd]).await;
    }
}

/// Writes back everything of a process that ends; its leader's worker is still there.
pub async fn write_back_all(shell: &Rc<Shell>, leader: u32) {
    let areas: Vec<Area> = shell.with(|server| {
        server.process(leader).map_or_else(
            |_| Vec::new(),
            |process| {
                let shared = |area: &&Area| area.file != NO_FILE && area.protection & prot::WRITE != 0;
                process.space.areas.iter().filter(shared).copied().collect()
            },
        )
    });
    // The program has ended; there is nobody to tell of an error.
    let _ = write_back(shell, leader, leader, &areas).await;
}
