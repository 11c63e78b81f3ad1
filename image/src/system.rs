//! Who holds what: the manifest's grants, resolved to what `init` reads.

use ipc::Protection;
use ipc::blob::{self, BLOB_VERSION, Grant, GrantKind};
use ipc::image::range_kind;
use ipc::slots;

use crate::layout::{Layout, Region};
use crate::manifest::{Access, Manifest, Restart, RestartWord, Server};

/// Slots of a capability table if the manifest does not say.
pub const DEFAULT_CAP_SLOTS: u32 = 256;
/// Vendor of shared memory devices.
pub const IVSHMEM_VENDOR: u16 = 0x110a;
/// Device number of shared memory devices.
pub const IVSHMEM_DEVICE: u16 = 0x4106;

/// Where a region is mapped in every server that holds it.
pub fn mapped_at(layout: &Layout, region: &Region) -> u64 {
    if region.kind != range_kind::PRIVATE {
        return slots::layout::GRANTS + region.guest;
    }
    let before = layout.regions.iter().take_while(|other| *other != region);
    slots::layout::PRIVATE_GRANTS + before.filter(|r| r.kind == range_kind::PRIVATE).map(|r| r.size).sum::<u64>()
}

/// The protection that a manifest's word stands for.
pub fn protection(access: Access, region: &Region) -> Protection {
    let base = match access {
        Access::R => Protection::READ,
        Access::Rw => Protection::READ | Protection::WRITE,
        Access::Rx => Protection::READ | Protection::EXECUTE,
        Access::Rwx => Protection::READ | Protection::WRITE | Protection::EXECUTE,
    };
    if region.kind == range_kind::DEVICE { base | Protection::UNCACHED } else { base }
}

/// Index of the server with this name.
pub fn server_index(manifest: &Manifest, name: &str) -> Option<u32> {
    manifest.servers.iter().position(|s| s.name.get_ref() == name).map(|i| i as u32)
}

fn restart(policy: &Restart) -> blob::Restart {
    match policy {
        Restart::Word(RestartWord::Always) => blob::Restart::Always,
        Restart::Word(RestartWord::Escalate) => blob::Restart::Escalate,
        Restart::Word(RestartWord::Never) | Restart::Unset => blob::Restart::Never,
        Restart::Limited(limit) => blob::Restart::Limited { times: limit.times, window_ms: limit.window_ms },
    }
}

/// Below all real-time programs, unless the manifest says otherwise.
fn rebuild_priority(server: &Server) -> u8 {
    const BELOW_REAL_TIME: u8 = 100;
    let own = *server.priority.get_ref();
    server.rebuild_priority.as_ref().map_or(own.min(BELOW_REAL_TIME), |priority| *priority.get_ref())
}

/// What a server holds, named and in the order of its slots. Names that lead nowhere are left out: the checks report them.
pub fn grants(manifest: &Manifest, layout: &Layout, server: &Server) -> Vec<Grant> {
    let mut held: Vec<(String, GrantKind)> = Vec::new();
    for call in &server.calls {
        let call = call.get_ref();
        let name = call.name.as_ref().unwrap_or(&call.to).get_ref().clone();
        if let Some(index) = server_index(manifest, call.to.get_ref()) {
            held.push((name, GrantKind::Call { server: index, badge: *call.badge.get_ref(), grant: call.grant }));
        }
    }
    for memory in &server.memory {
        let memory = memory.get_ref();
        let name = memory.name.as_ref().unwrap_or(&memory.region).get_ref().clone();
        let Some(index) = layout.regions.iter().position(|r| r.name == *memory.region.get_ref()) else { continue };
        let region = &layout.regions[index];
        let what = GrantKind::Memory {
            region: index as u32,
            offset: 0,
            size: region.size,
            vaddr: mapped_at(layout, region),
            protection: protection(*memory.access.get_ref(), region).bits(),
            executable: *memory.executable.0.get_ref(),
        };
        held.push((name, what));
    }
    for irq in &server.irqs {
        let irq = irq.get_ref();
        let mut names = layout.ivshmem.iter().map(|d| &d.name).chain(layout.pci.iter().map(|f| &f.name));
        if let Some(device) = names.position(|name| name == irq.device.get_ref()) {
            let what =
                GrantKind::Irq { device: device as u32, vector: *irq.vector.get_ref(), bits: *irq.bits.get_ref() };
            held.push((irq.name.get_ref().clone(), what));
        }
    }
    for signal in &server.signals {
        let signal = signal.get_ref();
        let name = signal.name.as_ref().unwrap_or(&signal.to).get_ref().clone();
        if let Some(index) = server_index(manifest, signal.to.get_ref()) {
            held.push((name, GrantKind::SignalServer { server: index, bits: *signal.bits.get_ref() }));
        }
    }
    for notification in &server.notifications {
        let notification = notification.get_ref();
        let name = notification.name.get_ref();
        if let Some(index) = manifest.notifications.iter().position(|n| n.get_ref() == name) {
            let bits = notification.bits.as_ref().map_or(0, |b| *b.get_ref());
            held.push((name.clone(), GrantKind::Notification { index: index as u32, bits }));
        }
    }
    for ports in &server.ports {
        let ports = ports.get_ref();
        if let Some((first, count)) = ports.range(manifest) {
            held.push((ports.name.get_ref().clone(), GrantKind::Ports { first, count }));
        }
    }
    let mut grants: Vec<_> =
        held.into_iter().zip(slots::FIRST_GRANT..).map(|((name, what), slot)| Grant { name, slot, what }).collect();
    if server.console || *server.halt.0.get_ref() {
        grants.push(Grant {
            name: "console".to_owned(),
            slot: slots::CONSOLE,
            what: GrantKind::Console { halt: *server.halt.0.get_ref() },
        });
    }
    grants
}

/// Arguments of a server: the manifest's, and for the personality its settings as `key=value`.
fn arguments(manifest: &Manifest, server: &Server) -> Vec<String> {
    let mut args: Vec<_> = server.args.iter().map(|a| a.get_ref().clone()).collect();
    if let Some(linux) = manifest.linux.as_ref().filter(|l| l.server.get_ref() == server.name.get_ref()) {
        args.push(format!("stack={}", linux.stack.get_ref().0));
        if let Some(classes) = &linux.forwarded {
            let names: Vec<_> = classes.iter().map(|class| class.get_ref().as_str()).collect();
            args.push(format!("forward={}", names.join(",")));
        }
    }
    args
}

/// The system without its programs: entry points, pieces and digests are filled in when the image is laid out.
pub fn resolve(manifest: &Manifest, layout: &Layout) -> blob::System {
    let servers = manifest.servers.iter().map(|server| blob::Server {
        name: server.name.get_ref().clone(),
        entry: 0,
        segments: Vec::new(),
        priority: *server.priority.get_ref(),
        ceiling: server.ceiling(),
        budget_us: server.budget_us.as_ref().map_or(0, |b| *b.get_ref()),
        period_us: server.period_us.as_ref().map_or(0, |p| *p.get_ref()),
        stack: server.stack.get_ref().0,
        heap: server.heap.0.get_ref().0,
        untyped: server.untyped.0.get_ref().0,
        cap_slots: server.cap_slots.as_ref().map_or(DEFAULT_CAP_SLOTS, |s| *s.get_ref()),
        vault: server.vault.0.get_ref().0,
        restart: restart(server.restart.0.get_ref()),
        rebuild_priority: rebuild_priority(server),
        args: arguments(manifest, server),
        grants: grants(manifest, layout, server),
        digest: [0; 32],
    });
    let regions = layout.regions.iter().map(|region| blob::Region {
        name: region.name.clone(),
        physical: region.guest,
        size: region.size,
        kind: region.kind,
    });
    let devices = layout.ivshmem.iter().map(|device| blob::Device {
        name: device.name.clone(),
        bdf: device.bdf,
        vendor: IVSHMEM_VENDOR,
        device: IVSHMEM_DEVICE,
        bars: (0..).zip(device.bars).take(if device.vectors > 0 { 2 } else { 1 }).collect(),
        vectors: device.vectors,
        msi: false,
    });
    let functions = layout.pci.iter().map(|function| blob::Device {
        name: function.name.clone(),
        bdf: function.bdf.unwrap_or_default(),
        vendor: function.id.vendor,
        device: function.id.device,
        bars: function.bars.iter().map(|(bar, address, _)| (*bar, *address)).collect(),
        vectors: function.vectors,
        msi: function.msi,
    });
    blob::System {
        version: BLOB_VERSION,
        name: layout.system.clone(),
        servers: servers.collect(),
        regions: regions.collect(),
        notifications: manifest.notifications.iter().map(|n| n.get_ref().clone()).collect(),
        devices: devices.chain(functions).collect(),
        supervision: layout.supervision().map(|(device, board, orders)| blob::Supervision {
            device: device as u32,
            board,
            orders,
            may_crash: *manifest.init.crash_on_order.0.get_ref(),
        }),
    }
}
