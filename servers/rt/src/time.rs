//! Time: the time-stamp counter, and deadlines in it.
#![allow(unsafe_code)] // The instruction that reads the counter.

/// The time-stamp counter.
pub fn now() -> u64 {
    // SAFETY: reading the counter has no effect on memory and is allowed in user mode.
    unsafe { core::arch::x86_64::_rdtsc() }
}

/// Ticks in so many microseconds.
pub fn microseconds(us: u64, tsc_khz: u64) -> u64 {
    (u128::from(us) * u128::from(tsc_khz) / 1000).try_into().unwrap_or(u64::MAX)
}

/// Ticks in so many milliseconds.
pub fn milliseconds(ms: u64, tsc_khz: u64) -> u64 {
    ms.saturating_mul(tsc_khz)
}

#[cfg(test)]
mod tests {
    #[test]
    fn conversions_do_not_overflow() {
        assert_eq!(super::microseconds(1_500, 2_000_000), 3_000_000);
        assert_eq!(super::microseconds(u64::MAX, u64::MAX), u64::MAX);
        assert_eq!(super::milliseconds(10, 2_000_000), 20_000_000);
    }
}
