//! One file a command.

mod bench;
mod chaos;
mod demo;
mod image;
mod machine;
mod picture;
mod srtos;
mod test;

use anyhow::Result;
use tests::suite::Flavour;

use crate::build;
use crate::cli::{Cli, Verb};
use crate::setup;
use crate::tree::{Tree, say};

/// Does what the command line says; the exit status.
pub fn dispatch(cli: Cli) -> Result<u8> {
    let tree = Tree::new()?;
    match cli.command {
        Verb::Demo(options) => demo::run(&tree, options),
        Verb::Test(options) => test::run(&tree, options),
        Verb::Run(options) => machine::run(&tree, options),
        Verb::Vm(options) => machine::vm(&tree, options),
        Verb::Srtos(options) => srtos::run(&tree, options),
        Verb::Chaos(options) => chaos::run(&tree, options),
        Verb::Picture(options) => picture::run(&tree, options),
        Verb::Bench(options) => bench::run(&tree, options),
        Verb::Image(options) => image::run(&tree, options),
        Verb::Build(options) => {
            setup::base()?;
            let manifest = build::manifest(&tree, &options.manifest)?;
            for flavour in [Flavour::Rt, Flavour::Stock] {
                let kernel = setup::kernel::get(&tree, flavour)?;
                build::module::build(&tree, &kernel, flavour.name())?;
            }
            build::command_line(&tree)?;
            let realm = build::realm(&tree, &manifest)?;
            say(&format!("the image is in {}", realm.directory.display()));
            Ok(0)
        }
    }
}
