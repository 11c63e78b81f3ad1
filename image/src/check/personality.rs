//! The Linux personality: it has what it needs.

use ipc::image::range_kind;
use ipc::protocol::classes::CLASSES;
use toml::Spanned;

use crate::diagnostic::Findings;
use crate::layout::Layout;
use crate::manifest::{Access, Manifest, Server};
use crate::units::{Size, is_paged};

/// Least and most first stack of an application.
const STACK: (u64, u64) = (64 << 10, 1 << 30);

/// The journal of a heap that is kept, with a page before it (`rt::checkpoint`).
const JOURNAL: u64 = (1 << 20) + 4096;
/// What the personality's heap has besides the books of its pool.
const OTHER_BOOKS: u64 = 512 << 10;
/// Bytes of its books for each page of the pool: a count, a bit, and some for page maps.
const BOOK_OF_PAGE: u64 = 3;

/// The smallest vault that the personality can keep its heap in.
fn least_vault(pool: u64) -> u64 {
    (JOURNAL + 2 * (OTHER_BOOKS + pool / 4096 * BOOK_OF_PAGE)).next_multiple_of(4096)
}

fn named<'a>(
    manifest: &'a Manifest,
    what: &str,
    name: &Spanned<String>,
    found: &mut Findings<'_>,
) -> Option<&'a Server> {
    let server = manifest.servers.iter().find(|s| s.name.get_ref() == name.get_ref());
    if server.is_none() {
        found.add(
            name.span(),
            format!("{what} in [linux] is \"{}\", which no server is", name.get_ref()),
            "name a server of this manifest",
        );
    }
    server
}

/// Checks `[linux]`.
pub fn check(manifest: &Manifest, layout: &Layout, found: &mut Findings<'_>) {
    let Some(linux) = &manifest.linux else { return };
    let server = named(manifest, "server", &linux.server, found);
    let names = named(manifest, "names", &linux.names, found);
    if let (Some(server), Some(names)) = (server, names)
        && !server.calls.iter().any(|c| c.get_ref().to.get_ref() == names.name.get_ref())
    {
        found.add(
            linux.names.span(),
            format!(
                "personality \"{}\" forwards calls to \"{}\", but may not call it",
                server.name.get_ref(),
                names.name.get_ref()
            ),
            format!("add {{ to = \"{}\" }} to its calls", names.name.get_ref()),
        );
    }
    let pool = linux.pool.get_ref();
    match layout.regions.iter().find(|r| r.name == *pool) {
        None => found.add(
            linux.pool.span(),
            format!("pool in [linux] is \"{pool}\", which is no memory region"),
            format!("add [memory.{pool}]"),
        ),
        Some(region) if region.kind != range_kind::SHARED || !region.writable => found.add(
            linux.pool.span(),
            format!("pool \"{pool}\" in [linux] is not memory that both realms can write"),
            "use a region whose section is DEVICE.rw",
        ),
        Some(_) => {
            let holds = |s: &Server| {
                s.memory.iter().map(Spanned::get_ref).any(|g| {
                    g.region.get_ref() == pool && *g.access.get_ref() == Access::Rw && *g.executable.0.get_ref()
                })
            };
            if let Some(server) = server.filter(|s| !holds(s)) {
                found.add(
                    linux.pool.span(),
                    format!(
                        "personality \"{}\" does not hold pool \"{pool}\" writable and executable for applications",
                        server.name.get_ref()
                    ),
                    format!("give it {{ region = \"{pool}\", access = \"rw\", executable = true }}"),
                );
            }
        }
    }
    if let (Some(server), Some(region)) = (server, layout.regions.iter().find(|region| region.name == *pool)) {
        let least = least_vault(region.size);
        let vault = &server.vault.0;
        if vault.get_ref().0 != 0 && vault.get_ref().0 < least {
            found.add(
                vault.span(),
                format!("vault of personality \"{}\" has {}", server.name.get_ref(), Size(vault.get_ref().0)),
                format!("give it {} or more, for the books of this pool twice and a journal; or none", Size(least)),
            );
        }
    }
    let mut seen: Vec<&str> = Vec::new();
    for class in linux.forwarded.iter().flatten() {
        let name = class.get_ref().as_str();
        if !CLASSES.iter().any(|(known, _)| *known == name) {
            let known: Vec<_> = CLASSES.iter().map(|(known, _)| *known).collect();
            found.add(
                class.span(),
                format!("[linux] forwards \"{name}\", which is no class of calls that Linux answers"),
                format!("use {}; what the personality answers itself is always local", known.join(", ")),
            );
        } else if seen.contains(&name) {
            found.add(class.span(), format!("[linux] forwards \"{name}\" twice"), "remove one of them");
        }
        seen.push(name);
    }
    let stack = linux.stack.get_ref().0;
    if !is_paged(stack) || !(STACK.0..=STACK.1).contains(&stack) {
        found.add(
            linux.stack.span(),
            format!("applications' stack in [linux] has {} bytes", stack),
            format!("use a multiple of 4 KiB from {} to {}", Size(STACK.0), Size(STACK.1)),
        );
    }
}
