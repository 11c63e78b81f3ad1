//! `crtos config …`: binary configurations of the hypervisor: show, check, convert, create.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use clap::Subcommand;
use hypervisor_abi::check::{self, Finding, Place, Role, Severity};
use hypervisor_abi::config::{CellConfig, SystemConfig};
use image::{Layout, Machine};

use crate::config::{self, Config, describe};
use crate::files;

#[derive(Subcommand)]
pub enum Command {
    /// Show what a configuration says
    Show {
        /// Of a system or of a cell
        file: PathBuf,
    },
    /// Check configurations, each on its own and together, and say what is wrong with them
    Check {
        /// A system's, cells', or both
        #[arg(required = true)]
        files: Vec<PathBuf>,
    },
    /// Make a configuration of revision 14 of one of revision 12
    Convert {
        /// The old one
        old: PathBuf,
        /// The new one
        new: PathBuf,
    },
    /// Make the system's configuration for this machine, and say what Linux must be booted with
    Create {
        /// Where it goes
        output: PathBuf,
        /// The manifest that says which memory to use [default: the installed one]
        #[arg(long, value_name = "FILE")]
        manifest: Option<PathBuf>,
        /// Look at the machine whose /proc and /sys are stored below DIR
        #[arg(long, value_name = "DIR", default_value = "/")]
        root: PathBuf,
    },
}

pub fn config(command: &Command) -> Result<()> {
    match command {
        Command::Show { file } => show(file),
        Command::Check { files } => check_all(files),
        Command::Convert { old, new } => convert(old, new),
        Command::Create { output, manifest, root } => create(output, manifest.as_deref(), root),
    }
}

fn show(file: &Path) -> Result<()> {
    let (bytes, was_old) = config::read(file)?;
    if was_old {
        println!("revision 12 (crtos config convert makes revision 14 of it)");
    }
    let name = || file.display().to_string();
    match Config::parse(&bytes).with_context(name)? {
        Config::System(system) => print!("{}", describe::system(&system)),
        Config::Cell(cell) => print!("{}", describe::cell(&cell)),
    }
    Ok(())
}

fn convert(old: &Path, new: &Path) -> Result<()> {
    let (bytes, was_old) = config::read(old)?;
    if !was_old {
        bail!("{} is no configuration of revision 12: nothing to convert", old.display());
    }
    std::fs::write(new, bytes).with_context(|| format!("cannot write {}", new.display()))
}

/// What a check has found.
#[derive(Default)]
struct Report {
    lines: Vec<String>,
    errors: usize,
    warnings: usize,
}

impl Report {
    fn add(&mut self, file: &Path, finding: &Finding) {
        let kind = match finding.problem.severity() {
            Severity::Error => {
                self.errors += 1;
                "error"
            }
            Severity::Warning => {
                self.warnings += 1;
                "warning"
            }
        };
        self.lines.push(match finding.place {
            // The file's name says which cell.
            Place::InCell(_) => format!("{}: {kind}: {}", file.display(), finding.problem),
            _ => format!("{}: {kind}: {finding}", file.display()),
        });
    }
}

/// Checks the configurations in these files, each on its own and together.
fn find(files: &[(&Path, Vec<u8>)]) -> Result<Report> {
    let mut system: Option<(&Path, SystemConfig<'_>)> = None;
    let mut cells: Vec<(&Path, CellConfig<'_>)> = Vec::new();
    for (file, bytes) in files {
        match Config::parse(bytes).with_context(|| file.display().to_string())? {
            Config::Cell(cell) => cells.push((file, cell)),
            Config::System(_) if system.is_some() => {
                bail!("{}: a second system configuration: give one", file.display())
            }
            Config::System(config) => system = Some((file, config)),
        }
    }
    let mut report = Report::default();
    if let Some((file, system)) = &system {
        check::system(system, &mut |finding| report.add(file, &finding));
    }
    for (file, cell) in &cells {
        check::cell(cell, Role::NonRoot, &mut |finding| report.add(file, &finding));
    }
    let set: Vec<CellConfig<'_>> = cells.iter().map(|(_, cell)| *cell).collect();
    let mut found = |finding: Finding| {
        let Place::InCell(number) = finding.place else { return };
        report.add(cells[number].0, &finding);
    };
    match &system {
        Some((_, system)) => check::together(system, &set, &mut found),
        None => check::beside(&set, &mut found),
    }
    Ok(report)
}

fn check_all(files: &[PathBuf]) -> Result<()> {
    let mut read = Vec::new();
    for file in files {
        read.push((file.as_path(), config::read(file)?.0));
    }
    let report = find(&read)?;
    report.lines.iter().for_each(|line| println!("{line}"));
    if report.errors > 0 {
        bail!("{} errors, {} warnings", report.errors, report.warnings);
    }
    println!("no errors, {} warnings", report.warnings);
    Ok(())
}

fn create(output: &Path, manifest: Option<&Path>, root: &Path) -> Result<()> {
    let layout = match manifest {
        Some(path) => Layout::from_manifest(path)?,
        None => files::layout()?,
    };
    let mut machine = Machine::read(root)?;
    let (start, end) = layout.reserved();
    let is_reserved = machine.reserve(start, end.next_multiple_of(1 << 20))?;
    let bytes = image::cell::root_config(&layout, &machine)?;
    std::fs::write(output, &bytes).with_context(|| format!("cannot write {}", output.display()))?;
    let megabytes = (end.next_multiple_of(1 << 20) - start) >> 20;
    println!("memmap={megabytes}M${start:#x}");
    if !is_reserved {
        eprintln!(
            "crtos: boot Linux with the option above: it uses this memory now (a boot loader's file may need \\$)"
        );
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::fixtures;

    fn lines(files: &[(&str, Vec<u8>)]) -> Vec<String> {
        let files: Vec<_> = files.iter().map(|(name, bytes)| (Path::new(*name), bytes.clone())).collect();
        find(&files).unwrap().lines
    }

    #[test]
    fn the_example_configurations_are_good_together() {
        let all = [("sys", fixtures::sysconfig()), ("nuttx", fixtures::nuttx()), ("rtems", fixtures::rtems())];
        let expected = [
            // As the guide has it: the big section at 0 for the cell, the others where they are for Linux.
            "nuttx: warning: pci_devices[3]: mem_regions[1] does not follow its predecessor in the cell's address space: drivers that expect that will fail",
            "nuttx: warning: pci_devices[3]: mem_regions[2] does not follow its predecessor in the cell's address space: drivers that expect that will fail",
        ];
        assert_eq!(lines(&all), expected);
        assert_eq!(lines(&all[1..]), expected);
    }

    #[test]
    fn cells_that_want_the_same_are_told() {
        let twice = [("a", fixtures::rtems()), ("b", fixtures::rtems())];
        let found = lines(&twice).join("\n");
        for words in [
            "b: error: another cell has the same name",
            "b: error: CPU 2 is in another cell",
            "pin 10",
            "mem_regions[0] meets",
        ] {
            assert!(found.contains(words), "{words}\n{found}");
        }
        assert!(find(&[(Path::new("a"), fixtures::sysconfig()), (Path::new("b"), fixtures::sysconfig())]).is_err());
    }

    #[test]
    fn registers_of_an_iommu_are_nobodys() {
        let mut cell = fixtures::rtems();
        // The first region's machine address, behind the descriptor and the bitmap.
        cell[0x84 + 1..0x84 + 9].copy_from_slice(&0xfbff_c000u64.to_le_bytes());
        let found = lines(&[("sys", fixtures::sysconfig()), ("cell", cell)]).join("\n");
        assert!(found.contains("cell: error: covers the registers at 0xfbffc000"), "{found}");
    }

    #[test]
    fn a_machine_that_is_not_there_is_an_error() {
        let root = tempfile::tempdir().unwrap();
        let manifest = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../image/manifests/default.toml");
        let error = create(&root.path().join("out"), Some(&manifest), root.path()).unwrap_err();
        assert!(error.to_string().contains("/sys/devices/system/cpu/online"), "{error:#}");
    }
}
