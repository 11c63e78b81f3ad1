//! How much memory a server takes, and where fixed pieces of physical memory come from.

use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;
use ipc::blob::{GrantKind, Server, System};
use ipc::image::range_kind;
use ipc::slots::layout;

const PAGE: u64 = 4096;

/// Page tables that mapping `bytes` at `vaddr` may need, in pages, besides the root.
fn tables(vaddr: u64, bytes: u64) -> u64 {
    let last = vaddr + bytes.max(1) - 1;
    [21, 30, 39].iter().map(|shift| (last >> shift) - (vaddr >> shift) + 1).sum()
}

/// Bytes of page-table memory for a server's address space: its own mappings, the grants, and some for what it maps itself.
pub fn page_tables(server: &Server) -> u64 {
    const SPARE: u64 = 16;
    let own = [
        (layout::START_INFO, PAGE * 16),
        (layout::MESSAGE_BUFFER, PAGE),
        (layout::STACK_TOP - server.stack, server.stack),
        (layout::HEAP, server.heap),
        (layout::VAULT, server.vault),
    ];
    let segments = server.segments.iter().map(|s| (s.vaddr, s.memory_size));
    let grants = server.grants.iter().filter_map(|grant| match grant.what {
        GrantKind::Memory { vaddr, size, .. } if vaddr != 0 => Some((vaddr, size)),
        _ => None,
    });
    let pages: u64 = own.into_iter().chain(segments).chain(grants).map(|(vaddr, bytes)| tables(vaddr, bytes)).sum();
    (1 + pages + SPARE) * PAGE
}

/// A piece of physical memory at a fixed place that gets a Frame of its own.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Piece {
    /// Guest-physical address.
    pub physical: u64,
    /// Bytes.
    pub size: u64,
    /// [`range_kind`].
    pub kind: u32,
}

/// The pieces of shared and device memory that grants name, in the order of their addresses, each once, none overlapping another.
/// `devices` are further pieces, that init uses itself.
pub fn fixed_pieces(system: &System, devices: impl IntoIterator<Item = Piece>) -> Result<Vec<Piece>, String> {
    let mut pieces: Vec<Piece> = devices.into_iter().collect();
    for grant in system.servers.iter().flat_map(|server| &server.grants) {
        if let GrantKind::Memory { region, offset, size, .. } = grant.what {
            let region = &system.regions[region as usize];
            if region.kind != range_kind::PRIVATE {
                pieces.push(Piece { physical: region.physical + offset, size, kind: region.kind });
            }
        }
    }
    pieces.sort();
    pieces.dedup();
    for pair in pieces.windows(2) {
        if pair[0].physical + pair[0].size > pair[1].physical {
            return Err(format!(
                "memory at {:#x} and at {:#x} overlaps in part: grants share all of a piece or nothing",
                pair[0].physical, pair[1].physical
            ));
        }
    }
    Ok(pieces)
}

/// Bytes to skip so that the next object made of an Untyped starts at `physical`. `None`: the piece does not lie in what is left of it.
pub fn padding(untyped_physical: u64, untyped_bytes: u64, used: u64, piece: &Piece) -> Option<u64> {
    let next = untyped_physical.checked_add(used)?.next_multiple_of(PAGE);
    let end = untyped_physical.checked_add(untyped_bytes)?;
    (piece.physical >= next && piece.physical.checked_add(piece.size)? <= end).then(|| piece.physical - next)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::image::tests::server;
    use ipc::blob::{BLOB_VERSION, Grant, Region};

    fn system(grants: &[(u64, u64)]) -> System {
        let mut server = server("s");
        server.grants = grants
            .iter()
            .map(|(offset, size)| Grant {
                name: String::new(),
                slot: 16,
                what: GrantKind::Memory {
                    region: 0,
                    offset: *offset,
                    size: *size,
                    vaddr: layout::GRANTS,
                    protection: 1,
                    executable: false,
                },
            })
            .collect();
        System {
            version: BLOB_VERSION,
            name: String::new(),
            servers: vec![server],
            regions: vec![Region { name: "r".into(), physical: 0x8000_0000, size: 1 << 30, kind: range_kind::SHARED }],
            notifications: vec![],
            devices: vec![],
            supervision: None,
        }
    }

    #[test]
    fn pieces_are_sorted_and_each_comes_once() {
        let pieces = fixed_pieces(&system(&[(0x4000, 0x1000), (0, 0x2000), (0x4000, 0x1000)]), []).unwrap();
        let places: Vec<_> = pieces.iter().map(|p| (p.physical, p.size)).collect();
        assert_eq!(places, [(0x8000_0000, 0x2000), (0x8000_4000, 0x1000)]);
        assert!(fixed_pieces(&system(&[(0, 0x2000), (0x1000, 0x2000)]), []).unwrap_err().contains("overlaps"));
        assert!(fixed_pieces(&system(&[(0, 0x2000), (0, 0x1000)]), []).is_err());
    }

    #[test]
    fn padding_leads_to_the_piece_or_nowhere() {
        let piece = |physical| Piece { physical, size: 0x1000, kind: 2 };
        assert_eq!(padding(0x1000, 0x4000, 0, &piece(0x3000)), Some(0x2000));
        assert_eq!(padding(0x1000, 0x4000, 0x1800, &piece(0x3000)), Some(0));
        assert_eq!(padding(0x1000, 0x4000, 0x3000, &piece(0x3000)), None);
        assert_eq!(padding(0x1000, 0x4000, 0, &piece(0x5000)), None);
        assert_eq!(padding(0x1000, 0x4000, 0, &piece(u64::MAX - 0xfff)), None);
    }

    #[test]
    fn page_tables_suffice_for_a_large_grant() {
        let system = system(&[(0, 256 << 20)]);
        let pages = page_tables(&system.servers[0]) / PAGE;
        assert!((128 + 5..200).contains(&pages), "{pages}");
    }
}
