//! The permission bitmaps: a set bit is an exit.

use crate::units::msr::{RANGES, Rights};

/// Pages of the port bitmap (65536 bits, and a few more for accesses that cross the end).
pub const PORT_PAGES: usize = 3;
/// Pages of the MSR bitmap.
pub const MSR_PAGES: usize = 2;

/// Fills an MSR bitmap (two bits a register: read, write; 2 KiB a range).
pub fn fill_msr(bitmap: &mut [u8], rights: impl Fn(u32) -> Rights) {
    bitmap.fill(0xff);
    for (range, base) in RANGES.into_iter().zip([0, 0x800, 0x1000]) {
        for (n, msr) in range.enumerate() {
            let rights = rights(msr);
            let allowed = u8::from(rights.read) | u8::from(rights.write) << 1;
            bitmap[base + n / 4] &= !(allowed << (n % 4 * 2));
        }
    }
}

/// Lets a cell access `count` ports, or catches them.
pub fn set_ports(bitmap: &mut [u8], first: u16, count: u16, allowed: bool) {
    for port in usize::from(first)..usize::from(first) + usize::from(count) {
        let Some(byte) = bitmap.get_mut(port / 8) else { return };
        if allowed {
            *byte &= !(1 << (port % 8));
        } else {
            *byte |= 1 << (port % 8);
        }
    }
}

/// Whether accesses to `port` are caught.
#[must_use]
pub fn port_caught(bitmap: &[u8], port: u16) -> bool {
    bitmap[usize::from(port) / 8] & (1 << (port % 8)) != 0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn msr_bits_are_where_the_manual_says() {
        let mut bitmap = [0; 8192];
        fill_msr(&mut bitmap, |msr| Rights { read: msr != 0xc000_0080, write: msr != 0x1b && msr != 0xc000_0080 });
        assert_eq!(bitmap[0x1b / 4], 2 << (0x1b % 4 * 2));
        assert_eq!(bitmap[0x800 + 0x80 / 4], 3);
        assert_eq!(bitmap[0x1000], 0);
        assert!(bitmap[0x1800..].iter().all(|&byte| byte == 0xff));
    }

    #[test]
    fn ports() {
        let mut bitmap = [0xff; 4096 * PORT_PAGES];
        set_ports(&mut bitmap, 0x3f8, 8, true);
        assert!(!port_caught(&bitmap, 0x3f8) && !port_caught(&bitmap, 0x3ff) && port_caught(&bitmap, 0x400));
        set_ports(&mut bitmap, 0x3fb, 1, false);
        assert!(port_caught(&bitmap, 0x3fb) && !port_caught(&bitmap, 0x3fa));
        set_ports(&mut bitmap, 0xffff, 0xffff, true);
        assert!(!port_caught(&bitmap, 0xffff));
    }
}
