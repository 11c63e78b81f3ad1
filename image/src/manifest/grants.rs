//! What a server holds besides its own memory.

use serde::Deserialize;
use toml::Spanned;

use super::{Manifest, Spanned0};

/// The right to call a server.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Call {
    /// The name that the holder finds it by; the server's name if absent.
    pub name: Option<Spanned<String>>,
    /// The server called.
    pub to: Spanned<String>,
    /// The badge that the server called sees.
    pub badge: Spanned<u64>,
    /// May send capabilities along.
    #[serde(default)]
    pub grant: bool,
}

/// Memory given to a server.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MemoryGrant {
    /// The name that the holder finds it by; the region's name if absent.
    pub name: Option<Spanned<String>>,
    /// The region.
    pub region: Spanned<String>,
    /// How it is mapped.
    pub access: Spanned<Access>,
    /// The capability may map executable pages elsewhere (application memory).
    #[serde(default)]
    pub executable: Spanned0<bool>,
}

/// How memory may be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Access {
    /// Read.
    R,
    /// Read and write.
    Rw,
    /// Read and execute.
    Rx,
    /// Write and execute together: never granted; there so that the refusal can say why.
    Rwx,
}

/// An interrupt given to a server.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct IrqGrant {
    /// The name that the holder finds it by.
    pub name: Spanned<String>,
    /// The device.
    pub device: Spanned<String>,
    /// MSI-X vector.
    pub vector: Spanned<u16>,
    /// Bits that it sets in the holder's own notification.
    pub bits: Spanned<u64>,
}

/// The right to signal a server's own notification.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Signal {
    /// The name that the holder finds it by; the server's name if absent.
    pub name: Option<Spanned<String>>,
    /// The server signalled.
    pub to: Spanned<String>,
    /// Bits that a signal sets.
    pub bits: Spanned<u64>,
}

/// A notification given to a server.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NotificationGrant {
    /// The notification.
    pub name: Spanned<String>,
    /// Bits that a signal sets; absent: the holder waits for it.
    pub bits: Option<Spanned<u64>>,
}

/// I/O ports given to a server.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PortGrant {
    /// The name that the holder finds them by.
    pub name: Spanned<String>,
    /// The ports of a device: `DEVICE.barN`.
    pub section: Option<Spanned<String>>,
    /// Or: first port.
    pub first: Option<Spanned<u16>>,
    /// And how many.
    pub count: Option<Spanned<u16>>,
}

impl PortGrant {
    /// First port and how many, if they are given one way or the other, and not both.
    pub fn range(&self, manifest: &Manifest) -> Option<(u16, u16)> {
        match (&self.section, &self.first, &self.count) {
            (None, Some(first), Some(count)) => Some((*first.get_ref(), *count.get_ref())),
            (Some(section), None, None) => {
                let (device, bar) = section.get_ref().split_once('.')?;
                let (_, device) = manifest.pci.iter().find(|(name, _)| name.get_ref() == device)?;
                let mut ports = device.ports.iter().map(Spanned::get_ref);
                ports.find(|ports| bar == format!("bar{}", ports.bar)).map(|ports| (ports.first, ports.count))
            }
            _ => None,
        }
    }
}
