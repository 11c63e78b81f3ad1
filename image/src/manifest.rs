//! The manifest as written: TOML in which an unknown field is an error.
//!
//! Every field is described in `docs/manifest.md`. Names and numbers that a check may object to carry their span.

use std::collections::BTreeMap;
use std::path::Path;

use serde::Deserialize;
use toml::Spanned;

use crate::diagnostic::{Diagnostic, Diagnostics};
use crate::units::Size;

mod devices;
mod grants;

pub use devices::{Ivshmem, Pci, PciBar, PciMsix, PciPorts};
pub use grants::{Access, Call, IrqGrant, MemoryGrant, NotificationGrant, PortGrant, Signal};

/// Largest manifest that is read.
pub const MAX_BYTES: u64 = 1 << 20;

/// The text of a manifest and where it came from.
#[derive(Clone, Debug)]
pub struct Source {
    /// File name, as in messages.
    pub name: String,
    /// The text.
    pub text: String,
}

impl Source {
    /// Reads a file.
    pub fn read(path: &Path) -> Result<Self, Diagnostics> {
        let name = path.display().to_string();
        let fail = |message: String| Diagnostics::of(&name, message, "give the path of a manifest");
        let size = std::fs::metadata(path).map_err(|e| fail(format!("cannot read the manifest: {e}")))?.len();
        if size > MAX_BYTES {
            return Err(fail(format!("is {size} bytes long, which no manifest is")));
        }
        let text = std::fs::read_to_string(path).map_err(|e| fail(format!("cannot read the manifest: {e}")))?;
        Ok(Self { name, text })
    }

    /// The line (from 1) of a byte offset.
    pub fn line(&self, offset: usize) -> usize {
        1 + self.text.bytes().take(offset).filter(|b| *b == b'\n').count()
    }
}

/// A table whose keys are names of the manifest's author.
pub type Named<T> = BTreeMap<Spanned<String>, T>;

/// A manifest.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Manifest {
    /// `[system]`.
    pub system: System,
    /// `[cell]`.
    pub cell: Cell,
    /// `[ivshmem.NAME]`.
    #[serde(default)]
    pub ivshmem: Named<Ivshmem>,
    /// `[pci.NAME]`.
    #[serde(default)]
    pub pci: Named<Pci>,
    /// `[memory.NAME]`.
    #[serde(default)]
    pub memory: Named<Region>,
    /// `[init]`.
    pub init: Init,
    /// `notifications`, in `[system]`'s place for those that belong to nobody.
    #[serde(default)]
    pub notifications: Vec<Spanned<String>>,
    /// `[[server]]`.
    #[serde(default, rename = "server")]
    pub servers: Vec<Server>,
    /// `[linux]`.
    pub linux: Option<Linux>,
}

/// The system as a whole.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct System {
    /// Its name.
    pub name: Spanned<String>,
    /// Most bytes that the image may have.
    pub image_limit: Option<Spanned<Size>>,
    /// What the processor does while it has nothing to do.
    #[serde(default)]
    pub idle: Idle,
}

/// What a processor does while it has nothing to do.
#[derive(Clone, Copy, Debug, Default, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "kebab-case")]
pub enum Idle {
    /// It waits for an interrupt.
    #[default]
    Halt,
    /// It looks at the time, again and again.
    Poll,
}

/// The cell that it runs in.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Cell {
    /// Its name.
    pub name: Spanned<String>,
    /// Processors.
    #[serde(default = "one")]
    pub cpus: Spanned<u32>,
    /// Memory of the hypervisor itself.
    pub hypervisor_memory: Spanned<MachineRange>,
    /// RAM of the cell that no other realm can reach while it runs.
    pub private: Spanned<CellRange>,
    /// Guest-physical address of the communication region.
    pub comm_region: Spanned<u64>,
    /// Port of the ACPI power management timer.
    pub pm_timer: Spanned<u16>,
    /// Memory-mapped PCI configuration space.
    pub mmconfig: Option<Spanned<Mmconfig>>,
    /// I/O port of the UART that the hypervisor writes to.
    pub debug_console: Option<Spanned<u16>>,
    /// What Linux does when the cell has failed.
    #[serde(default)]
    pub restart: Spanned0<Restart>,
}

fn one() -> Spanned<u32> {
    Spanned::new(0..0, 1)
}

/// Memory of the machine.
#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MachineRange {
    /// Machine address.
    pub physical: u64,
    /// Bytes.
    pub size: Size,
}

/// Memory of the machine that the cell sees.
#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CellRange {
    /// Machine address.
    pub physical: u64,
    /// Guest-physical address.
    pub guest: u64,
    /// Bytes.
    pub size: Size,
}

/// Memory-mapped PCI configuration space.
#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Mmconfig {
    /// Machine address of bus 0.
    pub base: u64,
    /// Last bus.
    pub end_bus: u8,
}

/// A value with its span, or the default without one.
#[derive(Clone, Debug, Deserialize)]
#[serde(transparent)]
pub struct Spanned0<T>(pub Spanned<T>);

impl<T: Default> Default for Spanned0<T> {
    fn default() -> Self {
        Self(Spanned::new(0..0, T::default()))
    }
}

/// A piece of memory with a name, that servers can be given.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Region {
    /// The section of a shared memory device that it lies in (`DEVICE.SECTION`); absent for private memory.
    pub section: Option<Spanned<String>>,
    /// A part of the section that the protocol of the device defines.
    pub part: Option<Spanned<String>>,
    /// First byte in the section.
    pub offset: Option<Spanned<Size>>,
    /// Bytes; to the end of the section if absent.
    pub size: Option<Spanned<Size>>,
}

/// The first process.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Init {
    /// File name of its program.
    #[serde(default = "init_binary")]
    pub binary: Spanned<String>,
    /// Bytes of its stack.
    pub stack: Spanned<Size>,
    /// Bytes of its heap.
    pub heap: Spanned<Size>,
    /// Its priority.
    pub priority: Spanned<u8>,
    /// Linux may order servers to crash: for tests.
    #[serde(default)]
    pub crash_on_order: Spanned0<bool>,
}

fn init_binary() -> Spanned<String> {
    Spanned::new(0..0, "init".to_owned())
}

/// A server.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Server {
    /// Its name.
    pub name: Spanned<String>,
    /// File name of its program; its name if absent.
    pub binary: Option<Spanned<String>>,
    /// Priority, 0–254.
    pub priority: Spanned<u8>,
    /// The highest priority that it may give to threads of its own; absent: its priority, or 0 if it has a budget.
    pub ceiling: Option<Spanned<u8>>,
    /// Processor time per period, in microseconds; absent: as much as it likes.
    pub budget_us: Option<Spanned<u64>>,
    /// The period, in microseconds.
    pub period_us: Option<Spanned<u64>>,
    /// The time after its release by which it must have used its budget, in microseconds.
    pub deadline_us: Option<Spanned<u64>>,
    /// Bytes of its stack.
    pub stack: Spanned<Size>,
    /// Bytes of its heap.
    #[serde(default = "heap")]
    pub heap: Spanned0<Size>,
    /// Bytes of memory for kernel objects of its own.
    #[serde(default)]
    pub untyped: Spanned0<Size>,
    /// Slots of its capability table.
    pub cap_slots: Option<Spanned<u32>>,
    /// Bytes that survive it.
    #[serde(default)]
    pub vault: Spanned0<Size>,
    /// What happens when it dies.
    #[serde(default)]
    pub restart: Spanned0<Restart>,
    /// Priority at which a new instance is made; its own, but no real-time program's, if absent.
    pub rebuild_priority: Option<Spanned<u8>>,
    /// Arguments.
    #[serde(default)]
    pub args: Vec<Spanned<String>>,
    /// May write to the kernel's console.
    #[serde(default)]
    pub console: bool,
    /// May end the system.
    #[serde(default)]
    pub halt: Spanned0<bool>,
    /// Whom it may call.
    #[serde(default)]
    pub calls: Vec<Spanned<Call>>,
    /// Memory it is given.
    #[serde(default)]
    pub memory: Vec<Spanned<MemoryGrant>>,
    /// Interrupts it is given.
    #[serde(default)]
    pub irqs: Vec<Spanned<IrqGrant>>,
    /// Servers whose own notification it may signal.
    #[serde(default)]
    pub signals: Vec<Spanned<Signal>>,
    /// Notifications of `notifications` that it may signal or wait for.
    #[serde(default)]
    pub notifications: Vec<Spanned<NotificationGrant>>,
    /// I/O ports it is given.
    #[serde(default)]
    pub ports: Vec<Spanned<PortGrant>>,
}

impl Server {
    /// The highest priority that it may give to threads of its own. What it makes has no budget, so one that has a budget may only use
    /// what nobody else wants.
    pub fn ceiling(&self) -> u8 {
        let own = if self.budget_us.is_some() { 0 } else { *self.priority.get_ref() };
        self.ceiling.as_ref().map_or(own, |ceiling| *ceiling.get_ref())
    }
}

/// The heap that a server needs at least: it decodes its start information there.
pub const LEAST_HEAP: u64 = 64 << 10;

fn heap() -> Spanned0<Size> {
    Spanned0(Spanned::new(0..0, Size(LEAST_HEAP)))
}

/// What happens when a server dies, or the cell fails.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(untagged, expecting = "expected \"never\", \"always\", \"escalate\" or { times = N, window_ms = N }")]
pub enum Restart {
    /// One word.
    Word(RestartWord),
    /// At most `times` within `window_ms`.
    Limited(RestartLimit),
    /// Not given.
    #[default]
    #[serde(skip)]
    Unset,
}

/// A restart policy in a word.
#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum RestartWord {
    /// It stays dead.
    Never,
    /// It is started again each time.
    Always,
    /// The whole system fails.
    Escalate,
}

/// A restart policy with a limit.
#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RestartLimit {
    /// Restarts in the window.
    pub times: u32,
    /// The window in milliseconds.
    pub window_ms: u64,
}

/// The Linux personality.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Linux {
    /// The server that is the personality.
    pub server: Spanned<String>,
    /// The server that forwarded calls go to.
    pub names: Spanned<String>,
    /// The region that applications' memory comes from.
    pub pool: Spanned<String>,
    /// Bytes of an application's first stack.
    pub stack: Spanned<Size>,
    /// Classes of calls that go to Linux; all if absent.
    pub forwarded: Option<Vec<Spanned<String>>>,
}

impl Manifest {
    /// Reads the text. Finds what TOML and the shape of the manifest forbid, not yet what the checks forbid.
    pub fn parse(source: &Source) -> Result<Self, Diagnostics> {
        toml::from_str(&source.text).map_err(|error| {
            Diagnostic {
                file: source.name.clone(),
                line: error.span().map_or(0, |span| source.line(span.start)),
                message: error.message().trim().replace('\n', " "),
                cure: "docs/manifest.md describes every field".to_owned(),
            }
            .into()
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<Manifest, Diagnostics> {
        Manifest::parse(&Source { name: "m.toml".to_owned(), text: text.to_owned() })
    }

    #[test]
    fn an_unknown_field_is_named_with_its_line() {
        let error = parse("[system]\nname = \"x\"\ncolour = 1\n").unwrap_err().to_string();
        assert!(error.starts_with("m.toml:3: unknown field `colour`"), "{error}");
    }

    #[test]
    fn a_restart_policy_that_is_none_is_explained() {
        type Policies = BTreeMap<String, Restart>;
        let error = toml::from_str::<Policies>("r = \"sometimes\"").unwrap_err();
        assert!(error.message().contains("\"never\", \"always\""), "{}", error.message());
    }
}
