//! Names: well formed, none there twice.

use toml::Spanned;

use crate::diagnostic::Findings;
use crate::manifest::{Manifest, Server};

/// Longest name.
const MAX: usize = 31;

fn is_well_formed(name: &str) -> bool {
    let plain = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-' || b == b'_';
    name.len() <= MAX && name.starts_with(|c: char| c.is_ascii_lowercase()) && name.bytes().all(plain)
}

fn form(what: &str, name: &Spanned<String>, found: &mut Findings<'_>) {
    if !is_well_formed(name.get_ref()) {
        found.add(
            name.span(),
            format!("\"{}\" is not a name for a {what}", name.get_ref()),
            format!("use at most {MAX} small letters, digits, - and _, beginning with a letter"),
        );
    }
}

/// Reports what is there twice.
fn twice<'a>(what: &str, names: impl IntoIterator<Item = &'a Spanned<String>>, found: &mut Findings<'_>) {
    let mut seen: Vec<&Spanned<String>> = Vec::new();
    for name in names {
        match seen.iter().find(|other| other.get_ref() == name.get_ref()) {
            Some(first) => {
                let line = found.line(first.span());
                let message = format!("{what} \"{}\" is already there in line {line}", name.get_ref());
                found.add(name.span(), message, "rename one of them");
            }
            None => seen.push(name),
        }
    }
}

/// The names by which a server finds what it holds.
fn grant_names(server: &Server) -> impl Iterator<Item = &Spanned<String>> {
    let calls = server.calls.iter().map(|c| c.get_ref().name.as_ref().unwrap_or(&c.get_ref().to));
    let memory = server.memory.iter().map(|m| m.get_ref().name.as_ref().unwrap_or(&m.get_ref().region));
    let irqs = server.irqs.iter().map(|i| &i.get_ref().name);
    let signals = server.signals.iter().map(|s| s.get_ref().name.as_ref().unwrap_or(&s.get_ref().to));
    let notifications = server.notifications.iter().map(|n| &n.get_ref().name);
    let ports = server.ports.iter().map(|p| &p.get_ref().name);
    calls.chain(memory).chain(irqs).chain(signals).chain(notifications).chain(ports)
}

/// Checks the names.
pub fn check(manifest: &Manifest, found: &mut Findings<'_>) {
    form("system", &manifest.system.name, found);
    form("cell", &manifest.cell.name, found);
    manifest.ivshmem.keys().for_each(|name| form("shared memory device", name, found));
    manifest.pci.keys().for_each(|name| form("PCI function", name, found));
    manifest.memory.keys().for_each(|name| form("memory region", name, found));
    manifest.notifications.iter().for_each(|name| form("notification", name, found));
    twice("server", manifest.servers.iter().map(|s| &s.name), found);
    twice("notification", &manifest.notifications, found);
    for server in &manifest.servers {
        form("server", &server.name, found);
        if server.name.get_ref() == "init" {
            found.add(
                server.name.span(),
                "a server cannot be called \"init\": that is the first process, which [init] describes",
                "rename the server",
            );
        }
        twice(&format!("server \"{}\": grant", server.name.get_ref()), grant_names(server), found);
        grant_names(server).for_each(|name| form("grant", name, found));
    }
}
