//! The communication region: one page that the hypervisor fills at each start of a cell, and through which both
//! talk afterwards (revision 2).
//!
//! The cell answers a message so: clear `msg_to_cell`, fence, then write `reply_from_cell`.
//! All fields are shared with another realm: access them volatile, at the offsets given here.

use zerocopy::little_endian::{U16, U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use crate::config::Console;

/// First bytes of the region.
pub const SIGNATURE: [u8; 6] = *b"JHCOMM";
/// Revision described here.
pub const REVISION: u16 = 2;
/// Size of the region.
pub const SIZE: usize = 4096;

/// Bit of `flags`: the cell may use the console hypercall.
pub const FLAG_PUTC_PERMITTED: u32 = 1 << 0;
/// Bit of `flags`: the console hypercall is the console to use.
pub const FLAG_PUTC_ACTIVE: u32 = 1 << 1;

/// Used part of the region.
#[derive(Clone, Copy, Debug, Default, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct CommRegion {
    /// [`SIGNATURE`].
    pub signature: [u8; 6],
    /// [`REVISION`].
    pub revision: U16,
    /// [`CellState`], written by the cell.
    pub cell_state: U32,
    /// [`Message`], written by the hypervisor, cleared by the cell.
    pub msg_to_cell: U32,
    /// [`Reply`], written by the cell.
    pub reply_from_cell: U32,
    /// [`FLAG_PUTC_PERMITTED`] and [`FLAG_PUTC_ACTIVE`].
    pub flags: U32,
    /// The console that the configuration gives the cell.
    pub console: Console,
    /// Base of the memory-mapped configuration space, 0 if none.
    pub pci_mmconfig_base: U64,
    /// I/O port of the ACPI power management timer.
    pub pm_timer_address: U16,
    /// Number of CPUs of the cell.
    pub num_cpus: U16,
    /// Rate of the time stamp counter.
    pub tsc_khz: U32,
    /// Rate of the local APIC timer before its divider.
    pub apic_khz: U32,
}

/// Offsets of the fields, for volatile accesses.
pub mod offset {
    use super::CommRegion;
    use core::mem::offset_of;

    /// `revision`, u16.
    pub const REVISION: usize = offset_of!(CommRegion, revision);
    /// `cell_state`, u32.
    pub const CELL_STATE: usize = offset_of!(CommRegion, cell_state);
    /// `msg_to_cell`, u32.
    pub const MSG_TO_CELL: usize = offset_of!(CommRegion, msg_to_cell);
    /// `reply_from_cell`, u32.
    pub const REPLY_FROM_CELL: usize = offset_of!(CommRegion, reply_from_cell);
    /// `flags`, u32.
    pub const FLAGS: usize = offset_of!(CommRegion, flags);
    /// `console`, 32 bytes.
    pub const CONSOLE: usize = offset_of!(CommRegion, console);
    /// `pci_mmconfig_base`, u64.
    pub const PCI_MMCONFIG_BASE: usize = offset_of!(CommRegion, pci_mmconfig_base);
    /// `pm_timer_address`, u16.
    pub const PM_TIMER_ADDRESS: usize = offset_of!(CommRegion, pm_timer_address);
    /// `num_cpus`, u16.
    pub const NUM_CPUS: usize = offset_of!(CommRegion, num_cpus);
    /// `tsc_khz`, u32.
    pub const TSC_KHZ: usize = offset_of!(CommRegion, tsc_khz);
    /// `apic_khz`, u32.
    pub const APIC_KHZ: usize = offset_of!(CommRegion, apic_khz);
}

const _: () = assert!(size_of::<CommRegion>() == 0x4c);
const _: () = assert!(offset::CELL_STATE == 0x08 && offset::MSG_TO_CELL == 0x0c && offset::REPLY_FROM_CELL == 0x10);
const _: () = assert!(offset::CONSOLE == 0x18 && offset::PCI_MMCONFIG_BASE == 0x38);
const _: () = assert!(offset::PM_TIMER_ADDRESS == 0x40 && offset::TSC_KHZ == 0x44 && offset::APIC_KHZ == 0x48);

/// What a cell says of itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum CellState {
    /// Runs; may be shut down.
    Running = 0,
    /// Runs, and wants no other cell created or destroyed.
    RunningLocked = 1,
    /// Has shut itself down.
    ShutDown = 2,
    /// Has failed, or was stopped by the hypervisor.
    Failed = 3,
    /// Does not know this revision of the communication region.
    FailedCommRevision = 4,
}

impl CellState {
    /// The state with this number; a cell may write anything, so an unknown one is a failed cell.
    #[must_use]
    pub const fn from_code(code: u32) -> Self {
        match code {
            0 => Self::Running,
            1 => Self::RunningLocked,
            2 => Self::ShutDown,
            4 => Self::FailedCommRevision,
            _ => Self::Failed,
        }
    }

    /// Whether the cell stays like this until it is started again.
    #[must_use]
    pub const fn is_terminal(self) -> bool {
        matches!(self, Self::ShutDown | Self::Failed | Self::FailedCommRevision)
    }

    /// Name for listings.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Running => "running",
            Self::RunningLocked => "running/locked",
            Self::ShutDown => "shut down",
            Self::Failed => "failed",
            Self::FailedCommRevision => "failed (comm revision)",
        }
    }
}

/// What the hypervisor tells a cell.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum Message {
    /// Nothing.
    None = 0,
    /// May you be shut down? (approve or deny)
    ShutdownRequest = 1,
    /// Cells were created or destroyed. (acknowledge)
    ReconfigCompleted = 2,
}

/// What a cell answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum Reply {
    /// Nothing yet.
    None = 0,
    /// I do not know that message.
    Unknown = 1,
    /// No.
    RequestDenied = 2,
    /// Yes.
    RequestApproved = 3,
    /// Acknowledged.
    Received = 4,
}

impl Reply {
    /// The reply with this number; anything strange counts as [`Reply::Unknown`].
    #[must_use]
    pub const fn from_code(code: u32) -> Self {
        match code {
            0 => Self::None,
            2 => Self::RequestDenied,
            3 => Self::RequestApproved,
            4 => Self::Received,
            _ => Self::Unknown,
        }
    }
}

/// Why a cell should not use the region it found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CommError {
    /// No signature: there is no region here.
    Signature,
    /// A revision other than [`REVISION`].
    Revision(u16),
}

impl CommRegion {
    /// A region as at the start of a cell, before the hypervisor fills in the facts.
    #[must_use]
    pub fn new() -> Self {
        Self { signature: SIGNATURE, revision: U16::new(REVISION), ..Self::default() }
    }

    /// Checks signature and revision, as a cell must before it believes the rest.
    pub fn check(&self) -> Result<(), CommError> {
        if self.signature != SIGNATURE {
            return Err(CommError::Signature);
        }
        if self.revision.get() != REVISION {
            return Err(CommError::Revision(self.revision.get()));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn new_region_passes_its_own_check() {
        let region = CommRegion::new();
        assert_eq!(region.check(), Ok(()));
        assert_eq!(&region.as_bytes()[..8], b"JHCOMM\x02\x00");
    }

    #[test]
    fn strangers_are_refused() {
        assert_eq!(CommRegion::default().check(), Err(CommError::Signature));
        let mut region = CommRegion::new();
        region.revision = U16::new(1);
        assert_eq!(region.check(), Err(CommError::Revision(1)));
    }

    #[test]
    fn a_cell_cannot_invent_states() {
        assert_eq!(CellState::from_code(0xffff_ffff), CellState::Failed);
        assert!(CellState::from_code(7).is_terminal());
        assert!(!CellState::RunningLocked.is_terminal());
        assert_eq!(Reply::from_code(99), Reply::Unknown);
    }
}
