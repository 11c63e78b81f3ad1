//! System calls as they are: what the standard library has no safe words for.
#![allow(unsafe_code)] // The one place besides the proxy's call stub that makes raw system calls.

use std::arch::asm;
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};

use zerocopy::{FromBytes, Immutable, IntoBytes};

/// Makes a system call; −4095 to −1 is an error number.
///
/// # Safety
/// Whatever the call does to this process's memory and state must be all right.
pub unsafe fn syscall(number: u64, args: [u64; 6]) -> i64 {
    let result: i64;
    // SAFETY: the instruction changes only the registers named; the rest is the caller's promise.
    unsafe {
        asm!("syscall", inlateout("rax") number as i64 => result,
            in("rdi") args[0], in("rsi") args[1], in("rdx") args[2],
            in("r10") args[3], in("r8") args[4], in("r9") args[5],
            lateout("rcx") _, lateout("r11") _, options(nostack));
    }
    result
}

fn check(result: i64) -> io::Result<u64> {
    if (-4095..0).contains(&result) { Err(io::Error::from_raw_os_error(-result as i32)) } else { Ok(result as u64) }
}

/// An ioctl number without argument.
pub const fn io(kind: u32, number: u32) -> u32 {
    kind << 8 | number
}

/// An ioctl that reads `T` from user memory.
pub const fn iow<T>(kind: u32, number: u32) -> u32 {
    1 << 30 | (size_of::<T>() as u32) << 16 | io(kind, number)
}

/// An ioctl that writes `T` to user memory.
pub const fn ior<T>(kind: u32, number: u32) -> u32 {
    2 << 30 | (size_of::<T>() as u32) << 16 | io(kind, number)
}

/// An ioctl that does both.
pub const fn iowr<T>(kind: u32, number: u32) -> u32 {
    iow::<T>(kind, number) | ior::<T>(kind, number)
}

/// An ioctl with a fixed-size argument. Buffers that the argument points to are only read.
pub fn ioctl<T: FromBytes + IntoBytes + Immutable>(
    fd: BorrowedFd<'_>,
    number: u32,
    argument: &mut T,
) -> io::Result<u64> {
    assert_eq!((number >> 16 & 0x3fff) as usize, size_of::<T>());
    ioctl_bytes(fd, number, argument.as_mut_bytes())
}

/// An ioctl whose argument has a variable tail.
pub fn ioctl_bytes(fd: BorrowedFd<'_>, number: u32, argument: &mut [u8]) -> io::Result<u64> {
    assert!((number >> 16 & 0x3fff) as usize <= argument.len());
    // SAFETY: our driver writes at most the size in the number, and any bytes are valid for the argument.
    check(unsafe { syscall(16, [fd.as_raw_fd() as u64, number.into(), argument.as_mut_ptr() as u64, 0, 0, 0]) })
}

/// An ioctl without argument.
pub fn ioctl_none(fd: BorrowedFd<'_>, number: u32) -> io::Result<u64> {
    // SAFETY: nothing is written.
    check(unsafe { syscall(16, [fd.as_raw_fd() as u64, number.into(), 0, 0, 0, 0]) })
}

/// Scheduling policy (without flags) and priority of this thread.
pub fn scheduling() -> io::Result<(u16, u16)> {
    let mut priority = 0i32;
    // SAFETY: writes nothing.
    let policy = check(unsafe { syscall(145, [0; 6]) })?;
    // SAFETY: writes the four bytes of `priority`.
    check(unsafe { syscall(143, [0, &raw mut priority as u64, 0, 0, 0, 0]) })?;
    Ok((policy as u16 & 0xff, priority as u16))
}

/// Sets policy and priority of this thread.
pub fn set_scheduling(policy: u16, priority: u16) -> io::Result<()> {
    let priority = i32::from(priority);
    // SAFETY: reads the four bytes of `priority`.
    check(unsafe { syscall(144, [0, policy.into(), &raw const priority as u64, 0, 0, 0]) }).map(|_| ())
}

/// Thread id.
pub fn thread_id() -> i64 {
    // SAFETY: touches no memory.
    unsafe { syscall(186, [0; 6]) }
}

/// Ends the process, all threads of it, at once.
pub fn exit_group(code: i32) -> ! {
    loop {
        // SAFETY: does not come back.
        unsafe { syscall(231, [code as u64, 0, 0, 0, 0, 0]) };
    }
}

/// Maps `size` bytes of `fd` readable and writable at exactly `address`, shared, file offset = address; fails if something is there.
///
/// # Safety
/// No reference may ever be made to that memory.
pub unsafe fn map_window(address: u64, size: u64, fd: BorrowedFd<'_>) -> io::Result<()> {
    const READ_WRITE: u64 = 3;
    const SHARED_FIXED_NOREPLACE_NORESERVE: u64 = 0x01 | 0x10_0000 | 0x4000;
    // SAFETY: nothing of ours is replaced; the rest is the caller's promise.
    let at = check(unsafe {
        syscall(9, [address, size, READ_WRITE, SHARED_FIXED_NOREPLACE_NORESERVE, fd.as_raw_fd() as u64, address])
    })?;
    if at == address { Ok(()) } else { Err(io::ErrorKind::AlreadyExists.into()) }
}

/// `delete_module`.
pub fn delete_module(name: &std::ffi::CStr) -> io::Result<()> {
    const NONBLOCK: u64 = 0o4000;
    // SAFETY: reads the name only.
    check(unsafe { syscall(176, [name.as_ptr() as u64, NONBLOCK, 0, 0, 0, 0]) }).map(|_| ())
}

/// `finit_module` without parameters.
pub fn finit_module(file: BorrowedFd<'_>) -> io::Result<()> {
    // SAFETY: reads an empty string.
    check(unsafe { syscall(313, [file.as_raw_fd() as u64, c"".as_ptr() as u64, 0, 0, 0, 0]) }).map(|_| ())
}

/// Soft and hard limit of an `RLIMIT_*` number; `u64::MAX`: none.
pub fn limit(resource: usize) -> [u64; 2] {
    let mut limits = [u64::MAX; 2];
    // SAFETY: writes the 16 bytes of `limits`, or nothing.
    unsafe { syscall(302, [0, resource as u64, 0, limits.as_mut_ptr() as u64, 0, 0]) };
    limits
}
