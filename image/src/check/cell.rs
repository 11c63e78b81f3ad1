//! The cell and the machine it is cut from.

use ipc::image::LOAD_ADDRESS;

use crate::diagnostic::Findings;
use crate::manifest::{Manifest, Restart, RestartWord};
use crate::units::is_paged;

/// Least private RAM that a system starts in.
const LEAST_PRIVATE: u64 = 4 << 20;
/// Least memory of a hypervisor.
const LEAST_HYPERVISOR: u64 = 1 << 20;

/// Checks `[cell]` but for overlaps.
pub fn check(manifest: &Manifest, found: &mut Findings<'_>) {
    let cell = &manifest.cell;
    if *cell.cpus.get_ref() != 1 {
        found.add(
            cell.cpus.span(),
            format!("the cell gets {} processors, and the kernel runs on one", cell.cpus.get_ref()),
            "set cpus = 1",
        );
    }
    let hypervisor = cell.hypervisor_memory.get_ref();
    let private = cell.private.get_ref();
    for (name, span, start, size, least) in [
        ("hypervisor_memory", cell.hypervisor_memory.span(), hypervisor.physical, hypervisor.size.0, LEAST_HYPERVISOR),
        ("private", cell.private.span(), private.physical, private.size.0, LEAST_PRIVATE),
    ] {
        if !is_paged(start) || !is_paged(size) || !is_paged(private.guest) {
            found.add(
                span.clone(),
                format!("{name} ({start:#x}, {size:#x} bytes) is not made of whole pages"),
                "use multiples of 4 KiB",
            );
        }
        if start.checked_add(size).is_none_or(|end| end > 1 << 52) {
            found.add(
                span.clone(),
                format!("{name} ({start:#x}, {size:#x} bytes) reaches beyond what a processor can address"),
                "use a lower address",
            );
        }
        if size < least {
            found.add(span, format!("{name} has {size:#x} bytes, and needs {least:#x}"), "raise its size");
        }
    }
    if private.guest != 0 {
        found.add(
            cell.private.span(),
            format!("private begins at guest-physical {:#x}, but the kernel is loaded at {LOAD_ADDRESS:#x} of memory that begins at 0", private.guest),
            "set guest = 0",
        );
    }
    let comm = *cell.comm_region.get_ref();
    if !is_paged(comm) {
        found.add(
            cell.comm_region.span(),
            format!("comm_region {comm:#x} is not a whole page"),
            "use a multiple of 4 KiB",
        );
    }
    if let Some(mmconfig) = &cell.mmconfig
        && !mmconfig.get_ref().base.is_multiple_of(1 << 20)
    {
        found.add(
            mmconfig.span(),
            format!("mmconfig base {:#x} is not a multiple of a bus's 1 MiB", mmconfig.get_ref().base),
            "take it from the ACPI table MCFG",
        );
    }
    let restart = &cell.restart.0;
    match restart.get_ref() {
        Restart::Limited(limit) if limit.times == 0 || limit.window_ms == 0 => found.add(
            restart.span(),
            format!("the cell is restarted {} times in {} ms", limit.times, limit.window_ms),
            "use numbers above 0, or \"never\" or \"always\"",
        ),
        Restart::Word(RestartWord::Escalate) => found.add(
            restart.span(),
            "the cell escalates its failure, and there is nobody above it",
            "use \"never\", \"always\" or a limit",
        ),
        _ => {}
    }
    if *cell.pm_timer.get_ref() == 0 {
        found.add(cell.pm_timer.span(), "pm_timer 0 is no port", "take PM_TMR_BLK from the ACPI table FADT");
    }
}
