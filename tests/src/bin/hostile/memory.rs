//! The shared memory and the registers of the device, as Linux's root sees them.

use std::fs::File;
use std::os::fd::AsRawFd;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering::Relaxed};

use anyhow::{Context, Result, bail};
use ipc::shadow::{LinuxHeader, PEER_RT, RESPONSES, Response, RtHeader, linux_section, rt_section};

const STATE_TABLE: u64 = 4096;
/// Registers, in words.
const INTERRUPT_CONTROL: usize = 2;
const DOORBELL: usize = 3;
const STATE: usize = 4;
/// A peer that is complete.
const STATE_RUN: u32 = 3;
/// Words of 64 bits.
const RESPONSE_WORDS: usize = size_of::<Response>() / 8;

/// All of it.
pub struct Shared {
    /// The application pool.
    pub pool: &'static [AtomicU64],
    /// What Linux writes.
    pub own: &'static [AtomicU64],
    /// What the real-time side writes; not writable here.
    pub rt: &'static [AtomicU64],
    registers: &'static [AtomicU32],
}

/// Maps bytes of a file. `T` is an atomic integer.
pub fn map<T>(path: &str, offset: u64, bytes: usize, writable: bool) -> Result<&'static [T]> {
    let file = File::options().read(true).write(writable).open(path).with_context(|| path.to_owned())?;
    let protection = libc::PROT_READ | if writable { libc::PROT_WRITE } else { 0 };
    // SAFETY: a new mapping at an address that the system chooses; it is never taken away.
    let start = unsafe {
        libc::mmap(std::ptr::null_mut(), bytes, protection, libc::MAP_SHARED, file.as_raw_fd(), offset as libc::off_t)
    };
    if start == libc::MAP_FAILED {
        return Err(std::io::Error::last_os_error()).with_context(|| format!("mapping {path} at {offset:#x}"));
    }
    // SAFETY: mapped for ever, page-aligned, and shared with others as atomics may be. What is not writable nobody stores to.
    Ok(unsafe { std::slice::from_raw_parts(start.cast_const().cast(), bytes / size_of::<T>()) })
}

/// A hexadecimal number.
pub fn number(text: &str) -> Result<u64> {
    u64::from_str_radix(text.trim_start_matches("0x"), 16).with_context(|| text.to_owned())
}

impl Shared {
    /// `place`: address, bytes of `rw`, bytes of an output section, function.
    pub fn open(place: &[&str]) -> Result<Shared> {
        let [address, rw, output, function] = place else { bail!("where the memory lies in four words") };
        let (address, rw, output) = (number(address)?, number(rw)?, number(output)?);
        let memory = |offset, bytes, writable| map("/dev/mem", address + offset, bytes as usize, writable);
        let resource = format!("/sys/bus/pci/devices/{function}/resource0");
        Ok(Shared {
            pool: memory(STATE_TABLE, rw, true)?,
            own: memory(STATE_TABLE + rw, output, true)?,
            rt: memory(STATE_TABLE + rw + output, output, false)?,
            registers: map(&resource, 0, 4096, true)?,
        })
    }

    /// Linux's header.
    pub fn header(&self) -> &'static LinuxHeader {
        // SAFETY: the section begins with it, page-aligned; its fields are atomics.
        unsafe { &*self.own.as_ptr().cast() }
    }

    /// The other's header.
    pub fn rt_header(&self) -> &'static RtHeader {
        // SAFETY: as above; nobody stores to it.
        unsafe { &*self.rt.as_ptr().cast() }
    }

    /// The words of a response.
    pub fn response(&self, index: u32) -> &'static [AtomicU64] {
        &self.own[linux_section::RESPONSES / 8 + index as usize % RESPONSES * RESPONSE_WORDS..][..RESPONSE_WORDS]
    }

    /// The order's page: 32-bit words, two in each.
    pub fn orders(&self) -> &'static [AtomicU64] {
        &self.own[linux_section::ORDERS / 8..][..512]
    }

    /// The held bits.
    pub fn held(&self) -> &'static [AtomicU64] {
        &self.own[linux_section::HELD / 8..][..self.pool.len() / 512 / 64]
    }

    /// A word of the other's section; 0 outside.
    pub fn theirs_at(&self, offset: usize) -> u64 {
        self.rt.get(offset / 8).map_or(0, |word| word.load(Relaxed))
    }

    /// A node of the mirror.
    pub fn mirror(&self, node: u64) -> Option<&'static [AtomicU64]> {
        self.rt.get(rt_section::MIRROR / 8..)?.chunks_exact(512).nth(node as usize)
    }

    /// Rings.
    pub fn ring(&self, word: u32) {
        self.registers[DOORBELL].store(word, Relaxed);
    }

    /// Rings as the driver would.
    pub fn bell(&self, vector: u16) {
        self.ring(PEER_RT << 16 | u32::from(vector));
    }

    /// Shows a state.
    pub fn show(&self, state: u32) {
        self.registers[STATE].store(state, Relaxed);
    }

    /// As the driver leaves the registers.
    pub fn announce(&self) {
        self.registers[INTERRUPT_CONTROL].store(1, Relaxed);
        self.show(STATE_RUN);
    }
}
