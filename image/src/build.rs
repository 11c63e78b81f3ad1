//! Laying out the image: `[kernel | image header | blob | program pieces]`, and the files that come with it.

use std::ops::Range;
use std::path::{Path, PathBuf};

use ipc::blob;
use ipc::image::{
    self, FirstSegment, IMAGE_MAGIC, IMAGE_VERSION, ImageHeader, KERNEL_HEAD_OFFSET, KERNEL_MAGIC, KernelHead,
    LOAD_ADDRESS, MAX_FIRST_SEGMENTS, MAX_RANGES, checksum,
};
use sha2::{Digest, Sha256};
use toml::Spanned;
use zerocopy::{FromBytes, IntoBytes};

use crate::diagnostic::{Diagnostic, Diagnostics, Findings};
use crate::elf_file::{Kernel, Program, read_file};
use crate::layout::Layout;
use crate::machine::{Machine, MachineError};
use crate::manifest::{Idle, Manifest, Source};
use crate::{cell, check, pvh, symbols, system};

const PAGE: u64 = 4096;

/// What goes into an image besides the manifest, and where it is put.
#[derive(Clone, Debug)]
pub struct BuildInputs {
    /// The kernel, as linked.
    pub kernel_elf: PathBuf,
    /// The directory that holds the programs that the manifest names.
    pub servers_dir: PathBuf,
    /// Where the results go; made if it is not there.
    pub out_dir: PathBuf,
    /// The machine that PCI functions are taken from, as the root of the file system that describes it.
    pub machine: Option<PathBuf>,
}

/// What was built.
#[derive(Clone, Debug)]
pub struct Built {
    /// The flat image.
    pub bin: PathBuf,
    /// The same as an ELF file.
    pub elf: PathBuf,
    /// The configuration of the cell; absent if it has PCI functions and no machine was named.
    pub cell: Option<PathBuf>,
    /// Names of the servers' functions.
    pub symbols: PathBuf,
    /// The manifest's copy, from which the layout can be read again.
    pub manifest: PathBuf,
    /// Bytes of the flat image.
    pub size: u64,
    /// Its build id.
    pub build_id: [u8; 32],
    /// Where everything lies.
    pub layout: Layout,
}

/// An image in memory.
#[derive(Clone, Debug)]
pub struct Image {
    /// The flat bytes.
    pub bytes: Vec<u8>,
    /// Where the PVH entry is.
    pub pvh_entry: u64,
    /// The build id.
    pub build_id: [u8; 32],
    /// SHA-256 of the manifest's text.
    pub manifest_digest: [u8; 32],
    /// What `init` reads.
    pub system: blob::System,
}

/// The programs of a system.
#[derive(Clone, Debug)]
pub struct Programs {
    /// The kernel.
    pub kernel: Kernel,
    /// The first process.
    pub init: Program,
    /// The servers, in the manifest's order.
    pub servers: Vec<Program>,
}

impl Programs {
    /// Reads the programs that a manifest names; those with a `/` in their name lie where they say, from the manifest on.
    pub fn read(
        source: &Source,
        manifest: &Manifest,
        manifest_dir: &Path,
        inputs: &BuildInputs,
    ) -> Result<Self, Diagnostics> {
        let mut found = Findings::new(source);
        // What is wrong with a program is a finding about the line that names it.
        let mut program = |owner: &str, name: &Spanned<String>, span: Range<usize>| {
            let file = name.get_ref();
            let path = program_path(file, manifest_dir, inputs);
            let read = read_file(&path).and_then(|bytes| Program::parse(&bytes, &path.display().to_string()));
            read.map_err(|Diagnostics(reasons)| {
                for Diagnostic { message, cure, .. } in reasons {
                    found.add(span.clone(), format!("the program of {owner}, {file}, {message}"), cure);
                }
            })
            .ok()
        };
        let init = program("init", &manifest.init.binary, manifest.init.stack.span());
        let servers: Option<Vec<_>> = manifest
            .servers
            .iter()
            .map(|s| {
                let name = s.binary.as_ref().unwrap_or(&s.name);
                program(&format!("server \"{}\"", s.name.get_ref()), name, name.span())
            })
            .collect();
        let (Some(init), Some(servers)) = (init, servers) else { return Err(found.into_diagnostics()) };
        let kernel = read_file(&inputs.kernel_elf)?;
        let kernel = Kernel::parse(&kernel, &inputs.kernel_elf.display().to_string())?;
        check::programs(manifest, &init, &servers, &mut found);
        found.into_result(Self { kernel, init, servers })
    }
}

/// Where the program of a name lies.
fn program_path(name: &str, manifest_dir: &Path, inputs: &BuildInputs) -> PathBuf {
    if name.contains('/') { manifest_dir.join(name) } else { inputs.servers_dir.join(name) }
}

/// The file that names the functions of the servers.
fn symbols_of(
    manifest: &Manifest,
    manifest_dir: &Path,
    inputs: &BuildInputs,
    build_id: &[u8],
) -> Result<String, Diagnostics> {
    let mut servers = Vec::new();
    for server in &manifest.servers {
        let name = server.binary.as_ref().unwrap_or(&server.name).get_ref();
        let program = read_file(&program_path(name, manifest_dir, inputs))?;
        servers.push((server.name.get_ref().as_str(), symbols::functions(&program)));
    }
    Ok(symbols::to_text(build_id, servers))
}

/// Appends page-aligned pieces; offsets count from the image header.
struct Pieces {
    bytes: Vec<u8>,
    base: u64,
}

impl Pieces {
    fn put(&mut self, bytes: &[u8]) -> u64 {
        let offset = self.base + self.bytes.len() as u64;
        self.bytes.extend_from_slice(bytes);
        self.bytes.resize(self.bytes.len().next_multiple_of(PAGE as usize), 0);
        offset
    }

    fn put_program(&mut self, program: &Program) -> Vec<blob::Segment> {
        let mut segments = Vec::new();
        for piece in &program.pieces {
            segments.push(blob::Segment {
                vaddr: piece.vaddr,
                offset: self.put(&piece.bytes),
                file_size: piece.bytes.len() as u64,
                memory_size: piece.memory_size,
                protection: piece.protection.bits(),
            });
        }
        segments
    }
}

/// Pieces behind a blob of `blob_pages` pages, and the blob that says where they are.
fn place(system: &mut blob::System, programs: &Programs, blob_pages: u64) -> (Vec<blob::Segment>, Vec<u8>, Vec<u8>) {
    let mut pieces = Pieces { bytes: Vec::new(), base: PAGE * (1 + blob_pages) };
    let first = pieces.put_program(&programs.init);
    for (server, program) in system.servers.iter_mut().zip(&programs.servers) {
        server.entry = program.entry;
        server.digest = program.digest;
        server.segments = pieces.put_program(program);
    }
    let blob = postcard::to_allocvec(system).unwrap_or_default();
    (first, blob, pieces.bytes)
}

/// Lays out the image of a checked manifest.
pub fn lay_out(
    source: &Source,
    manifest: &Manifest,
    layout: &Layout,
    programs: &Programs,
) -> Result<Image, Diagnostics> {
    let fail = |message: String, cure: &str| Diagnostics::of("kernel", message, cure);
    let mut system = system::resolve(manifest, layout);
    let mut blob_pages = 1;
    let (first, blob, pieces) = loop {
        let placed = place(&mut system, programs, blob_pages);
        let need = (placed.1.len() as u64).div_ceil(PAGE);
        if need <= blob_pages {
            break placed;
        }
        blob_pages = need;
    };

    let mut image = programs.kernel.flat.clone();
    let head_at = KERNEL_HEAD_OFFSET as usize;
    let head_bytes = image.get(head_at..head_at + size_of::<KernelHead>());
    let mut head = head_bytes
        .and_then(|bytes| KernelHead::read_from_bytes(bytes).ok())
        .filter(|head| head.magic == KERNEL_MAGIC)
        .ok_or_else(|| {
            fail(format!("has no kernel head at {KERNEL_HEAD_OFFSET} bytes from its start"), "give our kernel")
        })?;
    let flat_end = LOAD_ADDRESS + image.len() as u64;
    if head.kernel_end < flat_end || head.kernel_end - flat_end > layout.private().size {
        return Err(fail(
            format!("says that it ends at {:#x}, but its segments end at {flat_end:#x}", head.kernel_end),
            "take kernel_end from the linker script",
        ));
    }
    if !(LOAD_ADDRESS..flat_end).contains(&head.pvh_entry) {
        return Err(fail(
            format!("says that its PVH entry is at {:#x}, outside itself", head.pvh_entry),
            "build it again",
        ));
    }
    let header_at = head.kernel_end.next_multiple_of(PAGE);
    head.image_header = header_at;
    image[head_at..head_at + size_of::<KernelHead>()].copy_from_slice(head.as_bytes());
    image.resize((header_at - LOAD_ADDRESS) as usize, 0);

    let mut first_segments = [FirstSegment::default(); MAX_FIRST_SEGMENTS];
    if first.len() > MAX_FIRST_SEGMENTS {
        return Err(Diagnostics::of(
            manifest.init.binary.get_ref(),
            format!("has {} segments, and the first process can have {MAX_FIRST_SEGMENTS}", first.len()),
            "merge sections in its linker script",
        ));
    }
    for (slot, segment) in first_segments.iter_mut().zip(&first) {
        *slot = FirstSegment {
            vaddr: segment.vaddr,
            offset: segment.offset,
            file_size: segment.file_size,
            memory_size: segment.memory_size,
            protection: segment.protection.into(),
            reserved: 0,
        };
    }
    let mut ranges = [image::Range::default(); MAX_RANGES];
    let used = layout.kernel_ranges();
    for (slot, range) in ranges.iter_mut().zip(&used) {
        *slot = *range;
    }
    let (ring, ring_size) = layout.console_ring().unwrap_or_default();
    let mut header = ImageHeader {
        magic: IMAGE_MAGIC,
        version: IMAGE_VERSION,
        range_count: used.len() as u32,
        size: PAGE * (1 + blob_pages) + pieces.len() as u64,
        blob_offset: PAGE,
        blob_size: blob.len() as u64,
        blob_checksum: checksum(&blob),
        first_entry: programs.init.entry,
        first_stack: manifest.init.stack.get_ref().0,
        first_heap: manifest.init.heap.get_ref().0,
        first_segment_count: first.len() as u32,
        has_console_ring: u32::from(ring_size > 0),
        comm_region: layout.comm_region,
        console_ring: ring,
        console_ring_size: ring_size,
        first_priority: (*manifest.init.priority.get_ref()).into(),
        polls: u64::from(manifest.system.idle == Idle::Poll),
        build_id: [0; 32],
        manifest_digest: Sha256::digest(&source.text).into(),
        ranges,
        first_segments,
    };
    let mut tail = blob;
    tail.resize((blob_pages * PAGE) as usize, 0);
    tail.extend_from_slice(&pieces);
    let mut hash = Sha256::new();
    hash.update(&image);
    hash.update(header.as_bytes());
    hash.update(&tail);
    header.build_id = hash.finalize().into();

    let header_start = image.len();
    image.extend_from_slice(header.as_bytes());
    image.resize(header_start + PAGE as usize, 0);
    image.extend_from_slice(&tail);
    let mut found = Findings::new(source);
    check::image_size(manifest, layout, image.len() as u64, &mut found);
    found.into_result(Image {
        bytes: image,
        pvh_entry: head.pvh_entry,
        build_id: header.build_id,
        manifest_digest: header.manifest_digest,
        system,
    })
}

fn write(path: PathBuf, bytes: &[u8]) -> Result<PathBuf, Diagnostics> {
    // A file that is there under its name is whole.
    let part = path.with_extension("part");
    std::fs::write(&part, bytes)
        .and_then(|()| std::fs::rename(&part, &path))
        .map_err(|e| Diagnostics::of(path.display().to_string(), format!("cannot be written: {e}"), "free the path"))?;
    Ok(path)
}

/// The directory that a manifest lies in.
pub fn directory_of(manifest: &Path) -> &Path {
    manifest.parent().unwrap_or(Path::new(""))
}

fn of_machine(source: &Source, error: &MachineError) -> Diagnostics {
    Diagnostics::of(source.name.clone(), format!("does not fit the machine: {error}"), "")
}

/// Finds the PCI functions that are named by their id alone.
pub fn locate(
    source: &Source,
    manifest: &Manifest,
    layout: &mut Layout,
    machine: Option<&Machine>,
) -> Result<(), Diagnostics> {
    let mut found = Findings::new(source);
    for wanted in layout.pci.iter_mut().filter(|wanted| wanted.bdf.is_none()) {
        match machine {
            Some(machine) => {
                wanted.bdf = Some(cell::function_of(wanted, machine).map_err(|e| of_machine(source, &e))?.bdf);
            }
            None => {
                let key = manifest.pci.keys().find(|key| *key.get_ref() == wanted.name);
                found.add(
                    key.map_or(0..0, Spanned::span),
                    format!("[pci.{}] is named by its id {} alone", wanted.name, wanted.id),
                    "add bdf, or build it on the machine that has it (--machine /)",
                );
            }
        }
    }
    found.into_result(())
}

/// Checks a manifest and builds everything that it describes.
pub fn build(manifest_path: &Path, inputs: &BuildInputs) -> Result<Built, Diagnostics> {
    let source = Source::read(manifest_path)?;
    let manifest = Manifest::parse(&source)?;
    let mut found = Findings::new(&source);
    let layout = Layout::resolve(&manifest, &mut found);
    check::manifest(&manifest, &layout, &mut found);
    let mut layout = found.into_result(layout)?;
    let machine = inputs.machine.as_deref().map(Machine::read).transpose().map_err(|e| of_machine(&source, &e))?;
    locate(&source, &manifest, &mut layout, machine.as_ref())?;
    let programs = Programs::read(&source, &manifest, directory_of(manifest_path), inputs)?;
    let image = lay_out(&source, &manifest, &layout, &programs)?;

    let names = symbols_of(&manifest, directory_of(manifest_path), inputs, &image.build_id)?;
    let out = &inputs.out_dir;
    std::fs::create_dir_all(out)
        .map_err(|e| Diagnostics::of(out.display().to_string(), format!("cannot be made: {e}"), "free the path"))?;
    // Which processors the cell gets is known when it is created; the file names the last ones of a machine of four.
    let cpus: Vec<u32> = (0..layout.cpus).map(|n| (4u32.max(layout.cpus + 1)) - 1 - n).collect();
    let config = match &machine {
        None if !layout.pci.is_empty() => None,
        machine => Some(cell::inmate_config(&layout, &cpus, machine.as_ref()).map_err(|e| of_machine(&source, &e))?),
    };
    let cell = match config {
        Some(config) => Some(write(out.join("srtos.cell"), &config)?),
        None => {
            // One of another manifest must not stay.
            let _ = std::fs::remove_file(out.join("srtos.cell"));
            None
        }
    };
    Ok(Built {
        bin: write(out.join("srtos.bin"), &image.bytes)?,
        elf: write(out.join("srtos.elf"), &pvh::wrap(&image.bytes, LOAD_ADDRESS, image.pvh_entry))?,
        cell,
        symbols: write(out.join("srtos.symbols"), names.as_bytes())?,
        manifest: write(out.join("manifest.toml"), source.text.as_bytes())?,
        size: image.bytes.len() as u64,
        build_id: image.build_id,
        layout,
    })
}
