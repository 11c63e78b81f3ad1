//! The commands that work with manifests and images, for every program that offers them.

use std::fmt::Write;
use std::path::{Path, PathBuf};

use clap::{Args, Subcommand, ValueEnum};

use crate::build::{self, BuildInputs, Programs};
use crate::diagnostic::{Diagnostics, Findings};
use crate::layout::Layout;
use crate::manifest::{Manifest, Source};
use crate::report::{Report, hex};
use crate::{check, new};

/// What can be done with manifests and images.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Build the image and the cell configuration that a manifest describes
    Build(Build),
    /// Check a manifest, and say what is wrong with it
    Check(Check),
    /// Show everything that each server can touch
    Report(ReportOf),
    /// Show what changed in authority from one manifest to another
    Diff(Diff),
    /// Make a manifest and a skeleton server to begin with
    New(New),
}

/// Where programs come from.
#[derive(Clone, Debug, Args)]
pub struct From {
    /// Directory with the programs `kernel`, `init` and the servers [default: $CRTOS_PROGRAMS, or where they were built]
    #[arg(long, value_name = "DIR")]
    programs: Option<PathBuf>,
}

/// `build`
#[derive(Debug, Args)]
pub struct Build {
    /// The manifest
    manifest: PathBuf,
    /// Directory that the results go to
    #[arg(short, long, value_name = "DIR")]
    output: PathBuf,
    /// Root of the file system that describes the machine with the manifest's PCI functions (/ for this one)
    #[arg(long, value_name = "ROOT")]
    machine: Option<PathBuf>,
    #[command(flatten)]
    from: From,
}

/// `check`
#[derive(Debug, Args)]
pub struct Check {
    /// The manifests
    #[arg(required = true)]
    manifests: Vec<PathBuf>,
}

/// Forms of a report.
#[derive(Clone, Copy, Debug, ValueEnum)]
enum Format {
    /// For people.
    Text,
    /// For programs.
    Json,
    /// A drawing.
    Svg,
}

/// `report`
#[derive(Debug, Args)]
pub struct ReportOf {
    /// The manifest
    manifest: PathBuf,
    /// Form of the report
    #[arg(long, value_enum, default_value_t = Format::Text)]
    format: Format,
    /// File that it goes to [default: standard output]
    #[arg(short, long, value_name = "FILE")]
    output: Option<PathBuf>,
    /// Look at the programs too: digests and build id
    #[arg(long)]
    built: bool,
    #[command(flatten)]
    from: From,
}

/// `diff`
#[derive(Debug, Args)]
pub struct Diff {
    /// The manifest as it was
    old: PathBuf,
    /// The manifest as it is
    new: PathBuf,
}

/// `new`
#[derive(Debug, Args)]
pub struct New {
    /// Name of the server, and of the directory
    name: String,
    /// This project's source [default: where this program was built]
    #[arg(long, value_name = "DIR")]
    tree: Option<PathBuf>,
}

/// The directory of the bare-metal programs: named, or beside the host programs in a build directory.
fn programs(from: &From) -> Result<PathBuf, Diagnostics> {
    if let Some(named) = from.programs.clone().or_else(|| std::env::var_os("CRTOS_PROGRAMS").map(PathBuf::from)) {
        return Ok(named);
    }
    let beside = std::env::current_exe().ok().and_then(|own| {
        let profile = own.parent()?;
        Some(profile.parent()?.join("x86_64-unknown-none").join(profile.file_name()?))
    });
    beside.filter(|directory| directory.join("kernel").exists()).ok_or_else(|| {
        Diagnostics::of(
            "",
            "the kernel's and the servers' programs are not where this program was built",
            "say where they are (--programs)",
        )
    })
}

fn inputs(from: &From, output: &Path) -> Result<BuildInputs, Diagnostics> {
    let servers_dir = programs(from)?;
    Ok(BuildInputs {
        kernel_elf: servers_dir.join("kernel"),
        servers_dir,
        out_dir: output.to_path_buf(),
        machine: None,
    })
}

/// A checked manifest.
fn load(path: &Path) -> Result<(Source, Manifest, Layout), Diagnostics> {
    let source = Source::read(path)?;
    let manifest = Manifest::parse(&source)?;
    let mut found = Findings::new(&source);
    let layout = Layout::resolve(&manifest, &mut found);
    check::manifest(&manifest, &layout, &mut found);
    let layout = found.into_result(layout)?;
    Ok((source, manifest, layout))
}

fn report(options: &ReportOf) -> Result<String, Diagnostics> {
    let (source, manifest, mut layout) = load(&options.manifest)?;
    let image = if options.built {
        let inputs = inputs(&options.from, Path::new(""))?;
        build::locate(&source, &manifest, &mut layout, None)?;
        let programs = Programs::read(&source, &manifest, build::directory_of(&options.manifest), &inputs)?;
        Some((build::lay_out(&source, &manifest, &layout, &programs)?, programs))
    } else {
        None
    };
    let report = Report::new(&manifest, &layout, image.as_ref().map(|(image, programs)| (image, programs)));
    let text = match options.format {
        Format::Text => report.text(),
        Format::Json => report.json(),
        Format::Svg => report.svg(),
    };
    let Some(path) = &options.output else { return Ok(text) };
    std::fs::write(path, text)
        .map_err(|e| Diagnostics::of(path.display().to_string(), format!("cannot be written: {e}"), "free the path"))?;
    Ok(String::new())
}

/// Does what was asked for; gives what is to be printed.
pub fn run(command: &Command) -> Result<String, Diagnostics> {
    let mut out = String::new();
    match command {
        Command::Build(options) => {
            let inputs = BuildInputs { machine: options.machine.clone(), ..inputs(&options.from, &options.output)? };
            let built = build::build(&options.manifest, &inputs)?;
            if built.cell.is_none() {
                let _ = writeln!(out, "srtos.cell: not written, because PCI functions need their machine (--machine)");
            }
            let _ = writeln!(out, "{}: {} bytes, build {}", built.bin.display(), built.size, hex(&built.build_id[..8]));
        }
        Command::Check(options) => {
            let mut all = Vec::new();
            for path in &options.manifests {
                match load(path) {
                    Ok((_, _, layout)) => {
                        let _ = writeln!(out, "{}: system \"{}\" is in order", path.display(), layout.system);
                    }
                    Err(found) => all.extend(found.0),
                }
            }
            if !all.is_empty() {
                return Err(Diagnostics(all));
            }
        }
        Command::Report(options) => out = report(options)?,
        Command::Diff(options) => {
            let [old, new] = [&options.old, &options.new]
                .map(|path| load(path).map(|(_, manifest, layout)| Report::new(&manifest, &layout, None)));
            for line in old?.diff(&new?) {
                out.push_str(&line);
                out.push('\n');
            }
        }
        Command::New(options) => {
            let tree = options.tree.clone().unwrap_or_else(new::built_from);
            let made = new::create(Path::new(""), &options.name, &tree)?;
            let _ = writeln!(
                out,
                "made {0}/\n  cd {0} && cargo build --release && {1}/x image build manifest.toml -o out\n  {1}/x srtos --manifest manifest.toml",
                made.display(),
                tree.display()
            );
        }
    }
    Ok(out)
}
