//! The schema for editors and the reference page say what the manifest takes: no more, no less.

use std::collections::BTreeSet;
use std::path::Path;

use image::{Manifest, Source};
use serde_json::Value;

/// A manifest with one of everything.
const FULL: &str = r#"
notifications = ["n"]
#top
[system]
name = "x"
#system
[cell]
name = "x"
hypervisor_memory = { physical = 0, size = 0 }
private = { physical = 0, guest = 0, size = 0 }
mmconfig = { base = 0, end_bus = 0 }
comm_region = 0
pm_timer = 0
#cell
[ivshmem.x]
bdf = "00:00.0"
protocol = 0
physical = 0
guest = 0
output_size = 0
bars = [0, 0]
#ivshmem
[pci.x]
id = "0000:0000"
bars = [{ bar = 0, address = 0, size = 0 }]
ports = [{ bar = 0, first = 0, count = 0 }]
msix = { vectors = 0, bar = 0 }
#pci
[memory.x]
#region
[init]
stack = 0
heap = 0
priority = 0
#init
[[server]]
name = "x"
priority = 0
stack = 0
calls = [{ to = "x", badge = 0 }]
memory = [{ region = "x", access = "r" }]
irqs = [{ name = "x", device = "x", vector = 0, bits = 0 }]
signals = [{ to = "x", bits = 0 }]
notifications = [{ name = "x" }]
ports = [{ name = "x", first = 0, count = 0 }]
#server
[linux]
server = "x"
names = "x"
pool = "x"
stack = 0
#linux
"#;

/// The fields that the manifest takes in a table: what it says when it meets an unknown one.
fn taken(text: &str) -> BTreeSet<String> {
    let source = Source { name: "m".to_owned(), text: text.to_owned() };
    let message = Manifest::parse(&source).unwrap_err().0[0].message.clone();
    let (_, list) = message.split_once("expected ").unwrap_or_else(|| panic!("{message}"));
    list.split('`').skip(1).step_by(2).map(str::to_owned).collect()
}

fn schema() -> Value {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("manifest.schema.json");
    serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap()
}

fn properties(table: &Value) -> BTreeSet<String> {
    assert_eq!(table["additionalProperties"], false);
    table["properties"].as_object().unwrap().keys().cloned().collect()
}

/// Definition in the schema, and a manifest with an unknown field in that table.
fn tables() -> Vec<(&'static str, String)> {
    let block = |name: &'static str| (name, FULL.replace(&format!("#{name}\n"), "zzz = 1\n"));
    let inline = |name: &'static str, first: &str| {
        assert!(FULL.contains(first));
        (name, FULL.replace(first, &first.replace("{ ", "{ zzz = 1, ")))
    };
    vec![
        block("system"),
        block("cell"),
        block("ivshmem"),
        block("pci"),
        block("region"),
        block("init"),
        block("server"),
        block("linux"),
        inline("machine_range", "hypervisor_memory = { "),
        inline("cell_range", "private = { "),
        inline("mmconfig", "mmconfig = { "),
        inline("pci_bar", "bars = [{ "),
        inline("pci_ports", "ports = [{ bar"),
        inline("pci_msix", "msix = { "),
        inline("call", "calls = [{ "),
        inline("memory_grant", "memory = [{ "),
        inline("irq", "irqs = [{ "),
        inline("signal", "signals = [{ "),
        inline("notification", "notifications = [{ "),
        inline("ports", "ports = [{ name"),
    ]
}

#[test]
fn the_schema_has_the_fields_of_the_manifest() {
    let schema = schema();
    Manifest::parse(&Source { name: "m".to_owned(), text: FULL.to_owned() }).unwrap();
    assert_eq!(properties(&schema), taken(&FULL.replace("#top\n", "zzz = 1\n")));
    for (name, text) in tables() {
        assert_eq!(properties(&schema["definitions"][name]), taken(&text), "{name}");
    }
}

#[test]
fn the_reference_names_every_field() {
    let docs = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/manifest.md");
    let docs = std::fs::read_to_string(docs).unwrap();
    for (name, text) in tables() {
        for field in taken(&text) {
            let written = docs
                .split('`')
                .skip(1)
                .step_by(2)
                .any(|code| code.split(|c: char| !c.is_ascii_alphanumeric() && c != '_').any(|word| word == field));
            assert!(written, "docs/manifest.md does not describe {field} of {name}");
        }
    }
}
