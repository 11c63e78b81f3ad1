//! What is fuzzed: the text of a manifest, and the image that `init` reads. Any input must have an answer; a panic is a finding.
//!
//! Two programs drive it: libFuzzer (`cargo +nightly fuzz run manifest`), which finds its way by coverage, and `mutate`
//! (`./x test --long fuzz`), which needs nothing and repeats exactly.

use image::diagnostic::Findings;
use image::{Layout, Manifest, Report, Source, check};
use init::layout;
use ipc::image::{ImageHeader, checksum};
use zerocopy::{FromBytes, IntoBytes};

/// Where the blob lies in an image made here.
const BLOB: usize = 4096;

/// A manifest: read, resolved, checked; what passes is reported and gives a cell.
pub fn manifest(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    let source = Source { name: "fuzz.toml".to_owned(), text: text.to_owned() };
    let Ok(manifest) = Manifest::parse(&source) else { return };
    let mut found = Findings::new(&source);
    let layout = Layout::resolve(&manifest, &mut found);
    check::manifest(&manifest, &layout, &mut found);
    if found.is_empty() {
        let report = Report::new(&manifest, &layout, None);
        assert!(!report.text().is_empty() && !report.svg().is_empty() && !report.json().is_empty());
        if layout.pci.is_empty() {
            image::cell::inmate_config(&layout, &[3], None).expect("a checked manifest gives a cell");
        }
        // What the composer takes, init takes: a blob that is refused at boot would be a hole in the checks.
        let mut system = image::system::resolve(&manifest, &layout);
        for server in &mut system.servers {
            let piece =
                ipc::blob::Segment { vaddr: 0x40_0000, offset: 0, file_size: 1, memory_size: 4096, protection: 5 };
            server.segments = vec![piece];
        }
        if !system.servers.is_empty() {
            let (header, bytes) = image_of(&postcard::to_allocvec(&system).expect("a system can be encoded"));
            init::image::system(&header, &bytes).expect("init takes what the composer took");
        }
    }
}

/// An image with this blob: a header that fits, as far as the checksum.
fn image_of(blob: &[u8]) -> (ImageHeader, Vec<u8>) {
    let mut bytes = vec![0; BLOB];
    bytes.extend_from_slice(blob);
    bytes.resize(bytes.len().next_multiple_of(4096), 0);
    let mut header = ImageHeader::read_from_bytes(&[0; size_of::<ImageHeader>()]).expect("zero is a header");
    header.magic = ipc::image::IMAGE_MAGIC;
    header.version = ipc::image::IMAGE_VERSION;
    header.size = bytes.len() as u64;
    header.blob_offset = BLOB as u64;
    header.blob_size = blob.len() as u64;
    header.blob_checksum = checksum(blob);
    bytes[..size_of::<ImageHeader>()].copy_from_slice(header.as_bytes());
    (header, bytes)
}

/// A blob whose checksum is right, as somebody would forge it; and the same bytes as a whole image.
pub fn blob(data: &[u8]) {
    if let Ok(header) = init::image::header(data) {
        let _ = init::image::system(&header, data);
    }
    let (header, bytes) = image_of(data);
    let Ok(system) = init::image::system(&header, &bytes) else { return };
    // What init believes it then works with.
    let _ = layout::fixed_pieces(&system, []);
    for server in &system.servers {
        let _ = layout::page_tables(server);
    }
}

/// Inputs to begin with: the manifests that ship, or the blobs made of them.
pub fn seeds(target: &str) -> Vec<Vec<u8>> {
    let directory = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../image/manifests");
    let mut paths: Vec<_> =
        std::fs::read_dir(directory).into_iter().flatten().flatten().map(|entry| entry.path()).collect();
    paths.sort();
    let texts = paths.iter().filter_map(|path| std::fs::read_to_string(path).ok());
    if target == "manifest" {
        return texts.map(String::into_bytes).collect();
    }
    let blob = |text: String| {
        let source = Source { name: "seed".to_owned(), text };
        let manifest = Manifest::parse(&source).ok()?;
        let mut found = Findings::new(&source);
        let layout = Layout::resolve(&manifest, &mut found);
        postcard::to_allocvec(&image::system::resolve(&manifest, &layout)).ok()
    };
    texts.filter_map(blob).collect()
}
