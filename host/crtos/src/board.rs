//! The board of the real-time side's supervisor: the servers, and the crash reports. Its memory is the other realm's, so every number and
//! name is only shown, or bounded.

use std::mem::offset_of;

use anyhow::{Context, Result, anyhow, bail};
use ipc::board::{
    BOARD_MAGIC, Board as Head, Entry, MAX_ENTRIES, REPORT_SLOT, REPORT_VERSION, REPORTS, Report, VERSION, outcome,
    place, server_state,
};
use ipc::shadow::rt_section::BOARD;
use zerocopy::{FromBytes, FromZeros, Immutable, IntoBytes, KnownLayout};

use crate::realm::Realm;
use crate::sys;

/// An order, as the driver takes it.
#[derive(Default, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
struct Order {
    verb: u32,
    server: u32,
    argument: u32,
    outcome: u32,
}

const ORDER: u32 = sys::iowr::<Order>(0xc7, 0x16);

/// A server.
#[derive(Debug, PartialEq, Eq)]
pub struct Server {
    /// Its name.
    pub name: String,
    /// [`server_state`].
    pub state: u32,
    /// Its priority.
    pub priority: u32,
    /// How often it was started before.
    pub generation: u64,
    /// Deaths since the cell started.
    pub crashes: u64,
    /// Ticks from its last death to its new instance.
    pub restart_ticks: u64,
}

impl Server {
    /// Its state in a word.
    pub fn state(&self) -> &'static str {
        match self.state {
            server_state::RUNNING => "running",
            server_state::RESTARTING => "restarting",
            server_state::DEAD => "dead",
            _ => "not started",
        }
    }
}

/// What the board shows at one time.
#[derive(Debug)]
pub struct Board {
    /// The servers, in the manifest's order.
    pub servers: Vec<Server>,
    /// Reports ever written.
    pub reports: u64,
    /// Turns of the supervisor's event loop.
    pub turns: u64,
    /// Free slots of the supervisor's capability table.
    pub free_capabilities: u32,
}

/// Bytes of other realms as text that a terminal can bear.
fn text(bytes: &[u8]) -> String {
    let bytes = bytes.split(|byte| *byte == 0).next().unwrap_or_default();
    String::from_utf8_lossy(bytes).replace(char::is_control, "?")
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    bytes.get(at..at + 4).and_then(|b| b.try_into().ok()).map_or(0, u32::from_le_bytes)
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    bytes.get(at..at + 8).and_then(|b| b.try_into().ok()).map_or(0, u64::from_le_bytes)
}

fn server(entry: &[u8]) -> Server {
    let (died, started) = (u64_at(entry, offset_of!(Entry, died)), u64_at(entry, offset_of!(Entry, started)));
    Server {
        name: text(&entry[offset_of!(Entry, name)..][..32]),
        state: u32_at(entry, offset_of!(Entry, state)),
        priority: u32_at(entry, offset_of!(Entry, priority)),
        generation: u64_at(entry, offset_of!(Entry, generation)),
        crashes: u64_at(entry, offset_of!(Entry, crashes)),
        restart_ticks: if died == 0 { 0 } else { started.saturating_sub(died) },
    }
}

impl Board {
    /// Reads it.
    pub fn read(realm: &Realm) -> Result<Board> {
        let head = realm.read(BOARD + place::HEAD, size_of::<Head>())?;
        if u64_at(&head, offset_of!(Head, magic)) != BOARD_MAGIC {
            bail!(
                "the real-time side shows no board: start it with `crtos cell start`, or give its manifest the regions \"board\" and \"orders\""
            );
        }
        let version = u32_at(&head, offset_of!(Head, version));
        if version != VERSION {
            bail!("the real-time side's board has version {version}, and this command reads version {VERSION}");
        }
        let count = (u32_at(&head, offset_of!(Head, servers)) as usize).min(MAX_ENTRIES);
        let entries = realm.read(BOARD + place::ENTRIES, count * size_of::<Entry>())?;
        Ok(Board {
            servers: entries.chunks_exact(size_of::<Entry>()).map(server).collect(),
            reports: u64_at(&head, offset_of!(Head, reports)),
            turns: u64_at(&head, offset_of!(Head, turns)),
            free_capabilities: u32_at(&head, offset_of!(Head, free_capabilities)),
        })
    }

    /// The index of a server.
    pub fn index(&self, name: &str) -> Result<u32> {
        let index = self.servers.iter().position(|server| server.name == name).ok_or_else(|| {
            let names: Vec<_> = self.servers.iter().map(|server| server.name.as_str()).collect();
            anyhow!("there is no server \"{name}\"; there are {}", names.join(", "))
        })?;
        Ok(index as u32)
    }

    /// Numbers of the reports that are kept, oldest first.
    pub fn kept(&self) -> std::ops::Range<u64> {
        self.reports.saturating_sub(REPORTS as u64)..self.reports
    }
}

/// Gives an order to the supervisor.
pub fn order(realm: &Realm, verb: u32, server: u32, argument: u32) -> Result<()> {
    let mut order = Order { verb, server, argument, outcome: 0 };
    sys::ioctl(realm.node(), ORDER, &mut order).map_err(|error| match error.raw_os_error() {
        // ETIMEDOUT
        Some(110) => anyhow!("the supervisor does not answer: see `crtos server list` and `crtos log`"),
        // ENOTCONN
        Some(107) => {
            anyhow!("the real-time side takes no orders: it is not running, or its manifest has no region \"orders\"")
        }
        _ => anyhow::Error::from(error).context("cannot give the order"),
    })?;
    match order.outcome {
        outcome::DONE => Ok(()),
        outcome::FORBIDDEN => bail!("the image does not allow it: set crash_on_order = true in [init] of its manifest"),
        outcome::DEAD => {
            bail!("it is dead, as its restart policy says: `crtos server restart` starts it again")
        }
        outcome::FAILED => bail!("no new instance could be made: see `crtos log`"),
        _ => bail!("the supervisor does not know this order"),
    }
}

/// A stored report, as far as it can be told.
#[derive(Debug, PartialEq, Eq)]
pub enum Stored {
    /// One of a version that this command knows.
    Known(Box<Report>),
    /// One of another version.
    Other(u32),
    /// Nothing whole.
    Damaged,
}

/// Reads a report's bytes.
pub fn parse(bytes: &[u8]) -> Stored {
    let (checksum, version, size) = (u64_at(bytes, 0), u32_at(bytes, 8), u32_at(bytes, 12) as usize);
    let Some(body) = bytes.get(8..size).filter(|body| body.len() >= 8) else { return Stored::Damaged };
    if ipc::image::checksum(body) != checksum {
        return Stored::Damaged;
    }
    let expected = match version {
        1 => offset_of!(Report, manifest_digest),
        REPORT_VERSION => size_of::<Report>(),
        _ => 0,
    };
    if size != expected {
        return Stored::Other(version);
    }
    // What a version did not have yet is zero.
    let mut report = Report::new_zeroed();
    report.as_mut_bytes()[..size].copy_from_slice(&bytes[..size]);
    Stored::Known(Box::new(report))
}

/// Reads report `number`.
pub fn report(realm: &Realm, number: u64) -> Result<Stored> {
    let slot = BOARD + place::REPORTS + (number % REPORTS as u64) as usize * REPORT_SLOT;
    let bytes = realm.read(slot, REPORT_SLOT).context("cannot read the crash reports")?;
    Ok(match parse(&bytes) {
        // A newer one has taken its place meanwhile.
        Stored::Known(report) if report.number != number => Stored::Damaged,
        other => other,
    })
}

/// A field of a report as text.
pub fn field(bytes: &[u8]) -> String {
    text(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stored(report: &mut Report) -> Vec<u8> {
        report.size = size_of::<Report>() as u32;
        report.checksum = ipc::image::checksum(&report.as_bytes()[8..]);
        let mut bytes = report.as_bytes().to_vec();
        bytes.resize(REPORT_SLOT, 0xee);
        bytes
    }

    #[test]
    fn reports_are_whole_or_nothing() {
        let mut report = Report::new_zeroed();
        report.version = REPORT_VERSION;
        report.reason[..2].copy_from_slice(b"a\x1b");
        let bytes = stored(&mut report);
        assert_eq!(parse(&bytes), Stored::Known(Box::new(report.clone())));
        assert_eq!(field(&report.reason), "a?");
        for at in [0, 9, 13, 100, size_of::<Report>() - 1] {
            let mut broken = bytes.clone();
            broken[at] ^= 0x40;
            assert_eq!(parse(&broken), Stored::Damaged, "{at}");
        }
        report.version = 77;
        assert_eq!(parse(&stored(&mut report)), Stored::Other(77));
        assert_eq!(parse(&[]), Stored::Damaged);
        assert_eq!(parse(&[0; REPORT_SLOT]), Stored::Damaged);
    }

    #[test]
    fn servers_are_shown_as_they_are() {
        let mut entry = [0; size_of::<Entry>()];
        entry[0] = server_state::RUNNING as u8;
        entry[offset_of!(Entry, name)..][..3].copy_from_slice(b"a\nb");
        let shown = server(&entry);
        assert_eq!((shown.name.as_str(), shown.state(), shown.restart_ticks), ("a?b", "running", 0));
    }
}
