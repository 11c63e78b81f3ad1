//! From the kernel's hand-over to everything that servers are made of.

use super::board::{self, Board};
use super::devices::{self, Function};
use super::memory::Memory;
use super::{Say, window};
use alloc::boxed::Box;
use alloc::string::String;
use alloc::vec::Vec;
use init::{image, layout};
use ipc::blob::System;
use ipc::image::range_kind;
use ipc::slots::boot;
use rt::{Cap, Endpoint, Frame, Notification, Start, log};

/// Page-table memory for init's own windows.
const OWN_TABLES: u64 = 256 << 10;

/// What servers are made of.
pub struct Machine {
    /// The manifest.
    pub system: &'static System,
    /// The image, from its header on.
    pub image: &'static [u8],
    /// Page of the image frame where the header lies.
    pub image_page: u64,
    /// Memory and slots.
    pub memory: Memory,
    /// Frames of private regions, by region.
    pub regions: Vec<Option<Cap<Frame>>>,
    /// Notifications with a name.
    pub notifications: Vec<Cap<Notification>>,
    /// Devices; `None`: absent.
    pub functions: Vec<Option<Function>>,
    /// Where init hears of faults.
    pub endpoint: Cap<Endpoint>,
    /// What Linux sees of the servers.
    pub board: Option<Board>,
    /// Of init: above every server that it restarts.
    pub priority: u8,
    /// Of the image.
    pub build_id: [u8; 32],
    /// Digest of the manifest that it was made from.
    pub manifest_digest: [u8; 32],
    /// Time-stamp counter ticks per millisecond.
    pub tsc_khz: u64,
}

/// The frame that holds the image.
pub const IMAGE_FRAME: Cap<Frame> = Cap::new(boot::BLOB);

/// Reads the image and sets everything up that exists once.
pub fn boot() -> Result<Machine, String> {
    // Before there is a heap, a reason must be a constant.
    let header = image::header(window::image(4096)).unwrap_or_else(|reason| super::fail(reason));
    window::init_heap(header.first_heap);
    let info = rt::calls::system_info().say("asking the kernel")?;
    let frame = IMAGE_FRAME.info().say("asking where the image is")?;
    let offset = info.image_header.wrapping_sub(frame.physical);
    if offset >= frame.bytes || !offset.is_multiple_of(4096) {
        return Err("the image header is not in the image's frame".into());
    }
    let image_page = offset / 4096;

    let mut memory = Memory::new();
    let tables = memory.make::<rt::Untyped>(OWN_TABLES)?;
    Start::ADDRESS_SPACE.extend(tables).say("page tables for init")?;
    let image = window::image(header.size.min(frame.bytes - offset) as usize);
    let system: &'static System = Box::leak(Box::new(image::system(&header, image)?));

    // What a crash report or a log of another day is compared with.
    log!("image {} of manifest {}", Short(&header.build_id), Short(&header.manifest_digest));
    for server in &system.servers {
        log!("  program {} is server {}", Short(&server.digest), server.name);
    }
    let mut functions = devices::place(system)?;
    memory.make_fixed(layout::fixed_pieces(system, devices::pieces(&functions).chain(board::pieces(system)))?)?;
    devices::enable(system, &mut functions, &mut memory)?;

    let mut regions = Vec::new();
    for region in &system.regions {
        regions.push(match region.kind {
            range_kind::PRIVATE => Some(memory.make(region.size)?),
            _ => None,
        });
    }
    let notifications = system.notifications.iter().map(|_| memory.make(0)).collect::<Result<_, _>>()?;
    let endpoint = memory.make(0)?;
    let board = Board::open(system, &mut memory, &functions)?;
    log!("system {:?}: {} servers, {} KiB of memory left", system.name, system.servers.len(), memory.free() >> 10);
    Ok(Machine {
        system,
        image,
        image_page,
        memory,
        regions,
        notifications,
        functions,
        endpoint,
        board,
        priority: header.first_priority.min(254) as u8,
        build_id: header.build_id,
        manifest_digest: header.manifest_digest,
        tsc_khz: info.tsc_khz,
    })
}

/// The first eight bytes of a digest, as the composer shows them too.
struct Short<'a>(&'a [u8; 32]);

impl core::fmt::Display for Short<'_> {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        self.0[..8].iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}
