//! Binary configurations of systems and cells: reading any that we know, in words, and converting old ones.

pub mod describe;
pub mod old;

#[cfg(test)]
pub mod fixtures;

use std::path::Path;

use anyhow::{Context, Result, anyhow};
use hypervisor_abi::config::{CellConfig, OLD_CELL_SIGNATURE, OLD_SYSTEM_SIGNATURE, SYSTEM_SIGNATURE, SystemConfig};

/// A configuration of either kind.
#[derive(Clone, Copy)]
pub enum Config<'a> {
    /// Of the machine and its root cell.
    System(SystemConfig<'a>),
    /// Of a cell.
    Cell(CellConfig<'a>),
}

impl<'a> Config<'a> {
    /// Reads one.
    pub fn parse(bytes: &'a [u8]) -> Result<Self> {
        let fail = |error| anyhow!("{error}");
        if bytes.starts_with(&SYSTEM_SIGNATURE) {
            return SystemConfig::parse(bytes).map(Self::System).map_err(fail);
        }
        CellConfig::parse(bytes).map(Self::Cell).map_err(fail)
    }
}

/// The bytes of a configuration file, converted if it is an old one. Whether it was.
pub fn read(path: &Path) -> Result<(Vec<u8>, bool)> {
    let bytes = std::fs::read(path).with_context(|| format!("cannot read {}", path.display()))?;
    let is_old = bytes.starts_with(&OLD_CELL_SIGNATURE) || bytes.starts_with(&OLD_SYSTEM_SIGNATURE);
    if !is_old {
        return Ok((bytes, false));
    }
    let converted = old::convert(&bytes).with_context(|| path.display().to_string())?;
    Ok((converted, true))
}
