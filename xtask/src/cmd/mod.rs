//! One file a command.

mod vm;

use anyhow::Result;

use crate::cli::{Cli, Verb};
use crate::tree::Tree;

/// Does what the command line says; the exit status.
pub fn dispatch(cli: Cli) -> Result<u8> {
    let tree = Tree::new()?;
    match cli.command {
        Verb::Vm(options) => vm::run(&tree, options),
    }
}
