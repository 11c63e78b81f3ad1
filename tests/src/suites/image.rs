//! Composed images: what they say of themselves, what becomes of damaged ones, and the commands behind `./x image`.

use std::fs;
use std::path::Path;
use std::process::{Command, Output};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use ipc::blob::System;
use ipc::image::{ImageHeader, KERNEL_HEAD_OFFSET, KERNEL_MAGIC, KernelHead, LOAD_ADDRESS, checksum};
use serde_json::Value;
use zerocopy::{FromBytes, IntoBytes};

use super::support::same;
use crate::suite::{Bench, State, Suite, Wanted, case, environment, long};
use crate::wire;

/// Standalone boots and commands on this side.
pub const SUITE: Suite = Suite {
    name: "image",
    wanted: None,
    cases: &[
        case("identity", identity),
        case("damaged", damaged),
        case("forged", forged),
        case("commands", commands),
        case("refused", refused),
        case("forwarded", forwarded),
        long("reproducible", reproducible),
    ],
};

const LIMIT: Duration = Duration::from_secs(120);

fn x(bench: &Bench<'_>, arguments: &[&str]) -> Result<Output> {
    Ok(Command::new(bench.builder.front_door()?).args(arguments).current_dir(&bench.scratch).output()?)
}

/// A command that must succeed; what it printed.
fn image(bench: &Bench<'_>, arguments: &[&str]) -> Result<String> {
    let output = x(bench, &[&["image"], arguments].concat())?;
    if !output.status.success() {
        bail!("{arguments:?}: {}\n{}", output.status, String::from_utf8_lossy(&output.stderr));
    }
    Ok(String::from_utf8(output.stdout)?)
}

fn shipped(bench: &Bench<'_>, name: &str) -> String {
    bench.builder.root().join(format!("image/manifests/{name}.toml")).display().to_string()
}

/// The console says which image, manifest and programs these are: what the report of the same says.
fn identity(bench: &mut Bench<'_>) -> Result<()> {
    let report = image(bench, &["report", &shipped(bench, "minimal"), "--built", "--format", "json"])?;
    let report: Value = serde_json::from_str(&report)?;
    let short = |value: &Value| value.as_str().and_then(|text| text.get(..16)).map(str::to_owned).context("a digest");
    let mut running = bench.builder.standalone("minimal", "identity")?.boot()?;
    let line = running.wait_for("init: image ", LIMIT)?;
    let (build, manifest) = (short(&report["build_id"])?, short(&report["manifest_digest"])?);
    same("image and manifest", line, format!("init: image {build} of manifest {manifest}"))?;
    let program = short(&report["servers"][0]["digest"])?;
    same(
        "program",
        running.wait_for("init:   program", LIMIT)?,
        format!("init:   program {program} is server heartbeat"),
    )
}

/// An image as it is loaded, to be changed.
struct Loaded {
    /// The ELF file around it.
    file: Vec<u8>,
    /// Where the image header lies in that.
    header: usize,
}

impl Loaded {
    fn read(path: &Path) -> Result<Self> {
        let file = fs::read(path)?;
        let magic = file.windows(8).position(|bytes| bytes == KERNEL_MAGIC).context("no kernel head")?;
        let start = magic - KERNEL_HEAD_OFFSET as usize;
        let (head, _) = KernelHead::read_from_prefix(&file[magic..]).ok().context("a short kernel head")?;
        Ok(Self { header: start + (head.image_header - LOAD_ADDRESS) as usize, file })
    }

    fn header(&self) -> Result<ImageHeader> {
        ImageHeader::read_from_prefix(&self.file[self.header..])
            .map(|(header, _)| header)
            .ok()
            .context("a short header")
    }

    fn set_header(&mut self, header: &ImageHeader) {
        self.file[self.header..][..size_of::<ImageHeader>()].copy_from_slice(header.as_bytes());
    }

    fn blob(&mut self) -> Result<&mut [u8]> {
        let header = self.header()?;
        Ok(&mut self.file[self.header + header.blob_offset as usize..][..header.blob_size as usize])
    }

    /// Puts other bytes where the blob was, with a checksum that fits them.
    fn forge(&mut self, blob: &[u8]) -> Result<()> {
        let mut header = self.header()?;
        if blob.len() as u64 > header.blob_size.next_multiple_of(4096) {
            bail!("there is no room for {} bytes", blob.len());
        }
        self.file[self.header + header.blob_offset as usize..][..blob.len()].copy_from_slice(blob);
        header.blob_size = blob.len() as u64;
        header.blob_checksum = checksum(blob);
        self.set_header(&header);
        Ok(())
    }
}

/// Boots a changed image: it must end by itself, having said `reason`, and nothing may have panicked.
fn ends(bench: &Bench<'_>, name: &str, reason: &str, change: impl FnOnce(&mut Loaded) -> Result<()>) -> Result<()> {
    let mut machine = bench.builder.standalone("minimal", "damage")?;
    let mut loaded = Loaded::read(&machine.image)?;
    change(&mut loaded)?;
    machine.image = bench.scratch.join(format!("{name}.elf"));
    fs::write(&machine.image, &loaded.file)?;
    let (status, said) = machine.boot()?.finish(LIMIT).with_context(|| format!("waiting for its end: {name}"))?;
    let said = said.join("\n");
    // The kernel says in a panic what it cannot go on with; init and the servers never do.
    let panicked = said.contains("init: panic") || said.contains("crashed");
    if panicked || !said.contains(reason) {
        bail!("{name}: {status}, wanted \"{reason}\"; the console said:\n{said}");
    }
    Ok(())
}

fn damaged(bench: &mut Bench<'_>) -> Result<()> {
    const INIT: &str = "init: the system cannot go on: ";
    ends(bench, "bit", &format!("{INIT}the blob is damaged: its checksum differs"), |loaded| {
        let blob = loaded.blob()?;
        blob[blob.len() / 2] ^= 4;
        Ok(())
    })?;
    ends(bench, "place", &format!("{INIT}the blob lies outside of the image"), |loaded| {
        let header = loaded.header()?;
        loaded.set_header(&ImageHeader { blob_offset: u64::MAX - 4095, ..header });
        Ok(())
    })?;
    ends(bench, "version", "the image header is of another version", |loaded| {
        let header = loaded.header()?;
        loaded.set_header(&ImageHeader { version: 99, ..header });
        Ok(())
    })?;
    ends(bench, "magic", "no image header where the kernel's head says", |loaded| {
        let header = loaded.header()?;
        loaded.set_header(&ImageHeader { magic: [0; 8], ..header });
        Ok(())
    })
}

/// Blobs with the right checksum that are wrong nevertheless.
fn forged(bench: &mut Bench<'_>) -> Result<()> {
    let ends = |name: &str, reason: &str, change: fn(&mut System)| {
        ends(bench, name, &format!("init: the system cannot go on: {reason}"), |loaded| {
            let mut system: System = postcard::from_bytes(loaded.blob()?)?;
            change(&mut system);
            loaded.forge(&postcard::to_stdvec(&system)?)
        })
    };
    ends("other-version", "the blob has version 99", |system| system.version = 99)?;
    ends("nobody", "0 servers", |system| system.servers.clear())?;
    ends("piece", "server heartbeat: the program piece at", |system| system.servers[0].segments[0].offset = 1 << 40)?;
    ends("writable-code", "server heartbeat: the program piece at", |system| {
        system.servers[0].segments[0].protection = 7;
    })?;
    ends("slot", "server heartbeat: grant console: ", |system| {
        system.servers[0].grants[0].what = ipc::blob::GrantKind::Call { server: 0, badge: 1, grant: true };
    })?;
    ends("memory", "server heartbeat: ", |system| system.servers[0].untyped = 1 << 39)?;
    let cut = |loaded: &mut Loaded| {
        let half = loaded.blob()?.len() / 2;
        let blob = loaded.blob()?[..half].to_vec();
        loaded.forge(&blob)
    };
    self::ends(bench, "cut", "init: the system cannot go on: the blob cannot be decoded", cut)?;
    self::ends(bench, "empty", "init: the system cannot go on: the blob is empty", |loaded| loaded.forge(&[]))
}

fn commands(bench: &mut Bench<'_>) -> Result<()> {
    let root = bench.builder.root().to_owned();
    for entry in fs::read_dir(root.join("image/manifests"))? {
        let path = entry?.path().display().to_string();
        let said = image(bench, &["check", &path])?;
        if !said.contains("is in order") {
            bail!("check of {path}: {said}");
        }
    }
    let default = shipped(bench, "default");
    let text = image(bench, &["report", &default, "--built"])?;
    for part in
        ["system default in cell srtos", "stack use  up to", "worst response", "vfs-proxy: call, seen as badge 1"]
    {
        if !text.contains(part) {
            bail!("the report does not say \"{part}\":\n{text}");
        }
    }
    image(bench, &["report", &default, "--format", "svg", "-o", "drawing.svg"])?;
    let drawing = fs::read_to_string(bench.scratch.join("drawing.svg"))?;
    same("a drawing", (drawing.starts_with("<svg"), drawing.trim_end().ends_with("</svg>")), (true, true))?;

    let fewer = fs::read_to_string(&default)?.replacen("    { region = \"responses\", access = \"r\" },\n", "", 1);
    fs::write(bench.scratch.join("fewer.toml"), fewer)?;
    let diff = image(bench, &["diff", &default, "fewer.toml"])?;
    same("what changed", diff.as_str(), "- server \"vfs-proxy\": memory \"responses\" (as \"responses\"): read\n")?;

    let said = image(bench, &["build", "minimal", "-o", "out"])?;
    for file in ["srtos.bin", "srtos.elf", "srtos.cell", "manifest.toml"] {
        if fs::metadata(bench.scratch.join("out").join(file))?.len() == 0 {
            bail!("{file} is empty: {said}");
        }
    }
    let said = image(bench, &["new", "counter"])?;
    same("a skeleton", bench.scratch.join("counter/manifest.toml").exists(), true).context(said)
}

/// What is wrong is said with file, line and cure, on standard error, and nothing is written.
fn refused(bench: &mut Bench<'_>) -> Result<()> {
    let bad = bench.builder.root().join("image/tests/reject/authority-call-cycle-2.toml").display().to_string();
    for arguments in
        [vec!["image", "check", &bad], vec!["image", "report", &bad], vec!["image", "build", &bad, "-o", "bad"]]
    {
        let output = x(bench, &arguments)?;
        let said = String::from_utf8_lossy(&output.stderr);
        if output.status.success() || !said.contains("authority-call-cycle-2.toml:") || !said.contains("in a circle") {
            bail!("{arguments:?}: {}, {said}", output.status);
        }
    }
    same("something was written", bench.scratch.join("bad").exists(), false)
}

/// Calls of a class that the manifest does not forward fail in a program, those of another go on.
fn forwarded(bench: &mut Bench<'_>) -> Result<()> {
    let text = fs::read_to_string(shipped(bench, "default"))?;
    let text = text.replace("[linux]\n", "[linux]\nforwarded = [\"files\", \"events\"]\n");
    let path = bench.scratch.join("files-only.toml");
    fs::write(&path, text)?;
    let wanted = Wanted { manifest: path.to_string_lossy().into_owned().leak(), ..Wanted::new(State::Running) };
    let mut vm = bench.builder.boot(&wanted, "forwarded", &bench.scratch)?;
    let program = "
import errno, os, select, socket
print(os.path.isdir('/proc'), select.select([0], [], [], 0)[1])
for family in socket.AF_UNIX, socket.AF_INET:
    try:
        socket.socket(family)
    except OSError as error:
        print(errno.errorcode[error.errno])
";
    let command = wire::Command {
        argv: ["crtos", "run", "/usr/bin/python3", "-c", program].map(Into::into).into(),
        env: environment(),
        cwd: bench.scratch.clone().into(),
        terminal: None,
    };
    let output = vm.capture(&command, b"", LIMIT)?;
    same("status", output.status, 0)?;
    same("output", String::from_utf8_lossy(&output.stdout), "True []\nENOSYS\nENOSYS\n".into())
}

/// The same sources at another path, with another target directory: the same bytes.
fn reproducible(bench: &mut Bench<'_>) -> Result<()> {
    let root = bench.builder.root().display().to_string();
    // What git knows, as it is now.
    bench.here(&format!(
        "mkdir copy && cd {root:?} && git ls-files -z | xargs -0 cp --parents -t {copy:?}",
        copy = bench.scratch.join("copy")
    ))?;
    image(bench, &["build", "default", "-o", "here"])?;
    let copy = bench.scratch.join("copy");
    let output = Command::new(copy.join("x"))
        .args(["image", "build", "default", "-o", "there"])
        .current_dir(&bench.scratch)
        .env("CARGO_TARGET_DIR", bench.scratch.join("copy-target"))
        .output()?;
    if !output.status.success() {
        bail!("the copy: {}", String::from_utf8_lossy(&output.stderr));
    }
    for file in ["srtos.bin", "srtos.elf", "srtos.cell"] {
        let (here, there) =
            (fs::read(bench.scratch.join("here").join(file))?, fs::read(bench.scratch.join("there").join(file))?);
        same(&format!("{file} is the same"), here == there, true)?;
    }
    Ok(())
}
