//! Who may do what to whom: every grant leads to something that exists, and no two contradict each other.

use ipc::image::range_kind;
use ipc::slots::{FIRST_FREE, FIRST_GRANT};
use toml::Spanned;

use crate::diagnostic::Findings;
use crate::layout::Layout;
use crate::manifest::{Access, Manifest, Server};

/// Bit of a badge that marks signals.
const SIGNAL: u64 = 1 << 63;
/// Slots that fit in a table.
const MOST_SLOTS: u32 = 1 << 16;

fn server<'a>(manifest: &'a Manifest, name: &Spanned<String>) -> Option<&'a Server> {
    manifest.servers.iter().find(|s| s.name.get_ref() == name.get_ref())
}

fn known(manifest: &Manifest) -> String {
    let names: Vec<_> = manifest.servers.iter().map(|s| format!("\"{}\"", s.name.get_ref())).collect();
    names.join(", ")
}

fn calls(manifest: &Manifest, from: &Server, found: &mut Findings<'_>) {
    let who = from.name.get_ref();
    for call in &from.calls {
        let call = call.get_ref();
        let Some(to) = server(manifest, &call.to) else {
            found.add(
                call.to.span(),
                format!("server \"{who}\" may call \"{}\", which nobody is", call.to.get_ref()),
                format!("name one of {}", known(manifest)),
            );
            continue;
        };
        let whom = to.name.get_ref();
        if whom == who {
            found.add(
                call.to.span(),
                format!("server \"{who}\" may call itself, and would wait for ever"),
                "remove the call",
            );
        } else if to.priority.get_ref() < from.priority.get_ref() {
            found.add(
                call.to.span(),
                format!(
                    "server \"{who}\" (priority {}) may call \"{whom}\" (priority {}), and would wait while others between them run",
                    from.priority.get_ref(),
                    to.priority.get_ref()
                ),
                format!("give \"{whom}\" at least priority {}, or signal it instead", from.priority.get_ref()),
            );
        }
        let badge = *call.badge.get_ref();
        if badge == 0 || badge & SIGNAL != 0 {
            found.add(
                call.badge.span(),
                format!("server \"{who}\" calls \"{whom}\" with badge {badge:#x}, which stands for no caller"),
                "use a badge from 1 to 0x7fffffffffffffff",
            );
        }
    }
}

/// Badges must tell the callers of a server apart.
fn badges(manifest: &Manifest, found: &mut Findings<'_>) {
    let mut seen: Vec<(&str, u64, &str)> = Vec::new();
    for from in &manifest.servers {
        for call in &from.calls {
            let (to, badge) = (call.get_ref().to.get_ref().as_str(), *call.get_ref().badge.get_ref());
            match seen.iter().find(|(other, same, _)| *other == to && *same == badge) {
                Some((_, _, first)) => found.add(
                    call.get_ref().badge.span(),
                    format!("servers \"{first}\" and \"{}\" both call \"{to}\" with badge {badge}, which cannot tell them apart", from.name.get_ref()),
                    "give each caller a badge of its own",
                ),
                None => seen.push((to, badge, from.name.get_ref())),
            }
        }
    }
}

/// Servers must not wait for each other in a circle.
fn cycles(manifest: &Manifest, found: &mut Findings<'_>) {
    let index = |name: &str| manifest.servers.iter().position(|s| s.name.get_ref() == name);
    // 0: not seen, 1: on the path, 2: done.
    let mut state = vec![0u8; manifest.servers.len()];
    fn visit(
        at: usize,
        manifest: &Manifest,
        index: &dyn Fn(&str) -> Option<usize>,
        state: &mut [u8],
        path: &mut Vec<usize>,
        found: &mut Findings<'_>,
    ) {
        state[at] = 1;
        path.push(at);
        for call in &manifest.servers[at].calls {
            let call = call.get_ref();
            match index(call.to.get_ref()).filter(|to| *to != at) {
                Some(to) if state[to] == 1 => {
                    let start = path.iter().position(|n| *n == to).unwrap_or(0);
                    let circle: Vec<_> = path[start..]
                        .iter()
                        .chain([&to])
                        .map(|n| format!("\"{}\"", manifest.servers[*n].name.get_ref()))
                        .collect();
                    found.add(
                        call.to.span(),
                        format!("servers could wait for each other in a circle: {}", circle.join(" calls ")),
                        "replace one of the calls by a signal",
                    );
                }
                Some(to) if state[to] == 0 => visit(to, manifest, index, state, path, found),
                _ => {}
            }
        }
        path.pop();
        state[at] = 2;
    }
    for at in 0..manifest.servers.len() {
        if state[at] == 0 {
            visit(at, manifest, &index, &mut state, &mut Vec::new(), found);
        }
    }
}

fn memory(layout: &Layout, server: &Server, found: &mut Findings<'_>) {
    let who = server.name.get_ref();
    for grant in &server.memory {
        let grant = grant.get_ref();
        let name = grant.region.get_ref();
        let access = *grant.access.get_ref();
        if access == Access::Rwx {
            found.add(
                grant.access.span(),
                format!("server \"{who}\" would hold memory \"{name}\" writable and executable at once"),
                "use \"rw\" or \"rx\"",
            );
        }
        let Some(region) = layout.regions.iter().find(|r| r.name == *name) else {
            let names: Vec<_> = layout.regions.iter().map(|r| format!("\"{}\"", r.name)).collect();
            found.add(
                grant.region.span(),
                format!("server \"{who}\" is given memory \"{name}\", which is not there"),
                if names.is_empty() {
                    format!("add [memory.{name}]")
                } else {
                    format!("name one of {}", names.join(", "))
                },
            );
            continue;
        };
        let executable = *grant.executable.0.get_ref();
        if matches!(access, Access::Rw | Access::Rwx) && !region.writable {
            found.add(
                grant.access.span(),
                format!("server \"{who}\" would write memory \"{name}\", which only Linux can write"),
                "use access = \"r\"",
            );
        }
        if (access == Access::Rx || executable) && region.kind == range_kind::DEVICE {
            found.add(
                grant.access.span(),
                format!("server \"{who}\" would execute device registers, \"{name}\""),
                "use \"r\" or \"rw\", without executable",
            );
        }
        if (access == Access::Rx || executable) && !region.writable {
            found.add(
                grant.access.span(),
                format!("server \"{who}\" would execute memory \"{name}\", which Linux writes"),
                "use access = \"r\", without executable",
            );
        }
    }
}

fn notifications(manifest: &Manifest, server: &Server, found: &mut Findings<'_>) {
    let who = server.name.get_ref();
    for grant in &server.notifications {
        let grant = grant.get_ref();
        let name = grant.name.get_ref();
        if !manifest.notifications.iter().any(|n| n.get_ref() == name) {
            found.add(
                grant.name.span(),
                format!("server \"{who}\" is given notification \"{name}\", which is not there"),
                format!("add \"{name}\" to notifications"),
            );
        }
        if let Some(bits) = grant.bits.as_ref().filter(|b| *b.get_ref() == 0 || *b.get_ref() & SIGNAL != 0) {
            found.add(
                bits.span(),
                format!("server \"{who}\" signals notification \"{name}\" with bits {:#x}", bits.get_ref()),
                "use one or more of the bits 0 to 62",
            );
        }
    }
}

/// A notification needs somebody who signals it and somebody who waits for it.
fn both_ends(manifest: &Manifest, found: &mut Findings<'_>) {
    for name in &manifest.notifications {
        let held = || {
            let grants = manifest.servers.iter().flat_map(|s| &s.notifications).map(Spanned::get_ref);
            grants.filter(|g| g.name.get_ref() == name.get_ref())
        };
        for (missing, there) in
            [("signals", held().any(|g| g.bits.is_some())), ("waits for", held().any(|g| g.bits.is_none()))]
        {
            if !there {
                found.add(
                    name.span(),
                    format!("nobody {missing} notification \"{}\"", name.get_ref()),
                    "give a server the other side, or remove it",
                );
            }
        }
    }
}

fn signals(manifest: &Manifest, from: &Server, found: &mut Findings<'_>) {
    for signal in &from.signals {
        let signal = signal.get_ref();
        if server(manifest, &signal.to).is_none() {
            found.add(
                signal.to.span(),
                format!("server \"{}\" may signal \"{}\", which nobody is", from.name.get_ref(), signal.to.get_ref()),
                format!("name one of {}", known(manifest)),
            );
        }
    }
}

/// A server must be able to tell apart what signals its own notification.
fn bits(manifest: &Manifest, to: &Server, found: &mut Findings<'_>) {
    let whom = to.name.get_ref();
    let irqs = to.irqs.iter().map(|i| (format!("interrupt \"{}\"", i.get_ref().name.get_ref()), &i.get_ref().bits));
    let signals = manifest.servers.iter().flat_map(|from| {
        let mine = from.signals.iter().filter(|s| s.get_ref().to.get_ref() == whom);
        mine.map(|s| (format!("server \"{}\"", from.name.get_ref()), &s.get_ref().bits))
    });
    let mut seen: Vec<(String, u64)> = Vec::new();
    for (source, bits) in irqs.chain(signals) {
        let mask = *bits.get_ref();
        if mask == 0 || mask & SIGNAL != 0 {
            found.add(
                bits.span(),
                format!("{source} signals server \"{whom}\" with bits {mask:#x}"),
                "use one or more of the bits 0 to 62",
            );
        }
        if let Some((first, _)) = seen.iter().find(|(_, other)| other & mask != 0) {
            found.add(
                bits.span(),
                format!(
                    "{first} and {source} signal server \"{whom}\" with the same bits, which cannot tell them apart"
                ),
                "give each source bits of its own",
            );
        }
        seen.push((source, mask));
    }
}

fn slots(server: &Server, found: &mut Findings<'_>) {
    let who = server.name.get_ref();
    let grants = server.calls.len()
        + server.memory.len()
        + server.irqs.len()
        + server.signals.len()
        + server.notifications.len()
        + server.ports.len();
    let room = (FIRST_FREE - FIRST_GRANT) as usize;
    if grants > room {
        found.add(
            server.name.span(),
            format!("server \"{who}\" is given {grants} things, and there is room for {room}"),
            "give it fewer",
        );
    }
    if let Some(slots) = server.cap_slots.as_ref().filter(|s| !(FIRST_FREE..=MOST_SLOTS).contains(s.get_ref())) {
        found.add(
            slots.span(),
            format!("the capability table of server \"{who}\" has {} slots", slots.get_ref()),
            format!("use {FIRST_FREE} to {MOST_SLOTS}"),
        );
    }
}

/// Checks all grants but those of devices.
pub fn check(manifest: &Manifest, layout: &Layout, found: &mut Findings<'_>) {
    for server in &manifest.servers {
        calls(manifest, server, found);
        memory(layout, server, found);
        notifications(manifest, server, found);
        signals(manifest, server, found);
        bits(manifest, server, found);
        slots(server, found);
    }
    badges(manifest, found);
    cycles(manifest, found);
    both_ends(manifest, found);
}
