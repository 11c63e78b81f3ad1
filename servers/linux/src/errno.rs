//! Linux error numbers, as results of system calls.

use linux_raw_sys::errno;

/// A Linux error number, 1–4095.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Errno(pub u16);

/// What a system call gives.
pub type Result<T = u64> = core::result::Result<T, Errno>;

macro_rules! names {
    ($($name:ident)*) => {
        #[allow(missing_docs)]
        impl Errno { $(pub const $name: Errno = Errno(errno::$name as u16);)* }
    };
}

names! {
    E2BIG EACCES EAGAIN EBADF EBUSY ECHILD EDEADLK EEXIST EFAULT EINTR EINVAL EIO EISDIR ELIBBAD ELOOP ENAMETOOLONG ENODEV
    ENOENT ENOEXEC ENOMEM ENOSYS ENOTDIR EOPNOTSUPP EOVERFLOW EPERM ESPIPE ESRCH ETIMEDOUT
}

impl Errno {
    /// The error in a raw result of Linux, or the value. A value that Linux never gives counts as EIO.
    pub fn check(raw: i64) -> Result<u64> {
        match raw {
            -4095..=-1 => Err(Errno(-raw as u16)),
            _ => Ok(raw as u64),
        }
    }
}

/// A result as it goes into `rax`.
pub fn raw(result: Result<u64>) -> u64 {
    match result {
        Ok(value) => value,
        Err(Errno(number)) => (-i64::from(number)) as u64,
    }
}
