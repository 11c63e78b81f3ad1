//! `crtos disable`: takes the hypervisor away from under this Linux.

use anyhow::Result;
use clap::Args;

use crate::hypervisor::Hypervisor;
use crate::{memory, module};

#[derive(Args)]
pub struct Arguments {
    /// Unload crtos.ko too
    #[arg(long)]
    unload: bool,
}

pub fn disable(arguments: &Arguments) -> Result<()> {
    let hypervisor = Hypervisor::open()?;
    hypervisor.disable()?;
    memory::give_back(&hypervisor)?;
    drop(hypervisor);
    if arguments.unload {
        module::unload()?;
    }
    Ok(())
}
