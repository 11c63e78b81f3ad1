//! Everything that each server can touch: what `init` gives it, slot by slot.
//!
//! The report is computed from the same resolved system that the image carries. As text it is for people, as JSON for
//! programs (the authority tests compare it with what a server finds in its own table), as SVG for a wall.

mod svg;
mod text;

use ipc::Protection;
use ipc::blob::{Grant, GrantKind, Restart, Server, System};
use ipc::image::range_kind;
use ipc::protocol::classes::CLASSES;
use ipc::slots;
use serde::Serialize;

use crate::build::{Image, Programs};
use crate::check::time;
use crate::layout::Layout;
use crate::manifest::Manifest;
use crate::stack::Need;
use crate::system;
use crate::units::{Bdf, Size};

/// A system, as it is to be looked at.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Report {
    /// Name of the system.
    pub system: String,
    /// Name of its cell.
    pub cell: String,
    /// Build id; absent if only the manifest was looked at.
    pub build_id: Option<String>,
    /// SHA-256 of the manifest; absent likewise.
    pub manifest_digest: Option<String>,
    /// Memory that the cell sees.
    pub memory: Vec<MemoryReport>,
    /// Devices.
    pub devices: Vec<DeviceReport>,
    /// Classes of applications' calls that go to Linux.
    pub forwarded: Vec<String>,
    /// Servers in start order.
    pub servers: Vec<ServerReport>,
}

/// A named piece of memory.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct MemoryReport {
    /// Its name.
    pub name: String,
    /// `private`, `shared` or `device`.
    pub kind: &'static str,
    /// Guest-physical address; 0 for private memory.
    pub guest: u64,
    /// Bytes.
    pub size: u64,
}

/// A device.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct DeviceReport {
    /// Its name.
    pub name: String,
    /// PCI address.
    pub bdf: String,
    /// Protocol of a shared memory device, or id of a PCI function.
    pub what: String,
    /// Interrupts.
    pub vectors: u16,
}

/// A server.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct ServerReport {
    /// Its name.
    pub name: String,
    /// Its priority.
    pub priority: u8,
    /// The highest priority that it can give to threads of its own; absent if it has no memory to make any.
    pub ceiling: Option<u8>,
    /// Processor time per period; 0: unlimited.
    pub budget_us: u64,
    /// The period.
    pub period_us: u64,
    /// Declared deadline.
    pub deadline_us: Option<u64>,
    /// Worst-case response time, for a server with a budget and none above it without.
    pub response_us: Option<u64>,
    /// Stack bytes.
    pub stack: u64,
    /// What its calls can need of it; absent if only the manifest was looked at, or the program has no symbols.
    pub stack_need: Option<Need>,
    /// Heap bytes.
    pub heap: u64,
    /// Bytes of Untyped.
    pub untyped: u64,
    /// Vault bytes.
    pub vault: u64,
    /// Restart policy in words.
    pub restart: String,
    /// Priority at which a new instance is made.
    pub rebuild_priority: u8,
    /// SHA-256 of the program; absent if only the manifest was looked at.
    pub digest: Option<String>,
    /// What the manifest gives it.
    pub holds: Vec<Holding>,
    /// Every capability in its table when it starts.
    pub capabilities: Vec<Capability>,
}

/// Something that the manifest gives to a server.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct Holding {
    /// The name by which the server finds it.
    pub name: String,
    /// `call`, `memory`, `interrupt`, `signal`, `notification`, `ports` or `console`.
    pub kind: &'static str,
    /// The other party: a server, region, device or notification.
    pub party: String,
    /// What may be done, in words.
    pub may: String,
}

/// A capability in a server's table.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Capability {
    /// Slot.
    pub slot: u32,
    /// Type of the object.
    pub object: &'static str,
    /// Rights, of `r` read, `w` write, `g` grant, `x` execute, `c` control.
    pub rights: &'static str,
    /// Badge; the ceiling of an Untyped or SchedContext.
    pub badge: u64,
    /// Bytes of a Frame; 0 for other objects.
    pub bytes: u64,
    /// Guest-physical address of a Frame; 0 for private memory, which `init` takes from wherever it is free.
    pub guest: u64,
}

pub(crate) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|b| format!("{b:02x}")).collect()
}

fn kind_name(kind: u32) -> &'static str {
    match kind {
        range_kind::PRIVATE => "private",
        range_kind::SHARED => "shared",
        range_kind::DEVICE => "device",
        _ => "none",
    }
}

fn restart(policy: &Restart) -> String {
    match policy {
        Restart::Never => "never".to_owned(),
        Restart::Always => "always".to_owned(),
        Restart::Escalate => "the system fails".to_owned(),
        Restart::Limited { times, window_ms } => format!("at most {times} times in {window_ms} ms"),
    }
}

fn holding(system: &System, grant: &Grant) -> Holding {
    let server = |index: u32| system.servers[index as usize].name.clone();
    let (kind, party, may) = match &grant.what {
        GrantKind::Call { server: to, badge, grant } => {
            let along = if *grant { ", sending capabilities along" } else { "" };
            ("call", server(*to), format!("call, seen as badge {badge}{along}"))
        }
        GrantKind::Notification { index, bits: 0 } => {
            ("notification", system.notifications[*index as usize].clone(), "wait".to_owned())
        }
        GrantKind::Notification { index, bits } => {
            ("notification", system.notifications[*index as usize].clone(), format!("signal bits {bits:#x}"))
        }
        GrantKind::SignalServer { server: to, bits } => ("signal", server(*to), format!("signal bits {bits:#x}")),
        GrantKind::Memory { region, protection, executable, .. } => {
            let protection = Protection::from_bits_truncate(*protection);
            let mut may = "read".to_owned();
            for (bit, word) in [(Protection::WRITE, ", write"), (Protection::EXECUTE, ", execute")] {
                if protection.contains(bit) {
                    may.push_str(word);
                }
            }
            if *executable {
                may.push_str(", map for applications to execute");
            }
            ("memory", system.regions[*region as usize].name.clone(), may)
        }
        GrantKind::Irq { device, vector, bits } => (
            "interrupt",
            system.devices[*device as usize].name.clone(),
            format!("be interrupted by vector {vector}, bits {bits:#x}"),
        ),
        GrantKind::Ports { first, count } => {
            let last = u32::from(*first) + u32::from(*count) - 1;
            ("ports", format!("{first:#x}-{last:#x}"), "read, write".to_owned())
        }
        GrantKind::Console { halt } => {
            ("console", "kernel".to_owned(), if *halt { "write, end the system" } else { "write" }.to_owned())
        }
    };
    Holding { name: grant.name.clone(), kind, party, may }
}

/// What a grant is in the table of its holder.
fn capability(system: &System, grant: &Grant) -> Capability {
    let (mut bytes, mut guest) = (0, 0);
    if let GrantKind::Memory { region, offset, size, .. } = &grant.what {
        let region = &system.regions[*region as usize];
        bytes = *size;
        guest = if region.kind == range_kind::PRIVATE { 0 } else { region.physical + offset };
    }
    let (object, rights, badge) = match &grant.what {
        GrantKind::Call { badge, grant: false, .. } => ("Endpoint", "w", *badge),
        GrantKind::Call { badge, grant: true, .. } => ("Endpoint", "wg", *badge),
        GrantKind::Notification { bits: 0, .. } => ("Notification", "r", 0),
        GrantKind::Notification { bits, .. } | GrantKind::SignalServer { bits, .. } => ("Notification", "w", *bits),
        GrantKind::Memory { protection, executable, .. } => {
            let protection = Protection::from_bits_truncate(*protection);
            let execute = *executable || protection.contains(Protection::EXECUTE);
            let rights = match (protection.contains(Protection::WRITE), execute) {
                (false, false) => "r",
                (true, false) => "rw",
                (false, true) => "rx",
                (true, true) => "rwx",
            };
            ("Frame", rights, 0)
        }
        GrantKind::Irq { .. } => ("Irq", "rw", 0),
        GrantKind::Ports { .. } => ("IoPort", "rw", 0),
        GrantKind::Console { halt: false } => ("Console", "w", 0),
        GrantKind::Console { halt: true } => ("Console", "wc", 0),
    };
    Capability { slot: grant.slot, object, rights, badge, bytes, guest }
}

/// Everything in a server's table when it starts.
fn capabilities(system: &System, server: &Server) -> Vec<Capability> {
    const ALL: &str = "rwgxc";
    let own = |slot, object, rights| Capability { slot, object, rights, badge: 0, bytes: 0, guest: 0 };
    let time = |slot, object, rights| Capability { badge: server.ceiling.into(), ..own(slot, object, rights) };
    let mut table = vec![
        own(slots::CAP_TABLE, "CapTable", ALL),
        own(slots::ADDRESS_SPACE, "AddressSpace", ALL),
        own(slots::THREAD, "Thread", "r"),
        time(slots::SCHED_CONTEXT, "SchedContext", "r"),
        own(slots::ENDPOINT, "Endpoint", "rw"),
        own(slots::NOTIFICATION, "Notification", "rw"),
    ];
    if server.untyped > 0 {
        table.push(time(slots::UNTYPED, "Untyped", ALL));
    }
    table.extend(server.grants.iter().map(|grant| capability(system, grant)));
    table.sort_by_key(|cap| cap.slot);
    table
}

/// Classes that the personality forwards, if there is one.
fn forwarded(manifest: &Manifest) -> Vec<String> {
    let Some(linux) = &manifest.linux else { return Vec::new() };
    match &linux.forwarded {
        Some(classes) => classes.iter().map(|class| class.get_ref().clone()).collect(),
        None => CLASSES.iter().map(|(class, _)| (*class).to_owned()).collect(),
    }
}

impl Report {
    /// Looks at a checked manifest, and at the image built from it if there is one.
    pub fn new(manifest: &Manifest, layout: &Layout, built: Option<(&Image, &Programs)>) -> Self {
        let image = built.map(|(image, _)| image);
        let resolved = image.map_or_else(|| system::resolve(manifest, layout), |image| image.system.clone());
        let need = |index: usize| built.and_then(|(_, programs)| programs.servers.get(index)?.stack.as_ref());
        let servers =
            manifest.servers.iter().zip(&resolved.servers).enumerate().map(|(index, (text, server))| ServerReport {
                name: server.name.clone(),
                priority: server.priority,
                ceiling: (server.untyped > 0).then_some(server.ceiling),
                budget_us: server.budget_us,
                period_us: server.period_us,
                deadline_us: text.deadline_us.as_ref().map(|d| *d.get_ref()),
                response_us: time::response_us(manifest, text, u64::MAX / 4).ok().flatten(),
                stack: server.stack,
                stack_need: need(index).cloned(),
                heap: server.heap,
                untyped: server.untyped,
                vault: server.vault,
                restart: restart(&server.restart),
                rebuild_priority: server.rebuild_priority,
                digest: image.map(|_| hex(&server.digest)),
                holds: server.grants.iter().map(|grant| holding(&resolved, grant)).collect(),
                capabilities: capabilities(&resolved, server),
            });
        let memory = layout.regions.iter().map(|region| MemoryReport {
            name: region.name.clone(),
            kind: kind_name(region.kind),
            guest: region.guest,
            size: region.size,
        });
        let devices = layout.ivshmem.iter().map(|device| DeviceReport {
            name: device.name.clone(),
            bdf: Bdf(device.bdf).to_string(),
            what: format!("protocol {:#06x}", device.protocol),
            vectors: device.vectors,
        });
        let functions = layout.pci.iter().map(|function| DeviceReport {
            name: function.name.clone(),
            bdf: function.bdf.map_or_else(|| "wherever it is".to_owned(), |bdf| Bdf(bdf).to_string()),
            what: format!("PCI {}", function.id),
            vectors: function.vectors,
        });
        Self {
            system: layout.system.clone(),
            cell: layout.cell.clone(),
            build_id: image.map(|image| hex(&image.build_id)),
            manifest_digest: image.map(|image| hex(&image.manifest_digest)),
            memory: memory.collect(),
            devices: devices.chain(functions).collect(),
            forwarded: forwarded(manifest),
            servers: servers.collect(),
        }
    }

    /// As JSON.
    pub fn json(&self) -> String {
        let mut text = serde_json::to_string_pretty(self).unwrap_or_default();
        text.push('\n');
        text
    }

    /// As text.
    pub fn text(&self) -> String {
        text::render(self)
    }

    /// As a drawing.
    pub fn svg(&self) -> String {
        svg::render(self)
    }

    /// What changed in authority from `self` to `other`: one line for each thing gained (`+`), lost (`-`) or changed (`~`).
    pub fn diff(&self, other: &Self) -> Vec<String> {
        let mut lines = Vec::new();
        let find = |report: &'_ Self, name: &str| report.servers.iter().position(|s| s.name == name);
        for old in self.servers.iter().filter(|s| find(other, &s.name).is_none()) {
            lines.push(format!("- server \"{}\"", old.name));
        }
        for new in &other.servers {
            let Some(index) = find(self, &new.name) else {
                lines.push(format!("+ server \"{}\" (priority {})", new.name, new.priority));
                lines.extend(new.holds.iter().map(|held| format!("+ {}", sentence(new, held))));
                continue;
            };
            let old = &self.servers[index];
            let changed = |what: &str, before: String, after: String| {
                (before != after).then(|| format!("~ server \"{}\": {what} {before} -> {after}", new.name))
            };
            let time = |s: &ServerReport| match s.budget_us {
                0 => "unlimited".to_owned(),
                budget => format!("{budget} µs in {} µs", s.period_us),
            };
            lines.extend(changed("priority", old.priority.to_string(), new.priority.to_string()));
            lines.extend(changed("budget", time(old), time(new)));
            let ceiling = |s: &ServerReport| s.ceiling.map_or_else(|| "none".to_owned(), |ceiling| ceiling.to_string());
            lines.extend(changed("ceiling", ceiling(old), ceiling(new)));
            lines.extend(changed("untyped", Size(old.untyped).to_string(), Size(new.untyped).to_string()));
            lines.extend(changed("restart", old.restart.clone(), new.restart.clone()));
            lines.extend(changed(
                "rebuild priority",
                old.rebuild_priority.to_string(),
                new.rebuild_priority.to_string(),
            ));
            lines.extend(changed("program", short(old), short(new)));
            let lost = old.holds.iter().filter(|held| !new.holds.contains(held));
            lines.extend(lost.map(|held| format!("- {}", sentence(old, held))));
            let gained = new.holds.iter().filter(|held| !old.holds.contains(held));
            lines.extend(gained.map(|held| format!("+ {}", sentence(new, held))));
        }
        let lost = self.forwarded.iter().filter(|class| !other.forwarded.contains(class));
        lines.extend(lost.map(|class| format!("- applications: calls of class \"{class}\" go to Linux")));
        let gained = other.forwarded.iter().filter(|class| !self.forwarded.contains(class));
        lines.extend(gained.map(|class| format!("+ applications: calls of class \"{class}\" go to Linux")));
        for region in &other.memory {
            if let Some(old) = self.memory.iter().find(|r| r.name == region.name && *r != region) {
                lines.push(format!(
                    "~ memory \"{}\": {} {:#x}+{} -> {} {:#x}+{}",
                    region.name,
                    old.kind,
                    old.guest,
                    Size(old.size),
                    region.kind,
                    region.guest,
                    Size(region.size)
                ));
            }
        }
        lines
    }
}

fn short(server: &ServerReport) -> String {
    server.digest.as_ref().map_or_else(String::new, |digest| digest.chars().take(16).collect())
}

fn sentence(server: &ServerReport, held: &Holding) -> String {
    format!("server \"{}\": {} \"{}\" (as \"{}\"): {}", server.name, held.kind, held.party, held.name, held.may)
}

#[cfg(test)]
mod tests;
