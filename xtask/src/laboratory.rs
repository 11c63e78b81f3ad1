//! What the suites get their machines from.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use tests::standalone::Standalone;
use tests::suite::{Builder, Flavour, State, Wanted};
use tests::vm::Vm;

use crate::build::cargo;
use crate::guest::{self, Kind};
use crate::tree::Tree;
use crate::{build, setup};

/// Builds everything from the checkout.
pub struct Laboratory<'a> {
    /// The checkout.
    pub tree: &'a Tree,
    /// A build of Jailhouse, if there is one.
    pub jailhouse: Option<&'a Path>,
}

impl Builder for Laboratory<'_> {
    fn boot(&self, wanted: &Wanted, name: &str, work: &Path) -> Result<Vm> {
        let manifest = match wanted.state {
            State::Plain => None,
            State::Installed | State::Running => Some(build::manifest(self.tree, wanted.manifest)?),
        };
        let kind = Kind { name: format!("test-{name}"), flavour: wanted.kernel, manifest, reserved: wanted.reserved };
        let mut machine = guest::machine(self.tree, &kind)?;
        machine.cpus = wanted.cpus;
        machine.memory = wanted.memory;
        machine.kernel_options.extend(wanted.option.map(str::to_owned));
        machine.work = Some(work.to_owned());
        if wanted.x2apic {
            guest::use_x2apic(self.tree, &mut machine)?;
        }
        if wanted.counting {
            guest::count_time(self.tree, &mut machine)?;
        }
        if let Some(cpu) = wanted.cpu {
            machine.cpu = cpu.to_owned();
        }
        machine.lan = wanted.lan.map(str::to_owned);
        for device in wanted.devices {
            machine.arguments.extend(["-device".into(), device.into()]);
        }
        let mut vm = guest::boot(&machine)?;
        if wanted.state == State::Running {
            guest::bring_up(&mut vm)?;
        }
        Ok(vm)
    }

    fn standalone(&self, manifest: &str, name: &str) -> Result<Standalone> {
        setup::base()?;
        let realm = build::realm(self.tree, &build::manifest(self.tree, manifest)?)?;
        let logs = self.tree.new_log_directory(&format!("test-{name}-{manifest}"))?;
        Ok(Standalone::new(realm.directory.join("srtos.elf"), logs))
    }

    fn program(&self, name: &str) -> Result<PathBuf> {
        cargo(self.tree, "a program for the tests", &["build", "--release", "--package", "tests", "--bin", name])?;
        Ok(self.tree.target.join("release").join(name))
    }

    fn module(&self, name: &str, kernel: Flavour) -> Result<PathBuf> {
        let unpacked = setup::kernel::get(self.tree, kernel)?;
        build::module::of_tests(self.tree, &unpacked, kernel.name(), name)
    }

    fn inmates(&self, directory: &Path) -> Result<()> {
        build::inmates(self.tree, directory)
    }

    fn front_door(&self) -> Result<PathBuf> {
        std::env::current_exe().context("our own program is gone")
    }

    fn scratch(&self, suite: &str) -> Result<PathBuf> {
        let path = self.tree.build.join("scratch").join(suite);
        let _ = fs::remove_dir_all(&path);
        fs::create_dir_all(&path)?;
        Ok(path)
    }

    fn jailhouse(&self) -> Result<&Path> {
        self.jailhouse.context("no build of Jailhouse was named")
    }

    fn root(&self) -> &Path {
        &self.tree.root
    }
}
