//! The memory calls: `mmap` and its family.
//!
//! All memory is there from the start (no page is made on first use), so that Linux can follow every pointer. Therefore
//! a mapping larger than the pool fails, unless it is a reservation without access (PROT_NONE).

use super::file;
use super::vma::{Area, NO_FILE, area, in_window, prot};
use super::{PAGE, page_down, page_up};
use crate::errno::{Errno, Result};
use crate::executor::Shell;
use crate::server::{Outcome, Server};
use alloc::rc::Rc;
use alloc::vec;
use alloc::vec::Vec;
use ipc::shadow::request_kind;
use linux_raw_sys::general as linux;

const RW: u8 = prot::READ | prot::WRITE;

/// Checks protection bits. Writable and executable at once is not possible here.
fn checked_protection(bits: u64) -> Result<u8> {
    let known = u64::from(linux::PROT_READ | linux::PROT_WRITE | linux::PROT_EXEC);
    if bits & !(known | u64::from(linux::PROT_GROWSDOWN | linux::PROT_GROWSUP)) != 0 {
        return Err(Errno::EINVAL);
    }
    let bits = (bits & known) as u8;
    if bits & (prot::WRITE | prot::EXEC) == prot::WRITE | prot::EXEC {
        return Err(Errno::EACCES);
    }
    Ok(bits)
}

/// Takes areas and pages of a range away. If Linux may have pages of it, waits until it has let go; until then the place
/// is taken by a system area. `system`: areas of the system may go too.
pub async fn discard(shell: &Rc<Shell>, slot: u32, start: u64, end: u64, system: bool) -> Result<()> {
    let held = shell.with(|server| {
        let (machine, memory, process) = server.memory_of(slot)?;
        let space = &mut process.space;
        if !system && space.areas.within(start, end).any(|piece| piece.flags & area::SYSTEM != 0) {
            return Err(Errno::EINVAL);
        }
        space.areas.check_room()?;
        space.areas.remove(start, end);
        let held = memory.unback(machine, space, start, end);
        if held {
            space.areas.insert(Area { flags: area::SYSTEM, ..Area::anonymous(start, end, prot::NONE) });
        }
        Ok(held)
    })?;
    if held {
        let leader = shell.with(|server| server.thread(slot).map(|thread| thread.leader))?;
        let arguments = [start, end - start, 0, 0, 0, 0];
        // An error means that the proxy is gone, and with it all that it had mapped.
        let _ = shell.request(leader, request_kind::UNMAP, 0, arguments).await;
        shell.with(|server| {
            let (_, memory, process) = server.memory_of(slot)?;
            process.space.areas.remove(start, end);
            memory.pages.sweep();
            Ok(())
        })?;
    }
    Ok(())
}

/// Writes shared areas back, then discards the range.
async fn unmap_range(shell: &Rc<Shell>, slot: u32, start: u64, end: u64) -> Result<()> {
    let (leader, pieces) = shell.with(|server| {
        let leader = server.thread(slot)?.leader;
        let pieces: Vec<Area> = server.process(leader)?.space.areas.within(start, end).collect();
        Ok((leader, pieces))
    })?;
    let has_files = pieces.iter().any(|piece| piece.file != NO_FILE);
    if has_files {
        // What cannot be written is lost, as on Linux.
        let _ = file::write_back(shell, slot, leader, &pieces).await;
    }
    discard(shell, slot, start, end, false).await?;
    if has_files {
        file::drop_unused(shell, slot).await;
    }
    Ok(())
}

/// Adds an area with pages behind it.
fn establish(server: &mut Server, slot: u32, area: Area, protection: u8) -> Result<()> {
    let (machine, memory, process) = server.memory_of(slot)?;
    process.space.areas.check_room()?;
    memory.back(machine, &mut process.space, area.start, area.end, protection)?;
    process.space.areas.insert(area);
    Ok(())
}

/// `mmap`.
pub async fn mmap(shell: Rc<Shell>, slot: u32, arguments: [u64; 6]) -> Result {
    let [hint, length, bits, flags, fd, offset] = arguments;
    let has = |flag: u32| flags & u64::from(flag) != 0;
    let protection = checked_protection(bits)?;
    let size =
        page_up(length).filter(|size| *size != 0).ok_or(if length == 0 { Errno::EINVAL } else { Errno::ENOMEM })?;
    let kind = flags & u64::from(linux::MAP_TYPE);
    let shared = kind == u64::from(linux::MAP_SHARED) || kind == u64::from(linux::MAP_SHARED_VALIDATE);
    if !offset.is_multiple_of(PAGE) || !(shared || kind == u64::from(linux::MAP_PRIVATE)) {
        return Err(Errno::EINVAL);
    }
    if has(linux::MAP_HUGETLB) {
        return Err(Errno::ENOMEM);
    }
    let anonymous = has(linux::MAP_ANONYMOUS);
    // A private mapping that reads needs no look at the descriptor before: reading tells the same.
    if !anonymous && (shared || protection == prot::NONE) {
        check_file(&shell, slot, fd, shared && protection & prot::WRITE != 0).await?;
    }
    let fixed = has(linux::MAP_FIXED) || has(linux::MAP_FIXED_NOREPLACE);
    if fixed {
        if !hint.is_multiple_of(PAGE) {
            return Err(Errno::EINVAL);
        }
        if !in_window(hint, size) {
            return Err(Errno::ENOMEM);
        }
        let free = shell.with(|server| Ok(server.space_of(slot)?.areas.is_free(hint, hint + size)))?;
        if !free && has(linux::MAP_FIXED_NOREPLACE) {
            return Err(Errno::EEXIST);
        }
        if !free {
            unmap_range(&shell, slot, hint, hint + size).await?;
        }
    }
    let mut properties = if shared { area::SHARED } else { 0 };
    if has(linux::MAP_GROWSDOWN) {
        properties |= area::GROWS_DOWN;
    }
    // The place is found and taken in one step: nobody else can come in between.
    let start = shell.with(|server| {
        let start = if fixed { hint } else { server.place(slot, hint, size)? };
        if !server.space_of(slot)?.areas.is_free(start, start + size) {
            return Err(Errno::ENOMEM);
        }
        let base = Area { flags: properties, ..Area::anonymous(start, start + size, protection) };
        // Pages that are to be read from a file are writable until then, and the area is the system's.
        let during = if anonymous { base } else { Area { flags: properties | area::SYSTEM, ..base } };
        let initial = if anonymous || protection == prot::NONE { protection } else { RW };
        establish(server, slot, during, initial)?;
        Ok(start)
    })?;
    if !anonymous {
        let wanted = Area { flags: properties, ..Area::anonymous(start, start + size, protection) };
        if let Err(error) = attach_file(&shell, slot, wanted, fd, offset).await {
            discard(&shell, slot, start, start + size, true).await?;
            return Err(error);
        }
    }
    Ok(start)
}

/// Whether the descriptor is open, and for what it must be open.
async fn check_file(shell: &Rc<Shell>, slot: u32, fd: u64, write: bool) -> Result<()> {
    let mode = shell.remote(slot, linux::__NR_fcntl, &[fd, linux::F_GETFL.into()]).await? as u32;
    let access = mode & linux::O_ACCMODE;
    if mode & linux::O_PATH != 0 {
        return Err(Errno::EBADF);
    }
    if access == linux::O_WRONLY || (write && access != linux::O_RDWR) {
        return Err(Errno::EACCES);
    }
    Ok(())
}

/// Fills a new area from its file and gives it its final protection.
async fn attach_file(shell: &Rc<Shell>, slot: u32, wanted: Area, fd: u64, offset: u64) -> Result<()> {
    let size = wanted.end - wanted.start;
    if wanted.protection != prot::NONE {
        match file::fill(shell, slot, fd, wanted.start, size, offset).await {
            Ok(_) => {}
            Err(Errno::ESPIPE | Errno::EISDIR | Errno::EINVAL) => return Err(Errno::ENODEV),
            // Closed, or open for writing only: that makes a difference.
            Err(Errno::EBADF) => return check_file(shell, slot, fd, false).await.and(Err(Errno::EBADF)),
            Err(error) => return Err(error),
        }
    }
    let write_back = wanted.flags & area::SHARED != 0 && wanted.protection & prot::WRITE != 0;
    let file = if write_back { file::keep(shell, slot, fd).await? } else { NO_FILE };
    shell.with(|server| {
        let (machine, memory, process) = server.memory_of(slot)?;
        memory.reprotect(machine, &mut process.space, wanted.start, wanted.end, wanted.protection)?;
        process.space.areas.remove(wanted.start, wanted.end);
        process.space.areas.insert(Area { file, offset: if file == NO_FILE { 0 } else { offset }, ..wanted });
        Ok(())
    })
}

impl Server {
    /// A free place: the hint if it is one, else below all other mappings.
    fn place(&self, slot: u32, hint: u64, size: u64) -> Result<u64> {
        let space = self.space_of(slot)?;
        let hint = page_down(hint);
        if in_window(hint, size) && space.areas.is_free(hint, hint + size) && hint != 0 {
            return Ok(hint);
        }
        space.areas.place_below(space.map_top, size).ok_or(Errno::ENOMEM)
    }
}

/// `munmap`.
pub async fn munmap(shell: Rc<Shell>, slot: u32, arguments: [u64; 6]) -> Result {
    let [start, length, ..] = arguments;
    let size = page_up(length).filter(|size| *size != 0).ok_or(Errno::EINVAL)?;
    if !in_window(start, size) {
        return Err(Errno::EINVAL);
    }
    unmap_range(&shell, slot, start, start + size).await?;
    Ok(0)
}

/// `mprotect`.
pub fn mprotect(server: &mut Server, slot: u32, arguments: [u64; 6]) -> Result<Outcome> {
    let [start, length, bits, ..] = arguments;
    let protection = checked_protection(bits)?;
    let size = page_up(length).ok_or(Errno::ENOMEM)?;
    if !start.is_multiple_of(PAGE) {
        return Err(Errno::EINVAL);
    }
    if size == 0 {
        return Ok(Outcome::Value(0));
    }
    let end = start.checked_add(size).ok_or(Errno::ENOMEM)?;
    let (machine, memory, process) = server.memory_of(slot)?;
    let space = &mut process.space;
    if !in_window(start, size) || !space.areas.covers(start, end) {
        return Err(Errno::ENOMEM);
    }
    let pieces: Vec<Area> = space.areas.within(start, end).collect();
    if pieces.iter().any(|piece| piece.flags & area::SYSTEM != 0) {
        return Err(Errno::EACCES);
    }
    space.areas.check_room()?;
    memory.reprotect(machine, space, start, end, protection)?;
    space.areas.protect(start, end, protection);
    Ok(Outcome::Value(0))
}

/// `brk`.
pub async fn brk(shell: Rc<Shell>, slot: u32, arguments: [u64; 6]) -> Result {
    let wanted = arguments[0];
    let (start, end) = shell.with(|server| server.space_of(slot).map(|space| (space.heap_start, space.heap_end)))?;
    let (old_top, new_top) = (page_up(end).unwrap_or(end), page_up(wanted).unwrap_or(u64::MAX));
    if wanted < start || wanted >= ipc::shadow::WINDOW_END {
        return Ok(end);
    }
    if new_top < old_top {
        discard(&shell, slot, new_top, old_top, false).await?;
    }
    shell.with(|server| {
        if new_top > old_top {
            let free = server.space_of(slot)?.areas.is_free(old_top, new_top);
            if !free || establish(server, slot, Area::anonymous(old_top, new_top, RW), RW).is_err() {
                return Ok(end);
            }
        }
        server.process_of(slot)?.space.heap_end = wanted;
        Ok(wanted)
    })
}

/// `mremap`.
pub async fn mremap(shell: Rc<Shell>, slot: u32, arguments: [u64; 6]) -> Result {
    let [old, old_length, new_length, flags, target, _] = arguments;
    let (may_move, fixed) = (u64::from(linux::MREMAP_MAYMOVE), u64::from(linux::MREMAP_FIXED));
    if flags & !(may_move | fixed) != 0 || (flags & fixed != 0 && flags & may_move == 0) || !old.is_multiple_of(PAGE) {
        return Err(Errno::EINVAL);
    }
    let old_size = page_up(old_length).filter(|size| *size != 0).ok_or(Errno::EINVAL)?;
    let new_size = page_up(new_length).filter(|size| *size != 0).ok_or(Errno::EINVAL)?;
    if !in_window(old, old_size) {
        return Err(Errno::EFAULT);
    }
    let area = shell.with(|server| {
        let areas = &server.space_of(slot)?.areas;
        let area = areas.within(old, old + old_size).next().ok_or(Errno::EFAULT)?;
        if (area.start, area.end) != (old, old + old_size) || area.flags & area::SYSTEM != 0 {
            return Err(Errno::EFAULT);
        }
        Ok(area)
    })?;
    if flags & fixed == 0 {
        if new_size <= old_size {
            if new_size < old_size {
                unmap_range(&shell, slot, old + new_size, old + old_size).await?;
            }
            return Ok(old);
        }
        let (end, new_end) = (old + old_size, old.checked_add(new_size).ok_or(Errno::ENOMEM)?);
        let grown = shell.with(|server| {
            let space = server.space_of(slot)?;
            if !in_window(old, new_size) || !space.areas.is_free(end, new_end) || area.file != NO_FILE {
                return Ok(false);
            }
            establish(server, slot, Area { start: end, end: new_end, ..area }, area.protection).map(|()| true)
        })?;
        if grown {
            return Ok(old);
        }
        if flags & may_move == 0 || area.file != NO_FILE {
            return Err(Errno::ENOMEM);
        }
    } else {
        if !in_window(target, new_size) || (target < old + old_size && old < target + new_size) {
            return Err(Errno::EINVAL);
        }
        if area.file != NO_FILE {
            return Err(Errno::ENOMEM);
        }
        unmap_range(&shell, slot, target, target + new_size).await?;
    }
    // New pages, copied: the old addresses must be let go by Linux anyway.
    let kept = old_size.min(new_size);
    let new = shell.with(|server| {
        let new = if flags & fixed != 0 { target } else { server.place(slot, 0, new_size)? };
        let moved = Area { start: new, end: new + new_size, ..area };
        establish(server, slot, moved, area.protection)?;
        let (_, memory, process) = server.memory_of(slot)?;
        for at in (0..kept).step_by(PAGE as usize) {
            let from = memory.mirror.get(process.space.root, old + at);
            let to = memory.mirror.get(process.space.root, new + at);
            if let (Some(from), Some(to)) = (from, to) {
                memory.pool.copy(from.page, to.page);
            }
        }
        Ok(new)
    })?;
    discard(&shell, slot, old, old + old_size, false).await?;
    Ok(new)
}

/// `madvise`. Only what drops contents does something: there is no paging to advise.
pub fn madvise(server: &mut Server, slot: u32, arguments: [u64; 6]) -> Result<Outcome> {
    let [start, length, advice, ..] = arguments;
    let size = page_up(length).ok_or(Errno::EINVAL)?;
    if !start.is_multiple_of(PAGE) || advice > 25 && !(100..=101).contains(&advice) {
        return Err(Errno::EINVAL);
    }
    let end = start.checked_add(size).ok_or(Errno::EINVAL)?;
    let leader = server.thread(slot)?.leader;
    let space = &server.process(leader)?.space;
    if size != 0 && !space.areas.covers(start, end) {
        return Err(Errno::ENOMEM);
    }
    if advice == u64::from(linux::MADV_DONTNEED) {
        for piece in space.areas.within(start, end).filter(|piece| piece.flags == 0) {
            let mut at = piece.start;
            while let Some((address, entry)) = server.memory.mirror.next(space.root, at, piece.end) {
                server.memory.pool.zero(entry.page, 0, PAGE as usize);
                at = address + PAGE;
            }
        }
    }
    Ok(Outcome::Value(0))
}

/// `msync`.
pub async fn msync(shell: Rc<Shell>, slot: u32, arguments: [u64; 6]) -> Result {
    let [start, length, flags, ..] = arguments;
    let size = page_up(length).ok_or(Errno::ENOMEM)?;
    let (asynchronous, synchronous) = (u64::from(linux::MS_ASYNC), u64::from(linux::MS_SYNC));
    if !start.is_multiple_of(PAGE) || flags > 7 || flags & asynchronous != 0 && flags & synchronous != 0 {
        return Err(Errno::EINVAL);
    }
    let end = start.checked_add(size).ok_or(Errno::ENOMEM)?;
    let (leader, pieces) = shell.with(|server| {
        let leader = server.thread(slot)?.leader;
        let areas = &server.process(leader)?.space.areas;
        if !areas.covers(start, end) {
            return Err(Errno::ENOMEM);
        }
        Ok((leader, areas.within(start, end).collect::<Vec<Area>>()))
    })?;
    file::write_back(&shell, slot, leader, &pieces).await?;
    Ok(0)
}

/// `mincore`: all that is accessible is in memory.
pub fn mincore(server: &mut Server, slot: u32, arguments: [u64; 6]) -> Result<Outcome> {
    let [start, length, vector, ..] = arguments;
    let size = page_up(length).ok_or(Errno::ENOMEM)?;
    let end = start.checked_add(size).ok_or(Errno::ENOMEM)?;
    if !start.is_multiple_of(PAGE) {
        return Err(Errno::EINVAL);
    }
    if !server.space_of(slot)?.areas.covers(start, end) {
        return Err(Errno::ENOMEM);
    }
    let ones = vec![1; PAGE as usize];
    let mut done = 0;
    while done < size / PAGE {
        let count = (size / PAGE - done).min(PAGE);
        server.write_user(slot, vector + done, &ones[..count as usize])?;
        done += count;
    }
    Ok(Outcome::Value(0))
}

/// `mlock`, `munlock`, `mlock2`: memory is locked from the start.
pub fn mlock(server: &mut Server, slot: u32, arguments: [u64; 6]) -> Result<Outcome> {
    let [start, length, ..] = arguments;
    let from = page_down(start);
    let end = start.checked_add(length).and_then(page_up).ok_or(Errno::EINVAL)?;
    if !server.space_of(slot)?.areas.covers(from, end) {
        return Err(Errno::ENOMEM);
    }
    Ok(Outcome::Value(0))
}

/// `mlockall`, `munlockall`.
pub fn mlockall(_: &mut Server, _: u32, _: [u64; 6]) -> Result<Outcome> {
    Ok(Outcome::Value(0))
}
