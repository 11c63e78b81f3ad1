//! Pointers that a program passes: allegations. This is the one door that turns them into bytes.

use super::{Memory, PAGE, Space};
use crate::errno::{Errno, Result};
use alloc::vec::Vec;
use core::sync::atomic::{AtomicU32, AtomicU64};
use zerocopy::{FromBytes, FromZeros, Immutable, IntoBytes};

impl Memory {
    /// Calls `with` for each piece (page, offset, range in the buffer) of a user range.
    fn pieces(
        &self,
        space: &Space,
        address: u64,
        bytes: usize,
        write: bool,
        mut with: impl FnMut(&Memory, u32, usize, core::ops::Range<usize>),
    ) -> Result<()> {
        let mut done = 0;
        while done < bytes {
            let at = address.checked_add(done as u64).ok_or(Errno::EFAULT)?;
            let entry = self.mirror.get(space.root, at).ok_or(Errno::EFAULT)?;
            if at >= ipc::shadow::WINDOW_END || !entry.readable || (write && !entry.writable) {
                return Err(Errno::EFAULT);
            }
            let offset = (at % PAGE) as usize;
            let count = (PAGE as usize - offset).min(bytes - done);
            with(self, entry.page, offset, done..done + count);
            done += count;
        }
        Ok(())
    }

    /// Reads user memory.
    pub fn read(&self, space: &Space, address: u64, out: &mut [u8]) -> Result<()> {
        let bytes = out.len();
        self.pieces(space, address, bytes, false, |memory, page, offset, range| {
            memory.pool.read(page, offset, &mut out[range]);
        })
    }

    /// Writes user memory; what lies before the first bad page may have been written when it fails.
    pub fn write(&self, space: &Space, address: u64, bytes: &[u8]) -> Result<()> {
        self.pieces(space, address, bytes.len(), true, |memory, page, offset, range| {
            memory.pool.write(page, offset, &bytes[range]);
        })
    }

    /// Whether all of it can be written.
    pub fn check_writable(&self, space: &Space, address: u64, bytes: usize) -> Result<()> {
        self.pieces(space, address, bytes, true, |_, _, _, _| {})
    }

    /// Reads a value.
    pub fn get<T: FromBytes + IntoBytes + FromZeros>(&self, space: &Space, address: u64) -> Result<T> {
        let mut value = T::new_zeroed();
        self.read(space, address, value.as_mut_bytes())?;
        Ok(value)
    }

    /// Writes a value.
    pub fn put<T: IntoBytes + Immutable>(&self, space: &Space, address: u64, value: &T) -> Result<()> {
        self.write(space, address, value.as_bytes())
    }

    /// Reads a string of at most `limit` bytes before its NUL.
    pub fn string(&self, space: &Space, address: u64, limit: usize) -> Result<Vec<u8>> {
        let mut out = Vec::new();
        let mut at = address;
        loop {
            let count = (PAGE - at % PAGE) as usize;
            let mut chunk = [0; PAGE as usize];
            let chunk = &mut chunk[..count];
            self.read(space, at, chunk)?;
            match chunk.iter().position(|byte| *byte == 0) {
                Some(end) => out.extend_from_slice(&chunk[..end]),
                None => out.extend_from_slice(chunk),
            }
            if out.len() > limit {
                return Err(Errno::ENAMETOOLONG);
            }
            if chunk.contains(&0) {
                return Ok(out);
            }
            at = at.checked_add(count as u64).ok_or(Errno::EFAULT)?;
        }
    }

    /// A user word that is changed atomically (or only read, unless `write`).
    pub fn word(&self, space: &Space, address: u64, write: bool) -> Result<&AtomicU32> {
        if !address.is_multiple_of(4) {
            return Err(Errno::EINVAL);
        }
        let entry = self.mirror.get(space.root, address).ok_or(Errno::EFAULT)?;
        if address >= ipc::shadow::WINDOW_END || !entry.readable || (write && !entry.writable) {
            return Err(Errno::EFAULT);
        }
        Ok(self.pool.word(entry.page, (address % PAGE) as usize))
    }

    /// Writes to backed memory whatever its protection: for the loader.
    pub fn poke(&self, space: &Space, address: u64, bytes: &[u8]) -> Result<()> {
        let mut done = 0;
        while done < bytes.len() {
            let at = address.checked_add(done as u64).ok_or(Errno::EFAULT)?;
            let entry = self.mirror.get(space.root, at).ok_or(Errno::EFAULT)?;
            let offset = (at % PAGE) as usize;
            let count = (PAGE as usize - offset).min(bytes.len() - done);
            self.pool.write(entry.page, offset, &bytes[done..done + count]);
            done += count;
        }
        Ok(())
    }

    /// A 64-bit word of the pool.
    pub fn long(&self, page: u32, offset: usize) -> &AtomicU64 {
        self.pool.long(page, offset)
    }
}
