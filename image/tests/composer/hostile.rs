//! Manifests and programs that mean harm: an answer, never a panic.

use super::common;
use image::diagnostic::Findings;
use image::elf_file::{Kernel, Program};
use image::{Layout, Manifest, Source, check};
use proptest::prelude::*;

fn try_all(text: &str) {
    let source = Source { name: "hostile.toml".to_owned(), text: text.to_owned() };
    if let Ok(manifest) = Manifest::parse(&source) {
        let mut found = Findings::new(&source);
        let layout = Layout::resolve(&manifest, &mut found);
        check::manifest(&manifest, &layout, &mut found);
        if found.is_empty() {
            if layout.pci.is_empty() {
                image::cell::inmate_config(&layout, &[3], None).unwrap();
            }
            image::system::resolve(&manifest, &layout);
            layout.console_ring();
        }
    }
}

/// Values that sit at the edges of what a field can hold.
const EDGES: [&str; 14] = [
    "0",
    "-1",
    "1",
    "4095",
    "4096",
    "0xffff",
    "0xffff_ffff",
    "0xffff_ffff_f000",
    "0x7fff_ffff_ffff_ffff",
    "0x7fff_ffff_ffff_f000",
    "\"17179869183 GiB\"",
    "\"x\"",
    "[]",
    "{}",
];

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    #[test]
    fn values_at_the_edges(choices in proptest::collection::vec((any::<prop::sample::Index>(), 0..EDGES.len()), 1..4)) {
        let mut text = std::fs::read_to_string(common::shipped("default")).unwrap();
        for (place, edge) in choices {
            let values: Vec<_> = text.match_indices("= ").map(|(at, _)| at + 2).collect();
            let start = values[place.index(values.len())];
            let end = start + text[start..].find([',', '\n', '}']).unwrap_or(0);
            text.replace_range(start..end, EDGES[edge]);
        }
        try_all(&text);
    }

    #[test]
    fn lines_lost_and_doubled(choices in proptest::collection::vec((any::<prop::sample::Index>(), any::<bool>()), 1..12)) {
        let text = std::fs::read_to_string(common::shipped("default")).unwrap();
        let mut lines: Vec<_> = text.lines().collect();
        for (place, double) in choices {
            let at = place.index(lines.len());
            if double { lines.insert(at, lines[at]) } else { lines.remove(at); }
        }
        try_all(&lines.join("\n"));
    }

    #[test]
    fn any_text(text in "\\PC{0,200}") {
        try_all(&text);
    }

    #[test]
    fn damaged_programs(damage in proptest::collection::vec((0usize..0x100, any::<u8>()), 1..8)) {
        let mut bytes = common::server(1);
        for (at, value) in damage {
            bytes[at] = value;
        }
        let _ = Program::parse(&bytes, "prog");
        let _ = Kernel::parse(&bytes, "kernel");
    }
}
