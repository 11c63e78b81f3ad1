//! Miri, where this machine has it: it needs a nightly toolchain with the components `miri` and
//! `rust-src`.

use std::process::Command;

use anyhow::Result;

use super::{Outcome, unit};
use crate::run;
use crate::tree::{Tree, say};

/// Packages whose portable code is worth it and done in minutes; only their libraries.
const PACKAGES: [&str; 5] = ["ipc", "hypervisor-abi", "kernel", "hypervisor", "rt"];

/// Property tests look for their files of earlier failures, and a hundredth of the usual cases must do: Miri is slow. Memory that stands for a server's
/// or a device's is leaked on purpose.
const VARIABLES: [(&str, &str); 2] = [
    ("MIRIFLAGS", "-Zmiri-disable-isolation -Zmiri-permissive-provenance -Zmiri-ignore-leaks"),
    ("PROPTEST_CASES", "4"),
];

/// Runs their unit tests under Miri.
pub fn run(tree: &Tree) -> Result<Outcome> {
    if !available() {
        say("installing Miri into the nightly toolchain");
        let add = ["component", "add", "--toolchain", "nightly", "miri", "rust-src"];
        if run::quietly(Command::new("rustup").args(add)).is_err() || !available() {
            return Ok(Outcome::Skipped(
                "Miri can not be had here: rustup component add --toolchain nightly miri".into(),
            ));
        }
    }
    let mut arguments = vec!["+nightly", "miri", "test", "--lib"];
    for package in PACKAGES {
        arguments.extend(["-p", package]);
    }
    unit::cargo_test(tree, "miri", &arguments, &VARIABLES)
}

fn available() -> bool {
    run::quietly(Command::new("cargo").args(["+nightly", "miri", "--version"])).is_ok()
}
