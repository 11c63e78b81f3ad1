//! Quantities as people write them in a manifest: `4096`, `"64 KiB"`, `"00:0e.0"`.

use std::fmt;

use serde::de::{Deserializer, Error, Visitor};
use serde::{Deserialize, Serialize, Serializer};

/// A number of bytes: an integer, or a string with a unit (`B`, `KiB`, `MiB`, `GiB`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Size(pub u64);

impl fmt::Display for Size {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (unit, shift) in [("GiB", 30), ("MiB", 20), ("KiB", 10)] {
            if self.0 >= 1 << shift && self.0.is_multiple_of(1 << shift) {
                return write!(f, "{} {unit}", self.0 >> shift);
            }
        }
        write!(f, "{} B", self.0)
    }
}

/// Reads `"64 KiB"`.
pub fn parse_size(text: &str) -> Option<u64> {
    let text = text.trim();
    let digits = text.len() - text.trim_start_matches(|c: char| c.is_ascii_digit() || c == '_').len();
    let (number, unit) = text.split_at(digits);
    let number: u64 = number.replace('_', "").parse().ok()?;
    let shift = match unit.trim() {
        "B" => 0,
        "KiB" => 10,
        "MiB" => 20,
        "GiB" => 30,
        _ => return None,
    };
    number.checked_mul(1 << shift)
}

impl<'de> Deserialize<'de> for Size {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Reader;
        impl Visitor<'_> for Reader {
            type Value = Size;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a number of bytes, or a string such as \"64 KiB\"")
            }
            fn visit_i64<E: Error>(self, value: i64) -> Result<Size, E> {
                u64::try_from(value).map(Size).map_err(|_| E::custom("a size cannot be negative"))
            }
            fn visit_u64<E: Error>(self, value: u64) -> Result<Size, E> {
                Ok(Size(value))
            }
            fn visit_str<E: Error>(self, text: &str) -> Result<Size, E> {
                parse_size(text).map(Size).ok_or_else(|| {
                    E::custom(format_args!("\"{text}\" is not a size: write a number and B, KiB, MiB or GiB"))
                })
            }
        }
        deserializer.deserialize_any(Reader)
    }
}

impl Serialize for Size {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

/// Bus, device and function of a PCI function, written `"00:0e.0"`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Bdf(pub u16);

impl fmt::Display for Bdf {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:02x}:{:02x}.{}", self.0 >> 8, self.0 >> 3 & 0x1f, self.0 & 7)
    }
}

impl std::str::FromStr for Bdf {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let parse = || {
            let (bus, rest) = text.split_once(':')?;
            let (device, function) = rest.split_once('.')?;
            let part = |text: &str, digits: usize, limit: u16| {
                let plain = text.len() == digits && text.bytes().all(|b| b.is_ascii_hexdigit());
                u16::from_str_radix(text, 16).ok().filter(|value| plain && *value < limit)
            };
            Some(Self(part(bus, 2, 256)? << 8 | part(device, 2, 32)? << 3 | part(function, 1, 8)?))
        };
        parse().ok_or_else(|| format!("\"{text}\" is not a PCI address: write bus:device.function, as in \"00:0e.0\""))
    }
}

impl<'de> Deserialize<'de> for Bdf {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(D::Error::custom)
    }
}

impl Serialize for Bdf {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

/// Vendor and device number of a PCI function, written `"8086:10d3"`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PciId {
    /// Vendor.
    pub vendor: u16,
    /// Device.
    pub device: u16,
}

impl fmt::Display for PciId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:04x}:{:04x}", self.vendor, self.device)
    }
}

impl<'de> Deserialize<'de> for PciId {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        let part = |text: &str| {
            let plain = text.len() == 4 && text.bytes().all(|b| b.is_ascii_hexdigit());
            u16::from_str_radix(text, 16).ok().filter(|_| plain)
        };
        let parts = text.split_once(':').and_then(|(vendor, device)| Some((part(vendor)?, part(device)?)));
        parts.map(|(vendor, device)| Self { vendor, device }).ok_or_else(|| {
            D::Error::custom(format_args!("\"{text}\" is not a PCI id: write vendor:device, as in \"8086:10d3\""))
        })
    }
}

/// The next multiple of a page, or `None` if there is none.
pub fn page_up(value: u64) -> Option<u64> {
    value.checked_next_multiple_of(4096)
}

/// Whether `value` is a multiple of a page.
pub fn is_paged(value: u64) -> bool {
    value.is_multiple_of(4096)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes() {
        assert_eq!(parse_size("64 KiB"), Some(65536));
        assert_eq!(parse_size("16MiB"), Some(16 << 20));
        assert_eq!(parse_size("1_024 B"), Some(1024));
        for bad in ["", "KiB", "4 KB", "-1 B", "99999999999999999999 B", "18446744073709551615 GiB", "1.5 MiB"] {
            assert_eq!(parse_size(bad), None, "{bad}");
        }
        assert_eq!(Size(0x0100_0000).to_string(), "16 MiB");
        assert_eq!(Size(4097).to_string(), "4097 B");
    }

    #[test]
    fn pci_addresses() {
        assert_eq!("00:0e.0".parse::<Bdf>(), Ok(Bdf(0x70)));
        assert_eq!("ff:1f.7".parse::<Bdf>(), Ok(Bdf(0xffff)));
        assert_eq!(Bdf(0x0208).to_string(), "02:01.0");
        for bad in ["", "0:0e.0", "00:20.0", "00:00.8", "00:0e", "00-0e.0", "00:+e.0"] {
            assert!(bad.parse::<Bdf>().is_err(), "{bad}");
        }
    }
}
