//! What depends on the processor: a real one, or the host's stand-in for tests of the logic above it.

#[cfg(not(target_os = "none"))]
mod host;
#[cfg(not(target_os = "none"))]
pub use host::*;

#[cfg(target_os = "none")]
pub mod x86_64;
#[cfg(target_os = "none")]
pub use x86_64::hooks::*;

/// Code selector of user mode: Linux's, because programs see it in signal frames.
pub const USER_CODE: u64 = 0x33;
/// Data selector of user mode: Linux's.
pub const USER_DATA: u64 = 0x2b;
/// Flags that every user thread has: interrupts on, and the bit that is always set.
pub const USER_FLAGS: u64 = 0x202;
/// Flags that a user may set: arithmetic, direction, trap, resume, alignment check, identification.
pub const USER_FLAGS_SETTABLE: u64 = 0x25_0dd5;
/// Bytes of the `syscall` instruction.
pub const SYSCALL_LENGTH: u64 = 2;
/// Vector of the timer.
pub const TIMER_VECTOR: u8 = 0xf0;

/// Whether an address may be a segment base or instruction pointer of a user.
pub const fn is_user_base(address: u64) -> bool {
    address < crate::object::address_space::USER_END
}
