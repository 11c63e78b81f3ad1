//! What cannot work is refused in one sentence that names cause and cure, and nothing half-done is
//! left behind.

use anyhow::{Result, bail};

use crate::suite::{Bench, State, Suite, Wanted, case, said};

const MACHINE: Wanted = Wanted::new(State::Installed);

/// A machine where nothing is loaded yet.
pub const INSTALLED: Suite = Suite {
    name: "refusals",
    wanted: Some(MACHINE),
    cases: &[
        case("no_module", no_module),
        case("no_hypervisor", no_hypervisor),
        case("no_cell", no_cell),
        case("busy", busy),
        case("dmesg", |bench| bench.dmesg_is_clean()),
    ],
};

/// A CPU without SVM.
pub const NO_SVM: Suite = Suite {
    name: "refusals-no-svm",
    wanted: Some(Wanted {
        cpu: Some("EPYC,-svm"),
        ..MACHINE
    }),
    cases: &[case("enable", |bench| {
        bench.ok("insmod /usr/lib/crtos/crtos.ko")?;
        refused(bench, "crtos enable", &["SVM"])?;
        bench.ok("rmmod crtos")?;
        bench.dmesg_is_clean()
    })],
};

/// No memory reserved.
pub const NO_MEMORY: Suite = Suite {
    name: "refusals-no-memory",
    wanted: Some(Wanted {
        reserved: false,
        ..MACHINE
    }),
    cases: &[case("enable", |bench| {
        bench.ok("insmod /usr/lib/crtos/crtos.ko")?;
        refused(bench, "crtos enable", &["memmap="])?;
        bench.ok("rmmod crtos")?;
        bench.dmesg_is_clean()
    })],
};

/// The command fails with one line that contains each of `words`.
fn refused(bench: &mut Bench<'_>, command: &str, words: &[&str]) -> Result<()> {
    let output = bench.sh(command)?;
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    if output.status == 0 || !output.stdout.is_empty() {
        bail!("{command}: not refused\n{}", said(&output));
    }
    if text.trim().is_empty() || text.trim_end().lines().count() != 1 {
        bail!("{command}: more or less than one sentence:\n{text}");
    }
    for word in words {
        if !text.contains(word) {
            bail!("{command}: the sentence does not name {word}: {text}");
        }
    }
    Ok(())
}

fn no_module(bench: &mut Bench<'_>) -> Result<()> {
    refused(bench, "crtos enable", &["crtos.ko"])?;
    refused(bench, "crtos cell list", &["crtos.ko"])?;
    refused(bench, "crtos run /bin/true", &["crtos.ko"])
}

fn no_hypervisor(bench: &mut Bench<'_>) -> Result<()> {
    bench.ok("insmod /usr/lib/crtos/crtos.ko")?;
    refused(
        bench,
        "crtos cell create /usr/lib/crtos/srtos.cell",
        &["crtos enable"],
    )?;
    refused(bench, "crtos disable", &["not enabled"])?;
    refused(bench, "crtos run /bin/true", &["crtos enable"])?;
    bench.ok("rmmod crtos").map(drop)
}

fn no_cell(bench: &mut Bench<'_>) -> Result<()> {
    bench.ok("insmod /usr/lib/crtos/crtos.ko; crtos enable")?;
    refused(bench, "crtos run /bin/true", &["cell"])?;
    refused(bench, "crtos cell start srtos", &["srtos"])?;
    refused(bench, "crtos cell create /etc/passwd", &["/etc/passwd"])?;
    bench.ok("crtos disable; rmmod crtos").map(drop)
}

fn busy(bench: &mut Bench<'_>) -> Result<()> {
    bench.ok(
        "insmod /usr/lib/crtos/crtos.ko; crtos enable; crtos cell create /usr/lib/crtos/srtos.cell",
    )?;
    refused(bench, "crtos enable", &["already"])?;
    refused(bench, "crtos disable", &["cell"])?;
    refused(bench, "rmmod crtos", &["use"])?;
    bench
        .ok("crtos cell destroy srtos; crtos disable; rmmod crtos")
        .map(drop)
}
