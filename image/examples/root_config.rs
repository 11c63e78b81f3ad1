//! Writes the root cell's configuration of the machine it runs on: `root_config MANIFEST [OUT]`.

use std::path::Path;

use hypervisor_abi::config::SystemConfig;
use image::{Layout, Machine};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut arguments = std::env::args().skip(1);
    let manifest = arguments.next().ok_or("which manifest?")?;
    let layout = Layout::from_manifest(Path::new(&manifest))?;
    let machine = Machine::read(Path::new("/"))?;
    let bytes = image::cell::root_config(&layout, &machine)?;
    if let Some(out) = arguments.next() {
        std::fs::write(out, &bytes)?;
    }
    let config = SystemConfig::parse(&bytes)?;
    for region in config.root_cell().memory() {
        println!("{:#013x}-{:#013x} {:?}", region.phys_start(), region.phys_start() + region.size(), region.flags());
    }
    for device in config.root_cell().pci_devices() {
        println!(
            "{:04x} bars {:08x?} msix {}",
            device.bdf(),
            device.bar_mask.map(|m| m.get()),
            device.num_msix_vectors
        );
    }
    println!("{:#?}", machine.ioapics);
    println!("mmconfig {:x?} pm timer {:x?} cpus {:?}", machine.mmconfig, machine.pm_timer, machine.online_cpus);
    Ok(())
}
