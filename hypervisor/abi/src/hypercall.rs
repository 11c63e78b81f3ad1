//! Hypercalls: numbers, arguments, results.
//!
//! `vmcall` on Intel, `vmmcall` on AMD, both three bytes long: code in EAX, arguments in RDI and RSI (EDI and
//! ESI outside 64-bit mode), result in EAX: zero or positive on success, a negative [`Error`] otherwise. Only
//! privilege level 0 may call; from other levels the instruction is an undefined opcode.

/// Length of the `vmcall` and `vmmcall` instructions.
pub const INSTRUCTION_LEN: u64 = 3;

/// What can be asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum Hypercall {
    /// Leave: called on every CPU of the root cell when no other cell exists.
    Disable = 0,
    /// Make a cell. RDI: guest-physical address of its configuration. Result: the cell's id.
    CellCreate = 1,
    /// Start a cell. RDI: id.
    CellStart = 2,
    /// Stop a cell and map its loadable regions to the root cell. RDI: id.
    CellSetLoadable = 3,
    /// Destroy a cell and give its resources back. RDI: id.
    CellDestroy = 4,
    /// Figures about the hypervisor. RDI: an [`InfoType`].
    HypervisorGetInfo = 5,
    /// A cell's [`crate::comm::CellState`]. RDI: id.
    CellGetState = 6,
    /// State and exit counts of a CPU. RDI: CPU, RSI: [`CPU_INFO_STATE`] or a [`CpuStat`] code.
    CpuGetInfo = 7,
    /// Write a character to the hypervisor's console. RDI: the character. Needs the permission flag of the cell.
    DebugConsolePutc = 8,
}

impl Hypercall {
    /// The call with this number.
    #[must_use]
    pub const fn from_code(code: u32) -> Option<Self> {
        Some(match code {
            0 => Self::Disable,
            1 => Self::CellCreate,
            2 => Self::CellStart,
            3 => Self::CellSetLoadable,
            4 => Self::CellDestroy,
            5 => Self::HypervisorGetInfo,
            6 => Self::CellGetState,
            7 => Self::CpuGetInfo,
            8 => Self::DebugConsolePutc,
            _ => return None,
        })
    }

    /// The call's number.
    #[must_use]
    pub const fn code(self) -> u32 {
        self as u32
    }

    /// Whether only the root cell may make the call (for [`Hypercall::CpuGetInfo`] a cell may ask about its own CPUs).
    #[must_use]
    pub const fn root_only(self) -> bool {
        !matches!(self, Self::HypervisorGetInfo | Self::CpuGetInfo | Self::DebugConsolePutc)
    }
}

/// Why a call was refused; the result is the negated number (Linux's numbers).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(i32)]
pub enum Error {
    /// Not allowed from this cell, or another cell is locked.
    NotPermitted = 1,
    /// No such cell.
    NoEntry = 2,
    /// Input or output failed.
    Io = 5,
    /// The configuration is too big.
    TooBig = 7,
    /// The memory pool is used up.
    NoMemory = 12,
    /// A CPU or the hypervisor is in use.
    Busy = 16,
    /// A cell with this name or id exists.
    Exists = 17,
    /// The machine lacks something that is needed.
    NoDevice = 19,
    /// A wrong argument or configuration.
    Invalid = 22,
    /// A value out of range.
    Range = 34,
    /// No such call.
    NoSystemCall = 38,
}

impl Error {
    /// The value to return in EAX.
    #[must_use]
    pub const fn code(self) -> i32 {
        -(self as i32)
    }

    /// The error behind a negative result; `None` for success and for numbers that are not ours.
    #[must_use]
    pub const fn from_code(code: i32) -> Option<Self> {
        Some(match code {
            -1 => Self::NotPermitted,
            -2 => Self::NoEntry,
            -5 => Self::Io,
            -7 => Self::TooBig,
            -12 => Self::NoMemory,
            -16 => Self::Busy,
            -17 => Self::Exists,
            -19 => Self::NoDevice,
            -22 => Self::Invalid,
            -34 => Self::Range,
            -38 => Self::NoSystemCall,
            _ => return None,
        })
    }

    /// One sentence for a user.
    #[must_use]
    pub const fn reason(self) -> &'static str {
        match self {
            Self::NotPermitted => {
                "not permitted: only the root cell may do this, and only while no other cell is locked"
            }
            Self::NoEntry => "no such cell",
            Self::Io => "input/output error",
            Self::TooBig => "the cell configuration is too big",
            Self::NoMemory => "the hypervisor's memory is used up: raise the size of hypervisor_memory",
            Self::Busy => "a CPU or another resource of the cell is in use",
            Self::Exists => "a cell with this name or id exists already",
            Self::NoDevice => "the machine lacks a feature that is needed",
            Self::Invalid => "the configuration or an argument is invalid: see the hypervisor's console",
            Self::Range => "a value is out of range",
            Self::NoSystemCall => "the hypervisor does not know this call",
        }
    }
}

impl core::fmt::Display for Error {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.write_str(self.reason())
    }
}

impl core::error::Error for Error {}

/// Argument of [`Hypercall::HypervisorGetInfo`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum InfoType {
    /// Pages in the memory pool.
    MemPoolSize = 0,
    /// Pages of it in use.
    MemPoolUsed = 1,
    /// Pages of address space for mappings.
    RemapPoolSize = 2,
    /// Pages of it in use.
    RemapPoolUsed = 3,
    /// Number of cells, the root cell included.
    NumCells = 4,
}

impl InfoType {
    /// The figure with this number.
    #[must_use]
    pub const fn from_code(code: u32) -> Option<Self> {
        Some(match code {
            0 => Self::MemPoolSize,
            1 => Self::MemPoolUsed,
            2 => Self::RemapPoolSize,
            3 => Self::RemapPoolUsed,
            4 => Self::NumCells,
            _ => return None,
        })
    }
}

/// Second argument of [`Hypercall::CpuGetInfo`]: ask for the state.
pub const CPU_INFO_STATE: u32 = 0;
/// Second argument of [`Hypercall::CpuGetInfo`]: the first [`CpuStat`].
pub const CPU_INFO_STAT_BASE: u32 = 1000;
/// State of a CPU that runs (or waits).
pub const CPU_RUNNING: i32 = 0;
/// State of a CPU that was stopped for a fault of its cell.
pub const CPU_FAILED: i32 = 2;

/// What is counted for each CPU since its cell was created.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum CpuStat {
    /// All exits from guest mode.
    Total = 0,
    /// Emulated memory accesses.
    Mmio = 1,
    /// Kicks by the hypervisor itself (suspend, resume, shut down).
    Management = 2,
    /// Hypercalls.
    Hypercall = 3,
    /// Port accesses.
    Pio = 4,
    /// Accesses to the xAPIC page.
    Xapic = 5,
    /// Control register accesses.
    ControlRegister = 6,
    /// CPUID.
    Cpuid = 7,
    /// XSETBV.
    Xsetbv = 8,
    /// Exceptions.
    Exception = 9,
    /// MSR accesses but for the next.
    MsrOther = 10,
    /// Writes to the x2APIC interrupt command register.
    MsrX2apicIcr = 11,
}

impl CpuStat {
    /// Number of counters.
    pub const COUNT: usize = 12;
    /// All counters, in the order of their codes.
    pub const ALL: [Self; Self::COUNT] = [
        Self::Total,
        Self::Mmio,
        Self::Management,
        Self::Hypercall,
        Self::Pio,
        Self::Xapic,
        Self::ControlRegister,
        Self::Cpuid,
        Self::Xsetbv,
        Self::Exception,
        Self::MsrOther,
        Self::MsrX2apicIcr,
    ];

    /// The counter asked for by this second argument of [`Hypercall::CpuGetInfo`].
    #[must_use]
    pub fn from_code(code: u32) -> Option<Self> {
        Self::ALL.get(usize::try_from(code.checked_sub(CPU_INFO_STAT_BASE)?).ok()?).copied()
    }

    /// The second argument of [`Hypercall::CpuGetInfo`] that asks for this counter.
    #[must_use]
    pub const fn code(self) -> u32 {
        CPU_INFO_STAT_BASE + self as u32
    }

    /// Name for listings.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Total => "vmexits_total",
            Self::Mmio => "vmexits_mmio",
            Self::Management => "vmexits_management",
            Self::Hypercall => "vmexits_hypercall",
            Self::Pio => "vmexits_pio",
            Self::Xapic => "vmexits_xapic",
            Self::ControlRegister => "vmexits_cr",
            Self::Cpuid => "vmexits_cpuid",
            Self::Xsetbv => "vmexits_xsetbv",
            Self::Exception => "vmexits_exception",
            Self::MsrOther => "vmexits_msr_other",
            Self::MsrX2apicIcr => "vmexits_msr_x2apic_icr",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_round_trip() {
        for code in 0..=8 {
            assert_eq!(Hypercall::from_code(code).unwrap().code(), code);
        }
        assert_eq!(Hypercall::from_code(9), None);
        for code in -200..=200 {
            if let Some(error) = Error::from_code(code) {
                assert_eq!(error.code(), code);
            }
        }
        for (index, stat) in CpuStat::ALL.iter().enumerate() {
            assert_eq!(*stat as usize, index);
            assert_eq!(CpuStat::from_code(stat.code()), Some(*stat));
        }
        assert_eq!(CpuStat::from_code(999), None);
        assert_eq!(CpuStat::from_code(1012), None);
        assert_eq!(InfoType::from_code(4), Some(InfoType::NumCells));
        assert_eq!(InfoType::from_code(5), None);
    }

    #[test]
    fn only_harmless_calls_are_for_everyone() {
        assert!(Hypercall::Disable.root_only() && Hypercall::CellDestroy.root_only());
        assert!(!Hypercall::DebugConsolePutc.root_only());
    }
}
