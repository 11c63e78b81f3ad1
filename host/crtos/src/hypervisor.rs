//! `/dev/crtos`: what `host/driver/uapi.h` says, typed.

use std::fs::File;
use std::io::ErrorKind;
use std::os::fd::AsFd;

use anyhow::{Context, Result, anyhow, bail};
use hypervisor_abi::hypercall::Hypercall;
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use crate::sys;

/// The device node.
pub const NODE: &str = "/dev/crtos";

/// Bytes of a cell's name.
const NAME: usize = 32;
/// Number of the failure query.
const FAILURE: u32 = 0x100;

#[derive(Default, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
struct Enable {
    config: u64,
    config_size: u64,
    image: u64,
    image_size: u64,
}

#[derive(Default, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
struct CellCreate {
    config: u64,
    config_size: u32,
    padding: u32,
}

#[derive(Default, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
struct CellId {
    id: i32,
    padding: u32,
    name: [u8; NAME],
}

#[derive(Default, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
struct CellLoad {
    id: CellId,
    num_images: u32,
    padding: u32,
}

#[derive(IntoBytes, Immutable)]
#[repr(C)]
struct Image {
    source: u64,
    size: u64,
    target: u64,
    padding: u64,
}

#[derive(Default, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
struct Query {
    code: u32,
    padding: u32,
    arg1: u64,
    arg2: u64,
    result: i64,
}

#[derive(Default, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
struct MemoryRange {
    start: u64,
    size: u64,
}

#[derive(Default, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
struct CellConfiguration {
    id: CellId,
    buffer: u64,
    size: u64,
}

/// Why a cell was stopped.
#[derive(Clone, Copy, Debug, Default)]
pub struct Failure {
    /// Number of the reason; 0 if the hypervisor has none.
    pub reason: i64,
    /// CPU.
    pub cpu: u32,
    /// Instruction pointer.
    pub ip: u64,
    /// Base of the code segment.
    pub code_base: u64,
    /// What it wanted: guest-physical address, port, register, ...
    pub address: u64,
    /// More, by reason.
    pub detail: u64,
    /// First bytes of the instruction.
    pub code: [u8; 16],
}

/// A cell, as the driver lists it.
#[derive(Default, Clone, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct CellInfo {
    index: u32,
    /// Its id.
    pub id: i32,
    /// Hypercall 6.
    pub state: i32,
    /// How many CPUs it has.
    pub num_cpus: u32,
    name: [u8; NAME],
    cpu_mask: [u64; 4],
}

impl CellInfo {
    /// Its name.
    pub fn name(&self) -> String {
        let end = self.name.iter().position(|byte| *byte == 0).unwrap_or(NAME);
        String::from_utf8_lossy(&self.name[..end]).into_owned()
    }

    /// Its CPUs.
    pub fn cpus(&self) -> Vec<u32> {
        (0..256).filter(|cpu| self.cpu_mask[*cpu as usize / 64] >> (cpu % 64) & 1 == 1).collect()
    }
}

const ENABLE: u32 = sys::iow::<Enable>(0, 0x10);
const DISABLE: u32 = sys::io(0, 1);
const CELL_CREATE: u32 = sys::iow::<CellCreate>(0, 2);
const CELL_LOAD: u32 = sys::iow::<CellLoad>(0, 3);
const CELL_START: u32 = sys::iow::<CellId>(0, 4);
const CELL_DESTROY: u32 = sys::iow::<CellId>(0, 5);
const QUERY: u32 = sys::iowr::<Query>(0, 0x11);
const CELL_INFO: u32 = sys::iowr::<CellInfo>(0, 0x12);
const CELL_CONFIG: u32 = sys::iowr::<CellConfiguration>(0, 0x13);
const MEMORY_TAKE: u32 = sys::iow::<MemoryRange>(0, 0x14);
const MEMORY_GIVE: u32 = sys::iowr::<MemoryRange>(0, 0x15);
/// Most images that the driver loads at once.
const MAX_IMAGES: usize = 16;
/// Biggest configuration that the driver takes.
const MAX_CONFIG: usize = 1 << 16;

const _: () = {
    assert!(ENABLE == 0x4020_0010);
    assert!(CELL_CREATE == 0x4010_0002);
    assert!(CELL_LOAD == 0x4030_0003);
    assert!(CELL_START == 0x4028_0004);
    assert!(QUERY == 0xc020_0011);
    assert!(CELL_INFO == 0xc050_0012);
    assert!(CELL_CONFIG == 0xc038_0013);
    assert!(MEMORY_TAKE == 0x4010_0014);
    assert!(MEMORY_GIVE == 0xc010_0015);
};

/// Names a cell: a number is its id, everything else its name.
fn cell_id(cell: &str) -> Result<CellId> {
    if let Ok(id) = cell.parse() {
        return Ok(CellId { id, ..Default::default() });
    }
    let mut id = CellId { id: -1, ..Default::default() };
    if cell.is_empty() || cell.len() >= NAME {
        return Err(anyhow!("\"{cell}\" is no cell's name: a name has 1 to {} bytes", NAME - 1));
    }
    id.name[..cell.len()].copy_from_slice(cell.as_bytes());
    Ok(id)
}

fn errno(error: &std::io::Error) -> i32 {
    error.raw_os_error().unwrap_or(0)
}

const EPERM: i32 = 1;
const ENOENT: i32 = 2;
const EIO: i32 = 5;
const E2BIG: i32 = 7;
const ENOMEM: i32 = 12;
const EBUSY: i32 = 16;
const EEXIST: i32 = 17;
/// The driver answers this while the hypervisor is not enabled.
const ENXIO: i32 = 6;
const ENODEV: i32 = 19;
/// What every command says that needs it.
pub const NOT_ENABLED: &str = "the hypervisor is not enabled: run `crtos enable` first";
const EINVAL: i32 = 22;

/// The hypervisor, through its device node.
pub struct Hypervisor {
    node: File,
}

impl Hypervisor {
    /// Opens the device node.
    pub fn open() -> Result<Hypervisor> {
        match File::options().read(true).write(true).open(NODE) {
            Ok(node) => Ok(Hypervisor { node }),
            Err(error) if error.kind() == ErrorKind::NotFound => {
                Err(anyhow!("crtos.ko is not loaded: run `crtos enable` first"))
            }
            Err(error) if error.kind() == ErrorKind::PermissionDenied => {
                Err(anyhow!("no permission to open /dev/crtos: run this as root"))
            }
            Err(error) => Err(error).context("cannot open /dev/crtos"),
        }
    }

    /// Enters the hypervisor on all CPUs.
    pub fn enable(&self, config: &[u8], image: &[u8]) -> Result<()> {
        let mut arg = Enable {
            config: config.as_ptr() as u64,
            config_size: config.len() as u64,
            image: image.as_ptr() as u64,
            image_size: image.len() as u64,
        };
        sys::ioctl(self.node.as_fd(), ENABLE, &mut arg).map(|_| ()).map_err(|error| match errno(&error) {
            EBUSY => anyhow!(
                "the hypervisor is enabled already, or something else uses its memory or the processor's virtualisation (unload kvm_amd)"
            ),
            EINVAL => anyhow!("the driver does not accept the configuration or the hypervisor image; the kernel's log says why"),
            ENOMEM => anyhow!("the hypervisor's memory is too small: raise hypervisor_memory in the manifest"),
            ENODEV => anyhow!(
                "the processor has no AMD SVM with nested paging, or the firmware has switched it off: switch it on in the firmware's set-up"
            ),
            EIO => anyhow!("the hypervisor refused to start; its console and the kernel's log name the cause"),
            ENOENT => anyhow!("the hypervisor's memory is not reserved: boot Linux with the memmap= option that the manual gives"),
            _ => anyhow!("cannot enable the hypervisor: {error}"),
        })
    }

    /// Removes memory blocks from Linux.
    pub fn take_memory(&self, start: u64, size: u64) -> Result<()> {
        let mut range = MemoryRange { start, size };
        sys::ioctl(self.node.as_fd(), MEMORY_TAKE, &mut range).map(|_| ()).map_err(|error| match errno(&error) {
            EBUSY => anyhow!("memory is taken from Linux already, or Linux uses it again"),
            _ => anyhow!("the memory cannot be removed from Linux: {error}"),
        })
    }

    /// Adds them again, off line; start and size, which is 0 if none was taken.
    pub fn give_memory(&self) -> Result<(u64, u64)> {
        let mut range = MemoryRange::default();
        sys::ioctl(self.node.as_fd(), MEMORY_GIVE, &mut range)
            .map_err(|error| anyhow!("Linux does not take its memory back: {error}; the kernel's log may say more"))?;
        Ok((range.start, range.size))
    }

    /// Leaves it on all CPUs.
    pub fn disable(&self) -> Result<()> {
        sys::ioctl_none(self.node.as_fd(), DISABLE).map(|_| ()).map_err(|error| match errno(&error) {
            EBUSY => anyhow!("cells still exist: destroy them first (crtos cell destroy)"),
            EINVAL | ENXIO => anyhow!("the hypervisor is not enabled"),
            _ => anyhow!("cannot disable the hypervisor: {error}"),
        })
    }

    /// Makes a cell; gives its id.
    pub fn create(&self, config: &[u8]) -> Result<u64> {
        let mut arg =
            CellCreate { config: config.as_ptr() as u64, config_size: config.len() as u32, ..Default::default() };
        sys::ioctl(self.node.as_fd(), CELL_CREATE, &mut arg).map_err(|error| match errno(&error) {
            EBUSY => anyhow!(
                "a processor of the cell cannot be taken from Linux, or a cell is locked; the kernel's log says which"
            ),
            ENXIO => anyhow!("{NOT_ENABLED}"),
            EINVAL => anyhow!(
                "the cell's configuration is not accepted; the kernel's log and the hypervisor's console say why"
            ),
            EEXIST => anyhow!("a cell with this name exists already: destroy it first (crtos cell destroy)"),
            ENOMEM => anyhow!("the hypervisor has no memory left, or the cell wants memory that Linux does not own"),
            E2BIG => anyhow!("the cell's configuration is too big"),
            EPERM => anyhow!("a cell is locked, and lets nobody come or go until it is not"),
            _ => anyhow!("cannot create the cell: {error}"),
        })
    }

    /// Makes a cell loadable (which stops it) and copies images to guest-physical addresses.
    pub fn load(&self, cell: &str, images: &[(Vec<u8>, u64)]) -> Result<()> {
        if images.len() > MAX_IMAGES {
            bail!("no more than {MAX_IMAGES} images can be loaded at once");
        }
        let head = CellLoad { id: cell_id(cell)?, num_images: images.len() as u32, padding: 0 };
        let mut argument = head.as_bytes().to_vec();
        for (bytes, target) in images {
            let image = Image { source: bytes.as_ptr() as u64, size: bytes.len() as u64, target: *target, padding: 0 };
            argument.extend_from_slice(image.as_bytes());
        }
        self.cell_call(CELL_LOAD, &mut argument, cell, "load")
    }

    /// Stops a cell.
    pub fn shutdown(&self, cell: &str) -> Result<()> {
        let mut arg = CellLoad { id: cell_id(cell)?, ..Default::default() };
        self.cell_call(CELL_LOAD, arg.as_mut_bytes(), cell, "shut down")
    }

    /// Starts a loaded cell.
    pub fn start(&self, cell: &str) -> Result<()> {
        self.cell_call(CELL_START, cell_id(cell)?.as_mut_bytes(), cell, "start")
    }

    /// Destroys a cell; its CPUs come back.
    pub fn destroy(&self, cell: &str) -> Result<()> {
        self.cell_call(CELL_DESTROY, cell_id(cell)?.as_mut_bytes(), cell, "destroy")
    }

    fn cell_call(&self, number: u32, argument: &mut [u8], cell: &str, verb: &str) -> Result<()> {
        sys::ioctl_bytes(self.node.as_fd(), number, argument).map(|_| ()).map_err(|error| match errno(&error) {
            ENOENT => anyhow!("there is no cell \"{cell}\": create it first (crtos cell create)"),
            EPERM => anyhow!("cannot {verb} cell \"{cell}\": a cell is locked, or this one refuses"),
            ENXIO => anyhow!("{NOT_ENABLED}"),
            EBUSY => anyhow!(
                "cannot {verb} cell \"{cell}\": the machine's clocks could not be measured (crtos console); try again"
            ),
            EINVAL => anyhow!(
                "cannot {verb} cell \"{cell}\": not in its present state, or not with this image; see the kernel's log"
            ),
            _ => anyhow!("cannot {verb} cell \"{cell}\": {error}"),
        })
    }

    /// All cells, the root cell first; none if the hypervisor is not enabled.
    pub fn cells(&self) -> Result<Vec<CellInfo>> {
        let mut cells = Vec::new();
        loop {
            let mut info = CellInfo { index: cells.len() as u32, ..Default::default() };
            match sys::ioctl(self.node.as_fd(), CELL_INFO, &mut info) {
                Ok(_) => cells.push(info),
                Err(error) if [ENOENT, ENXIO, EINVAL].contains(&errno(&error)) => return Ok(cells),
                Err(error) => return Err(error).context("cannot list the cells"),
            }
        }
    }

    /// A cell by id or name.
    pub fn cell(&self, cell: &str) -> Result<CellInfo> {
        let id = cell.parse::<i32>();
        self.cells()?
            .into_iter()
            .find(|info| id.as_ref().map_or_else(|_| info.name() == cell, |id| info.id == *id))
            .ok_or_else(|| anyhow!("there is no cell \"{cell}\""))
    }

    fn query(&self, code: u32, arg1: u64, arg2: u64) -> Result<i64> {
        let mut arg = Query { code, arg1, arg2, ..Default::default() };
        sys::ioctl(self.node.as_fd(), QUERY, &mut arg).map_err(|error| match errno(&error) {
            ENXIO | EINVAL => anyhow!("{NOT_ENABLED}"),
            _ => anyhow!("the hypervisor cannot be asked: {error}"),
        })?;
        Ok(arg.result)
    }

    /// A figure about a CPU (hypercall 7).
    pub fn cpu_info(&self, cpu: u32, what: u32) -> Result<i64> {
        self.query(Hypercall::CpuGetInfo.code(), cpu.into(), what.into())
    }

    /// A figure about the hypervisor (hypercall 5).
    pub fn info(&self, what: u32) -> Result<i64> {
        self.query(Hypercall::HypervisorGetInfo.code(), what.into(), 0)
    }

    /// Why a cell failed.
    pub fn failure(&self, cell: i32) -> Result<Failure> {
        let field = |number| self.query(FAILURE, cell as u64, number);
        let reason = field(0)?;
        if reason <= 0 {
            return Ok(Failure::default());
        }
        let mut code = [0; 16];
        code[..8].copy_from_slice(&field(6)?.to_le_bytes());
        code[8..].copy_from_slice(&field(7)?.to_le_bytes());
        let (cpu, ip, address) = (field(1)? as u32, field(2)? as u64, field(3)? as u64);
        Ok(Failure { reason, cpu, ip, address, detail: field(4)? as u64, code_base: field(5)? as u64, code })
    }

    /// The configuration that a cell was made from.
    pub fn config(&self, cell: &str) -> Result<Vec<u8>> {
        let mut bytes = vec![0; MAX_CONFIG];
        let mut arg =
            CellConfiguration { id: cell_id(cell)?, buffer: bytes.as_mut_ptr() as u64, size: bytes.len() as u64 };
        let length = sys::ioctl(self.node.as_fd(), CELL_CONFIG, &mut arg)
            .with_context(|| format!("cannot read the configuration of cell \"{cell}\""))?;
        bytes.truncate(length as usize);
        Ok(bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_number_is_an_id_and_the_rest_a_name() {
        assert_eq!(cell_id("3").unwrap().id, 3);
        let named = cell_id("srtos").unwrap();
        assert_eq!((named.id, &named.name[..6]), (-1, &b"srtos\0"[..]));
        assert!(cell_id("").is_err());
        assert!(cell_id(&"x".repeat(32)).is_err());
    }

    #[test]
    fn sizes_are_the_drivers() {
        assert_eq!((size_of::<CellLoad>(), size_of::<Image>()), (48, 32));
        assert_eq!(size_of::<CellInfo>(), 80);
    }
}
